"""An account in the store, and calls that decide on the paths of its keys, made as a node makes them.

A path has 2, 5 or 8 windows. The one of five is the measured path: key 1m, key 1d, team 1m, account 1m, and account 1m
for a pattern of models. Limits are out of reach unless a test sets them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import hiredis

from benchmarks.lib.shard import INPUT_TOKENS, NODE, OUTPUT_TOKENS, Shard
from limiter_node.credentials import key_id
from limiter_node.plans import Plan, plan_of
from limiter_node.policy import INPUT_TOKENS as INPUT
from limiter_node.policy import REQUESTS, AccountPolicy, KeyPolicy, Limit, PolicyWindow, Subject
from limiter_node.policy_body import body_of, version_of
from limiter_node.store.accounts.codec import Layout, pack_admit, pack_settle
from limiter_node.store.keyspace import member_key, policy_key, shared_key
from limiter_node.store.scripts import Script

SECOND_MS, MINUTE_MS, HOUR_MS, DAY_MS = 1_000, 60_000, 3_600_000, 86_400_000
MODEL, PATTERN = "gpt-5-mini", "gpt-5*"
TEAMS = 7


class Admit(NamedTuple):
    """A request of the key with that number."""

    key: int
    input_tokens: int = INPUT_TOKENS
    output_tokens: int = OUTPUT_TOKENS


class Settle(NamedTuple):
    """Output tokens given back to a key, of what was admitted at `time_ms`."""

    key: int
    time_ms: int
    output_tokens: int = OUTPUT_TOKENS // 2


_NO_BUDGET = 10**9
"""Of a batch: a benchmark says itself how large its batches are."""
_NO_LIMITS: Mapping[int, int] = {}


def _limited(windows: Iterable[PolicyWindow], requests: Mapping[int, int]) -> tuple[PolicyWindow, ...]:
    """Return windows with limits: so many requests by length, and the usual input tokens of as many."""

    def limits(window: PolicyWindow) -> tuple[Limit, ...]:
        most = requests.get(window.per_ms, 10**12)
        return Limit(REQUESTS, most), Limit(INPUT, most * INPUT_TOKENS)

    return tuple(each._replace(limits=limits(each)) for each in windows)


class Shape(NamedTuple):
    """The windows of a path, without limits."""

    account: tuple[PolicyWindow, ...]
    team: tuple[PolicyWindow, ...]
    sub_team: tuple[PolicyWindow, ...]
    key: tuple[PolicyWindow, ...]


_MINUTE, _HOUR, _DAY = (PolicyWindow(each) for each in (MINUTE_MS, HOUR_MS, DAY_MS))
_OF_MODELS = PolicyWindow(MINUTE_MS, (PATTERN,))
SHAPES = {
    2: Shape((_MINUTE,), (), (), (_MINUTE,)),
    5: Shape((_MINUTE, _OF_MODELS), (_MINUTE,), (), (_MINUTE, _DAY)),
    8: Shape((_MINUTE, _DAY, _OF_MODELS), (_MINUTE,), (_MINUTE,), (_MINUTE, _DAY, _HOUR)),
}


class MeasuredAccount:
    """Store an account, hold the plans of its keys, and make calls on them.

    `path`: windows on the path of a key. `own`: the lengths of the windows of each key, in place of the path's.
    """

    def __init__(
        self,
        shard: Shard,
        script: Script,
        name: str,
        path: int = 5,
        keys: int = 1,
        *,
        teams: int = TEAMS,
        own: Sequence[Sequence[int]] = (),
    ) -> None:
        self.shard, self._script, self.path = shard, script, path
        self.kids = [key_id(f"{name}-{number}") for number in range(keys)]
        self._number_of = {kid: number for number, kid in enumerate(self.kids)}
        self._teams, self._own = teams, own
        self._account = self._account_policy(name, _NO_LIMITS)
        self.tag = self._account.tag
        self._version = version_of(body_of(self._account))
        policies = [self._key_policy(number, _NO_LIMITS) for number in range(keys)]
        self._key_versions = [version_of(body_of(policy)) for policy in policies]
        self._plans: list[Plan] = [plan_of(self._account, policy, [MODEL], 1) for policy in policies]
        self.declare(self.tag)

    def declare(self, tag: str) -> None:
        """Store the policies of the account and its keys under a hash tag."""
        fields: dict[str | bytes, bytes] = {"version": self._version, "account": body_of(self._account)}
        for number, (kid, version) in enumerate(zip(self.kids, self._key_versions, strict=True)):
            fields |= {kid: version, f"k:{kid}": body_of(self._key_policy(number, _NO_LIMITS))}
        self.shard.redis.hset(policy_key(tag), mapping=fields)  # type: ignore[arg-type]

    def limit(self, requests: Mapping[int, int], *, everywhere: bool = False) -> None:
        """Limit the requests of the keys' windows by length, and of the account's and the teams' if `everywhere`.

        Input tokens are limited to the usual ones of as many requests. Other lengths have no limit within reach.
        """
        account = self._account_policy(self._account.name, requests if everywhere else _NO_LIMITS)
        keys = (self._key_policy(key, requests) for key in range(len(self.kids)))
        self._plans = [plan_of(account, key, [MODEL], 1) for key in keys]

    def hashes(self, keys: Iterable[int], tag: str = "") -> list[str]:
        """Return the names of the hashes that hold the windows of these keys: the shared one first."""
        tag = tag or self.tag
        return [shared_key(tag), *(member_key(tag, self.kids[key]) for key in keys)]

    def call(
        self,
        admits: Sequence[Admit],
        settles: Sequence[Settle] = (),
        clock_ms: int = 0,
        *,
        tag: str = "",
        node: str = NODE,
    ) -> bytes:
        """Return one call of `node` that decides a batch; `clock_ms`: 0 for the server's own clock."""
        layout = Layout()
        others = [pack_settle(self._path(layout, each.key), each.time_ms, 0, 0, each.output_tokens) for each in settles]
        packed = [pack_admit(self._path(layout, each.key), each.input_tokens, each.output_tokens) for each in admits]
        versions = [self._key_versions[self._number_of[kid]] for kid in layout.kids]
        batch = layout.pack(
            next(self.shard.numbers),
            others,
            packed,
            resent=False,
            version=self._version,
            key_versions=versions,
            clock_ms=clock_ms,
        )
        names = [policy_key(tag or self.tag), shared_key(tag or self.tag)]
        names += [member_key(tag or self.tag, kid) for kid in layout.kids]
        arguments = ("EVALSHA", self._script.sha, str(len(names)), *names, node, batch, *layout.kids)
        command: bytes = hiredis.pack_command(arguments)  # type: ignore[arg-type]
        return command

    def keys_of_a_batch(self, start: int = 0) -> list[int]:
        """Return the keys from `start` on whose windows fit into one batch together."""
        layout, keys = Layout(), []
        for key in range(start, len(self.kids)):
            if not layout.path(self.kids[key], self._plans[key].windows):
                break
            keys.append(key)
        return keys

    def fill(
        self, keys: Sequence[int], end_ms: int, *, step_ms: int = 100, buckets: int = 600, tokens: int = 1
    ) -> None:
        """Admit one request of each of these keys in each bucket before `end_ms`, `tokens` times the usual tokens."""
        admits = [Admit(key, INPUT_TOKENS * tokens, OUTPUT_TOKENS * tokens) for key in keys]
        times = range(end_ms - buckets * step_ms, end_ms, step_ms)
        self.shard.run([self.call(admits, (), clock_ms) for clock_ms in times])

    def fill_all(self, keys: Sequence[int], end_ms: int) -> None:
        """Fill the windows of a minute and of a day of these keys, as of `end_ms`."""
        self.fill(keys, end_ms, step_ms=DAY_MS // 600)
        self.fill(keys, end_ms)
        self.shard.keep(*self.hashes(keys))

    def _path(self, layout: Layout, key: int) -> int:
        path = layout.path(self.kids[key], self._plans[key].windows, most=_NO_BUDGET)
        if not path:
            raise ValueError(f"the windows of key {key} don't fit into the batch")
        return path

    def _team_of(self, key: int) -> str:
        shape, team = SHAPES[self.path], f"team-{key % self._teams}"
        return (f"{team}/sub" if shape.sub_team else team) if shape.team else ""

    def _key_policy(self, key: int, requests: Mapping[int, int]) -> KeyPolicy:
        windows = [PolicyWindow(each) for each in self._own[key]] if self._own else SHAPES[self.path].key
        return KeyPolicy(self.kids[key], f"key-{key}", self._team_of(key), _limited(windows, requests))

    def _account_policy(self, name: str, requests: Mapping[int, int]) -> AccountPolicy:
        shape = SHAPES[self.path]
        subjects = [Subject("", _limited(shape.account, requests))]
        for number in range(self._teams if shape.team else 0):
            subjects.append(Subject(f"team-{number}", _limited(shape.team, requests)))
            if shape.sub_team:
                subjects.append(Subject(f"team-{number}/sub", _limited(shape.sub_team, requests)))
        return AccountPolicy(name, tuple(subjects))
