"""The scripts beside the model of the accounting rules, through whatever hypothesis comes up with.

After every step all that can be seen is compared: verdicts, retry times, usage, times to full, limits, and by peek each
bucket of the window. Time is what the tests say it is; nothing waits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from reference import Admit, Charge, Limits, Operation, Settle
from script_driver import Pair

BUCKET_MS = 100
NODES = st.sampled_from(["a", "b", "c"])
FAR = 4_000_000_000

tokens = st.one_of(st.integers(0, 3), st.integers(0, 60), st.just(61))
limits = st.builds(
    Limits,
    st.sampled_from([0, 1, 2, 5, 20, FAR]),
    st.sampled_from([0, 60, 200, FAR]),
    st.sampled_from([0, 60, 200, FAR]),
    st.sampled_from([0, 1, 30]),
    st.sampled_from(["key", "", "größer"]),
)


@dataclass(frozen=True)
class SettleOf:
    """A settle of one of the last reservations: ``shift`` buckets off, giving back this much (None: all of it)."""

    which: int
    shift: int
    input: int | None
    output: int | None


@dataclass(frozen=True)
class ChargeAgo:
    """A charge to the bucket so long ago; at the window's edge if ``edge``."""

    ago: int
    edge: bool
    requests: int
    input: int
    output: int


admits = st.one_of(
    st.builds(Admit, tokens, tokens),
    st.builds(Admit, tokens, st.just(0), st.integers(1, 3)),
    st.just(Admit(FAR, FAR)),
)
settles = st.builds(
    SettleOf,
    st.integers(0, 30),
    st.sampled_from([0, 0, 0, 0, 0, -1, 1, -600]),
    st.one_of(st.none(), st.just(0), st.integers(-60, 60)),
    st.one_of(st.none(), st.integers(-60, 60)),
)
charges = st.builds(
    ChargeAgo, st.integers(-2, 12), st.booleans(), st.integers(0, 3), st.sampled_from([0, 9, FAR]), st.integers(0, 20)
)
some_operations = st.lists(st.one_of(admits, admits, settles, charges), max_size=6)
backward_ms = st.one_of(st.integers(1, 500), st.integers(1, 90_000))


class WindowMachine(RuleBasedStateMachine):
    """One key's window, its nodes, and a clock."""

    new_pair: Callable[[Limits, int], Pair]

    @initialize(width=st.sampled_from([5, 20, 600]), limits=limits)
    def open_window(self, width: int, limits: Limits) -> None:
        self.pair = self.new_pair(limits, width)
        self.width = width
        self.reserved: list[tuple[int, int, int]] = []

    def resolved(self, operation: Admit | SettleOf | ChargeAgo) -> Operation:
        """The operation with the buckets that it means now."""
        now = self.pair.model.time_ms(self.pair.window.clock_ms) // BUCKET_MS
        match operation:
            case SettleOf():
                bucket, input_tokens, output = (
                    self.reserved[-1 - operation.which % len(self.reserved)] if self.reserved else (now, 5, 5)
                )
                return Settle(
                    bucket + operation.shift,
                    input_tokens if operation.input is None else operation.input,
                    output if operation.output is None else operation.output,
                )
            case ChargeAgo():
                ago = operation.ago + (self.width if operation.edge else 0)
                return Charge(now - ago, operation.requests, operation.input, operation.output)
        return operation

    def decide(
        self, operations: list[Operation], node: str, number: int | None = None, *, resent: bool = False
    ) -> list[tuple[int, int]]:
        reply = self.pair.decide(operations, node=node, number=number, resent=resent)
        for operation, (verdict, _) in zip(operations, reply.results, strict=False):
            if isinstance(operation, Admit) and verdict == 0:
                output = operation.output + operation.choices * reply.output_reserve
                self.reserved.append((reply.time_ms // BUCKET_MS, operation.input, output))
        return reply.results

    # ---- batches ---------------------------------------------------------------------------------------------------

    @rule(node=NODES, operations=some_operations)
    def batch(self, node: str, operations: list[Admit | SettleOf | ChargeAgo]) -> None:
        self.decide([self.resolved(operation) for operation in operations], node)

    @rule(node=NODES, admit=admits, times=st.integers(1, 25), every_ms=st.sampled_from([0, 1, 40, 100, 130, 500]))
    def traffic(self, node: str, admit: Admit, times: int, every_ms: int) -> None:
        for _ in range(times):
            self.decide([admit], node)
            self.pair.window.clock_ms += every_ms

    @rule(
        node=NODES,
        operations=some_operations,
        applied=st.booleans(),
        meanwhile=st.lists(st.tuples(NODES, st.one_of(admits, settles, charges)), max_size=3),
        passed_ms=st.one_of(st.just(0), st.integers(-200, 2_000), st.sampled_from([59_000, 61_000])),
        new_limits=st.one_of(st.none(), limits),
        times=st.integers(1, 2),
    )
    def lost(
        self,
        node: str,
        operations: list[Admit | SettleOf | ChargeAgo],
        applied: bool,
        meanwhile: list[tuple[str, Admit | SettleOf | ChargeAgo]],
        passed_ms: int,
        new_limits: Limits | None,
        times: int,
    ) -> None:
        """The batch is lost, or (``applied``) only its reply; it is sent again under its number."""
        sent = [self.resolved(operation) for operation in operations]
        number = self.pair.window.numbers.get(node, 0) + 1
        self.pair.window.numbers[node] = number
        if applied:
            self.decide(sent, node, number)
        self.pair.window.clock_ms += passed_ms
        if new_limits:
            self.pair.set_limits(new_limits)
        for other, operation in meanwhile:
            if other != node:  # a node has one batch of a key in flight
                self.decide([self.resolved(operation)], other)
        for _ in range(times):
            self.decide(sent, node, number, resent=True)

    @rule(node=NODES, age=st.integers(1, 3), resent=st.booleans())
    def too_late(self, node: str, age: int, resent: bool) -> None:
        record = self.pair.model.records.get(node)
        if record and record.number >= age:
            self.decide([Admit(1, 1)], node, record.number - age, resent=resent)

    @rule(node=NODES, admit=admits)
    def wait_as_told(self, node: str, admit: Admit) -> None:
        """A rejected request is admitted at its retry time and not 1 ms before."""
        results = self.decide([admit], node)
        if not results or not 0 < results[0][0] < 4:
            return
        verdict, retry_ms = results[0]
        self.pair.window.clock_ms += retry_ms - 1
        assert self.decide([admit], node) == [(verdict, 1)]
        self.pair.window.clock_ms += 1
        assert self.decide([admit], node) == [(0, 0)]

    # ---- the key ---------------------------------------------------------------------------------------------------

    @rule(limits=limits)
    def change_limits(self, limits: Limits) -> None:
        self.pair.set_limits(limits)

    @rule(node=NODES)
    def delete_and_declare_again(self, node: str) -> None:
        before = self.pair.model.limits
        self.pair.set_limits(None)
        self.decide([Admit(1, 1)], node)
        self.pair.set_limits(before)

    # ---- the clock -------------------------------------------------------------------------------------------------

    @rule(ms=st.integers(1, 99))
    def clock_by_ms(self, ms: int) -> None:
        self.pair.window.clock_ms += ms

    @rule(buckets=st.integers(1, 12))
    def clock_by_buckets(self, buckets: int) -> None:
        self.pair.window.clock_ms += buckets * BUCKET_MS

    @rule(buckets=st.integers(-2, 2), ms=st.integers(-1, 1))
    def clock_to_the_edge(self, buckets: int, ms: int) -> None:
        """Almost, just, or just over a window later."""
        self.pair.window.clock_ms += (self.width + buckets) * BUCKET_MS + ms

    @rule(buckets=st.sampled_from([300, 744, 763, 768, 773, 1536, 100_000]))
    def clock_by_far(self, buckets: int) -> None:
        """Also by as many buckets as it takes for a field of the hash to come round again."""
        self.pair.window.clock_ms += buckets * BUCKET_MS

    @rule(ms=backward_ms)
    def clock_back(self, ms: int) -> None:
        self.pair.window.clock_ms -= ms


def test_the_script_decides_as_the_rules_say(store: redis.Redis, make_pair: Callable[..., Pair]) -> None:
    class Machine(WindowMachine):
        def new_pair(self, limits: Limits, width: int) -> Pair:
            return make_pair(store, limits, width=width)

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=150,
            stateful_step_count=40,
            derandomize=True,  # the same on each run; to search further, raise max_examples and take this out
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
