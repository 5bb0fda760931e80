"""Paths of 2, 5 and 8 windows: one admit per call, batches of many keys, settles in full windows, rejections."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from benchmarks.lib.measuring import Row, ratios, row
from benchmarks.lib.shard import INPUT_TOKENS, Shard
from benchmarks.paths.cases import Case, Micros, per_second
from benchmarks.paths.flat_cases import (
    CHANGES,
    COALESCED,
    FULL_BATCH,
    KEYS,
    LEAVES,
    SETTLES,
    SOME,
    STAYS,
    changing,
    leaving,
)
from benchmarks.paths.measured_account import DAY_MS, MINUTE_MS, Admit, MeasuredAccount, Settle
from limiter_node.store.accounts.codec import NEVER, unpack_reply
from limiter_node.store.scripts import Script

PATHS = (2, 5, 8)
ACCOUNTS = 10
BATCH_KEYS = 8
FULL = "path of 5, an admit in full windows, the bucket stays"
THOUSAND, THOUSAND_COALESCED = "an account of 1,000 keys, one per call", "… in batches of as many keys as fit"
SORTED, UNSORTED = "32 admits of 8 keys, sorted by path", "32 admits of 8 keys in turn"
_AIMS = {2: None, 5: 3.0, 8: 3.5}


class _Rejection(NamedTuple):
    """A rejection: it asks for the input tokens of so many requests; the verdict that the script must reach."""

    requests: int
    verdict: int
    is_everywhere: bool = False


_REJECTIONS = {
    "the newest bucket frees enough": _Rejection(600, 2),
    "the oldest bucket frees enough": _Rejection(1, 1),
    "half the window frees enough": _Rejection(300, 2),
    "half of each window on the path frees enough": _Rejection(300, 2, is_everywhere=True),
    "it never fits": _Rejection(601, NEVER + 2),
}


def path_cases(shard: Shard, script: Script, now_ms: int) -> dict[str, Case]:
    """Return the cases of one admit per call, and of batches of many keys."""
    found = {}
    for path in PATHS:
        accounts = [MeasuredAccount(shard, script, f"a{path}-{number}", path, 100) for number in range(ACCOUNTS)]
        alone = [MeasuredAccount(shard, script, f"changing{path}-{number}", path) for number in range(SOME)]
        steady = [MeasuredAccount(shard, script, f"leaving{path}-{number}", path) for number in range(SOME)]

        def stays(count: int, accounts: Sequence[MeasuredAccount] = accounts) -> list[bytes]:
            turns = ((accounts[i % ACCOUNTS], i // ACCOUNTS % 100) for i in range(count))
            return [account.call([Admit(key)], (), now_ms) for account, key in turns]

        found[f"path of {path}, {STAYS}"] = Case(6_000, stays)
        found[f"path of {path}, {CHANGES}"] = Case(1_000, changing(shard, _alone(alone), now_ms))
        found[f"path of {path}, {LEAVES}"] = Case(2_000, leaving(shard, _alone(steady), now_ms))
        if path == 5:
            found[SORTED] = Case(1_000, partial(_batches, accounts, now_ms, is_sorted=True), COALESCED)
            found[UNSORTED] = Case(1_000, partial(_batches, accounts, now_ms, is_sorted=False), COALESCED)
    return found


def _alone(accounts: Sequence[MeasuredAccount]) -> Callable[[int, int], bytes]:
    return lambda account, ms: accounts[account].call([Admit(0)], (), ms)


def _batches(accounts: Sequence[MeasuredAccount], now_ms: int, count: int, *, is_sorted: bool) -> list[bytes]:
    commands = []
    for i in range(count):
        keys = [i // ACCOUNTS * BATCH_KEYS % 96 + at % BATCH_KEYS for at in range(COALESCED)]
        commands.append(
            accounts[i % ACCOUNTS].call([Admit(key) for key in (sorted(keys) if is_sorted else keys)], (), now_ms)
        )
    return commands


def full_cases(shard: Shard, script: Script, now_ms: int) -> dict[str, Case]:
    """Return the cases of full windows: settles, and rejections beside an admit of the same path."""
    settling, admitting = (MeasuredAccount(shard, script, name) for name in ("settling", "admitting"))
    for account in (settling, admitting):
        account.fill_all([0], now_ms)
    times = itertools.count(now_ms, 100)

    def settles(count: int) -> list[bytes]:
        return [settling.call([Admit(0)], [Settle(0, ms - 2_000)], ms) for ms in itertools.islice(times, count)]

    found = {
        f"path of 5, {SETTLES}": Case(2_000, settles),
        FULL: Case(2_000, lambda count: [admitting.call([Admit(0)], (), now_ms) for _ in range(count)]),
    }
    for name, rejection in _REJECTIONS.items():
        found[name] = Case(2_000, _rejected(MeasuredAccount(shard, script, name.replace(" ", "-")), rejection, now_ms))
    return found


def _rejected(account: MeasuredAccount, rejection: _Rejection, now_ms: int) -> Callable[[int], list[bytes]]:
    """Return calls that are rejected; the account's windows are filled, then limited to what they hold."""
    account.fill_all([0], now_ms)
    if rejection.is_everywhere:
        account.limit({MINUTE_MS: 600, DAY_MS: 1_200}, everywhere=True)
    else:
        account.limit({MINUTE_MS: 600})
    admit = [Admit(0, rejection.requests * INPUT_TOKENS)]
    (reply,) = account.shard.replies([account.call(admit, (), now_ms)])
    verdict = unpack_reply(reply, account.path, 1).results[0].verdict
    if verdict != rejection.verdict:
        raise RuntimeError(f"the verdict was {verdict} instead of {rejection.verdict}")
    return lambda count: [account.call(admit, (), now_ms) for _ in range(count)]


def thousand_cases(shard: Shard, script: Script) -> dict[str, Case]:
    """Return the cases of an account of 1,000 keys, by the server's own clock."""
    account = MeasuredAccount(shard, script, "thousand", keys=KEYS)
    batches: list[list[int]] = []
    while (start := sum(len(each) for each in batches)) < KEYS:
        batches.append(account.keys_of_a_batch(start))

    def coalesced(count: int) -> list[bytes]:
        return [account.call([Admit(key) for key in batches[i % len(batches)]]) for i in range(count)]

    return {
        THOUSAND: Case(6_000, lambda count: [account.call([Admit(i % KEYS)]) for i in range(count)]),
        THOUSAND_COALESCED: Case(1_000, coalesced, KEYS / len(batches)),
    }


def path_rows(us: Micros) -> list[Row]:
    """Return the rows of all cases here: times as ratios to those of plain keys, then what they were."""
    rows = []
    for kind in (STAYS, CHANGES, LEAVES):
        for path, aim in _AIMS.items():
            name = f"path of {path}, {kind}"
            rows.append(row(f"{name}: time", "x flat", ratios(us[name], us[kind]), at_most=aim))
    settles = f"path of 5, {SETTLES}"
    rows.append(row(f"{settles}: time", "x flat", ratios(us[settles], us[SETTLES]), at_most=3.5))
    rows += [
        row(f"{kind}: decisions/s ÷ {FULL_BATCH}", "ratio", ratios(us[FULL_BATCH], us[kind]), at_least=aim)
        for kind, aim in ((SORTED, 0.16), (UNSORTED, None))
    ]
    rows += [
        row(f"a rejection, {name}: time", "x admit", ratios(us[name], us[FULL]), at_most=2) for name in _REJECTIONS
    ]
    rows += [row(f"{kind}: decisions/s", "1/s", per_second(us[kind])) for kind in (THOUSAND, THOUSAND_COALESCED)]
    for kind in (STAYS, CHANGES, LEAVES, SETTLES):
        rows += [row(f"flat, {kind}: time", "µs", us[kind]), row("… path of 5", "µs", us[f"path of 5, {kind}"])]
    return [*rows, row(f"{FULL}: time", "µs", us[FULL])]
