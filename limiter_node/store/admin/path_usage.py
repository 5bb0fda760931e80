"""The usage of a key of an account, in all windows on its path, for all models (``lua/peek_paths.lua``).

And the buckets of one of them, to be drawn: the window of a minute with the tightest limit.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, cast

from limiter_node.decisions import PathUsage, Usage
from limiter_node.declarations import AccountKey
from limiter_node.limits import WINDOW_MS, Amounts
from limiter_node.plans import NO_LIMIT, plan_of
from limiter_node.policy import AccountPolicy, KeyPolicy
from limiter_node.store.accounts.codec import Layout
from limiter_node.store.accounts.peek_codec import pack_peek, unpack_peek
from limiter_node.store.accounts.stored_window import RING, unpack_buckets
from limiter_node.store.accounts.verdicts import reset_ms
from limiter_node.store.admin.masters import Masters
from limiter_node.store.admin.script_calls import ScriptCall, call_script
from limiter_node.store.keyspace import member_key, policy_key, shared_key
from limiter_node.store.scripts import load_script

_NOTHING = Amounts(0, 0, 0)
_NO_KID = ""
"""Of a path without windows of a key's own."""


async def read_team_usage(masters: Masters, account: AccountPolicy, team: str, now_ms: int) -> Usage | None:
    """Return the usage of an account, of a team (none if it is empty) and of the teams above that one."""
    return await read_path_usage(masters, AccountKey(account, KeyPolicy(_NO_KID, team=team)), now_ms)


async def read_path_usage(masters: Masters, key: AccountKey, now_ms: int) -> Usage | None:
    """Return the usage of a key of an account; None if the account is gone. `now_ms`: by the store's clock."""
    account, policy = key
    plan = plan_of(account, policy, (), now_ms, is_whole=True)
    layout = Layout()
    layout.path(_NO_KID if account.key is not None else policy.kid, plan.windows)
    members = [member_key(account.tag, kid) for kid in layout.kids]
    keys = (policy_key(account.tag), shared_key(account.tag), *members)
    call = ScriptCall(keys, (pack_peek(layout), *layout.kids))
    reply = await call_script(masters.owner(keys[0]), load_script("peek_paths"), call)
    if reply is None:
        return None
    time_ms, windows = unpack_peek(reply[-1])
    uses = [windows[place] for place in layout.places()[0]]
    resets = [reset_ms(window, use, time_ms) for window, use in zip(plan.windows, uses, strict=True)]
    path = PathUsage(plan, tuple(use.used for use in uses), tuple(resets))
    return Usage(_NOTHING, _NOTHING, _NOTHING, plan.output_reserve, time_ms, plan.who, (), path=path)


async def with_buckets(masters: Masters, key: AccountKey, usage: Usage) -> Usage:
    """Return the usage of a key of an account with the buckets of its `tightest_minute`, if there is such a window."""
    assert usage.path is not None
    charted = tightest_minute(usage.path)
    if charted < 0:
        return usage
    (account, policy), window = key, usage.path.plan.windows[charted]
    name = member_key(account.tag, policy.kid) if window.is_own else shared_key(account.tag)
    fields = [window.id, *(window.id + bytes((each,)) for each in range(RING))]
    meta, *found = cast(list[Any], await masters.owner(name).hmget(name, fields))
    groups = {number: group for number, group in enumerate(found) if group is not None}
    with suppress(ValueError):  # damaged: nothing is drawn
        buckets = unpack_buckets(meta, groups, usage.time_ms, window.bucket_ms, window.buckets)
        return usage._replace(buckets=buckets, charted=charted)
    return usage


def tightest_minute(path: PathUsage) -> int:
    """Return the index of the window of a minute of which the largest share of a limit is used; -1 if there is none.

    Of equal ones the nearest to the key. Only limits that reject count.
    """

    def share(at: int) -> float:
        window, used = path.plan.windows[at], path.used[at]
        amounts = (*used, used.input_tokens + used.output_tokens)
        limits = [each for each in zip(amounts, window.enforced, strict=True) if each[1] != NO_LIMIT]
        return max(amount / limit if limit else float(amount > 0) for amount, limit in limits)

    minutes = [
        at
        for at, window in enumerate(path.plan.windows)
        if window.per_ms == WINDOW_MS and any(limit != NO_LIMIT for limit in window.enforced)
    ]
    return max(reversed(minutes), key=share, default=-1)
