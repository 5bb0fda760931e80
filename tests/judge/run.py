"""One run: a scene, traffic, faults; then everything is healed, counted, judged and closed."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass

from limiter_node.decisions import Need
from limiter_node.store.admin.store_admin import administering
from limiter_node.store.url import parse_store_url

from .at_rest import ask_at_rest, peek_account
from .drawing import draw_account
from .judge import Verdict, judge
from .node import DeclaredKeys, left_over
from .proxy import LyingProxy
from .records import REJECTED, Count, Place, Record, Violation, clock_ms
from .scenarios import Plan
from .scene import Scene
from .store import JudgedStore
from .traffic import Traffic, draw_key

_HEALED_S = 10.0
_DRAINED_S = 10.0
_RELAYED_S = 2.0
_STALL_MS = 20
_SHOWN = 12


@dataclass(frozen=True)
class Result:
    """A run and its verdict."""

    plan: Plan
    record: Record
    verdict: Verdict
    took_s: float

    @property
    def line(self) -> str:
        """What is printed of it."""
        plan, record, worst = self.plan, self.record, self.verdict.worst
        held = f"{worst.held}/{worst.limit} {worst.dimension}" if worst.limit else "-"
        return (
            f"seed {plan.seed:<6} {plan.scenario.name:<9} {plan.nodes} nodes {plan.policy:<6} "
            f"W {record.window_ms / 1000:g} s  {record.faults:>3} faults {len(record.ops):>6} operations  "
            f"worst {worst.ratio:5.3f} ({held})  {'FAILED' if self.verdict.violations else 'ok'}  {self.took_s:.1f} s"
        )

    def story(self) -> list[str]:
        """What went wrong, the first of each kind, and what happened before it."""
        kinds: dict[tuple[str, str], list[Violation]] = {}
        for violation in self.verdict.violations:
            kinds.setdefault((violation.rule, violation.key), []).append(violation)
        lines = []
        for (rule, key), violations in list(kinds.items())[:_SHOWN]:
            first = min(violations, key=lambda violation: violation.at_ms)
            more = f" (and {len(violations) - 1} more)" if len(violations) > 1 else ""
            name = key if " " in key else f"key {key[:6]}"
            lines.append(f"  {rule}: {name} at {self._at(first.at_ms)}: {first.what}{more}")
        if len(kinds) > _SHOWN:
            lines.append(f"  and {len(kinds) - _SHOWN} more kinds")
        if self.verdict.violations:
            lines += self._before(min(self.verdict.violations, key=lambda violation: violation.at_ms))
        return lines

    def _before(self, violation: Violation) -> list[str]:
        until_ms = violation.at_ms + 200
        done = [event for event in self.record.events if event[0] <= until_ms] or self.record.events
        lines = ["  what was done before:", *(f"    {self._at(at_ms)} {what}" for at_ms, what in done[-15:])]
        ops = [
            op
            for op in self.record.ops
            if op.told_ms <= until_ms
            and (op.key == violation.key or any(each.place.text == violation.key for each in op.path))
        ]
        ops = sorted((op for op in ops if op.outcome != REJECTED), key=lambda op: op.told_ms)
        if ops:
            lines.append("  what was asked of the key before, but for rejections:")
        return lines + [
            f"    {self._at(op.told_ms)} node {op.node} asked {self._at(op.asked_ms)} {op.outcome} {op.degraded} "
            f"time {self._at(op.time_ms)} need {op.need} "
            + (f"models {op.models}" if op.path else f"used {op.used} of {op.limits}")
            + (f" settled {self._at(op.settled_ms)} to {op.settled}" if op.settled_ms else "")
            for op in ops[-20:]
        ]

    def _at(self, at_ms: float) -> str:
        begun_ms = self.record.events[0][0] if self.record.events else 0.0
        return f"{(at_ms - begun_ms) / 1000:.3f}"


async def run(plan: Plan, store: JudgedStore) -> Result:
    """Carry out a run and judge it."""
    begun_s = time.monotonic()
    record = Record(plan.nodes, plan.window_buckets, plan.policy, plan.timeout_ms, clock=plan.clock)
    loop = asyncio.get_running_loop()
    handler = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: record.leaks.append(f"an error nobody handled: {_told(context)}"))
    try:
        await store.lose_all()
        tasks = asyncio.all_tasks()
        async with _scene(plan, record, store) as scene:
            await _play(plan, scene)
        await _check_ended(record, store, tasks)
    finally:
        loop.set_exception_handler(handler)
    return Result(plan, record, judge(record), time.monotonic() - begun_s)


def _told(context: dict[str, object]) -> str:
    return f"{context.get('message')} {context.get('exception')!r}"


@asynccontextmanager
async def _scene(plan: Plan, record: Record, store: JudgedStore) -> AsyncIterator[Scene]:
    rng = random.Random(f"faults {plan.seed}")
    declared = DeclaredKeys() if plan.declares else None
    async with AsyncExitStack() as stack:
        admin = await stack.enter_async_context(administering(parse_store_url(store.url)))
        proxies: list[LyingProxy] = []
        if not store.is_cluster:
            made = [LyingProxy(store.servers[0].port) for _ in range(plan.nodes)]
            proxies = [await stack.enter_async_context(proxy) for proxy in made]
        scene = Scene(record, store, admin, proxies, declared, rng)
        scene.stall_timeout_s = rng.choice((0.2, 0.3, 1.0))
        scene.plans = [draw_key(rng) for _ in range(plan.keys)]
        scene.accounts = [draw_account(rng) for _ in range(plan.accounts)]
        try:
            record.note("begun")
            for each in scene.plans:
                await scene.put(each.kid, each.limits, each.reserve)
            for account in scene.accounts:
                await scene.put_account(account.declared)
            for position in range(plan.nodes):
                await scene.start_node(position)
            yield scene
        finally:
            for node in scene.nodes:
                await node.dispatcher.close()


async def _play(plan: Plan, scene: Scene) -> None:
    """Play rounds of traffic and faults; count after each."""
    watching = asyncio.create_task(_watch_stalls(scene.record))
    try:
        for number in range(plan.rounds):
            traffic = Traffic(lambda position: scene.nodes[position], scene.window_s)
            for key, each in enumerate(scene.all_keys()):
                for position in range(plan.nodes):
                    traffic.start(position, each, f"traffic {plan.seed} {number} {key} {position}")
            await _let_faults_happen(plan, scene)
            scene.store.go_on()
            for proxy in scene.proxies:
                proxy.pass_all()
            scene.record.note("all is healed")
            await _recover(scene, under_load=True)
            await asyncio.sleep(scene.rng.uniform(0.0, 0.3))
            await traffic.stop(scene.rng, 5.0)
            await _recover(scene, under_load=False)
            await _count(scene)
    finally:
        watching.cancel()


async def _count(scene: Scene) -> None:
    """Drain the nodes, look at what the store counts, and at what the nodes still have."""
    record = scene.record
    await _ask_once_more(scene)
    for node in scene.nodes:
        if not await node.dispatcher.drain(_DRAINED_S):
            record.leaks.append(f"node {node.incarnation} doesn't drain")
    drained_ms = clock_ms()
    peeks = {Place(plan.kid): await scene.store.peek(plan.kid, record.window_buckets) for plan in scene.plans}
    for account in scene.accounts:
        peeks |= await peek_account(scene, account)
    record.counts.append(Count(drained_ms, peeks))
    for account in scene.accounts:
        await ask_at_rest(scene, account)
    for node in scene.nodes:
        record.leaks += [f"node {node.incarnation} has {left} after draining" for left in left_over(node.dispatcher)]
    for position, proxy in enumerate(scene.proxies):
        with suppress(TimeoutError):
            async with asyncio.timeout(_RELAYED_S):  # what it delays it still has
                while proxy.relays > 1:
                    await asyncio.sleep(0.01)
        if proxy.relays > 1:
            record.leaks.append(f"the node at {position} has {proxy.relays} connections to its store")


async def _let_faults_happen(plan: Plan, scene: Scene) -> None:
    """Draw faults until the round's time is up, some at a time; those that are on then may end."""
    possible = plan.scenario.faults
    seconds = plan.seconds / plan.rounds
    until_s = time.monotonic() + seconds

    async def one_after_the_other() -> None:
        while True:
            await asyncio.sleep(scene.rng.choice((0.0, scene.rng.uniform(0.0, 0.3), scene.rng.uniform(0.2, 1.0))))
            if time.monotonic() > until_s:
                return
            scene.record.faults += 1
            await scene.rng.choice(possible)(scene)

    await asyncio.sleep(scene.rng.uniform(0.1, 0.5))
    if possible:
        await asyncio.gather(*(one_after_the_other() for _ in range(plan.scenario.together)))
    else:
        await asyncio.sleep(seconds)


async def _recover(scene: Scene, *, under_load: bool) -> None:
    """Wait until every node decides by the store again.

    That it doesn't under load is no fault of a node's if this process itself stood still meanwhile.
    """
    begun_ms, until_s = clock_ms(), time.monotonic() + _HEALED_S
    for node in scene.nodes:
        while node.dispatcher.outage.is_on:
            if time.monotonic() > until_s:
                if not (under_load and any(ended_ms > begun_ms for _, ended_ms in scene.record.stalls)):
                    scene.record.leaks.append(f"node {node.incarnation} is still cut off {_HEALED_S:.0f} s later")
                return
            await asyncio.sleep(0.01)


async def _ask_once_more(scene: Scene) -> None:
    """Each node asks once for each key, so that it learns of every loss before the store is looked at."""
    asking = [
        node.ask(plan.kid, Need(1, 0, 0, models), (1, 1, 0), finds=bool(plan.models))
        for node in scene.nodes
        for plan in scene.all_keys()
        for models in plan.models[:1] or ((),)
    ]
    await asyncio.wait([asyncio.ensure_future(each) for each in asking], timeout=5.0)


async def _watch_stalls(record: Record) -> None:
    before_ms = clock_ms()
    while True:
        await asyncio.sleep(0.01)
        now_ms = clock_ms()
        if now_ms - before_ms > 10 + _STALL_MS:
            record.stalls.append((before_ms, now_ms))
        before_ms = now_ms


async def _check_ended(record: Record, store: JudgedStore, tasks: set[asyncio.Task[object]]) -> None:
    """Closed nodes leave neither tasks nor connections."""
    left_tasks: set[asyncio.Task[object]] = set()
    connections: list[str] = []
    with suppress(TimeoutError):
        async with asyncio.timeout(3):
            while True:
                left_tasks = {task for task in asyncio.all_tasks() - tasks if not task.done()}
                connections = await store.connections()
                if not left_tasks and not connections:
                    return
                await asyncio.sleep(0.01)
    if left_tasks:
        record.leaks.append(f"{len(left_tasks)} tasks are left: {next(iter(left_tasks))!r:.200}")
    if connections:
        record.leaks.append(f"{len(connections)} connections to the store are left: {connections}")
