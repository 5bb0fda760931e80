"""The scenarios of accounts alone: their policies change, keys are taken out and put back, all of one is lost.

As in `faults`; what is done to an account holds its lock.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

from .drawing import AccountPlan, draw_change, with_rule
from .scene import Scene


async def take_key_out(scene: Scene) -> None:
    """A key is taken out of its account, and put back, or not."""
    if not scene.accounts:
        return
    rng, plan = scene.rng, scene.rng.choice(scene.accounts)
    again, pause_s, with_pointer = rng.random() < 0.7, rng.uniform(0.0, 1.0), rng.random() < 0.5
    async with scene.key_locks[plan.tag]:
        before = scene.current[plan.tag]
        if before.is_flat or len(before.keys) < 2:
            return
        kid = rng.choice(sorted(before.keys))
        keys = {other: team for other, team in before.keys.items() if other != kid}
        async with scene.store.commands:
            await scene.put_account(replace(before, keys=keys))
            if with_pointer:
                await scene.store.accounts.forget_pointer(kid)
        await asyncio.sleep(pause_s)
        if again:
            async with scene.store.commands:
                await scene.put_account(before)


async def change_policy(scene: Scene) -> None:
    """An account's amounts, its audited limits, or a key's team change; or limits are taken away, and put back."""
    if not scene.accounts:
        return
    rng, plan = scene.rng, scene.rng.choice(scene.accounts)
    takes_away, pause_s = rng.random() < 0.4, rng.choice((0.0, rng.uniform(0.0, 0.5), rng.uniform(0.5, 1.5)))
    async with scene.key_locks[plan.tag]:
        before = scene.current[plan.tag]
        at = rng.randrange(len(before.rules))
        rule = before.rules[at]
        if not takes_away or rule.until_ms:
            async with scene.store.commands:
                await scene.put_account(draw_change(before, rng))
            return
        async with scene.store.commands:
            until_ms = int(await scene.store.time_ms()) + rule.per_ms
            gone = rule._replace(enforced=(None,) * 4, audited=(None,) * 4, until_ms=until_ms)
            await scene.put_account(with_rule(before, at, gone))
        await asyncio.sleep(pause_s)
        async with scene.store.commands:
            await scene.put_account(before)


async def lose_account(scene: Scene, plan: AccountPlan, *, with_policies: bool) -> None:
    """All that is counted of an account is lost, once or twice; its policies too, until somebody puts them again."""
    rng = scene.rng
    for _ in range(rng.choice((1, 1, 2))):
        async with scene.key_locks[plan.tag], scene.store.commands:
            until_put_s = rng.choice((0.0, 0.05, 0.3))
            await scene.lose_account(plan, with_policies=with_policies, until_put_s=until_put_s)
        await asyncio.sleep(rng.choice((0.0, rng.uniform(0.0, 0.05), rng.uniform(0.0, 0.6))))
