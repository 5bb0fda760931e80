"""Traffic of one key at one node, drawn from a seed: how requests come, how large they are, and how they end."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass

from limiter_node.decisions import Need
from limiter_node.limiter.admission import Reservation

from .node import JudgedNode
from .records import Op, Triple


@dataclass(frozen=True)
class KeyPlan:
    """A key's limits and how it is used."""

    kid: str
    limits: Triple
    reserve: int
    shape: str
    """``steady``, ``bursts`` or ``rush``."""
    sizes: str
    """``small``, ``mixed`` or ``large``, as parts of the token limits."""
    cancels: float
    """The part of the requests whose caller goes."""
    models: tuple[tuple[str, ...], ...] = ()
    """What requests of an account's key ask for: the names of a model each."""
    pace: float = 1.0
    """How many times longer it pauses than a plain key does: the keys of an account share what one machine can do."""


def draw_key(rng: random.Random) -> KeyPlan:
    """Draw a key: some run into their requests, some into one kind of tokens, some into nothing."""
    requests = rng.choice((1, 3, 10, 10, 40, 100, 300, 1_000_000))
    return KeyPlan(
        kid=rng.randbytes(16).hex(),
        limits=(requests, rng.choice((200, 3_000, 10**9)), rng.choice((500, 5_000, 10**9))),
        reserve=rng.choice((0, 20, 60)),
        shape=rng.choice(("steady", "bursts", "bursts", "rush", "rush")),
        sizes=rng.choice(("small", "small", "mixed", "large")),
        cancels=rng.choice((0.0, 0.0, 0.05)),
    )


class Traffic:
    """The requests of one run. `node_at` returns the node that is at a position now."""

    def __init__(self, node_at: Callable[[int], JudgedNode], window_s: float) -> None:
        self._node_at, self._window_s = node_at, window_s
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._drivers: list[asyncio.Task[None]] = []
        self._settles: dict[int, tuple[asyncio.TimerHandle, Callable[[], None]]] = {}

    def start(self, position: int, plan: KeyPlan, seed: str) -> None:
        """Send a key's requests to the node at that position, until `stop`."""
        rng = random.Random(seed)
        if plan.shape == "rush":
            for _ in range(rng.choice((2, 6))):
                self._drivers.append(self._loop.create_task(self._rush(position, plan, random.Random(rng.random()))))
        else:
            self._drivers.append(self._loop.create_task(self._schedule(position, plan, rng)))

    async def stop(self, rng: random.Random, timeout_s: float) -> None:
        """Send nothing more, wait for the ends of what is under way, and let each answer end, or never."""
        for driver in self._drivers:
            driver.cancel()
        await asyncio.gather(*self._drivers, return_exceptions=True)
        if self._tasks:
            # What has no end by then is found in the record.
            await asyncio.wait(self._tasks, timeout=timeout_s)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for handle, settle in list(self._settles.values()):
            handle.cancel()
            if rng.random() < 0.5:
                settle()
        self._settles.clear()

    async def _schedule(self, position: int, plan: KeyPlan, rng: random.Random) -> None:
        rate = rng.choice((20, 100, 400))
        while True:
            if plan.shape == "bursts":
                count, pause_s = rng.choice((2, 10, 30, 100)), rng.expovariate(1 / rng.choice((0.05, 0.2)))
            else:
                count, pause_s = 1, 1 / rate
            for _ in range(count):
                self._ask(position, plan, rng)
            await asyncio.sleep(pause_s * plan.pace)

    async def _rush(self, position: int, plan: KeyPlan, rng: random.Random) -> None:
        while True:
            await asyncio.wait([self._ask(position, plan, rng)])
            await asyncio.sleep(rng.choice((0.001, 0.002, 0.005)) * plan.pace)

    def _ask(self, position: int, plan: KeyPlan, rng: random.Random) -> asyncio.Task[None]:
        need, most = draw_need(plan, rng)
        task = self._loop.create_task(self._request(self._node_at(position), plan.kid, need, most, rng.random()))
        if rng.random() < plan.cancels:
            self._loop.call_later(rng.choice((0.0, 0.002, 0.05, 0.12)), task.cancel)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _request(self, node: JudgedNode, kid: str, need: Need, most: Triple, draw: float) -> None:
        op, reservation = await node.ask(kid, need, most, finds=bool(need.models) and draw < 0.95)
        if reservation is not None:
            self._end(node, op, reservation, random.Random(draw))

    def _end(self, node: JudgedNode, op: Op, reservation: Reservation, rng: random.Random) -> None:
        """Plan how the request ends: early, late or never, with less than was reserved, or at times with more."""
        kind = rng.random()
        if kind < 0.2:
            return
        output: int | None = rng.randint(0, op.need[2])
        if kind < 0.25:
            output = op.need[2] + rng.randint(1, 30)
        elif kind < 0.3:
            output = None
        delay_s = rng.choice((0.0, 0.0, rng.uniform(0.0, 0.3), rng.uniform(0.0, 1.5 * self._window_s)))
        if not delay_s:
            node.settle(op, reservation, output)
            return

        def settle() -> None:
            self._settles.pop(id(op), None)
            node.settle(op, reservation, output)

        self._settles[id(op)] = self._loop.call_later(delay_s, settle), settle


def draw_need(plan: KeyPlan, rng: random.Random) -> tuple[Need, Triple]:
    """Draw a request's need, and the most that it may come to count."""
    if plan.sizes == "small":
        input_tokens, output_tokens = rng.randint(0, 5), rng.randint(0, 10)
    else:
        part = 0.1 if plan.sizes == "mixed" else 0.6
        input_tokens = rng.randint(0, min(int(plan.limits[1] * part), 1_000_000))
        output_tokens = rng.randint(0, min(int(plan.limits[2] * part), 1_000_000))
    choices = 0
    if rng.random() < 0.1:
        output_tokens, choices = 0, rng.choice((1, 2))
    if rng.random() < 0.005:
        input_tokens = min(plan.limits[1] + 1, 2_000_000_000)  # it can never fit
    models = rng.choice(plan.models) if plan.models else ()
    need = Need(input_tokens, output_tokens, choices, models)
    return need, (1, input_tokens, output_tokens + choices * plan.reserve)
