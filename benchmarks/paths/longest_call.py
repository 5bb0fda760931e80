"""The longest call: batches that touch as many windows as a batch may, all of them full, on groups not read before.

One account with full windows is filled once. Each call runs on a copy of its hashes, because it can change them once
only. A call's time is the server's CPU for this call alone, less that of asking for it.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.lib.measuring import Row, row
from benchmarks.lib.shard import INPUT_TOKENS, Shard
from benchmarks.paths.measured_account import DAY_MS, MINUTE_MS, Admit, MeasuredAccount, Settle
from limiter_node.limits import MAX_BATCH
from limiter_node.store.accounts.codec import MOST_WINDOWS
from limiter_node.store.keyspace import policy_key
from limiter_node.store.scripts import Script

LONGEST_US = 1_000
_TEAMS, _SHARED, _OWN = 2, 4, 2
"""Of the measured path: the account's two windows and the teams' are shared by keys that have two of their own each."""
_WINDOWS, _OPERATIONS = (16, 40, MOST_WINDOWS), (32, 48, MAX_BATCH)
"""Sizes from whose times follows which takes `LONGEST_US`. Fewer operations than keys would touch fewer windows."""
_COPY = "@copy"


class _Form(NamedTuple):
    """A batch `after_ms` the windows were full: a share of settles, then admits of `requests` times the usual input."""

    after_ms: int
    settles: float = 0.5
    requests: int = 1
    is_limited: bool = False


_FORMS = {
    "nothing has left": _Form(0),
    "half of each minute has left": _Form(MINUTE_MS // 2),
    "half of each day has left, and each minute": _Form(DAY_MS // 2),
    "everything has left": _Form(2 * DAY_MS),
    "settles only, each in a bucket of its own": _Form(0, settles=1),
    "rejections only, half of each window frees enough": _Form(0, settles=0, requests=300, is_limited=True),
}


def longest_rows(shard: Shard, script: Script, now_ms: int, trials: int) -> list[Row]:
    """Return for each form of batch its time, and the windows or operations with which it would be short enough."""
    keys = (MOST_WINDOWS - _SHARED) // _OWN
    account = MeasuredAccount(shard, script, "longest", keys=keys, teams=_TEAMS)
    account.fill_all(range(keys), now_ms)
    asking_us = statistics.median(shard.run([]) for _ in range(20)) * 1e6
    rows = []
    for name, form in _FORMS.items():
        account.limit({MINUTE_MS: 600, DAY_MS: 1_200} if form.is_limited else {})

        def times(windows: int, operations: int, form: _Form = form) -> list[float]:
            some = range((windows - _SHARED) // _OWN)
            return [_one(account, form, some, operations, now_ms) - asking_us for _ in range(trials)]

        title = f"a call of {MAX_BATCH} operations on {MOST_WINDOWS} windows, {name}"
        rows.append(row(title, "µs", times(MOST_WINDOWS, MAX_BATCH), at_most=LONGEST_US))
        windows = _most(_WINDOWS, [times(size, MAX_BATCH) for size in _WINDOWS])
        operations = _most(_OPERATIONS, [times(MOST_WINDOWS, size) for size in _OPERATIONS])
        rows.append(row("… so many windows take 1 ms with as many operations", "windows", [windows]))
        rows.append(row("… so many operations take 1 ms on as many windows", "operations", [operations]))
    return rows


def _most(sizes: Sequence[int], us: Sequence[Sequence[float]]) -> float:
    """Return the size at which the line through the times of these sizes reaches `LONGEST_US`; 0 if none is below."""
    medians = [statistics.median(each) for each in us]
    line = statistics.linear_regression(sizes, medians)
    if line.slope <= 0:  # the size isn't what takes the time
        return sizes[-1] if max(medians) < LONGEST_US else 0
    return max((LONGEST_US - line.intercept) / line.slope, 0)


def _one(account: MeasuredAccount, form: _Form, keys: Sequence[int], operations: int, now_ms: int) -> float:
    """Return the server's CPU in µs for a call on a copy of the account, and for asking for it."""
    client = account.shard.redis
    names = [policy_key(account.tag), *account.hashes(keys)]
    copies = [policy_key(_COPY), *account.hashes(keys, _COPY)]
    for name, copy in zip(names, copies, strict=True):
        client.copy(name, copy)
    clock_ms, settling = now_ms + form.after_ms, int(operations * form.settles)
    settles = [Settle(keys[i % len(keys)], clock_ms - 1_000 - i * 700) for i in range(settling)]
    some = sorted(keys[i % len(keys)] for i in range(settling, operations))
    call = account.call([Admit(key, form.requests * INPUT_TOKENS) for key in some], settles, clock_ms, tag=_COPY)
    us = account.shard.run([call]) * 1e6
    client.delete(*copies)
    return us
