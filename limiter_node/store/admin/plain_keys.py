"""Writes the limits of plain keys, and the record of what was declared of them (``lua/put_plain.lua``)."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Final, NamedTuple

from limiter_node.store.admin.masters import Masters
from limiter_node.store.admin.script_calls import ScriptCall, call_scripts
from limiter_node.store.keyspace import declared_key, deleted_key, limits_key
from limiter_node.store.scripts import load_script

ANY: Final = b"*"
"""Expected where it doesn't matter what is stored."""


class PlainWrite(NamedTuple):
    """Limits to write, packed, and the record of declarations, packed; that stays as it is if `record` is empty.

    `expected`, `expected_record`: as they were read; empty if there was nothing. `is_back`: whether a key that was
    deleted comes back.
    """

    expected: bytes
    limits: bytes
    is_back: bool
    expected_record: bytes = ANY
    record: bytes = b""


class PlainWritten(IntEnum):
    """The outcome of a write. Only with `DONE` anything was written."""

    CHANGED = 0
    """Something else is stored by now, or the key was deleted."""
    DONE = 1
    IN_ACCOUNT = 2
    """The digest leads to a key of an account."""
    OTHER_KEYS = 3
    """The digest was another key's credential."""


class PlainKeys:
    """Write plain keys of one store. Methods raise redis-py's errors."""

    def __init__(self, masters: Masters) -> None:
        self._masters, self._script = masters, load_script("put_plain")

    async def write(self, writes: Mapping[str, PlainWrite]) -> dict[str, PlainWritten]:
        """Write many keys, by ``kid``, in pipelines; return the outcome of each."""
        found: dict[str, PlainWritten] = {}
        for client, kids in self._masters.by_owner(writes, limits_key).items():
            replies = await call_scripts(client, self._script, [_call(kid, writes[kid]) for kid in kids])
            found.update((kid, PlainWritten(reply)) for kid, reply in zip(kids, replies, strict=True))
        return found


def _call(kid: str, write: PlainWrite) -> ScriptCall:
    keys = (limits_key(kid), deleted_key(kid), declared_key(kid))
    return ScriptCall(keys, (write.expected, write.expected_record, write.limits, write.record, int(write.is_back)))
