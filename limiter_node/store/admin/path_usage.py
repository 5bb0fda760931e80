"""The usage of a key of an account, in all windows on its path, for all models (``lua/peek_paths.lua``)."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from limiter_node.decisions import PathUsage, Usage
from limiter_node.declarations import AccountKey
from limiter_node.limits import Amounts
from limiter_node.plans import Plan, PlannedWindow, plan_of
from limiter_node.store.admin.masters import Masters
from limiter_node.store.admin.script_calls import ScriptCall, call_script
from limiter_node.store.keyspace import own_key, policy_key, shared_key
from limiter_node.store.scripts import load_script

_CLOCK = struct.Struct("<Q")
_WINDOW = struct.Struct("<6sIH")
_USED = struct.Struct("<QQQ5s5s5s")
_NOTHING = Amounts(0, 0, 0)


async def read_path_usage(masters: Masters, key: AccountKey, now_ms: int) -> Usage | None:
    """Return the usage of a key of an account; None if the account is gone. `now_ms`: by the store's clock."""
    account, policy = key
    plan = plan_of(account, policy, None, now_ms)
    keys, kids = [policy_key(account.tag), shared_key(account.tag)], []
    shared = _packed([each for each in plan.windows if not each.is_own])
    question = _CLOCK.pack(0) + shared
    if account.key is None:
        keys.append(own_key(account.tag, policy.kid))
        kids.append(policy.kid)
        question += _packed([each for each in plan.windows if each.is_own])
    client = masters.owner(keys[0])
    reply = await call_script(client, load_script("peek_paths"), ScriptCall(keys, (question, *kids)))
    return None if reply is None else _usage(plan, reply[-1])


def _packed(windows: Sequence[PlannedWindow]) -> bytes:
    packed = (_WINDOW.pack(each.id, each.bucket_ms, each.buckets) for each in windows)
    return bytes((len(windows),)) + b"".join(packed)


def _usage(plan: Plan, packed: bytes) -> Usage:
    (time_ms,) = _CLOCK.unpack_from(packed)
    used, resets = [], []
    for window, (*amounts, newest_r, newest_i, newest_o) in zip(
        plan.windows, _USED.iter_unpack(packed[_CLOCK.size :]), strict=True
    ):
        used.append(Amounts(*amounts))
        newest = (int.from_bytes(each, "little") for each in (newest_r, newest_i, newest_o))
        resets.append(Amounts(*(_reset_ms(window, each, time_ms) for each in newest)))
    path = PathUsage(plan, tuple(used), tuple(resets))
    return Usage(_NOTHING, _NOTHING, _NOTHING, plan.output_reserve, time_ms, plan.who, (), path=path)


def _reset_ms(window: PlannedWindow, newest: int, time_ms: int) -> int:
    return max(newest * window.bucket_ms + window.life_ms - time_ms, 0) if newest else 0
