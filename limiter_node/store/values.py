"""The packed values that the store keeps of a plain key: its limits, what was declared of it, its window's running sums
and buckets.

The layouts are in the glossary of lua/README.md. Neighbours: `store.codec` has those of a batch and its reply.
"""

from __future__ import annotations

import struct
from typing import Any, Final, NamedTuple

from limiter_node.decisions import Usage, WindowBucket
from limiter_node.limits import BUCKET_MS, WINDOW_BUCKETS, Amounts, KeyLimits, bucket_life_ms

_LIMITS = struct.Struct("<4I")
_BUCKET = struct.Struct("<QIII")
_LENGTH = struct.Struct("<H")

DECLARATION_BYTES: Final = 8
"""Of the digest of each earlier declaration of a plain key."""


def pack_limits(limits: KeyLimits) -> bytes:
    """Return the value of ``rl:{kid}:limits``."""
    numbers = (limits.rpm, limits.input_tpm, limits.output_tpm, limits.output_reserve)
    return _LIMITS.pack(*numbers) + limits.name.encode()


def unpack_limits(value: bytes) -> KeyLimits:
    """Read the value of ``rl:{kid}:limits``. Raises ValueError if `value` is too short for one."""
    if len(value) < _LIMITS.size:
        raise ValueError(f"limits are {_LIMITS.size} bytes at least, not {len(value)}")
    rpm, input_tpm, output_tpm, output_reserve = _LIMITS.unpack_from(value)
    return KeyLimits(rpm, input_tpm, output_tpm, output_reserve, value[_LIMITS.size :].decode("utf-8", "replace"))


class PlainRecord(NamedTuple):
    """The declarations of a plain key by keys files, the value of ``rl:{kid}:declared``.

    `last`: the limits of the last declaration that was applied, packed. `applied`: for each of those before, the latest
    first, the first 8 bytes of `declaration_records.declaration_bytes`.
    """

    last: bytes = b""
    applied: tuple[bytes, ...] = ()


def pack_record(record: PlainRecord) -> bytes:
    """Return the value of ``rl:{kid}:declared``."""
    return _LENGTH.pack(len(record.last)) + record.last + b"".join(record.applied)


def unpack_record(value: bytes | None) -> PlainRecord:
    """Read the value of ``rl:{kid}:declared``; one that is damaged counts as absent."""
    if value is None or len(value) < _LENGTH.size:
        return PlainRecord()
    end = _LENGTH.size + _LENGTH.unpack_from(value)[0]
    digests = value[end:]
    whole = len(digests) // DECLARATION_BYTES * DECLARATION_BYTES
    applied = (digests[at : at + DECLARATION_BYTES] for at in range(0, whole, DECLARATION_BYTES))
    return PlainRecord(value[_LENGTH.size : end], tuple(applied)) if len(value) >= end else PlainRecord()


def unpack_usage(reply: list[Any] | None, window_buckets: int = WINDOW_BUCKETS) -> Usage | None:
    """Read the reply of ``peek.lua``; None if there is no such key."""
    if reply is None:
        return None
    time_ms, packed_limits, packed = reply
    limits = unpack_limits(packed_limits)
    buckets = tuple(sorted(WindowBucket(*values) for values in _BUCKET.iter_unpack(packed)))
    # The end of the window of the newest bucket in use, per dimension; a bucket leaves as a whole.
    life_ms = bucket_life_ms(window_buckets)
    resets = [max((b.bucket * BUCKET_MS + life_ms - time_ms for b in buckets if b[1 + d]), default=0) for d in range(3)]
    return Usage(
        Amounts(limits.rpm, limits.input_tpm, limits.output_tpm),
        Amounts(*(sum(b[1 + d] for b in buckets) for d in range(3))),
        Amounts(*resets),
        limits.output_reserve,
        time_ms,
        limits.name,
        buckets,
    )


def unpack_sums(meta: bytes, clock_ms: int, window_buckets: int = WINDOW_BUCKETS) -> tuple[Amounts, bool]:
    """Return the usage at `clock_ms` by a window's running sums alone (the field ``m``), and whether it is exact.

    The sums are those of the last decision. Usage that has left the window since is still in them, so they are never
    too low. Costs a hundredth of ``peek.lua``. Raises ValueError if `meta` is too short.
    """
    if len(meta) < 48:
        raise ValueError(f"a window's sums are 48 bytes at least, not {len(meta)}")
    head, newest, newest_input, newest_output, requests, input_tokens, output_tokens, skew_ms = (
        int.from_bytes(meta[at : at + 6], "little") for at in range(0, 48, 6)
    )
    oldest = max(clock_ms + skew_ms, newest * BUCKET_MS) // BUCKET_MS - window_buckets
    if newest < oldest:
        return Amounts(0, 0, 0), True
    used = Amounts(
        requests,
        input_tokens if newest_input >= oldest else 0,
        output_tokens if newest_output >= oldest else 0,
    )
    return used, head >= oldest
