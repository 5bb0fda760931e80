"""A key moves to another account, and the store loses data during the move or after it: wholly, or back to before it.

The key is never lost for good, and after one decision of each node it is open in one account.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any

import pytest
import pytest_asyncio
from dispatching import dispatching
from store_tools import new_api_key, store_client
from test_keys_that_move import HOUR, OUT_OF_REACH, Scene, admitted, nodes

from limiter_node.decisions import Need, Outcome
from limiter_node.errors import LimiterError
from limiter_node.policy import Limit, PolicyWindow
from limiter_node.store.admin.masters import Masters
from limiter_node.store.decisions.dispatcher import Dispatcher
from limiter_node.store.embedded.stores import EmbeddedStore
from limiter_node.store.url import parse_store_url

ONE = Need(1, 1, 0)
STOPS = ["_open_at_target", "_lead_there", "_end", ""]
"""The steps of a mover before which it stops; none."""


class Stopped(Exception):
    """Raised in place of a step."""


@pytest.fixture(scope="module", params=["single", "cluster"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A store of the module's own, because all of it is flushed."""
    loop = asyncio.new_event_loop()
    store = EmbeddedStore(request.param)
    loop.run_until_complete(store.start())
    yield store.url
    store.stop()
    loop.close()


@pytest_asyncio.fixture
async def scene(url: str) -> AsyncIterator[Scene]:
    masters = Masters(parse_store_url(url))
    await masters.discover()
    scene = Scene(url, masters, new_api_key())
    scene.put(OUT_OF_REACH, PolicyWindow(HOUR, limits=(Limit(0, 10**9),)))
    yield scene
    await masters.close()


def dumped(url: str) -> dict[bytes, bytes]:
    """All that is stored, but for the nodes' announcements."""
    with store_client(url) as client:
        return {name: client.dump(name) for name in client.scan_iter("rl:*") if b"{nodes}" not in name}


def flush(url: str) -> None:
    with store_client(url) as client:
        client.flushall()


def roll_back(url: str, before: dict[bytes, bytes]) -> None:
    """All shards are as they were."""
    flush(url)
    with store_client(url) as client:
        for name, value in before.items():
            client.restore(name, 0, value)


def roll_back_ways(scene: Scene, before: dict[bytes, bytes]) -> None:
    """Only the shard that says where the key's secret leads is as it was."""
    mark = f"{{{scene.kid}}}".encode()
    with store_client(scene.url) as client:
        for name in list(client.scan_iter("rl:*")):
            if mark in name:
                client.delete(name)
        for name, value in before.items():
            if mark in name:
                client.restore(name, 0, value)


LOSSES = {
    "flushed": lambda scene, before: flush(scene.url),
    "all rolled back": lambda scene, before: roll_back(scene.url, before),
    "ways rolled back": roll_back_ways,
}


async def open_in(scene: Scene) -> list[str]:
    """The accounts that have the key."""
    found = []
    for tag in (scene.a.tag, scene.b.tag):
        stored = await scene.policies.read(tag, [scene.kid])
        if scene.kid in stored.keys:
            found.append(tag)
    return found


async def asked(node: Dispatcher, scene: Scene) -> Outcome | str:
    """The outcome of one request."""
    try:
        state = await node.find(scene.kid)
        if state:
            return f"find: {state.name}"
        return (await node.admit(scene.kid, ONE)).outcome
    except LimiterError as error:
        return str(error)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("stop", STOPS)
@pytest.mark.parametrize("asks_after", [False, True], ids=["", "asked-after"])
async def test_a_key_is_in_one_account_after_a_loss(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, stop: str, loss: str, asks_after: bool
) -> None:
    async with nodes(scene.url, 2, finish_move=scene.mover.finish) as both:
        for node in both:
            admitted(await node.admit(scene.kid, ONE))
        before = dumped(scene.url)
        with monkeypatch.context() as patch:
            if stop:

                async def stopped(*_: Any) -> None:
                    raise Stopped

                patch.setattr(scene.mover, stop, stopped)
            with suppress(Stopped):
                await scene.mover.move(scene.kid, scene.a.tag, scene.b.tag)
        if asks_after:
            admitted(await both[0].admit(scene.kid, ONE))
        LOSSES[loss](scene, before)
        for node in both * 2:
            await asked(node, scene)
        assert [await asked(node, scene) for node in both] == [Outcome.ADMITTED] * 2
        assert len(await open_in(scene)) == 1
        # A node that starts finds it, too.
        async with dispatching(scene.url) as late:
            assert await asked(late, scene) is Outcome.ADMITTED
