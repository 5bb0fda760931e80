"""The cost for a busy shard of a call on paths: by windows, keys and operations, and whether buckets stay or change.

Each of the stand-ins for nodes has an account to itself, whose clock it sets, so that buckets change when the case says
so; all accounts know all of the nodes. A shard finds a node's record of an account by its name: other than for a plain
key, no call looks through those of all nodes, so that their number is measured once, in `shard_calls`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import NamedTuple

from benchmarks.lib.measuring import interleaved
from benchmarks.lib.shard import INPUT_TOKENS, OUTPUT_TOKENS, Shard
from benchmarks.lib.stand_ins import StandIn, connected, drive
from benchmarks.paths.measured_account import MINUTE_MS, SHAPES, TEAMS, Admit, MeasuredAccount, Settle, Shape
from benchmarks.scale.account_shape import Work
from limiter_node.credentials import key_id
from limiter_node.policy import PolicyWindow
from limiter_node.store.codec import pack_admit
from limiter_node.store.keyspace import past_key, policy_key, window_key
from limiter_node.store.scripts import load_script

PATHS = (2, 5, 8)
STAND_INS = 30
"""So many nodes keep the shard busy."""
COALESCED = 32
MOST_KEYS = 8
STEP_MS = 1_000
"""From one call of an account to its next, where buckets change: one of each minute begins, and one leaves."""
SETTLED_AFTER = 2
"""A settle is of an admission so many calls before."""
USED_BUCKETS = (1, 10, 100, 600)


class Call(NamedTuple):
    """One kind of call: it admits requests of the account's keys in turn, and settles those of two calls before.

    `path`: the windows on each key's path; 0: a plain key.
    """

    path: int
    keys: int
    admits: int
    settles: int = 0
    is_turning: bool = False
    """Whether each call comes a step later, so that it begins a bucket in each window of a minute that it admits in."""


def _calls_of(path: int) -> list[Call]:
    return [
        Call(path, 1, 1),
        Call(path, 1, 1, is_turning=True),
        Call(path, 1, 1, 1),
        Call(path, 1, 1, 1, is_turning=True),
        Call(path, 1, COALESCED),
        Call(path, MOST_KEYS, COALESCED),
        Call(path, MOST_KEYS, COALESCED, is_turning=True),
        Call(path, 6, 2, 2),  # as nodes make them of an account with many keys
        Call(path, 6, 2, 2, is_turning=True),
    ]


PLAIN_CALLS = [Call(0, 1, 1), Call(0, 1, 1, is_turning=True)]
CALLS = PLAIN_CALLS + [call for path in PATHS for call in _calls_of(path)]


@dataclass(frozen=True, slots=True)
class AccountCall:
    """Say what one kind of call costs a busy shard, in µs of its CPU."""

    path: int
    keys: int
    admits: int
    settles: int
    is_turning: bool
    call_us: float


@dataclass(frozen=True, slots=True)
class Memory:
    """Hold the bytes of a window of a minute with that many buckets in use, and of a plain key with as many."""

    buckets: int
    window_bytes: float
    plain_key_bytes: float
    policy_bytes: float
    """The policy of an account's key, by key."""


def work_in(call: Call) -> Work:
    """Return what a call of this kind touches."""
    shape, operations = SHAPES[call.path], call.admits + call.settles
    touched = _touched(shape, min(call.keys, operations))
    begun = _touched(shape, min(call.keys, call.admits)) if call.is_turning else []
    # Between an admission and its settle the account admits others, and if it has one key, so does that.
    moved_on = [] if not call.is_turning else _touched(shape, 1) if call.keys == 1 else shape.account
    return Work(
        keys=min(call.keys, operations),
        windows=len(touched),
        operations=operations,
        visits=operations * call.path,
        turnovers=sum(map(_begins, begun)),
        earlier=call.settles * sum(map(_begins, moved_on)),
    )


def _touched(shape: Shape, keys: int) -> list[PolicyWindow]:
    """Return the windows on the paths of so many keys, each in a team of its own as far as there are teams."""
    return [*shape.account, *(*shape.team, *shape.sub_team) * min(keys, TEAMS), *shape.key * keys]


def _begins(window: PolicyWindow) -> float:
    return min(STEP_MS / window.bucket_ms, 1)


class _Clocks:
    """The clock of each stand-in's account or key. After a minute of steps, one bucket leaves with each step."""

    def __init__(self, now_ms: int) -> None:
        self._now_ms = [now_ms] * STAND_INS

    def now_ms(self, number: int, *, steps: bool) -> int:
        """Return the time of the next call, a step later if it `steps`."""
        self._now_ms[number] += STEP_MS * steps
        return self._now_ms[number]


_PRIMING = MINUTE_MS // STEP_MS + 2
_ONE = [pack_admit(INPUT_TOKENS, OUTPUT_TOKENS, 0)]


class _Accounts:
    """One account for each stand-in."""

    def __init__(self, shard: Shard, path: int, now_ms: int, nodes: Iterable[str]) -> None:
        script = shard.loaded(load_script("decide_paths").source)
        self._accounts = [
            MeasuredAccount(shard, script, f"calls-{path}-{i}", path, MOST_KEYS) for i in range(STAND_INS)
        ]
        self._clocks = _Clocks(now_ms)
        every_key = [Admit(key) for key in range(MOST_KEYS)]
        for number, account in enumerate(self._accounts):
            for _ in range(_PRIMING):
                shard.replies([account.call(every_key, (), self._clocks.now_ms(number, steps=True))])
            now_ms = self._clocks.now_ms(number, steps=False)
            shard.replies([account.call(every_key, (), now_ms, node=node) for node in nodes])
            shard.keep(*account.hashes(range(MOST_KEYS)))

    def commands(self, call: Call, number: int, count: int, node: str) -> list[bytes]:
        """Return calls of one account, by its node."""
        account, made = self._accounts[number], []
        for turn in range(count):
            now_ms = self._clocks.now_ms(number, steps=call.is_turning)
            admitted_ms = now_ms - SETTLED_AFTER * STEP_MS if call.is_turning else now_ms
            first = turn * call.admits
            admits = [Admit((first + i) % call.keys) for i in range(call.admits)]
            first -= SETTLED_AFTER * call.admits
            settles = [Settle((first + i) % call.keys, admitted_ms) for i in range(call.settles)]
            made.append(account.call(sorted(admits), settles, now_ms, node=node))
        return made


class _PlainKeys:
    """One plain key for each stand-in."""

    def __init__(self, shard: Shard, now_ms: int, nodes: Iterable[str]) -> None:
        self._shard, self._clocks = shard, _Clocks(now_ms)
        self._kids = [key_id(f"calls-plain-{i}") for i in range(STAND_INS)]
        for number, kid in enumerate(self._kids):
            shard.declare(kid)
            for _ in range(_PRIMING):
                shard.replies([shard.command(kid, _ONE, self._clocks.now_ms(number, steps=True))])
            now_ms = self._clocks.now_ms(number, steps=False)
            shard.replies([shard.command(kid, _ONE, now_ms, node=node) for node in nodes])
            shard.keep(window_key(kid), past_key(kid))

    def commands(self, call: Call, number: int, count: int, node: str) -> list[bytes]:
        """Return calls of one key, by its node."""
        times = [self._clocks.now_ms(number, steps=call.is_turning) for _ in range(count)]
        return [self._shard.command(self._kids[number], _ONE, now_ms, node=node) for now_ms in times]


def measure(port: int, now_ms: int, rounds: int, calls: int) -> list[AccountCall]:
    """Measure `calls` calls of each kind, all kinds in turn; a first round warms up."""
    with closing(Shard(port)) as shard, connected(port, STAND_INS) as stand_ins:
        nodes = [each.name for each in stand_ins]
        made: dict[int, _Accounts | _PlainKeys] = {0: _PlainKeys(shard, now_ms, nodes)}
        made |= {path: _Accounts(shard, path, now_ms, nodes) for path in PATHS}

        def run(call: Call) -> float:
            return _run(shard, stand_ins, made[call.path], call, max(calls // STAND_INS, 2))

        found = interleaved(rounds + 1, [lambda call=call: run(call) for call in CALLS])  # type: ignore[misc]
    return [AccountCall(*call, us) for call, each in zip(CALLS, found, strict=True) for us in each[1:]]


def _run(shard: Shard, stand_ins: list[StandIn], accounts: _Accounts | _PlainKeys, call: Call, each: int) -> float:
    made = [accounts.commands(call, number, each, stand_in.name) for number, stand_in in enumerate(stand_ins)]
    commands: list[Iterator[bytes]] = [iter(commands) for commands in made]
    before_s = shard.cpu_s()
    drive(stand_ins, lambda number: next(commands[number], None))
    return (shard.cpu_s() - before_s) / (each * len(stand_ins)) * 1e6


def measure_memory(port: int, now_ms: int) -> list[Memory]:
    """Measure windows by the number of their buckets in use."""
    with closing(Shard(port)) as shard:
        script = shard.loaded(load_script("decide_paths").source)
        own = [(MINUTE_MS,) for _ in USED_BUCKETS]
        account = MeasuredAccount(shard, script, "memory", 2, len(own), own=own)
        policy_bytes = (shard.redis.memory_usage(policy_key(account.tag), samples=0) or 0) / len(own)
        # One clock for the account: each key's window is filled where those before have ended.
        ends_ms = range(now_ms, now_ms + len(own) * 2 * MINUTE_MS, 2 * MINUTE_MS)
        return [
            _memory(shard, account, key, buckets, policy_bytes, end_ms)
            for key, (buckets, end_ms) in enumerate(zip(USED_BUCKETS, ends_ms, strict=True))
        ]


def _memory(shard: Shard, account: MeasuredAccount, key: int, buckets: int, policy_bytes: float, end_ms: int) -> Memory:
    account.fill([key], end_ms, step_ms=MINUTE_MS // buckets, buckets=buckets)
    plain = key_id(f"memory-{buckets}")
    shard.declare(plain)
    shard.fill(plain, buckets, end_ms)
    window = shard.redis.memory_usage(account.hashes([key])[1], samples=0) or 0
    return Memory(buckets, float(window), shard.memory(plain), policy_bytes)
