"""The accounting rules as a plain model, against which the scripts are held.

Written from the rules of the contract, not from the scripts: it keeps nothing but the buckets, adds them up anew for
each question, and finds a retry time by trying the moments at which a bucket leaves, one after the other. Slow and
without cleverness on purpose. It knows no store: the caller says what time the store's clock shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

BUCKET_MS = 100
COUNTER_MAX = 2**32 - 1
"""A bucket's counters are 32 bits wide; what a charge or a settle adds beyond that is dropped."""
RECORDS_SLACK_MS = 30_000

DECIDED, REPLAYED, STALE, UNKNOWN_KEY, LOST = 0, 1, 2, 3, 4
NEVER = 4

Triple = tuple[int, int, int]
"""Requests, input tokens, output tokens."""
NOTHING: Triple = (0, 0, 0)


@dataclass(frozen=True)
class Admit:
    """One request: admitted if it fits. Reserves ``output + choices × the key's output_reserve``."""

    input: int = 0
    output: int = 0
    choices: int = 0


@dataclass(frozen=True)
class Settle:
    """Gives back what was admitted in ``bucket``; negative numbers add to it."""

    bucket: int
    input: int = 0
    output: int = 0
    requests: int = 0


@dataclass(frozen=True)
class Charge:
    """Counts in ``bucket`` what was admitted elsewhere, limit or not."""

    bucket: int
    requests: int = 0
    input: int = 0
    output: int = 0


Operation = Admit | Settle | Charge


@dataclass(frozen=True)
class Limits:
    """What a key may use in any window, what it reserves where a request sets no cap, and what messages call it."""

    requests: int
    input: int
    output: int
    reserve: int = 0
    name: str = "key"

    @property
    def amounts(self) -> Triple:
        return (self.requests, self.input, self.output)


class Answer(NamedTuple):
    """The answer to a batch, in the shape of `limiter_node.store.codec.BatchReply`."""

    state: int
    time_ms: int
    recorded: int
    limits: Triple
    used: Triple
    reset_ms: Triple
    output_reserve: int
    results: list[tuple[int, int]]
    name: str


@dataclass(frozen=True)
class Record:
    """What is remembered of a node: its last batch."""

    number: int
    time_ms: int
    reserve: int
    verdicts: tuple[int, ...]


@dataclass
class Reference:
    """The window of one API key. ``limits`` is None while the key is unknown and may be changed at any time."""

    limits: Limits | None
    width: int = 600
    """W: at bucket b, the buckets b-W .. b count."""
    buckets: dict[int, list[int]] = field(default_factory=dict)
    skew_ms: int = 0
    records: dict[str, Record] = field(default_factory=dict)

    # ---- reading ---------------------------------------------------------------------------------------------
    def time_ms(self, clock_ms: int) -> int:
        """The window's time when the store's clock shows ``clock_ms``.

        It is the clock, and where that has stepped back to before the newest bucket in use, it goes on from there.
        """
        newest = max(self.buckets, default=0)
        return max(clock_ms + self.skew_ms, newest * BUCKET_MS)

    def window(self, bucket: int) -> dict[int, Triple]:
        """The buckets that count at ``bucket``. (None is younger: a charge goes to the current bucket at most.)"""
        return {k: (r, i, o) for k, (r, i, o) in self.buckets.items() if k >= bucket - self.width}

    def used(self, bucket: int) -> Triple:
        """What counts at ``bucket`` if nothing else happened until then."""
        columns = zip(*self.window(bucket).values(), strict=True)
        requests, input_tokens, output_tokens = [sum(column) for column in columns] or NOTHING
        return (requests, input_tokens, output_tokens)

    def reset_ms(self, now_ms: int) -> Triple:
        """For each dimension the time until nothing of it counts any more."""
        window = self.window(now_ms // BUCKET_MS)
        ends = [
            max(((k + self.width + 1) * BUCKET_MS - now_ms for k in window if window[k][d]), default=0)
            for d in range(3)
        ]
        return (ends[0], ends[1], ends[2])

    # ---- deciding --------------------------------------------------------------------------------------------
    def decide(
        self,
        node: str,
        number: int,
        operations: Sequence[Operation],
        clock_ms: int,
        *,
        resent: bool = False,
        expected: int = 0,
    ) -> Answer:
        """Decide a batch, or answer it from the record if it is the node's last one.

        The node expects its record to be of batch `expected` or a later one: else what it stands for has been lost.
        """
        if self.limits is None:
            return Answer(UNKNOWN_KEY, 0, 0, NOTHING, NOTHING, NOTHING, 0, [], "")
        record = self.records.get(node)
        recorded = record.number if record else 0
        if number < recorded:
            return Answer(STALE, 0, 0, NOTHING, NOTHING, NOTHING, 0, [], "")
        if recorded < expected:
            return Answer(LOST, 0, recorded, NOTHING, NOTHING, NOTHING, 0, [], "")

        now_ms = self.time_ms(clock_ms)
        self.skew_ms = now_ms - clock_ms
        if record and number == record.number:
            return self._replay(record, operations, now_ms)
        is_named = record is None

        results = []
        remember = resent  # a batch in which nothing was counted has nothing to count twice
        for operation in operations:
            match operation:
                case Admit():
                    verdict, retry_ms = self._admit(operation, now_ms)
                    remember |= verdict == 0
                    results.append((verdict, retry_ms))
                case Settle():
                    remember |= self._settle(operation, now_ms)
                    results.append((0, 0))
                case Charge():
                    remember |= self._charge(operation, now_ms)
                    results.append((0, 0))
        if remember:
            self._remember(node, Record(number, now_ms, self.limits.reserve, tuple(v for v, _ in results)))
            recorded = number
        self._forget(now_ms)
        answer = self._answer(DECIDED, now_ms, now_ms, recorded, self.limits.reserve, results)
        return answer._replace(name=self.limits.name) if is_named else answer

    def _need(self, admit: Admit, reserve: int) -> Triple:
        return (1, admit.input, admit.output + admit.choices * reserve)

    def _admit(self, admit: Admit, now_ms: int) -> tuple[int, int]:
        assert self.limits
        need = self._need(admit, self.limits.reserve)
        for dimension in range(3):
            if need[dimension] > self.limits.amounts[dimension]:
                return (NEVER + dimension + 1, 0)
        bucket = now_ms // BUCKET_MS
        if all(self._fits(need, dimension, bucket) for dimension in range(3)):
            self._add(bucket, need)
            return (0, 0)
        return self._rejected(need, now_ms)

    def _fits(self, need: Triple, dimension: int, bucket: int) -> bool:
        """A need of 0 fits even where more is used than the limit: it was lowered, or an answer was longer."""
        assert self.limits
        return need[dimension] == 0 or self.used(bucket)[dimension] + need[dimension] <= self.limits.amounts[dimension]

    def _rejected(self, need: Triple, now_ms: int) -> tuple[int, int]:
        """The dimension that frees last (the first of those that free together), and the time until then."""
        frees = [self._frees(need, dimension, now_ms) for dimension in range(3)]
        return (frees.index(max(frees)) + 1, max(frees))

    def _frees(self, need: Triple, dimension: int, now_ms: int) -> int:
        """The time until one dimension alone would admit. It can only change when a bucket leaves the window.

        What doesn't fit into an empty window either (the limit was lowered under a recorded verdict) frees with the
        last bucket.
        """
        bucket = now_ms // BUCKET_MS
        if self._fits(need, dimension, bucket):
            return 0
        retry_ms = 0
        for leaving in sorted(self.window(bucket)):
            gone = leaving + self.width + 1
            retry_ms = gone * BUCKET_MS - now_ms
            if self._fits(need, dimension, gone):
                break
        return retry_ms

    def _settle(self, settle: Settle, now_ms: int) -> bool:
        """Whether there was anything to be settled: a request in that bucket, if it is in the window."""
        requests = self.window(now_ms // BUCKET_MS).get(settle.bucket, NOTHING)[0]
        if not requests:
            return False
        self._add(settle.bucket, (-settle.requests, -settle.input, -settle.output))
        return True

    def _charge(self, charge: Charge, now_ms: int) -> bool:
        amounts = (charge.requests, charge.input, charge.output)
        current = now_ms // BUCKET_MS
        bucket = min(charge.bucket, current)
        if bucket < current - self.width or not any(amounts):
            return False
        self._add(bucket, amounts)
        return True

    def _add(self, bucket: int, amounts: Triple) -> None:
        counters = self.buckets.setdefault(bucket, [0, 0, 0])
        for dimension in range(3):
            counters[dimension] = min(max(counters[dimension] + amounts[dimension], 0), COUNTER_MAX)

    def _remember(self, node: str, record: Record) -> None:
        if node not in self.records:  # a new node: forget those whose last batch can't matter any more
            lifetime_ms = 2 * (self.width * BUCKET_MS + RECORDS_SLACK_MS)
            for other, seen in list(self.records.items()):
                if seen.time_ms < record.time_ms - lifetime_ms:
                    del self.records[other]
        self.records[node] = record

    def _forget(self, now_ms: int) -> None:
        """What has left is forgotten for good: it doesn't come back if the clock steps back a little.

        A window that is empty by now is left as it is, since deciding nothing in it writes nothing.
        """
        window = self.window(now_ms // BUCKET_MS)
        if window:
            self.buckets = {k: list(counters) for k, counters in window.items()}

    def _replay(self, record: Record, operations: Sequence[Operation], now_ms: int) -> Answer:
        """The verdicts as they were, with retry times, usage and limits as they are now."""
        results = []
        for operation, verdict in zip(operations, record.verdicts, strict=True):
            retry_ms = 0
            if isinstance(operation, Admit) and 0 < verdict < NEVER:
                _, retry_ms = self._rejected(self._need(operation, record.reserve), now_ms)
            results.append((verdict, retry_ms))
        return self._answer(REPLAYED, record.time_ms, now_ms, record.number, record.reserve, results)

    def _answer(
        self, state: int, time_ms: int, now_ms: int, recorded: int, reserve: int, results: list[tuple[int, int]]
    ) -> Answer:
        assert self.limits
        requests, input_tokens, output_tokens = (min(n, COUNTER_MAX) for n in self.used(now_ms // BUCKET_MS))
        return Answer(
            state,
            time_ms,
            recorded,
            self.limits.amounts,
            (requests, input_tokens, output_tokens),
            self.reset_ms(now_ms),
            reserve,
            results,
            self.limits.name if any(verdict for verdict, _ in results) else "",
        )
