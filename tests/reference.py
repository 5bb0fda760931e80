"""The accounting rules of a flat key: the model of accounts (`reference_paths`), with one window and three limits.

`PlainKey` holds what differs for the plain form of a key, which nodes of earlier versions share; `Reference` speaks in
the words of its script: buckets instead of times, default choices, one reservation for the whole key.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from reference_calls import (
    LOST,
    NO_LIMIT,
    NOTHING,
    STALE,
    AdmitOn,
    AnswerOn,
    Call,
    ChargeOn,
    OperationOn,
    Policy,
    SettleOn,
    Triple,
    Window,
)
from reference_calls import NEVER as NEVER_ON
from reference_calls import UNKNOWN as UNKNOWN_KEY
from reference_calls import Path as PathOn
from reference_paths import Account, Record

BUCKET_MS = 100
COUNTER_MAX = 2**32 - 1
"""A bucket's counters are 32 bits wide; what a charge or a settle adds beyond that is dropped."""
RECORDS_SLACK_MS = 30_000
NEVER = 4


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


class PlainKey(Account):
    """An account in the plain form of a key. It differs from others where this form can hold less."""

    def _count_until(self, now_ms: int) -> None:
        """No tick is stored: after a step back of the clock, time goes on from the newest bucket."""

    def _remember(self, node: str, record: Record, windows: Sequence[Window]) -> None:
        if node not in self.records:  # a new node: forget those whose last batch can't matter any more
            lives_ms = 2 * max(window.width * window.bucket_ms + RECORDS_SLACK_MS for window in windows)
            for other, seen in list(self.records.items()):
                if seen.time_ms < record.time_ms - lives_ms:
                    del self.records[other]
        super()._remember(node, record, windows)


@dataclass
class Reference:
    """The window of one API key. ``limits`` is None while the key is unknown and may be changed at any time."""

    limits: Limits | None
    width: int = 600
    """W: at bucket b, the buckets b-W .. b count."""
    key: PlainKey = field(default_factory=lambda: PlainKey(counters_max=(COUNTER_MAX,) * 3))
    reserves: dict[str, int] = field(default_factory=dict)
    """By node: the reservation without a cap that applied to its recorded batch."""

    # ---- reading ---------------------------------------------------------------------------------------------
    @property
    def _window(self) -> Window:
        limits = self.limits.amounts if self.limits else NOTHING
        return Window("", b"", BUCKET_MS, self.width, (*limits, NO_LIMIT))

    @property
    def buckets(self) -> dict[int, list[int]]:
        return self.key.stored(self._window)

    @property
    def records(self) -> dict[str, Record]:
        return self.key.records

    def time_ms(self, clock_ms: int) -> int:
        """The window's time when the store's clock shows ``clock_ms``."""
        return self.key.time_ms(clock_ms, [self._window])

    def window(self, bucket: int) -> dict[int, Triple]:
        """The buckets that count at ``bucket``."""
        return self.key.counting(self._window, bucket * BUCKET_MS)

    def used(self, bucket: int) -> Triple:
        """What counts at ``bucket`` if nothing else happened until then."""
        return self.key.used(self._window, bucket * BUCKET_MS)

    def reset_ms(self, now_ms: int) -> Triple:
        """For each dimension the time until nothing of it counts any more."""
        newest = self.key.filled(self._window, now_ms).newest
        ends = [k * BUCKET_MS + self._window.life_ms - now_ms if k else 0 for k in newest]
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
        reserve = self.reserves[node] if record and record.number == number else self.limits.reserve
        self.key.policy = Policy(b"", b"")
        call = Call((self._window,), (PathOn(windows=(0,)),))
        answer = self.key.decide(
            node,
            number,
            call,
            [_on_path(each, reserve) for each in operations],
            clock_ms,
            resent=resent,
            expected=expected,
        )
        if answer.state in (STALE, LOST):
            return Answer(answer.state, 0, answer.recorded, NOTHING, NOTHING, NOTHING, 0, [], "")
        if answer.recorded == number:
            self.reserves[node] = reserve
        return self._answer(answer, reserve, is_named=record is None, now_ms=self.time_ms(clock_ms))

    def _answer(self, answer: AnswerOn, reserve: int, *, is_named: bool, now_ms: int) -> Answer:
        assert self.limits
        results = [
            (result.verdict - NEVER_ON + NEVER if result.verdict >= NEVER_ON else result.verdict, result.retry_ms)
            for result in answer.results
        ]
        requests, input_tokens, output_tokens = (min(n, COUNTER_MAX) for n in answer.windows[0].used)
        return Answer(
            answer.state,
            answer.time_ms,
            answer.recorded,
            self.limits.amounts,
            (requests, input_tokens, output_tokens),
            self.reset_ms(now_ms),
            reserve,
            results,
            self.limits.name if is_named or any(verdict for verdict, _ in results) else "",
        )


def _on_path(operation: Operation, reserve: int) -> OperationOn:
    """The operation in the words of accounts."""
    match operation:
        case Admit():
            return AdmitOn(0, operation.input, operation.output + operation.choices * reserve)
        case Settle():
            return SettleOn(0, operation.bucket * BUCKET_MS, operation.requests, operation.input, operation.output)
        case Charge():
            return ChargeOn(0, operation.bucket * BUCKET_MS, operation.requests, operation.input, operation.output)
