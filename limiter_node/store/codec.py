"""The packed form of a batch and of its reply, as ``lua/decide.lua`` reads the one and writes the other.

Packed because each request pays for it: one string each way is parsed in a third of the time of the same numbers as
separate arguments, on both sides. The layouts are documented in the script's header; tests hold the two together.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import NamedTuple

from limiter_node.decisions import Decision, Need, Outcome
from limiter_node.limits import BUCKET_MS, WINDOW_BUCKETS, Amounts, KeyLimits

_HEADER = struct.Struct("<QBQHQ")
_OPERATION = struct.Struct("<Bqqqq")
_REPLY = struct.Struct("<BQQ3I3I3HBI")
REPLY_SIZE = _REPLY.size
"""The smallest reply to a decided batch, in bytes; results and the key's name make it longer."""

unpack_limits_and_used: Callable[[bytes], tuple[int, int, int, int, int, int]]
unpack_limits_and_used = struct.Struct("<17x6I").unpack_from
"""Read only the limits and the usage from a reply to a decided batch."""

_LOST = struct.Struct("<BQ")
_RESULT = struct.Struct("<BI")
_ADMIT, _SETTLE, _CHARGE = 1, 2, 3
_NO_USE = 65535
ADMITTED, REJECTED, NEVER_FITS = Outcome.ADMITTED, Outcome.REJECTED, Outcome.NEVER_FITS  # enum look-ups aren't free
_new = tuple.__new__
"""Makes a named tuple of all its fields; the own constructor is a Python function, and costs twice as much. It fills in
no defaults: a tuple that is short of a field fails where that field is read."""
DECIDED, REPLAYED, STALE, UNKNOWN_KEY, LOST = 0, 1, 2, 3, 4
"""The states of a reply."""

NEVER = 4
"""Added to a verdict's dimension (1, 2, 3) if the request can never fit."""


def pack_admit(input_tokens: int, output_tokens: int, default_choices: int) -> bytes:
    """Pack an operation that admits one request if it fits; see `limiter_node.decisions.Need` for the reservation."""
    return _OPERATION.pack(_ADMIT, input_tokens, output_tokens, default_choices, 0)


def pack_settle(bucket: int, input_tokens: int, output_tokens: int, requests: int = 0) -> bytes:
    """Pack an operation that gives back amounts admitted in `bucket`; negative numbers add to what was reserved."""
    return _OPERATION.pack(_SETTLE, bucket, input_tokens, output_tokens, requests)


def settled_bucket(settle: bytes) -> int:
    """Return the bucket of a settle that `pack_settle` has packed."""
    bucket: int = _OPERATION.unpack(settle)[1]
    return bucket


def settled_amounts(settle: bytes) -> tuple[int, int, int, int]:
    """Return the bucket of a settle that `pack_settle` has packed, and its input tokens, output tokens and requests."""
    _, bucket, input_tokens, output_tokens, requests = _OPERATION.unpack(settle)
    return bucket, input_tokens, output_tokens, requests


def pack_charge(bucket: int, requests: int, input_tokens: int, output_tokens: int) -> bytes:
    """Pack an operation that counts in `bucket` usage admitted without the store, limit or not."""
    return _OPERATION.pack(_CHARGE, bucket, requests, input_tokens, output_tokens)


def pack_batch(
    number: int,
    operations: list[bytes],
    *,
    resent: bool,
    expected: int = 0,
    window_buckets: int = WINDOW_BUCKETS,
    clock_ms: int = 0,
) -> bytes:
    """Pack ARGV[2] of the script.

    `expected`: the lowest number that the node's record can have; 0 if there may be no record. `clock_ms`: 0 for the
    store's own clock; tests set it.
    """
    return _HEADER.pack(number, resent, expected, window_buckets, clock_ms) + b"".join(operations)


class BatchReply(NamedTuple):
    """The script's reply. Of `STALE` and `UNKNOWN_KEY` only `state` means anything, of `LOST` also `recorded`."""

    state: int
    time_ms: int
    recorded: int
    """The number of this node's record after the batch, 0 if it has none."""
    limits: Amounts
    used: Amounts
    """After the whole batch."""
    reset_ms: Amounts
    """Time until each dimension is wholly free, from now (`time_ms`, but for a reply from the record)."""
    output_reserve: int
    results: list[tuple[int, int]]
    """Per operation: verdict (0 done; 1, 2, 3 rejected by that dimension; 5, 6, 7 never fits) and retry time in ms."""
    name: str
    """The key's name if any operation was rejected, or if the node had no record; else empty."""


class UnreadableReply(ValueError):
    """Raised when a reply cannot have come from the script: something else answered, or bytes were lost."""


_NOTHING = Amounts(0, 0, 0)
_DONE = (0, 0)


def _head(reply: bytes, window_buckets: int) -> tuple[int, int, int, Amounts, Amounts, Amounts, int]:
    """Read the head of a reply to a decided batch: `BatchReply` up to `output_reserve`."""
    state, time_ms, recorded, lr, li, lo, ur, ui, uo, ar, ai, ao, in_bucket_ms, reserve = _REPLY.unpack_from(reply)
    # `bucket_life_ms`, without a call for each reply; ages are seen from the start of the current bucket.
    full_ms = (window_buckets + 1) * BUCKET_MS - in_bucket_ms
    reset_ms = (
        0 if ar == _NO_USE else full_ms - ar * BUCKET_MS,
        0 if ai == _NO_USE else full_ms - ai * BUCKET_MS,
        0 if ao == _NO_USE else full_ms - ao * BUCKET_MS,
    )
    limits, used = _new(Amounts, (lr, li, lo)), _new(Amounts, (ur, ui, uo))
    return state, time_ms, recorded, limits, used, _new(Amounts, reset_ms), reserve


def unpack_reply(reply: bytes, operations: int, window_buckets: int = WINDOW_BUCKETS) -> BatchReply:
    """Read the reply to a batch of that many operations.

    Raises:
        UnreadableReply: `reply` is not such a reply.
    """
    size, state = len(reply), reply[0] if reply else -1
    if size == 1 and state in (STALE, UNKNOWN_KEY):
        return BatchReply(state, 0, 0, _NOTHING, _NOTHING, _NOTHING, 0, [], "")
    if size == _LOST.size and state == LOST:
        return BatchReply(state, 0, _LOST.unpack(reply)[1], _NOTHING, _NOTHING, _NOTHING, 0, [], "")
    results, name, end = [_DONE] * operations, "", REPLY_SIZE + operations * _RESULT.size
    if state not in (DECIDED, REPLAYED) or not (size == REPLY_SIZE or size >= end):
        raise UnreadableReply(f"{size} bytes, state {state}, for {operations} operations")
    if size > REPLY_SIZE:  # one was rejected
        results, name = list(_RESULT.iter_unpack(reply[REPLY_SIZE:end])), reply[end:].decode("utf-8", "replace")
    return _new(BatchReply, (*_head(reply, window_buckets), results, name))


def pack_limits_reply(limits: KeyLimits, time_ms: int) -> bytes:
    """Pack a reply that holds only a key's limits and the store's time, for limits that were read alone."""
    amounts = (limits.rpm, limits.input_tpm, limits.output_tpm)
    return _REPLY.pack(DECIDED, time_ms, 0, *amounts, 0, 0, 0, _NO_USE, _NO_USE, _NO_USE, 0, limits.output_reserve)


def is_named(reply: bytes) -> bool:
    """Whether a reply to a decided batch holds the key's name: if it rejects, or is a node's first one."""
    return len(reply) > REPLY_SIZE


def unpack_decisions(
    reply: bytes, operations: int, needs: Sequence[Need], window_buckets: int
) -> tuple[int, list[Decision]]:
    """Read the reply to a decided batch: `BatchReply.recorded`, and the decisions of its admits; see `_decisions_of`.

    Raises:
        UnreadableReply: `reply` is not such a reply.
    """
    if len(needs) == 1 and len(reply) == REPLY_SIZE:
        # The usual one, alone and admitted, at half the cost.
        _, time_ms, recorded, limits, used, reset_ms, reserve = _head(reply, window_buckets)
        need_input, need_output, choices, _ = needs[0]
        need = _new(Amounts, (1, need_input, need_output + choices * reserve))
        receipt = time_ms // BUCKET_MS
        return recorded, [
            _new(Decision, (ADMITTED, -1, 0, limits, used, reset_ms, need, time_ms, "", receipt, "", None))
        ]
    batch = unpack_reply(reply, operations, window_buckets)
    return batch.recorded, _decisions_of(batch, needs)


def _decisions_of(batch: BatchReply, needs: Sequence[Need]) -> list[Decision]:
    """Return the decisions of a batch's admits, which must be its last operations, each with the usage after it.

    The reply has the usage after the batch; going backward, each admitted request is taken off for those before it.
    """
    _, time_ms, _, limits, used, reset_ms, reserve, results, name = batch
    receipt = time_ms // BUCKET_MS
    requests, input_tokens, output_tokens = used
    decisions = []
    result = len(results)
    for need_input, need_output, choices, _ in reversed(needs):
        result -= 1
        verdict, retry_after_ms = results[result]
        reserved = need_output + choices * reserve
        need = _new(Amounts, (1, need_input, reserved))
        if verdict == 0:
            decision = _new(Decision, (ADMITTED, -1, 0, limits, used, reset_ms, need, time_ms, "", receipt, "", None))
            if result and requests:  # a reply from the record has the usage of now, which may be empty again
                requests -= 1
                input_tokens = input_tokens - need_input if input_tokens > need_input else 0
                output_tokens = output_tokens - reserved if output_tokens > reserved else 0
                used = _new(Amounts, (requests, input_tokens, output_tokens))
        elif verdict < NEVER:
            numbers = (limits, used, reset_ms, need, time_ms, name)
            decision = _new(Decision, (REJECTED, verdict - 1, retry_after_ms, *numbers, None, "", None))
        else:
            numbers = (limits, used, reset_ms, need, time_ms, name)
            decision = _new(Decision, (NEVER_FITS, verdict - NEVER - 1, 0, *numbers, None, "", None))
        decisions.append(decision)
    decisions.reverse()
    return decisions
