"""The usage of a key of an account, in all windows on its path, for all models (``lua/peek_paths.lua``)."""

from __future__ import annotations

from limiter_node.decisions import PathUsage, Usage
from limiter_node.declarations import AccountKey
from limiter_node.limits import Amounts
from limiter_node.plans import plan_of
from limiter_node.policy import AccountPolicy, KeyPolicy
from limiter_node.store.accounts.codec import Layout
from limiter_node.store.accounts.peek_codec import pack_peek, unpack_peek
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
