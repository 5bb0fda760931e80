"""The longest calls: batches that cost all that one may (``store/accounts/costs.py``), on full windows not read before.

One account with full windows is filled once. Each call runs on a copy of its hashes, because it can change them once
only. A call's time is the server's CPU for this call alone, less that of asking for it. A batch is made of few windows
or of many: the more windows, the fewer operations have room beside them.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.lib.measuring import Row, row
from benchmarks.lib.shard import INPUT_TOKENS, Shard
from benchmarks.paths.measured_account import DAY_MS, MINUTE_MS, Admit, MeasuredAccount, Settle
from limiter_node.limits import MAX_BATCH
from limiter_node.store.accounts import costs
from limiter_node.store.keyspace import policy_key
from limiter_node.store.scripts import Script

LONGEST_US = 1_000
_TEAMS, _SHARED, _OWN = 2, 4, 2
"""Of the measured path: the account's two windows and the teams' are shared by keys that have two of their own each."""
_KEYS = (1, 4, 99)
"""Of how many keys a batch is made, at most."""
_PATH = 5
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
    """Return for each form of batch, and for batches of few and of many keys, the time of a call."""
    keys = max(_size(form, costs.BUDGET)[0] for form in _FORMS.values())
    account = MeasuredAccount(shard, script, "longest", keys=keys, teams=_TEAMS)
    account.fill_all(range(keys), now_ms)
    asking_us = statistics.median(shard.run([]) for _ in range(20)) * 1e6
    rows = []
    for name, form in _FORMS.items():
        account.limit({MINUTE_MS: 600, DAY_MS: 1_200} if form.is_limited else {})
        for most in _KEYS:
            some, operations = _size(form, min(most, keys))
            title = f"a call of {operations} operations on {_SHARED + _OWN * some} windows, {name}"
            us = [_one(account, form, range(some), operations, now_ms) - asking_us for _ in range(trials)]
            rows.append(row(title, "µs", us, at_most=LONGEST_US))
    return rows


def _size(form: _Form, most: int) -> tuple[int, int]:
    """Return the keys, `most` at most, and the operations of a batch of this form that costs all that it may."""
    each = _PATH * (form.settles * costs.OTHER + (1 - form.settles) * costs.ADMIT)
    keys = min(most, int((costs.BUDGET - _SHARED * costs.WINDOW) / (_OWN * costs.WINDOW + each)))
    return keys, min(MAX_BATCH, int((costs.BUDGET - (_SHARED + _OWN * keys) * costs.WINDOW) / each))


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
