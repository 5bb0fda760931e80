"""Accounts in the store: how the judge writes, reads, loses and rolls them back, with a plain client."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from importlib.resources import files
from typing import Any

from .policies import Declared, widths, window_id
from .records import NOTHING, Peek, Place, Triple, plus

_DECLARE = (files("lua") / "declare.lua").read_text()
_PEEK = (files("lua") / "peek_paths.lua").read_text()
_DUMP = "local all = {} for i = 1, #KEYS do all[i] = redis.call('DUMP', KEYS[i]) end return all"
_RESTORE = """
for i = 1, #KEYS do
    if ARGV[i] == '' then redis.call('DEL', KEYS[i])
    else redis.call('RESTORE', KEYS[i], ARGV[#KEYS + 1], ARGV[i], 'REPLACE') end
end
return 1
"""
_KEPT_MS = 7_200_000
_GROUP, _RING = 24, 32
_META_SIZE = 63
_CELL_BYTES = ((4, 4, 4), (4, 7, 7))
"""Bytes of each amount in a cell, by the kind of its group."""
_PEEKED = struct.Struct("<QQQ15s")


class AccountStore:
    """The accounts of one store. `client` finds the owner of a key."""

    def __init__(self, client: Any) -> None:
        self._client = client

    async def write(self, declared: Declared, before: Declared | None, all_kids: Iterable[str]) -> None:
        """Write the policies that differ from those before (all if there are none), then the keys' pointers.

        Whichever of `all_kids` is not declared is deleted on purpose, and marked so: no node declares it again.
        """
        old, new = {} if before is None else before.bodies(), declared.bodies()
        out = [] if declared.is_flat else [kid for kid in all_kids if kid not in declared.keys]
        for kid in out:
            await self._client.set(_mark(kid), b"")
        for kid in {**old, **new, **dict.fromkeys(out)}:
            if (body := new.get(kid, b"")) != old.get(kid, b"") or kid in out:
                version = hashlib.sha256(body).digest()[:8] if body else b""
                await self._client.eval(_DECLARE, 1, _policy(declared.tag), kid, "*", version, body)
        for kid in declared.keys:
            await self._client.hset(_pointer(kid), "account", declared.tag)
            await self._client.delete(_mark(kid))

    async def forget_pointer(self, kid: str) -> None:
        """Delete what leads from a key to its account."""
        await self._client.delete(_pointer(kid))

    async def peek(self, declared: Declared, places: Iterable[Place]) -> dict[Place, Peek]:
        """Return what the store counts in each window. Raises AssertionError if its sums say something else."""
        by_key: dict[str, list[Place]] = {}
        for place in places:
            by_key.setdefault(_key_of(declared, place), []).append(place)
        found: dict[Place, Peek] = {}
        for key, of_key in by_key.items():
            packed = await self._peek_packed(declared, key, of_key)
            (time_ms,) = struct.unpack_from("<Q", packed)
            fields = await self._client.hgetall(key)
            for place, (requests, input_tokens, output_tokens, _) in zip(
                of_key, _PEEKED.iter_unpack(packed[8:]), strict=True
            ):
                bucket_ms, buckets = widths(place.per_ms)
                found[place] = Peek(time_ms, _buckets(fields, window_id(place)))
                oldest, told = time_ms // bucket_ms - buckets, (requests, input_tokens, output_tokens)
                total = NOTHING
                for bucket, amounts in found[place].buckets.items():
                    total = plus(total, amounts if bucket >= oldest else NOTHING)
                assert told == total, f"{place.text}: peeked {told}, its buckets hold {total}"
                stored = _stored_sums(fields, window_id(place))
                held = NOTHING
                for amounts in found[place].buckets.values():
                    held = plus(held, amounts)
                assert stored == held, f"{place.text}: its sums are {stored}, its buckets hold {held}"
        return found

    async def _peek_packed(self, declared: Declared, key: str, places: list[Place]) -> bytes:
        windows = [window_id(place) + struct.pack("<IH", *widths(place.per_ms)) for place in places]
        shared = _shared(declared.tag)
        asked = bytes((len(windows),)) + b"".join(windows)
        if key == shared:
            reply = await self._client.eval(_PEEK, 2, _policy(declared.tag), shared, bytes(8) + asked)
        else:
            kid = key.rpartition(":")[2]
            reply = await self._client.eval(_PEEK, 3, _policy(declared.tag), shared, key, bytes(9) + asked, kid)
        packed: bytes = reply[-1]
        return packed

    async def lose(self, declared: Declared, *, with_policies: bool) -> None:
        """Delete all that is counted of an account, in one command."""
        names = counted_names(declared)
        await self._client.delete(*((_policy(declared.tag),) if with_policies else ()), *names)

    async def dump(self, declared: Declared) -> list[bytes | None]:
        """Return all that is counted as it is, at one moment."""
        names = counted_names(declared)
        dumped: list[bytes | None] = await self._client.eval(_DUMP, len(names), *names)
        return dumped

    async def restore(self, declared: Declared, dumped: list[bytes | None]) -> None:
        """Put back all that was counted, at one moment."""
        names = counted_names(declared)
        await self._client.eval(_RESTORE, len(names), *names, *(each or b"" for each in dumped), _KEPT_MS)


def counted_names(declared: Declared) -> list[str]:
    """Return the names of all that is counted of an account. `declared` has all keys that it ever had."""
    own = [] if declared.is_flat else [f"rl:{{{declared.tag}}}:key:{kid}" for kid in declared.keys]
    return [_shared(declared.tag), *own]


def all_names(declared: Declared) -> list[str]:
    """Return the names of all keys of the store that are in the account's slot."""
    return [_policy(declared.tag), *counted_names(declared)]


def _policy(tag: str) -> str:
    return f"rl:{{{tag}}}:policy"


def _shared(tag: str) -> str:
    return f"rl:{{{tag}}}:shared"


def _pointer(kid: str) -> str:
    return f"rl:{{{kid}}}:limits"


def _mark(kid: str) -> str:
    return f"rl:{{{kid}}}:deleted"


def _key_of(declared: Declared, place: Place) -> str:
    if declared.is_flat or not place.subject.startswith("="):
        return _shared(place.owner)
    return f"rl:{{{place.owner}}}:key:{place.subject[1:]}"


# ---- the stored form: see lua/README.md ------------------------------------------------------------------------------


def _numbers(packed: bytes, *widths_: int) -> list[int]:
    numbers, at = [], 0
    for width in widths_:
        numbers.append(int.from_bytes(packed[at : at + width], "little"))
        at += width
    return numbers


def _stored_sums(fields: dict[bytes, bytes], id_: bytes) -> Triple:
    requests, input_tokens, output_tokens = _numbers(fields.get(id_, bytes(_META_SIZE))[25:], 6, 7, 7)
    return requests, input_tokens, output_tokens


def _buckets(fields: dict[bytes, bytes], id_: bytes) -> dict[int, Triple]:
    meta = fields.get(id_)
    if meta is None:
        return {}
    head, newest, _, _, _, _, _, _, *cell = _numbers(meta, 5, 5, 5, 5, 5, 6, 7, 7, 4, 7, 7)
    buckets: dict[int, Triple] = {newest: (cell[0], cell[1], cell[2])}
    for group in range(head // _GROUP, newest // _GROUP + 1):
        value = fields.get(id_ + bytes((group % _RING,)))
        if value is None:
            continue
        mask, kind = _numbers(value, 3, 1)
        at = 4
        for bucket in range(_GROUP):
            if mask >> bucket & 1:
                requests, input_tokens, output_tokens = _numbers(value[at:], *_CELL_BYTES[kind])
                at += sum(_CELL_BYTES[kind])
                where = group * _GROUP + bucket
                if where >= head:  # else it has left, and goes with its group
                    buckets[where] = plus(buckets.get(where, NOTHING), (requests, input_tokens, output_tokens))
    return buckets
