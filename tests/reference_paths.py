"""The accounting rules of accounts as a plain model, against which the scripts are held.

Written from the rules of the contract, not from the scripts: it keeps nothing but the buckets, adds them up anew for
each question, and finds a retry time by trying the moments at which a bucket leaves, one after the other. Slow and
without cleverness on purpose. It knows no store: the caller says what time the store's clock shows.

`reference.Reference` is the same model for a flat key: an account with one window and three limits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from reference_calls import (
    DECIDED,
    ENDED,
    LOST,
    NEVER,
    NO_LIMIT,
    NOTHING,
    OLD_POLICY,
    REPLAYED,
    STALE,
    UNKNOWN,
    UNKNOWN_KEY,
    AdmitOn,
    AnswerOn,
    Call,
    ChargeOn,
    Filled,
    OperationOn,
    Policy,
    Result,
    SettleOn,
    Triple,
    Window,
)

TICK_MS = 100
"""The account's clock is remembered in whole ticks; a bucket of any window is so many of them."""
COUNTERS_MAX = (2**32 - 1, 2**53 - 1, 2**53 - 1)
"""What a bucket's counters can hold; what is added beyond that is dropped."""
RECORDS_SLACK_MS, RECORDS_LEAST_MS = 30_000, 90_000


@dataclass(frozen=True)
class Record:
    """What is remembered of a node: its last batch."""

    number: int
    time_ms: int
    results: tuple[Result, ...]
    skipped: tuple[int, ...] = ()


class LaidOn(NamedTuple):
    """A limit on a window of a path. ``number``: the window's in the call, from 1 on."""

    number: int
    window: Window
    unit: int
    limit: int


Buckets = dict[int, list[int]]
Numbered = list[tuple[int, Window]]
Need = tuple[int, int, int, int]


@dataclass
class Account:
    """Everything below one account. ``policy`` is None while it is unknown; policies may be changed at any time."""

    policy: Policy | None = None
    keys: dict[str, Policy] = field(default_factory=dict)
    moved: frozenset[str] = frozenset()
    """The keys that have moved to another account; the account doesn't have them."""
    counters_max: Triple = COUNTERS_MAX
    skew_ms: int = 0
    last_ms: int = 0
    buckets: dict[tuple[str, bytes], Buckets] = field(default_factory=dict)
    """By owner and id of the window."""
    records: dict[str, Record] = field(default_factory=dict)

    # ---- reading ---------------------------------------------------------------------------------------------
    def stored(self, window: Window) -> Buckets:
        return self.buckets.get((window.owner, window.id), {})

    def time_ms(self, clock_ms: int, windows: Sequence[Window]) -> int:
        """The account's time when the store's clock shows ``clock_ms``, for a call that names these windows.

        It is the clock, and where that has stepped back, it goes on from the last tick in which something was counted.
        """
        newest = [max(self.stored(window), default=0) * window.bucket_ms for window in windows]
        return max(clock_ms + self.skew_ms, self.last_ms, *newest, 0)

    def counting(self, window: Window, now_ms: int) -> dict[int, Triple]:
        """The buckets that count at that time. (None is younger: a charge goes to the current bucket at most.)"""
        oldest = now_ms // window.bucket_ms - window.width
        return {k: (r, i, o) for k, (r, i, o) in self.stored(window).items() if k >= oldest}

    def used(self, window: Window, now_ms: int) -> Triple:
        """What counts at that time if nothing else happened until then."""
        columns = zip(*self.counting(window, now_ms).values(), strict=True)
        requests, input_tokens, output_tokens = [sum(column) for column in columns] or NOTHING
        return (requests, input_tokens, output_tokens)

    def filled(self, window: Window, now_ms: int) -> Filled:
        """A window's usage as replies tell it."""
        counting = self.counting(window, now_ms)
        newest = [max((k for k in counting if counting[k][counter]), default=0) for counter in range(3)]
        return Filled(self.used(window, now_ms), (newest[0], newest[1], newest[2]))

    # ---- deciding --------------------------------------------------------------------------------------------
    def decide(
        self,
        node: str,
        number: int,
        call: Call,
        operations: Sequence[OperationOn],
        clock_ms: int,
        *,
        resent: bool = False,
        expected: int = 0,
    ) -> AnswerOn:
        """Decide a batch, or answer it from the record if it is the node's last one.

        The node expects its record to be of batch `expected` or a later one: else what it stands for has been lost.
        """
        if self.policy is None:
            return AnswerOn(UNKNOWN)
        record = self.records.get(node)
        recorded = record.number if record else 0
        if number < recorded:
            return AnswerOn(STALE)
        if recorded < expected:
            return AnswerOn(LOST, recorded=recorded)

        now_ms = self.time_ms(clock_ms, call.windows)
        if now_ms > clock_ms + self.skew_ms:
            self.skew_ms = now_ms - clock_ms
            self._count_until(now_ms)
        if record and number == recorded:
            return self._replay(record, call, operations, now_ms)

        skipped = self._skipped(call, operations)
        results, has_changed = [], False
        for operation in operations:
            result, is_counted = self._apply(operation, call, now_ms, clock_ms)
            results.append(result)
            has_changed |= is_counted
        self._forget(call.windows, now_ms)
        if has_changed:
            self._count_until(now_ms)
        if has_changed or resent:  # a batch in which nothing was counted has nothing to count twice
            self._remember(node, Record(number, now_ms, tuple(results), skipped), call.windows)
            recorded = number
        filled = tuple(self.filled(window, now_ms) for window in call.windows)
        told = self._told(call, operations, results)
        return AnswerOn(DECIDED, now_ms, recorded, tuple(results), filled, told, skipped)

    def _skipped(self, call: Call, operations: Sequence[OperationOn]) -> tuple[int, ...]:
        """The settles and charges whose key has moved to another account: what it counts by itself is there."""
        return tuple(
            place
            for place, operation in enumerate(operations)
            if not isinstance(operation, AdmitOn) and self._has_moved(operation, call)
        )

    def _has_moved(self, operation: OperationOn, call: Call) -> bool:
        key = call.paths[operation.path].key
        return key > 0 and call.keys[key - 1][0] in self.moved

    def _apply(self, operation: OperationOn, call: Call, now_ms: int, clock_ms: int) -> tuple[Result, bool]:
        """The result of an operation, and whether anything was counted."""
        windows = self._on_path(operation, call)
        if isinstance(operation, AdmitOn):
            result = self._admit(operation, call, now_ms, clock_ms)
            return result, result.verdict == 0 and bool(windows)
        is_counted = False
        if self._has_moved(operation, call):
            windows = [(number, window) for number, window in windows if not window.owner]
        for _, window in windows:
            if isinstance(operation, SettleOn):
                is_counted |= self._settle(window, operation, now_ms)
            else:
                is_counted |= self._charge(window, operation, now_ms)
        return Result(), is_counted

    @staticmethod
    def _on_path(operation: OperationOn, call: Call) -> Numbered:
        """The windows of an operation's path, each with its number."""
        return [(place + 1, call.windows[place]) for place in call.paths[operation.path].windows]

    def _admit(self, admit: AdmitOn, call: Call, now_ms: int, clock_ms: int) -> Result:
        if (verdict := self._verdict_of_policies(admit, call)) != 0:
            return Result(verdict)
        if 0 < call.paths[admit.path].ends_ms <= clock_ms:  # by the store's own clock, never the account's
            return Result(ENDED)
        windows = self._on_path(admit, call)
        need = _need(admit)
        if above := [each for each in _laid_on(windows) if need[each.unit] > each.limit]:
            never = min(above, key=lambda each: each.limit)  # the first of the smallest is named
            return Result(NEVER + never.unit + 1, never.number)
        if self._rejecting(need, windows, now_ms):
            return self._rejected(need, windows, now_ms)
        for _, window in windows:
            self._add(window, now_ms // window.bucket_ms, need[:3])
        return Result()

    def _verdict_of_policies(self, admit: AdmitOn, call: Call) -> int:
        """Whether the call was made by the policies as they are: those of the account, and of the key that asks."""
        assert self.policy
        key = call.paths[admit.path].key
        if call.version != self.policy.version:
            return OLD_POLICY
        if key == 0:
            return 0
        kid, version = call.keys[key - 1]
        if kid not in self.keys:
            return UNKNOWN_KEY
        return OLD_POLICY if version != self.keys[kid].version else 0

    def _fits(self, need: Need, on: LaidOn, now_ms: int) -> bool:
        """A need of 0 fits even where more is used than the limit: it was lowered, or an answer was longer."""
        used = _in_units(self.used(on.window, now_ms))[on.unit]
        return need[on.unit] == 0 or used + need[on.unit] <= on.limit

    def _rejecting(self, need: Need, windows: Numbered, now_ms: int) -> list[LaidOn]:
        return [each for each in _laid_on(windows) if not self._fits(need, each, now_ms)]

    def _rejected(self, need: Need, windows: Numbered, now_ms: int) -> Result:
        """The limit that frees last (the first of those that free together), and the time until then."""
        frees = [(self._frees(need, each, now_ms), each) for each in self._rejecting(need, windows, now_ms)]
        if not frees:
            return Result()
        retry_ms, last = max(frees, key=lambda each: each[0])
        return Result(last.unit + 1, last.number, retry_ms)

    def _frees(self, need: Need, on: LaidOn, now_ms: int) -> int:
        """The time until one limit alone would admit. It can only change when a bucket leaves the window.

        What doesn't fit into an empty window either (the limit was lowered under a recorded verdict) frees with the
        last bucket.
        """
        retry_ms = 0
        amounts = {k: _in_units(counters)[on.unit] for k, counters in self.counting(on.window, now_ms).items()}
        for leaving in sorted(amounts):
            retry_ms = leaving * on.window.bucket_ms + on.window.life_ms - now_ms
            if sum(amount for k, amount in amounts.items() if k > leaving) + need[on.unit] <= on.limit:
                break
        return retry_ms

    def _settle(self, window: Window, settle: SettleOn, now_ms: int) -> bool:
        """Whether there was anything to be settled: a request in that bucket, if it is in the window."""
        bucket = settle.time_ms // window.bucket_ms
        requests, _, _ = self.counting(window, now_ms).get(bucket, NOTHING)
        if not requests:
            return False
        self._add(window, bucket, (-settle.requests, -settle.input, -settle.output))
        return True

    def _charge(self, window: Window, charge: ChargeOn, now_ms: int) -> bool:
        amounts = (charge.requests, charge.input, charge.output)
        current = now_ms // window.bucket_ms
        bucket = min(charge.time_ms // window.bucket_ms, current)
        if bucket < current - window.width or not any(amounts):
            return False
        self._add(window, bucket, amounts)
        return True

    def _add(self, window: Window, bucket: int, amounts: Sequence[int]) -> None:
        counters = self.buckets.setdefault((window.owner, window.id), {}).setdefault(bucket, [0, 0, 0])
        for place, most in enumerate(self.counters_max):
            counters[place] = min(max(counters[place] + amounts[place], 0), most)

    # ---- remembering -----------------------------------------------------------------------------------------
    def _count_until(self, now_ms: int) -> None:
        self.last_ms = max(self.last_ms, now_ms // TICK_MS * TICK_MS)

    def _forget(self, windows: Sequence[Window], now_ms: int) -> None:
        """What has left is forgotten for good: it doesn't come back if the clock steps back a little.

        A window that is empty by now is left as it is, since deciding nothing in it writes nothing.
        """
        for window in windows:
            counting = self.counting(window, now_ms)
            if counting and len(counting) < len(self.stored(window)):
                self.buckets[window.owner, window.id] = {k: list(counters) for k, counters in counting.items()}
                self._count_until(now_ms)

    def record_life_ms(self, windows: Sequence[Window]) -> int:
        """How long a record is needed at least: as long as what was counted in these windows."""
        return max(RECORDS_LEAST_MS, *(window.life_ms + RECORDS_SLACK_MS for window in windows), 0)

    def _remember(self, node: str, record: Record, windows: Sequence[Window]) -> None:
        """Remember a node's last batch. Nothing is forgotten here, because a store may keep records for longer."""
        self.records[node] = record

    def _replay(self, record: Record, call: Call, operations: Sequence[OperationOn], now_ms: int) -> AnswerOn:
        """The verdicts as they were, with retry times, usage and policies as they are now."""
        results = []
        for operation, result in zip(operations, record.results, strict=True):
            retry_ms = 0
            if isinstance(operation, AdmitOn) and 0 < result.verdict < NEVER:
                retry_ms = self._rejected(_need(operation), self._on_path(operation, call), now_ms).retry_ms
            results.append(result._replace(retry_ms=retry_ms))
        filled = tuple(self.filled(window, now_ms) for window in call.windows)
        told = self._told(call, operations, results)
        return AnswerOn(REPLAYED, record.time_ms, record.number, tuple(results), filled, told, record.skipped)

    def _told(
        self, call: Call, operations: Sequence[OperationOn], results: Sequence[Result]
    ) -> tuple[tuple[int, bytes], ...]:
        """The policies by which operations were found to be made by old ones, where these differ now."""
        assert self.policy
        told = {}
        for operation, result in zip(operations, results, strict=True):
            if result.verdict != OLD_POLICY:
                continue
            if call.version != self.policy.version:
                told[0] = self.policy.body
            elif key := call.paths[operation.path].key:
                kid, version = call.keys[key - 1]
                if kid in self.keys and self.keys[kid].version != version:
                    told[key] = self.keys[kid].body
        return tuple(sorted(told.items()))

    def lose(self, owner: str) -> None:
        """Lose the hash of a key, or, for "", what the account shares: with it the clock and the nodes' records."""
        self.buckets = {place: found for place, found in self.buckets.items() if place[0] != owner}
        if not owner:
            self.skew_ms = self.last_ms = 0
            self.records = {}


def _in_units(counters: Triple) -> Need:
    requests, input_tokens, output_tokens = counters
    return (requests, input_tokens, output_tokens, input_tokens + output_tokens)


def _need(admit: AdmitOn) -> Need:
    return _in_units((1, admit.input, admit.output))


def _laid_on(windows: Numbered) -> list[LaidOn]:
    """The limits on a path, in its order."""
    return [
        LaidOn(number, window, unit, limit)
        for number, window in windows
        for unit, limit in enumerate(window.limits)
        if limit != NO_LIMIT
    ]
