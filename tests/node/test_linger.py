"""Settles that wait for company on a busy node: which may, for how long, and who sees them nevertheless."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from dispatching import dispatching
from store_tools import declare, new_api_key

from limiter_node.decisions import Need, Outcome
from limiter_node.limiter.admission import Limiter, Reservation
from limiter_node.limits import Amounts, KeyLimits
from limiter_node.store import codec
from limiter_node.store.decisions.dispatcher import Dispatcher
from limiter_node.store.decisions.linger import LINGER_S, LingeringSettles
from limiter_node.store.key_queue import KeyQueue
from limiter_node.store.knowledge import KeyKnowledge
from limiter_node.store.scripts import load_script
from limiter_node.store.wire.script_target import ScriptTarget
from limiter_node.telemetry import BatchSizes

LEFT = 64_000  # so that 1,000 tokens may wait


def queue() -> KeyQueue:
    return KeyQueue("kid", ScriptTarget(load_script("decide"), 0, (), (), 0), KeyKnowledge(600))


def told(key: KeyQueue, used: Amounts) -> None:
    """The store tells that so much of the key's limits is used."""
    reply = codec._REPLY.pack(codec.DECIDED, 1, 0, 10, LEFT, LEFT, *used, 0, 0, 0, 0, 1)
    key.knowledge.learn_limits(KeyLimits(), 1, 0.0, 0.0)
    key.knowledge._last_reply = reply


@pytest.mark.parametrize(
    ("used", "slack"),
    [
        (Amounts(0, 0, 0), 1_000),
        (Amounts(10, 0, 0), 1_000),
        (Amounts(0, LEFT - 640, 0), 10),
        (Amounts(0, 0, LEFT - 640), 10),
        (Amounts(0, 0, LEFT), 0),
        (Amounts(0, LEFT + 1, 0), -1),
        (Amounts(0, LEFT - 639, 0), 9),
    ],
)
def test_what_may_wait_is_a_64th_of_what_the_key_has_left(used: Amounts, slack: int) -> None:
    released: list[KeyQueue] = []
    linger, key = LingeringSettles(released.append, BatchSizes(1)), queue()
    told(key, used)
    assert linger.add(key, 0, max(slack, 0), 0.0) is (slack >= 0)
    assert not linger.add(key, 0, 1, 0.0), "together they are more than may wait"


def test_nothing_waits_for_a_key_that_nothing_is_known_of() -> None:
    assert not LingeringSettles(lambda _: None, BatchSizes(1)).add(queue(), 0, 1, 0.0)


def test_a_charge_never_waits() -> None:
    linger, key = LingeringSettles(lambda _: None, BatchSizes(1)), queue()
    told(key, Amounts(0, 0, 0))
    assert not linger.add(key, 0, -1, 0.0)
    assert not linger.add(key, -1, 5, 0.0)
    assert not linger


def test_keys_are_released_once_and_in_time() -> None:
    released: list[KeyQueue] = []
    linger, early, late = LingeringSettles(released.append, BatchSizes(1)), queue(), queue()
    for key, now_s in ((early, 1.0), (late, 1.01), (early, 1.02)):
        told(key, Amounts(0, 0, 0))
        assert linger.add(key, 0, 10, now_s)
    linger.sweep(1.0 + LINGER_S - 0.001)
    assert released == []
    linger.sweep(1.0 + LINGER_S)
    assert released == [early]
    linger.release_all()
    assert released == [early, late]
    assert not linger


@asynccontextmanager
async def busy(store: str) -> AsyncIterator[Dispatcher]:
    """A dispatcher that has much to do, for another key."""
    other = declare(store, new_api_key(), rpm=4_000_000_000, input_tpm=4_000_000_000, output_tpm=4_000_000_000)
    async with dispatching(store) as dispatcher:

        async def work() -> None:
            while True:
                await asyncio.gather(*(dispatcher.admit(other, Need(1, 1, 0)) for _ in range(200)))

        working = asyncio.create_task(work())
        try:
            async with asyncio.timeout(20):
                while not dispatcher._linger.is_busy:
                    await asyncio.sleep(0.005)
            yield dispatcher
        finally:
            working.cancel()
            with suppress(asyncio.CancelledError):
                await working


async def admitted(dispatcher: Dispatcher, kid: str, output_tokens: int) -> Reservation:
    limiter = Limiter(dispatcher)
    verdict = await limiter.admit(kid, Need(10, output_tokens, 0))
    assert verdict.outcome is Outcome.ADMITTED
    return limiter.reservation(kid, verdict)


async def used_in_the_store(store: str, kid: str) -> Amounts:
    """As another node sees it."""
    async with dispatching(store) as other:
        usage = await other.peek(kid)
    assert usage is not None
    return usage.used


def waits(dispatcher: Dispatcher, kid: str) -> bool:
    queue = dispatcher._queues[kid]
    return bool(queue.settles) and not queue.is_scheduled and queue.in_flight is None


async def test_it_goes_by_itself_when_no_batch_comes(embedded_single: str) -> None:
    kid = declare(embedded_single, new_api_key(), output_tpm=1_000_000)
    async with busy(embedded_single) as dispatcher:
        reservation = await admitted(dispatcher, kid, 100)
        reservation.settle(30)
        assert waits(dispatcher, kid)
        async with asyncio.timeout(20):
            while await used_in_the_store(embedded_single, kid) != Amounts(1, 10, 30):
                await asyncio.sleep(0.01)
        assert not dispatcher._queues[kid].settles


async def test_it_rides_along_with_the_next_batch(embedded_single: str) -> None:
    kid = declare(embedded_single, new_api_key(), output_tpm=1_000_000)
    async with busy(embedded_single) as dispatcher:
        reservation = await admitted(dispatcher, kid, 100)
        reservation.settle(30)
        assert waits(dispatcher, kid)
        again = await dispatcher.admit(kid, Need(10, 7, 0))
        assert again.used == Amounts(2, 20, 37)


async def test_its_own_node_reads_it_at_once(embedded_single: str) -> None:
    kid = declare(embedded_single, new_api_key(), output_tpm=1_000_000)
    async with busy(embedded_single) as dispatcher:
        reservation = await admitted(dispatcher, kid, 100)
        reservation.settle(30)
        assert waits(dispatcher, kid)
        usage = await dispatcher.peek(kid)
        assert usage is not None
        assert usage.used == Amounts(1, 10, 30)


async def test_it_does_not_wait_where_it_could_be_felt(embedded_single: str) -> None:
    kid = declare(embedded_single, new_api_key(), output_tpm=1_000)
    async with busy(embedded_single) as dispatcher:
        reservation = await admitted(dispatcher, kid, 100)
        reservation.settle(30)
        assert dispatcher._queues[kid].is_scheduled


async def test_it_does_not_wait_on_an_idle_node(embedded_single: str) -> None:
    kid = declare(embedded_single, new_api_key(), output_tpm=1_000_000)
    async with dispatching(embedded_single) as dispatcher:
        reservation = await admitted(dispatcher, kid, 100)
        reservation.settle(30)
        assert dispatcher._queues[kid].is_scheduled


async def test_a_node_that_stops_leaves_none_behind(embedded_single: str) -> None:
    kid = declare(embedded_single, new_api_key(), output_tpm=1_000_000)
    async with dispatching(embedded_single) as dispatcher:
        reservation = await admitted(dispatcher, kid, 100)
        dispatcher._linger.is_busy = True
        reservation.settle(30)
        assert waits(dispatcher, kid)
        assert await dispatcher.drain(20)
        assert await used_in_the_store(embedded_single, kid) == Amounts(1, 10, 30)
