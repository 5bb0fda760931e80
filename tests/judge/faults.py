"""The faults, each drawn from the run's own generator; every one undoes itself, whatever happens to it meanwhile.

What talks to the store's servers holds `JudgedStore.commands`, because a stopped server answers nobody; what is done to
a key's data holds the key's lock, so that a dump is restored to the key's same life.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from .account_faults import lose_account
from .account_store import all_names
from .drawing import AccountPlan
from .records import STEPPED_BACK
from .scene import Scene
from .store import names
from .traffic import KeyPlan

Fault = Callable[[Scene], Awaitable[None]]


def _length_s(scene: Scene, longest: float = 1.8) -> float:
    """Draw how long a fault lasts: some are over before anybody minds, some outlast a window."""
    rng, window_s = scene.rng, scene.window_s
    return rng.choice(
        (
            rng.uniform(0.005, 0.1),
            rng.uniform(0.1, 0.5),
            rng.uniform(0.3, 1.0) * window_s,
            rng.uniform(1.0, longest) * window_s,
        )
    )


# ---- the network -----------------------------------------------------------------------------------------------------


async def reset(scene: Scene) -> None:
    """Connections are reset."""
    for _ in range(scene.rng.choice((1, 1, 5))):
        proxy = scene.rng.choice(scene.proxies)
        proxy.reset_all()
        scene.record.note("connections are reset")
        await asyncio.sleep(scene.rng.uniform(0.0, 0.1))


async def _through(
    scene: Scene, what: str, settings: dict[str, object], over: dict[str, object], *, breaks: bool = False
) -> None:
    """Set the proxies so for a while. `breaks`: the connections can't go on afterwards."""
    proxies = scene.rng.choice((scene.proxies, [scene.rng.choice(scene.proxies)]))
    length_s = _length_s(scene)
    scene.record.note(f"{what}, {len(proxies)} of {len(scene.proxies)} nodes, for {length_s:.2f} s")
    try:
        for proxy in proxies:
            for name, value in settings.items():
                setattr(proxy, name, value)
        await asyncio.sleep(length_s)
    finally:
        reset_too = scene.rng.random() < 0.5 or breaks
        for proxy in proxies:
            if reset_too:
                proxy.reset_all()
            for name, value in over.items():
                setattr(proxy, name, value)
        scene.record.note(f"{what}: over")


async def lose_requests(scene: Scene) -> None:
    """Requests vanish, until the connection breaks: no network goes on in a stream of which it has lost a part."""
    await _through(scene, "requests are lost", {"pass_requests": False}, {"pass_requests": True}, breaks=True)


async def lose_replies(scene: Scene) -> None:
    """Batches are decided, and nobody hears of it, until the connection breaks."""
    await _through(scene, "replies are lost", {"pass_replies": False}, {"pass_replies": True}, breaks=True)


async def delay(scene: Scene) -> None:
    """Replies come late."""
    delay_s = scene.rng.choice((0.005, 0.03, 0.15, 0.4))
    await _through(scene, f"replies come {delay_s} s late", {"delay_s": delay_s}, {"delay_s": 0.0})


async def trickle(scene: Scene) -> None:
    """Replies come in small pieces."""
    pieces = {"piece_bytes": scene.rng.choice((1, 3, 20)), "delay_s": scene.rng.choice((0.001, 0.005))}
    await _through(scene, f"replies trickle {pieces}", dict(pieces), {"piece_bytes": 0, "delay_s": 0.0})


async def garbage(scene: Scene) -> None:
    """Something that is no reply comes in front of one."""
    proxy = scene.rng.choice(scene.proxies)
    proxy.garbage = scene.rng.choice((b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0\1\2\r\n", b"$-7\r\n", b"+"))
    scene.record.note(f"garbage: {proxy.garbage!r}")


async def short_lies(scene: Scene) -> None:
    """Replies that begin as a decision and are too short for one: 0 to 43 bytes."""
    await _lie(scene, 43)


async def lies(scene: Scene) -> None:
    """Replies that begin as a decision, of 0 to 200 bytes, the rest of them at random."""
    await _lie(scene, 200)


async def _lie(scene: Scene, longest: int) -> None:
    rng, proxy = scene.rng, scene.rng.choice(scene.proxies)
    lengths = [rng.randint(0, longest) for _ in range(rng.choice((1, 1, 3, 10)))]
    proxy.lies.extend((bytes([rng.randrange(2)]) + rng.randbytes(200))[:length] for length in lengths)
    scene.record.note(f"replies of {lengths} bytes that are no decisions")
    await asyncio.sleep(rng.uniform(0.0, 0.3))


# ---- the server ------------------------------------------------------------------------------------------------------


async def freeze(scene: Scene) -> None:
    """A server's process stands still."""
    number, length_s = scene.rng.randrange(len(scene.store.servers)), _length_s(scene)
    async with scene.store.commands:
        scene.record.note(f"server {number} stands still for {length_s:.2f} s")
        scene.store.freeze(number)
        try:
            await asyncio.sleep(length_s)
        finally:
            scene.store.go_on()
            scene.record.note(f"server {number} goes on")


async def flush_scripts(scene: Scene) -> None:
    """Scripts are forgotten."""
    for _ in range(scene.rng.choice((1, 10))):
        async with scene.store.commands:
            for number in range(len(scene.store.servers)):
                await scene.store.server_client(number).script_flush()
        await asyncio.sleep(scene.rng.uniform(0.0, 0.02))
    scene.record.note("scripts are flushed")


async def kill_clients(scene: Scene) -> None:
    """The server hangs up."""
    for _ in range(scene.rng.choice((1, 5))):
        async with scene.store.commands:
            for number in range(len(scene.store.servers)):
                client = scene.store.server_client(number)
                await client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        scene.record.note("clients are killed")
        await asyncio.sleep(scene.rng.uniform(0.0, 0.1))


async def out_of_memory(scene: Scene) -> None:
    """The server refuses all writes."""
    length_s = _length_s(scene)
    async with scene.store.commands:
        scene.record.note(f"no memory for {length_s:.2f} s")
        clients = [scene.store.server_client(number) for number in range(len(scene.store.servers))]
        try:
            for client in clients:
                await client.config_set("maxmemory", 1)
            await asyncio.sleep(length_s)
        finally:
            for client in clients:
                await client.config_set("maxmemory", 0)
            scene.record.note("no memory: over")


# ---- the data --------------------------------------------------------------------------------------------------------


async def lose_window(scene: Scene) -> None:
    """What is counted of a key is lost, once or several times."""
    await _lose(scene, with_limits=False)


async def lose_limits(scene: Scene) -> None:
    """A key is lost as a whole."""
    if scene.declared is not None:
        await _lose(scene, with_limits=True)


async def _lose(scene: Scene, *, with_limits: bool) -> None:
    rng = scene.rng
    chosen = _choose(scene)
    if isinstance(chosen, AccountPlan):
        await lose_account(scene, chosen, with_policies=with_limits)
        return
    kid = chosen.kid
    for _ in range(rng.choice((1, 1, 2, 3))):
        async with scene.key_locks[kid], scene.store.commands:
            if not (with_limits and _is_deleted(scene, kid)):
                await scene.lose(kid, with_limits=with_limits)
        await asyncio.sleep(rng.choice((0.0, rng.uniform(0.0, 0.05), rng.uniform(0.0, 0.6))))


async def lose_everything(scene: Scene) -> None:
    """FLUSHALL."""
    if scene.declared is None:
        return
    locks = [scene.key_locks[plan.kid] for plan in scene.plans]
    locks += [scene.key_locks[plan.tag] for plan in scene.accounts]
    for lock in locks:
        await lock.acquire()
    try:
        async with scene.store.commands:
            await scene.lose_all()
    finally:
        for lock in locks:
            lock.release()


async def roll_back(scene: Scene) -> None:
    """What is counted of a key is what it was a while ago."""
    chosen, after_s = _choose(scene), scene.rng.choice((0.02, 0.2, 0.5, 1.0)) * scene.window_s
    if isinstance(chosen, AccountPlan):
        async with scene.key_locks[chosen.tag]:
            await scene.roll_account_back(chosen, after_s)
        return
    async with scene.key_locks[chosen.kid]:
        await scene.roll_back(chosen.kid, after_s)


def _choose(scene: Scene) -> KeyPlan | AccountPlan:
    """Draw what is lost or rolled back: a plain key, or an account."""
    all_of_them: list[KeyPlan | AccountPlan] = [*scene.plans, *scene.accounts]
    return scene.rng.choice(all_of_them)


# ---- keys ------------------------------------------------------------------------------------------------------------

_SETTLED_S = 0.25
"""Between two lives of a key: more than a bucket, so that no bucket belongs to both."""


def _is_deleted(scene: Scene, kid: str) -> bool:
    history = scene.record.keys[kid]
    return bool(history.deletions) and history.deletions[-1].ended_ms > history.puts[-1].ended_ms


async def delete_key(scene: Scene) -> None:
    """A key is revoked, and declared again, or not."""
    rng, plan = scene.rng, scene.rng.choice(scene.plans)
    again, pause_s = rng.random() < 0.6, rng.uniform(_SETTLED_S, 1.0)
    async with scene.key_locks[plan.kid]:
        async with scene.store.commands:
            await scene.delete(plan.kid)
        await asyncio.sleep(pause_s)
        if again:
            async with scene.store.commands:
                await scene.put(plan.kid, plan.limits, plan.reserve)
            await asyncio.sleep(_SETTLED_S)


async def change_limits(scene: Scene) -> None:
    """A key's limits rise or fall."""
    rng, plan = scene.rng, scene.rng.choice(scene.plans)
    requests, input_tokens, output_tokens = plan.limits
    factor = rng.choice((0.3, 0.5, 1, 2, 3))
    limits = int(requests * factor), int(input_tokens * factor), output_tokens
    async with scene.key_locks[plan.kid], scene.store.commands:
        if not _is_deleted(scene, plan.kid):
            await scene.put(plan.kid, limits, plan.reserve)


# ---- clocks and slots -----------------------------------------------------------------------------------------------


async def step_clock(scene: Scene) -> None:
    """The server's clock steps: back, or forward and back, as the run says."""
    rng, back = scene.rng, scene.record.clock == STEPPED_BACK
    by_s = rng.choice((0.05, 0.5, 3.0, 90.0))
    async with scene.store.commands:
        scene.clock_s += -by_s if back else rng.choice((by_s, by_s, -by_s))
        scene.store.step_clock(scene.clock_s)
        scene.record.note(f"the server's clock is {scene.clock_s:+.2f} s off")
    await asyncio.sleep(rng.uniform(0.1, 0.6))


async def move_slot(scene: Scene) -> None:
    """The slot of a key moves to another master, key by key, with a pause at each step."""
    rng, chosen = scene.rng, _choose(scene)
    owner, keys = (
        (chosen.tag, all_names(chosen.declared))
        if isinstance(chosen, AccountPlan)
        else (chosen.kid, [*names(chosen.kid)])
    )
    async with scene.key_locks[owner], scene.store.commands:
        await scene.store.move_slot(keys, rng)
        scene.record.note(f"the slot of {owner[:8]} has moved")
