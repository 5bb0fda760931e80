"""Moving keys between accounts in real stores: what goes along, interruptions after each step, movers at once."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio
from accounts_in_store import put_account
from dispatching import dispatching
from store_tools import new_api_key, store_client

from limiter_node.credentials import key_id
from limiter_node.decisions import Need, Outcome
from limiter_node.errors import ConfigError
from limiter_node.key_states import Credential
from limiter_node.policy import AccountPolicy, KeyPolicy, Limit, PolicyWindow, Subject, account_tag
from limiter_node.policy_body import read_forward
from limiter_node.store.admin import moving
from limiter_node.store.admin.deleting import Deleter
from limiter_node.store.admin.masters import Masters
from limiter_node.store.admin.moving import Mover
from limiter_node.store.admin.pointers import Pointers, Way
from limiter_node.store.admin.policies import Policies
from limiter_node.store.keyspace import policy_key
from limiter_node.store.url import parse_store_url

MINUTE, HOUR = PolicyWindow(60_000, limits=(Limit(0, 1_000),)), PolicyWindow(3_600_000, limits=(Limit(0, 2_000),))
OPERATIONS = 4  # seal, open, one way, the end
_names = itertools.count()


class Scene:
    """Two accounts and a key of one of them, which has counted something."""

    def __init__(self, url: str, masters: Masters) -> None:
        self.url, self.masters = url, masters
        self.policies, self.pointers = Policies(masters), Pointers(masters)
        self.mover = Mover(masters, self.policies)
        number = next(_names)
        self.a, self.b = (AccountPolicy(f"{name}-{number}", (Subject("", (MINUTE,)),)) for name in ("from", "to"))
        self.kid = key_id(new_api_key())
        self.key = KeyPolicy(self.kid, f"key-{number}", windows=(MINUTE, HOUR))
        put_account(url, self.a, [self.key])
        put_account(url, self.b)
        with store_client(url) as client:
            client.hset(policy_key(self.a.tag), f"n:{self.key.name}", self.kid)

    async def places(self) -> list[str]:
        """The accounts where the key is open."""
        found = [
            tag for tag in (self.a.tag, self.b.tag) if self.kid in (await self.policies.read(tag, [self.kid])).keys
        ]
        flat = await self.policies.read(self.kid, [self.kid])
        return found + ([self.kid] if flat.policy is not None else [])

    async def used(self) -> dict[str, int]:
        """The requests that each window on the key's path counts, by who it belongs to."""
        async with dispatching(self.url) as dispatcher:
            usage = await dispatcher.peek(self.kid)
        assert usage is not None
        assert usage.path is not None
        windows = usage.path.plan.windows
        return {
            f"{each.subject if not each.is_own and not usage.path.plan.is_flat else 'key'} {each.per}": used.requests
            for each, used in zip(windows, usage.path.used, strict=True)
        }

    async def count(self, requests: int) -> None:
        async with dispatching(self.url) as dispatcher:
            decided = await asyncio.gather(*(dispatcher.admit(self.kid, Need(1, 1, 1)) for _ in range(requests)))
        assert all(each.outcome is Outcome.ADMITTED for each in decided)


@asynccontextmanager
async def masters_of(url: str) -> AsyncIterator[Masters]:
    masters = Masters(parse_store_url(url))
    await masters.discover()
    try:
        yield masters
    finally:
        await masters.close()


@pytest.fixture
def url(url_of_either_server: str) -> str:
    return url_of_either_server


@pytest_asyncio.fixture
async def scene(url: str) -> AsyncIterator[Scene]:
    async with masters_of(url) as masters:
        yield Scene(url, masters)


class Interrupted(Exception):
    """Raised in place of a script call."""


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many script calls the movers may still make, each element once one is interrupted; endless if empty."""
    left: list[int] = []
    call_script = moving.call_script

    async def call(*arguments: Any) -> Any:
        if left:
            if left[0] == 0:
                raise Interrupted
            left[0] -= 1
        return await call_script(*arguments)

    monkeypatch.setattr(moving, "call_script", call)
    yield left
    left.clear()


async def test_a_key_moves_with_what_it_has_counted(scene: Scene) -> None:
    await scene.count(7)
    assert await scene.mover.move(scene.kid, scene.a.tag, scene.b.tag)
    assert await scene.places() == [scene.b.tag]
    assert await scene.used() == {f"{scene.b.name} 1m": 0, "key 1m": 7, "key 1h": 7}
    await scene.count(2)
    assert await scene.used() == {f"{scene.b.name} 1m": 2, "key 1m": 9, "key 1h": 9}
    assert (await scene.pointers.read([scene.kid]))[scene.kid] == scene.b.tag
    stored = await scene.policies.read(scene.b.tag, [scene.kid])
    assert stored.keys[scene.kid].policy.revision == scene.key.revision + 1
    mark = read_forward((await scene.policies.read(scene.a.tag, [scene.kid])).forwards[scene.kid])
    assert (mark.to, mark.is_over) == (scene.b.tag, True)
    with store_client(scene.url) as client:
        assert client.hget(policy_key(scene.b.tag), f"n:{scene.key.name}") == scene.kid.encode()
        assert not client.hexists(policy_key(scene.a.tag), f"n:{scene.key.name}")


async def test_a_key_leaves_its_account_and_comes_back(scene: Scene) -> None:
    await scene.count(3)
    assert await scene.mover.move(scene.kid, scene.a.tag, scene.kid)
    assert await scene.places() == [scene.kid]
    await scene.count(4)
    assert await scene.used() == {"key 1m": 7, "key 1h": 7}
    for _ in range(2):
        assert await scene.mover.move(scene.kid, scene.kid, scene.a.tag)
        await scene.count(1)
        assert await scene.mover.move(scene.kid, scene.a.tag, scene.kid)
        await scene.count(1)
    assert await scene.used() == {"key 1m": 11, "key 1h": 11}
    assert await scene.places() == [scene.kid]


@pytest.mark.parametrize("way", ["in", "out", "over"])
@pytest.mark.parametrize("allowed", range(OPERATIONS))
async def test_an_interrupted_move_is_finished(scene: Scene, calls: list[int], allowed: int, way: str) -> None:
    source = scene.kid if way == "in" else scene.a.tag
    target = scene.kid if way == "out" else scene.b.tag
    if way == "in":
        assert await scene.mover.move(scene.kid, scene.a.tag, scene.kid)
    await scene.count(5)
    calls.append(allowed)
    with pytest.raises(Interrupted):
        await scene.mover.move(scene.kid, source, target)
    assert await scene.places() == ([source] if allowed == 0 else [] if allowed == 1 else [target])
    calls.clear()
    again = Mover(scene.masters, scene.policies)
    assert await again.move(scene.kid, source, target) is (allowed == 0)
    assert await again.finish(scene.kid, source) == target
    assert await scene.places() == [target]
    assert (await scene.pointers.read([scene.kid]))[scene.kid] == target
    used = await scene.used()
    assert (used["key 1m"], used["key 1h"]) == (5, 5)
    mark = read_forward((await scene.policies.read(source, [scene.kid])).forwards[scene.kid])
    assert mark.is_over


@pytest.mark.parametrize("allowed", range(1, OPERATIONS))
async def test_whoever_went_on_late_changes_nothing(scene: Scene, calls: list[int], allowed: int) -> None:
    """A mover stands still between two steps while others finish its move, and move the key back."""
    await scene.count(5)
    calls.append(allowed)
    with pytest.raises(Interrupted):
        await scene.mover.move(scene.kid, scene.a.tag, scene.b.tag)
    calls.clear()
    raw = (await scene.policies.read(scene.a.tag, [scene.kid])).forwards[scene.kid]
    forward = read_forward(raw)
    assert await scene.mover.finish(scene.kid, scene.a.tag) == scene.b.tag
    assert await scene.mover.move(scene.kid, scene.b.tag, scene.a.tag)
    await scene.count(1)
    code, told = await scene.mover._open_at_target(scene.kid, scene.a.tag, forward)
    assert code == 2
    await scene.mover._lead_there(scene.kid, scene.a.tag, forward.to, [scene.kid])
    await scene.mover._end(scene.kid, scene.a.tag, forward, told)
    assert not await scene.mover._bring_back(scene.kid, scene.a.tag, raw, forward)
    assert await scene.places() == [scene.a.tag]
    used = await scene.used()
    assert (used["key 1m"], used["key 1h"]) == (6, 6)


async def test_movers_at_once(scene: Scene) -> None:
    """To and fro by several at once: the key is in one place at the end, with all that it counted."""
    await scene.count(5)
    rng = random.Random(1)
    places = [scene.a.tag, scene.b.tag, scene.kid]

    async def go() -> None:
        async with masters_of(scene.url) as masters:
            mover = Mover(masters, Policies(masters))
            for _ in range(15):
                source, target = rng.sample(places, 2)
                await mover.move(scene.kid, source, target)

    await asyncio.gather(*(go() for _ in range(4)))
    assert len(await scene.places()) == 1
    used = await scene.used()
    assert (used["key 1m"], used["key 1h"]) == (5, 5)


async def test_all_credentials_follow(scene: Scene) -> None:
    cid = key_id(new_api_key())
    policy = KeyPolicy(scene.kid, "rotated", windows=(MINUTE,), credentials=(Credential(scene.kid), Credential(cid)))
    put_account(scene.url, scene.a, [policy])
    await scene.pointers.claim({cid: Way(scene.a.tag, scene.kid)})
    assert await scene.mover.move(scene.kid, scene.a.tag, scene.b.tag)
    assert await scene.pointers.read([scene.kid, cid]) == {scene.kid: scene.b.tag, cid: Way(scene.b.tag, scene.kid)}


@pytest.mark.parametrize("allowed", range(OPERATIONS + 1))
async def test_a_deletion_meets_a_move(scene: Scene, calls: list[int], allowed: int) -> None:
    await scene.count(5)
    calls.append(allowed)
    if allowed < OPERATIONS:
        with pytest.raises(Interrupted):
            await scene.mover.move(scene.kid, scene.a.tag, scene.b.tag)
    else:
        assert await scene.mover.move(scene.kid, scene.a.tag, scene.b.tag)
    calls.clear()
    assert await Deleter(scene.masters, scene.policies, scene.pointers, scene.mover).delete(scene.kid)
    assert await scene.places() == []
    await scene.mover.finish(scene.kid, scene.a.tag)
    assert await scene.places() == []
    with store_client(scene.url) as client:
        hashes = [f"rl:{{{tag}}}:key:{scene.kid}" for tag in (scene.a.tag, scene.b.tag)]
        assert not any(client.exists(each) for each in hashes)


@pytest.mark.parametrize("allowed", [1, 2, 3])
async def test_a_mark_of_deletion_left_during_the_move(scene: Scene, calls: list[int], allowed: int) -> None:
    """The deletion has left its marks, and has not gone on yet."""
    calls.append(allowed)
    with pytest.raises(Interrupted):
        await scene.mover.move(scene.kid, scene.a.tag, scene.b.tag)
    calls.clear()
    await scene.pointers.mark(scene.kid, [scene.kid], [])
    assert await scene.mover.finish(scene.kid, scene.a.tag) == scene.b.tag
    assert await scene.places() == []


async def test_a_target_that_was_deleted_meanwhile_gives_the_key_back(scene: Scene, calls: list[int]) -> None:
    await scene.count(5)
    calls.append(1)
    with pytest.raises(Interrupted):
        await scene.mover.move(scene.kid, scene.a.tag, scene.b.tag)
    calls.clear()
    await scene.policies.delete_account(scene.b.tag)
    assert await scene.mover.finish(scene.kid, scene.a.tag) == scene.a.tag
    assert await scene.places() == [scene.a.tag]
    assert (await scene.used())["key 1h"] == 5
    with store_client(scene.url) as client:
        assert client.hget(policy_key(scene.a.tag), f"n:{scene.key.name}") == scene.kid.encode()
    put_account(scene.url, scene.b)
    assert await scene.mover.move(scene.kid, scene.a.tag, scene.b.tag)
    assert await scene.places() == [scene.b.tag]
    assert (await scene.used())["key 1h"] == 5


async def test_what_can_not_be_moved_stays(scene: Scene) -> None:
    with pytest.raises(ConfigError, match="there is no account nowhere"):
        await scene.mover.move(scene.kid, scene.a.tag, account_tag("nowhere"))
    policy = KeyPolicy(scene.kid, "x", "research")
    with pytest.raises(ConfigError, match="has no team research"):
        await scene.mover.move(scene.kid, scene.a.tag, scene.b.tag, policy=policy)
    other = KeyPolicy(key_id(new_api_key()), scene.key.name)
    put_account(scene.url, scene.b, [other])
    with store_client(scene.url) as client:
        client.hset(policy_key(scene.b.tag), f"n:{other.name}", other.kid)
    with pytest.raises(ConfigError, match="another key of account"):
        await scene.mover.move(scene.kid, scene.a.tag, scene.b.tag)
    assert not await scene.mover.move(scene.kid, scene.a.tag, scene.kid, expected=b"otherone")
    assert not await scene.mover.move(key_id(new_api_key()), scene.a.tag, scene.b.tag)
    assert await scene.places() == [scene.a.tag]


async def test_who_finishes_a_move_late_leads_the_ways_on(scene: Scene, calls: list[int]) -> None:
    """The key has moved on, into no account, before a second process leads its credentials to the first target."""
    calls.append(2)
    with pytest.raises(Interrupted):
        await scene.mover.move(scene.kid, scene.a.tag, scene.b.tag)
    calls.clear()
    assert await scene.mover.move(scene.kid, scene.b.tag, scene.kid)
    assert await scene.mover.finish(scene.kid, scene.a.tag) == scene.kid
    assert (await scene.pointers.read([scene.kid]))[scene.kid] == scene.kid
    assert await scene.places() == [scene.kid]
