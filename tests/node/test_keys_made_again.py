"""A key that was deleted is made again with its first secret: nodes that knew its former life go by the new one.

The former life ended where the new one begins, or elsewhere; what nodes knew of it has a higher revision than a new
policy would have, so they would take that for an older one and declare their own over it.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack

import pytest
from dispatching import dispatching
from store_tools import new_api_key
from test_accounts import a_name
from test_credentials import ask

from limiter_node.credentials import key_id
from limiter_node.decisions import Outcome
from limiter_node.management.manager import Manager
from limiter_node.store.admin.store_admin import administering
from limiter_node.store.decisions.dispatcher import Dispatcher
from limiter_node.store.url import parse_store_url

PLACES = ["plain", "flat", "account"]
LIMITS: Mapping[str, Mapping[str, int]] = {
    "plain": {"rpm": 1_000},
    "flat": {"rpm": 1_000, "requests/1h": 5_000},
    "account": {"rpm": 1_000, "requests/1h": 5_000},
}


class Lives:
    """One secret, and the key that it proves, in one life after the other."""

    def __init__(self, manager: Manager) -> None:
        self.manager, self.secret, self.name = manager, new_api_key(), a_name()
        self.account, self.other = a_name(), a_name()

    @property
    def cid(self) -> str:
        return key_id(self.secret)

    def path(self, place: str) -> str:
        return f"{self.account}/{self.name}" if place == "account" else self.name

    async def make(self, place: str) -> None:
        digest = f"sha256:{hashlib.sha256(self.secret.encode()).hexdigest()}"
        await self.manager.create_key(self.path(place), LIMITS[place], digest=digest)

    async def change_often(self, place: str) -> None:
        """Have a higher revision than a new life's, and end with a state that refuses requests."""
        for rpm in range(1_001, 1_006):
            await self.manager.set_key(self.path(place), {"rpm": rpm})
        await self.manager.expire(self.path(place), 1_000)

    async def leave(self, place: str, how: str) -> None:
        """End the life there, or after the key has moved on to another account."""
        if how == "deleted there":
            await self.manager.delete_key(self.path(place))
            return
        await self.manager.move(self.path(place), self.other)
        await self.manager.delete_key(f"{self.other}/{self.name}")


@pytest.fixture
async def lives(embedded_cluster: str) -> AsyncIterator[Lives]:
    async with administering(parse_store_url(embedded_cluster)) as admin:
        lives = Lives(Manager(admin))
        for account in (lives.account, lives.other):
            await lives.manager.create_account(account, {})
        yield lives


@pytest.fixture
async def nodes(embedded_cluster: str) -> AsyncIterator[list[Dispatcher]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(dispatching(embedded_cluster)) for _ in range(2)]


@pytest.mark.parametrize("how", ["deleted there", "moved on and deleted"])
@pytest.mark.parametrize("again", PLACES)
@pytest.mark.parametrize("first", PLACES)
async def test_a_new_life_counts(lives: Lives, nodes: list[Dispatcher], first: str, again: str, how: str) -> None:
    await lives.make(first)
    await lives.change_often(first)
    assert [await ask(node, lives.cid) for node in nodes] == [Outcome.EXPIRED_KEY] * 2
    await lives.leave(first, how)
    await lives.make(again)
    # A node that has not asked meanwhile still knows the former life.
    assert await ask(nodes[0], lives.cid) is Outcome.ADMITTED
    await lives.manager.set_key(lives.path(again), {"requests/1h": 7_000})
    for _ in range(2):
        assert [await ask(node, lives.cid) for node in nodes] == [Outcome.ADMITTED] * 2
    await lives.manager.disable(lives.path(again))
    assert [await ask(node, lives.cid) for node in nodes] == [Outcome.DISABLED_KEY] * 2
    await lives.manager.enable(lives.path(again))
    asked = await asyncio.gather(*(ask(node, lives.cid) for node in nodes for _ in range(3)))
    assert asked == [Outcome.ADMITTED] * 6
    found = await lives.manager.show_key(lives.path(again))
    assert found.state == "active"
    assert {each.limit for each in found.limits if each.window == "1h"} == {7_000}


@pytest.mark.parametrize("place", ["flat", "account"])
async def test_a_key_that_comes_back_by_a_move_counts(lives: Lives, nodes: list[Dispatcher], place: str) -> None:
    """It has lived on elsewhere, was deleted and made again there: the revision there has begun anew."""
    await lives.make(place)
    await lives.change_often(place)
    assert [await ask(node, lives.cid) for node in nodes] == [Outcome.EXPIRED_KEY] * 2
    await lives.leave(place, "moved on and deleted")
    digest = f"sha256:{hashlib.sha256(lives.secret.encode()).hexdigest()}"
    await lives.manager.create_key(f"{lives.other}/{lives.name}", {"rpm": 1_000}, digest=digest)
    await lives.manager.move(f"{lives.other}/{lives.name}", lives.account if place == "account" else "")
    for _ in range(2):
        assert [await ask(node, lives.cid) for node in nodes] == [Outcome.ADMITTED] * 2
    found = await lives.manager.show_key(lives.path(place))
    assert found.state == "active"


@pytest.mark.parametrize("asks_between", [False, True], ids=["", "asks-between"])
@pytest.mark.parametrize("how", ["deleted there", "moved on and deleted"])
@pytest.mark.parametrize("again", PLACES)
@pytest.mark.parametrize("first", PLACES)
async def test_a_new_life_begins_to_count_at_zero(
    lives: Lives, nodes: list[Dispatcher], first: str, again: str, how: str, asks_between: bool
) -> None:
    await lives.make(first)
    for node in nodes:
        assert [await ask(node, lives.cid) for _ in range(5)] == [Outcome.ADMITTED] * 5
    await lives.manager.set_key(lives.path(first), {"requests/1d": 5_000})
    for node in nodes:
        assert [await ask(node, lives.cid) for _ in range(5)] == [Outcome.ADMITTED] * 5
    await lives.leave(first, how)
    if asks_between:
        assert [await ask(node, lives.cid) for node in nodes] == [Outcome.UNKNOWN_KEY] * 2
    await lives.make(again)
    assert await ask(nodes[0], lives.cid) is Outcome.ADMITTED
    await lives.manager.set_key(lives.path(again), {"requests/1d": 5_000})
    assert await ask(nodes[0], lives.cid) is Outcome.ADMITTED
    assert await ask(nodes[1], lives.cid) is Outcome.ADMITTED
    for node in nodes:
        assert await node.drain(5)
    found = await lives.manager.show_key(lives.path(again))
    assert {each.used for each in found.limits if each.window == "1m" and each.subject == lives.path(again)} == {3}
