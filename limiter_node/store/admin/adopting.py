"""Makes plain keys accounts of their own, with what their windows hold: for other limits, states and credentials.

Such a key never becomes a plain one again. Methods raise redis-py's errors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from limiter_node.declaration_records import declaration_of, kept_digest
from limiter_node.declarations import to_account
from limiter_node.limits import WINDOW_MS
from limiter_node.policy import KEY_SUBJECT, AccountPolicy, Declared, PolicyWindow, window_id
from limiter_node.policy_body import body_of, version_of
from limiter_node.policy_fields import fields_of_plain
from limiter_node.store import keyspace
from limiter_node.store.admin.masters import Masters
from limiter_node.store.admin.policies import Policies
from limiter_node.store.admin.script_calls import ScriptCall, call_scripts
from limiter_node.store.scripts import load_script
from limiter_node.store.values import PlainRecord, unpack_limits

_MINUTE_ID = window_id(KEY_SUBJECT, PolicyWindow(WINDOW_MS))


class Adoption(NamedTuple):
    """The policy of the account that a plain key becomes. `limits`: the stored ones from which it was made, packed."""

    account: AccountPolicy
    limits: bytes


def plain_account(kid: str, limits: bytes, record: PlainRecord, now_ms: int) -> AccountPolicy:
    """Return a plain key as an account of its own: what is stored of it, before anything changes.

    `limits`: as stored; raises ValueError if they are damaged. `now_ms`: by the store's clock.
    """
    # A plain window has counted all of the last minute.
    account = to_account(kid, unpack_limits(limits), since_ms=now_ms - WINDOW_MS)
    assert account.key is not None
    return replace(account, key=replace(account.key, declared=declared_of(record)))


def declared_of(record: PlainRecord) -> Declared:
    """Return the record of a plain key's declarations as that of an account."""
    last = declaration_of(fields_of_plain(unpack_limits(record.last))) if record.last else ""
    return Declared(last, tuple(kept_digest(each) for each in record.applied))


class Adopter:
    """Make plain keys of one store accounts of their own."""

    def __init__(self, masters: Masters) -> None:
        self._masters, self._policies = masters, Policies(masters)
        self._script = load_script("adopt")

    async def adopt(self, adoptions: Mapping[str, Adoption]) -> list[str]:
        """Make each key an account of its own. Return those that stay as they are, because others have changed them."""
        left = []
        # A key may have been an account of its own before it was deleted and made again as a plain one.
        stored = await self._policies.read_all(adoptions)
        calls = {kid: _call(kid, each, stored[kid].last_revision(kid)) for kid, each in adoptions.items()}
        for client, kids in self._masters.by_owner(calls, keyspace.limits_key).items():
            replies = await call_scripts(client, self._script, [calls[kid] for kid in kids])
            left += [kid for kid, reply in zip(kids, replies, strict=True) if reply != 1]
        return left


def _call(kid: str, adoption: Adoption, last_revision: int) -> ScriptCall:
    account = adoption.account
    body = body_of(replace(account, revision=max(account.revision, last_revision + 1)))
    keys = (
        *(keyspace.limits_key(kid), keyspace.window_key(kid), keyspace.past_key(kid)),
        *(keyspace.policy_key(kid), keyspace.shared_key(kid), keyspace.deleted_key(kid), keyspace.declared_key(kid)),
    )
    return ScriptCall(keys, (kid, version_of(body), body, _MINUTE_ID, 0, adoption.limits))
