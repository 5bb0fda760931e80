"""Judges keys that move between accounts to and fro while nodes decide for them, under faults.

``python -m tests.judge.moves`` judges run after run for a while; ends with 1 if any was refuted. The rules:

1. A key that moves is never unknown, and at rest it is in one account.
2. At rest, the windows of each account and the key's own hold exactly what callers were told: each admission once, less
   what was given back; those of nodes that decided alone, too.
3. Where no node decides alone, no true window holds more than the key's limit.

Movers stop between two steps, and leave the rest to whoever comes next. Here nothing of the store is lost, and no node
dies: what they may cost is judged by ``judge.run``.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from accounts_in_store import put_account
from dispatching import dispatching
from redis.exceptions import RedisError

from limiter_node.decisions import Need, Outcome
from limiter_node.errors import KeyIsMoving, LimiterError
from limiter_node.key_states import CredentialState
from limiter_node.limiter.policies import policy
from limiter_node.policy import AccountPolicy, KeyPolicy, Limit, PolicyWindow, Subject
from limiter_node.policy_body import Forward
from limiter_node.store.admin.masters import Masters
from limiter_node.store.admin.moving import Mover
from limiter_node.store.admin.policies import Policies
from limiter_node.store.admin.store_admin import administering
from limiter_node.store.decisions.dispatcher import Dispatcher
from limiter_node.store.url import parse_store_url

from . import faults
from .lasting import Lasting
from .proxy import LyingProxy
from .records import Record
from .scene import Scene
from .seeds import main
from .store import JudgedStore

_SHORT_MS, _HOUR_MS = 2_000, 3_600_000
_OUT_OF_REACH = 10**9
FAULTS = (
    *(faults.reset, faults.lose_requests, faults.lose_replies, faults.delay, faults.trickle, faults.garbage),
    *(faults.short_lies, faults.freeze, faults.flush_scripts, faults.kill_clients, faults.out_of_memory),
)
_HEALED_S = _DRAINED_S = 15.0


class Stopped(Exception):
    """Raised where a mover stops between two steps."""


class StoppingMover(Mover):
    """A mover that stops now and then before a step; the seal has been set by then."""

    def __init__(self, masters: Masters, rng: random.Random) -> None:
        super().__init__(masters, Policies(masters))
        self._rng = rng
        self.stops = 0

    def _step(self) -> None:
        if self._rng.random() < 0.1:
            self.stops += 1
            raise Stopped

    async def _open_at_target(self, kid: str, source: str, forward: Forward) -> tuple[int, dict[str, Any]]:
        self._step()
        return await super()._open_at_target(kid, source, forward)

    async def _lead_there(self, kid: str, source: str, target: str, cids: Sequence[str]) -> None:
        self._step()
        await super()._lead_there(kid, source, target, cids)

    async def _end(self, kid: str, source: str, forward: Forward, told: Any) -> None:
        self._step()
        await super()._end(kid, source, forward, told)


@dataclass
class Moves:
    """One run, and what is wrong in it."""

    seed: int
    policy: str
    limit: int
    outcomes: Counter[str] = field(default_factory=Counter)
    moves: int = 0
    stops: int = 0
    violations: list[str] = field(default_factory=list)

    @property
    def line(self) -> str:
        """The run in one line."""
        said = ", ".join(f"{count} {outcome}" for outcome, count in sorted(self.outcomes.items()))
        words = (
            f"moves {self.seed}: {self.policy}, limit {self.limit}, {self.moves} moves, {self.stops} stopped, {said}"
        )
        return "\n  ".join((words, *self.violations))


async def run_moves(seed: int, store: JudgedStore, seconds: float) -> Moves:
    """Let a key move under load and faults, and judge. `store` is a single one.

    The run goes on until the key has moved once, if this takes longer than `seconds`.
    """
    return await _Run(seed, store, seconds).run()


class _Run:
    def __init__(self, seed: int, store: JudgedStore, seconds: float) -> None:
        self._rng, self._store, self._seconds = random.Random(f"moves {seed}"), store, seconds
        rng = self._rng
        self.found = Moves(seed, rng.choice(("closed", "closed", "local")), rng.choice((_OUT_OF_REACH, 200, 30)))
        names = [f"{word}-{rng.randbytes(4).hex()}" for word in ("from", "to")]
        shared = PolicyWindow(_HOUR_MS, limits=(Limit(0, _OUT_OF_REACH),))
        self._accounts = [AccountPolicy(name, (Subject("", (shared,)),)) for name in names]
        self._kid = rng.randbytes(16).hex()
        self._places = [*(each.tag for each in self._accounts), self._kid]
        self._told: dict[str, list[int]] = {name: [0, 0, 0] for name in (*names, "")}
        self._spans: list[tuple[float, float]] = []

    async def run(self) -> Moves:
        limits = [PolicyWindow(_SHORT_MS, limits=(Limit(0, self.found.limit),))]
        limits.append(PolicyWindow(_HOUR_MS, limits=(Limit(0, _OUT_OF_REACH),)))
        put_account(self._store.url, self._accounts[0], [KeyPolicy(self._kid, "key", windows=tuple(limits))])
        put_account(self._store.url, self._accounts[1])
        async with AsyncExitStack() as stack:
            admin = await stack.enter_async_context(administering(parse_store_url(self._store.url)))
            masters = Masters(parse_store_url(self._store.url))
            stack.push_async_callback(masters.close)
            await masters.discover()
            self._mover = StoppingMover(masters, self._rng)
            count = self._rng.choice((1, 2, 4))
            proxies = [await stack.enter_async_context(LyingProxy(self._store.servers[0].port)) for _ in range(count)]
            self._scene = Scene(Record(count, 20, "local", 100), self._store, admin, proxies, None, self._rng)
            nodes = [await stack.enter_async_context(self._node(proxy, count)) for proxy in proxies]
            await self._play(nodes)
            await self._rest(nodes)
        return self.found

    def _node(self, proxy: LyingProxy, count: int) -> Any:
        decide = None if self.found.policy == "closed" else lambda _: policy("local", lambda: count)
        url = f"redis://127.0.0.1:{proxy.port}"
        return dispatching(url, timeout_ms=100, policy=decide, finish_move=self._mover.finish, stall_timeout_s=0.3)

    async def _play(self, nodes: list[Dispatcher]) -> None:
        lasting = Lasting(self._seconds, lambda: self.found.moves > 0)
        asking = [self._ask_until(node, lasting) for node in nodes for _ in range(3)]
        moving = [self._move_until(lasting) for _ in range(self._rng.choice((1, 2)))]
        await asyncio.gather(self._let_faults_happen(lasting), *moving, *asking)

    async def _let_faults_happen(self, lasting: Lasting) -> None:
        while not lasting.is_over:
            await asyncio.sleep(self._rng.uniform(0.0, 0.5))
            await self._rng.choice(FAULTS)(self._scene)
        self._store.go_on()
        for proxy in self._scene.proxies:
            proxy.pass_all()

    async def _move_until(self, lasting: Lasting) -> None:
        while not lasting.is_over:
            await self._move(self._rng.choice(self._places))
            await asyncio.sleep(self._rng.choice((0.0, 0.05, 0.3)))

    async def _move(self, target: str) -> None:
        """Move the key, wherever it is; or stop on the way."""
        for source in self._places:
            try:
                if source != target and await self._mover.move(self._kid, source, target):
                    self.found.moves += 1
                    return
            except (Stopped, RedisError, LimiterError):
                return

    async def _ask_until(self, node: Dispatcher, lasting: Lasting) -> None:
        ending: list[asyncio.Task[None]] = []
        while not lasting.is_over:
            outcome = await self._ask(node, ending)
            await asyncio.sleep(0.0 if outcome == "admitted" else 0.02)
        await asyncio.gather(*ending)

    async def _ask(self, node: Dispatcher, ending: list[asyncio.Task[None]]) -> str:
        rng, began_s = self._rng, time.monotonic()
        need = Need(rng.randrange(1, 50), rng.randrange(1, 50), 0)
        try:
            decision = await node.admit(self._kid, need)
        except LimiterError as error:
            outcome = "moving" if isinstance(error, KeyIsMoving) else "unavailable"
            if isinstance(error, KeyIsMoving) and time.monotonic() - began_s < 0.5:
                self.found.violations.append("a request did not wait for the move")
        else:
            outcome = decision.outcome.name.lower()
            if decision.outcome is Outcome.ADMITTED:
                back = (rng.randrange(need.input_tokens + 1), rng.randrange(-5, need.output_tokens + 1))
                self._spans.append((began_s, time.monotonic()))
                self._note(decision.path, (1, need.input_tokens - back[0], need.output_tokens - back[1]))
                ending.append(asyncio.create_task(self._end(node, decision.receipt, back, rng.choice((0, 0.01, 0.4)))))
            elif decision.outcome not in (Outcome.REJECTED, Outcome.NEVER_FITS):
                self.found.violations.append(f"the key was {outcome}")
        self.found.outcomes[outcome] += 1
        return outcome

    def _note(self, path: Any, amounts: tuple[int, int, int]) -> None:
        for window in path.plan.windows:
            is_own = window.is_own or path.plan.is_flat
            if window.per_ms == _HOUR_MS:
                sums = self._told["" if is_own else window.subject]
                sums[:] = [one + other for one, other in zip(sums, amounts, strict=True)]

    async def _end(self, node: Dispatcher, receipt: Any, back: tuple[int, int], after_s: float) -> None:
        await asyncio.sleep(after_s)
        node.give_back(self._kid, receipt, *back)

    # ---- at rest -----------------------------------------------------------------------------------------------------

    async def _rest(self, nodes: list[Dispatcher]) -> None:
        violations = self.found.violations
        self.found.stops = self._mover.stops
        finisher = Mover(self._scene.admin._masters, self._scene.admin.policies)
        for place in self._places:
            await finisher.finish(self._kid, place)
        for node in nodes:
            until_s = time.monotonic() + _HEALED_S
            while node.outage.is_on and time.monotonic() < until_s:
                await asyncio.sleep(0.01)
            ending: list[asyncio.Task[None]] = []
            await self._ask(node, ending)
            await asyncio.gather(*ending)
        for node in nodes:
            if not await node.drain(_DRAINED_S):
                violations.append("a node doesn't drain")
        if self.found.policy == "closed":
            for began_s, _ in self._spans:
                until_s = began_s + _SHORT_MS / 1000
                inside = sum(began_s <= begin and end <= until_s for begin, end in self._spans)
                if inside > self.found.limit:
                    violations.append(f"{inside} in a window of {self.found.limit}")
                    break
        counted: dict[str, list[int]] = {}
        async with dispatching(self._store.url) as reader:
            for account in self._accounts:
                for source in self._places:
                    if source != account.tag:
                        await finisher.move(self._kid, source, account.tag)
                usage = await reader.peek(self._kid)
                if isinstance(usage, CredentialState) or usage.path is None:
                    violations.append(f"at rest the key is {usage!r:.50}")
                    continue
                for window, used in zip(usage.path.plan.windows, usage.path.used, strict=True):
                    if window.per_ms == _HOUR_MS:
                        counted["" if window.is_own else window.subject] = list(used)
        for name, told in self._told.items():
            if counted.get(name) != told:
                violations.append(f"{name or 'the key'} counts {counted.get(name)}, callers were told {told}")


if __name__ == "__main__":
    main("tests.judge.moves", __doc__, run_moves)
