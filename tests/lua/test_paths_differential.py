"""The script of paths beside the model of the accounting rules, on both stores.

After each batch all that can be seen is compared: verdicts, windows named, retry times, usage, the newest buckets, the
policies told, by peek what the buckets add up to, and which nodes have a record. Time is what the tests say it is.

The suite takes some walks and a few examples of hypothesis. ``PATHS_WALKS=2000`` takes that many walks, and as many
times more examples.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from paths_pair import PathsPair
from paths_walk import LARGEST, PathsWalk
from reference_calls import (
    NO_LIMIT,
    AdmitOn,
    AnswerOn,
    Call,
    ChargeOn,
    OperationOn,
    Path,
    SettleOn,
    Window,
)

IN_THE_SUITE = 12
WALKS = int(os.environ.get("PATHS_WALKS", IN_THE_SUITE))
STEPS = 80
PARTS = 4
KEY, OTHER_KEY = f"{1:032x}", f"{2:032x}"
NODES = st.sampled_from(["node-aaa", "node-bbb"])
WIDE = 270_000_000_000

tokens = st.one_of(st.integers(0, 3), st.integers(0, 60), st.sampled_from([0, 61, 2**32 - 1, 2**32, WIDE]))
limits = st.tuples(
    st.sampled_from([NO_LIMIT, 0, 1, 2, 5, 20, LARGEST]),
    *[st.sampled_from([NO_LIMIT, NO_LIMIT, 0, 60, 200, 2**33, LARGEST])] * 3,
)
LENGTHS = st.sampled_from([(100, 5), (100, 10), (100, 600), (200, 20), (6_000, 600), (144_000, 600), (4_464_000, 600)])
windows = st.builds(
    lambda owner, length, limits: Window(owner, b"", *length, limits),
    st.sampled_from(["", "", KEY, OTHER_KEY]),
    LENGTHS,
    limits,
)
which = st.integers(0, 2**16)


@pytest.mark.parametrize("part", range(PARTS))
def test_walks(store: redis.Redis, make_paths_pair: Callable[..., PathsPair], part: int) -> None:
    for seed in range(part, WALKS, PARTS):
        PathsWalk(make_paths_pair(store), seed).run(STEPS)


def test_a_batch_as_large_as_it_may_be(store: redis.Redis, make_paths_pair: Callable[..., PathsPair]) -> None:
    """250 windows on three hashes, 255 paths, one of them through all windows."""
    rng = random.Random(1)
    pair, keys = make_paths_pair(store), [KEY, OTHER_KEY]
    pair.set_policy(b"version0", dict.fromkeys(keys, b"of-key-0"))
    lengths = [(100, 600), (100, 5), (6_000, 600), (144_000, 600)]
    windows = []
    for number in range(250):
        owner = ["", KEY, OTHER_KEY][number // 84]
        limits = (rng.choice((3, NO_LIMIT)), NO_LIMIT, rng.choice((200, NO_LIMIT)), NO_LIMIT)
        windows.append(Window(owner, number.to_bytes(6, "big"), *rng.choice(lengths), limits))
    paths = [Path(rng.randint(0, 2), tuple(rng.sample(range(250), rng.choice((1, 5, 9))))) for _ in range(254)]
    call = Call(
        tuple(windows), (*paths, Path(1, tuple(range(250)))), b"version0", tuple((k, b"of-key-0") for k in keys)
    )
    verdicts = set()
    for step_ms in (0, 700, 59_000, 90_000_000):
        pair.clock_ms += step_ms
        times_ms = [pair.now_ms(windows) - rng.randrange(60_000) for _ in range(60)]
        charges = [ChargeOn(rng.randrange(255), time_ms, 1, 5, 5) for time_ms in times_ms]
        settles = [SettleOn(rng.randrange(255), time_ms, 0, 1, 1) for time_ms in times_ms]
        admits = [AdmitOn(rng.choice((rng.randrange(254), 7)), 3, rng.choice((0, 70))) for _ in range(200)]
        answer = pair.decide(call, [*charges, *settles, *admits, AdmitOn(254, 3, 0)])
        verdicts |= {result.verdict for result in answer.results}
    assert verdicts == {0, 1, 3}


class PathsMachine(RuleBasedStateMachine):
    """An account of two keys, its nodes, and a clock. Each operation takes a path by number, which key and windows."""

    new_pair: Callable[[], PathsPair]

    @initialize(tree=st.lists(windows, min_size=1, max_size=9))
    def open_account(self, tree: list[Window]) -> None:
        self.pair = self.new_pair()
        owners = ["", KEY, OTHER_KEY]
        named = [Window(each.owner, bytes([place] * 6), *each_of(each)) for place, each in enumerate(tree)]
        self.windows = sorted(named, key=lambda each: owners.index(each.owner))
        self.version, self.versions = b"version0", {KEY: b"of-key-0", OTHER_KEY: b"of-key-1"}
        self.declared = 0
        self.reserved: list[tuple[int, int, int, int]] = []
        self.pair.set_policy(self.version, self.versions)

    # ---- calls -----------------------------------------------------------------------------------------------------
    def call(self, version: bytes | None = None) -> Call:
        """All windows, and as paths: all of a key's, all shared ones, and each window alone."""
        of_key = [
            Path(key, tuple(place for place, each in enumerate(self.windows) if each.owner in ("", kid)))
            for key, kid in ((0, ""), (1, KEY), (2, OTHER_KEY))
        ]
        alone = [Path(0, (place,)) for place in range(len(self.windows))]
        keys = tuple(self.versions.items()) if version is None else tuple((kid, version) for kid in self.versions)
        return Call(tuple(self.windows), (*of_key, *alone), self.version if version is None else version, keys)

    def decide(self, operations: list[OperationOn], node: str, **batch: object) -> AnswerOn:
        call = self.call()
        operations.sort(key=lambda each: isinstance(each, AdmitOn))
        answer = self.pair.decide(call, operations, node=node, **batch)  # type: ignore[arg-type]
        for operation, result in zip(operations, answer.results, strict=False):
            if isinstance(operation, AdmitOn) and result.verdict == 0:
                self.reserved.append((operation.path, answer.time_ms, operation.input, operation.output))
        return answer

    def admit(self, path: int, input: int, output: int) -> OperationOn:
        return AdmitOn(path % (3 + len(self.windows)), input, output)

    def settle(self, path: int, input: int, output: int) -> OperationOn:
        """Give back one of the last reservations, or these amounts of it."""
        if not self.reserved:
            return SettleOn(0, self.pair.clock_ms, 1, input, output)
        where, time_ms, reserved_input, reserved_output = self.reserved[-1 - path % min(len(self.reserved), 9)]
        if path % 2:
            return SettleOn(where, time_ms, path % 3, reserved_input, reserved_output)
        return SettleOn(where, time_ms, 0, input, -output if path % 4 else output)

    def charge(self, path: int, ago: int, requests: int, input: int, output: int) -> OperationOn:
        window = self.windows[path % len(self.windows)]
        buckets = ago if ago < 20 else window.width + ago - 21
        time_ms = self.pair.now_ms(self.windows) - buckets * window.bucket_ms
        return ChargeOn(path % (3 + len(self.windows)), max(time_ms, 0), requests, input, output)

    some_operations = st.lists(
        st.one_of(
            st.tuples(st.just("admit"), which, tokens, tokens),
            st.tuples(st.just("admit"), which, tokens, tokens),
            st.tuples(st.just("settle"), which, st.integers(-60, 60), tokens),
            st.tuples(st.just("charge"), which, st.integers(-2, 22), st.integers(0, 3), tokens, tokens),
        ),
        max_size=6,
    )

    def resolved(self, drawn: list[tuple]) -> list[OperationOn]:  # type: ignore[type-arg]
        return [getattr(self, kind)(*values) for kind, *values in drawn]

    # ---- batches ---------------------------------------------------------------------------------------------------
    @rule(node=NODES, drawn=some_operations)
    def batch(self, node: str, drawn: list[tuple]) -> None:  # type: ignore[type-arg]
        self.decide(self.resolved(drawn), node)

    @rule(
        node=NODES,
        path=which,
        tokens=st.tuples(tokens, tokens),
        times=st.integers(1, 25),
        every=st.sampled_from([0, 1, 40, 100, 130, 6_000, 144_000]),
    )
    def traffic(self, node: str, path: int, tokens: tuple[int, int], times: int, every: int) -> None:
        for _ in range(times):
            self.decide([self.admit(path, *tokens)], node)
            self.pair.clock_ms += every

    @rule(node=NODES, path=which, first=st.integers(0, 40), times=st.integers(1, 60), tokens=st.tuples(tokens, tokens))
    def fill(self, node: str, path: int, first: int, times: int, tokens: tuple[int, int]) -> None:
        """Charge many buckets in a row, the oldest first."""
        window = self.windows[path % len(self.windows)]
        now_ms = self.pair.now_ms(self.windows)
        where = path % (3 + len(self.windows))
        times_ms = [now_ms - (first + ago) * window.bucket_ms for ago in range(times, 0, -1)]
        self.decide([ChargeOn(where, time_ms, 1, *tokens) for time_ms in times_ms], node)

    @rule(
        node=NODES,
        drawn=some_operations,
        applied=st.booleans(),
        passed_ms=st.one_of(st.just(0), st.integers(-200, 2_000), st.sampled_from([59_000, 61_000, 3_600_000])),
        limits=st.one_of(st.none(), limits),
        times=st.integers(1, 2),
    )
    def lost(
        self,
        node: str,
        drawn: list[tuple],  # type: ignore[type-arg]
        applied: bool,
        passed_ms: int,
        limits: tuple[int, ...] | None,
        times: int,
    ) -> None:
        """The batch is lost, or (``applied``) only its reply; it is sent again under its number."""
        operations = self.resolved(drawn)
        record = self.pair.model.records.get(node)
        number = self.pair.numbers[node] = max(self.pair.numbers.get(node, 0), record.number if record else 0) + 1
        if applied:
            self.decide(operations, node, number=number)
        self.pair.clock_ms += passed_ms
        if limits:
            self.change_limits(0, limits)
        for _ in range(times):
            self.decide(operations, node, number=number, resent=True)

    @rule(node=NODES, age=st.integers(1, 3), resent=st.booleans())
    def too_late(self, node: str, age: int, resent: bool) -> None:
        record = self.pair.model.records.get(node)
        if record and record.number >= age:
            self.decide([AdmitOn(0, 1, 1)], node, number=record.number - age, resent=resent)

    @rule(node=NODES, path=which, tokens=st.tuples(tokens, tokens))
    def wait_as_told(self, node: str, path: int, tokens: tuple[int, int]) -> None:
        """A rejected request is admitted at its retry time and not 1 ms before."""
        admit = self.admit(path, *tokens)
        results = self.decide([admit], node).results
        if not results or not 0 < results[0].verdict < 8:
            return
        self.pair.clock_ms += results[0].retry_ms - 1
        assert self.decide([admit], node).results == (results[0]._replace(retry_ms=1),)
        self.pair.clock_ms += 1
        assert [result.verdict for result in self.decide([admit], node).results] == [0]

    # ---- policies and losses ---------------------------------------------------------------------------------------
    @rule(path=which, limits=limits)
    def change_limits(self, path: int, limits: tuple[int, ...]) -> None:
        place = path % len(self.windows)
        window = self.windows[place]
        self.windows[place] = Window(window.owner, window.id, window.bucket_ms, window.width, limits)

    @rule(node=NODES, drawn=some_operations, of_account=st.booleans(), with_keys=st.booleans())
    def change_policy(self, node: str, drawn: list[tuple], of_account: bool, with_keys: bool) -> None:  # type: ignore[type-arg]
        """Store other versions; the batch was made under those of before."""
        operations = sorted(self.resolved(drawn), key=lambda each: isinstance(each, AdmitOn))
        call = self.call()
        self.declared += 1
        new = self.declared.to_bytes(8, "big")
        if of_account:
            self.version = new
        else:
            self.versions = {KEY: self.versions[KEY], OTHER_KEY: new}
        self.pair.set_policy(self.version, self.versions if with_keys else {KEY: self.versions[KEY]})
        self.pair.decide(call, operations, node=node)
        self.pair.set_policy(self.version, self.versions)

    @rule(node=NODES)
    def delete_and_declare_again(self, node: str) -> None:
        self.pair.set_policy(b"", {})
        self.decide([AdmitOn(0, 1, 1)], node)
        self.pair.set_policy(self.version, self.versions)

    @rule(node=NODES, owner=st.sampled_from(["", KEY]), expects=st.booleans())
    def lose(self, node: str, owner: str, expects: bool) -> None:
        record = self.pair.model.records.get(node)
        self.pair.lose(owner)
        number = self.pair.numbers[node] = self.pair.numbers.get(node, 0) + 1
        self.decide([AdmitOn(0, 1, 1)], node, number=number, expected=record.number if record and expects else 0)

    # ---- the clock -------------------------------------------------------------------------------------------------
    @rule(ms=st.integers(1, 99))
    def clock_by_ms(self, ms: int) -> None:
        self.pair.clock_ms += ms

    @rule(path=which, buckets=st.integers(1, 12))
    def clock_by_buckets(self, path: int, buckets: int) -> None:
        self.pair.clock_ms += buckets * self.windows[path % len(self.windows)].bucket_ms

    @rule(path=which, buckets=st.integers(-2, 2), ms=st.integers(-1, 1))
    def clock_to_the_edge(self, path: int, buckets: int, ms: int) -> None:
        """Almost, just, or just over a window later."""
        window = self.windows[path % len(self.windows)]
        self.pair.clock_ms += (window.width + buckets) * window.bucket_ms + ms

    @rule(path=which, buckets=st.sampled_from([300, 744, 763, 768, 773, 1536, 100_000]))
    def clock_by_far(self, path: int, buckets: int) -> None:
        """Also by as many buckets as it takes for a field of the hash to come round again."""
        self.pair.clock_ms += buckets * self.windows[path % len(self.windows)].bucket_ms

    @rule(ms=st.one_of(st.integers(1, 500), st.integers(1, 90_000), st.just(86_400_000)))
    def clock_back(self, ms: int) -> None:
        self.pair.clock_ms -= ms


def each_of(window: Window) -> tuple[int, int, tuple[int, ...]]:
    return window.bucket_ms, window.width, window.limits


def test_the_script_decides_as_the_rules_say(store: redis.Redis, make_paths_pair: Callable[..., PathsPair]) -> None:
    class Machine(PathsMachine):
        def new_pair(self) -> PathsPair:
            return make_paths_pair(store)

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=2 * WALKS,
            stateful_step_count=30,
            derandomize=WALKS == IN_THE_SUITE,  # the same on each run of the suite
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
