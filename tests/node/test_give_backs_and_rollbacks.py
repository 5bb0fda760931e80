"""What a request gives back or was produced beyond its reservation, in every order with a rollback of the store.

An order is a word. A: a request is admitted. G: it ends, and the store counts that. g: it ends, and nothing is sent.
L: it ends, the store counts that, and its reply is lost. P: the reply is asked for again. D: a snapshot is taken.
R: the snapshot is put back. N: another request asks, so that the node notices.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
from accounts_in_store import put_account
from store_tools import declare, new_api_key, store_client
from test_accounts import a_key, a_name
from test_degraded import behind_proxy

from limiter_node.decisions import Need
from limiter_node.key_states import CredentialState
from limiter_node.limiter.admission import Limiter, Reservation
from limiter_node.limits import BUCKET_MS
from limiter_node.policy import REQUESTS, AccountPolicy, Limit, PolicyWindow, Subject
from limiter_node.store.keyspace import member_key, past_key, shared_key, window_key

WINDOW_MS = 11_000
"""The own window of such a window has cells of one bucket."""
RESERVED = 100
ORDERS = [
    "ADGRN",  # the snapshot has the request, but not its end
    "ADgRN",
    "ADRgN",
    "ADRNG",
    "ADLRPN",
    "ALDPRN",
    "DAGRN",  # the snapshot has nothing of it
    "DAgRN",
    "DARgN",
    "DARNG",
    "DALRPN",
    "DAGRNRN",  # twice
    "DAgRNRN",
    "DARNGRN",
    "DARNRNG",
    "DARNRgN",
    "DALRPNRN",
    "DARNDGRN",  # the second snapshot has the charge that was made for the first
    "DARNDgRN",
    "DARNDRNG",
]


class Scene:
    """One key on a store, behind a proxy."""

    def __init__(self, url: str, kid: str, names: list[str], proxy: Any, dispatcher: Any) -> None:
        self.kid, self.proxy, self.dispatcher, self.limiter = kid, proxy, dispatcher, Limiter(dispatcher)
        self._url, self.names = url, names

    async def ask(self, need: Need) -> Reservation:
        """Ask in a bucket that nothing else is counted in."""
        now_s = time.time()
        await asyncio.sleep((int(now_s * 1000) // BUCKET_MS + 1) * BUCKET_MS / 1000 - now_s + 0.002)
        return self.limiter.reservation(self.kid, await self.limiter.admit(self.kid, need))

    def save(self) -> Callable[[], None]:
        with store_client(self._url) as client:
            values = [client.dump(each) for each in self.names]

        def take_back() -> None:
            with store_client(self._url) as client:
                client.delete(*self.names)
                for each, value in zip(self.names, values, strict=True):
                    if value is not None:
                        client.restore(each, 900_000, value)

        return take_back

    async def drain(self) -> None:
        assert await self.dispatcher.drain(20)

    async def counted(self) -> list[tuple[int, int]]:
        """Return the requests and output tokens that count, in each window of the key's path."""
        usage = await self.dispatcher.peek(self.kid)
        assert usage is not None
        used = [usage.used] if usage.path is None else usage.path.used
        return [(each.requests, each.output_tokens) for each in used]


@asynccontextmanager
async def plain(url: str) -> AsyncIterator[Scene]:
    kid = declare(url, new_api_key())
    async with behind_proxy(url, timeout_ms=20_000, window_buckets=WINDOW_MS // BUCKET_MS) as (proxy, dispatcher):
        yield Scene(url, kid, [window_key(kid), past_key(kid)], proxy, dispatcher)


@asynccontextmanager
async def of_account(url: str) -> AsyncIterator[Scene]:
    window = PolicyWindow(WINDOW_MS, (), (Limit(REQUESTS, 1_000_000),))
    alice, account = a_key("alice", window), AccountPolicy(a_name(), (Subject("", (window,)),))
    put_account(url, account, [alice])
    names = [shared_key(account.tag), member_key(account.tag, alice.kid)]
    async with behind_proxy(url, timeout_ms=20_000) as (proxy, dispatcher):
        assert await dispatcher.find(alice.kid) is CredentialState.VALID
        yield Scene(url, alice.kid, names, proxy, dispatcher)


@pytest.mark.parametrize("order", ORDERS)
async def test_nothing_is_lost(embedded_single: str, order: str) -> None:
    """Of a plain key and of an account's, where less was produced than reserved and where it was more."""
    async with asyncio.TaskGroup() as group:  # all at once: most of the time they wait for the next bucket
        for kind in (plain, of_account):
            for produced in (40, 130):
                group.create_task(loses_nothing(kind(embedded_single), produced, order))


async def loses_nothing(key: AbstractAsyncContextManager[Scene], produced: int, order: str) -> None:
    async with key as scene:
        await scene.ask(Need(0, 0, 0, ("gpt-4o",)))
        others, rollbacks, hold, take_back = 1, order.count("R"), None, None
        for step in order:
            if step == "A":
                hold = await scene.ask(Need(0, RESERVED, 0, ("gpt-4o",)))
            elif step == "N":
                await scene.ask(Need(0, 0, 0, ("gpt-4o",)))
                others += 1
            elif step == "D":
                take_back = scene.save()
            elif step == "R":
                assert take_back is not None
                take_back()
            elif step == "P":
                scene.proxy.pass_replies = True
                scene.proxy.reset_all()
                await scene.drain()
            else:
                assert hold is not None
                if step == "L":
                    scene.proxy.swallowed.clear()
                    scene.proxy.pass_replies = False
                hold.settle(produced)
                if step == "G":
                    await scene.drain()
                elif step == "L":
                    await scene.proxy.swallowed.wait()
        await scene.drain()
        # What a snapshot has of the request may be charged once more.
        is_exact = order.rindex("D") < order.index("A")
        for requests, output_tokens in await scene.counted():
            if is_exact:
                assert (requests - others, output_tokens) == (1, produced), scene.names
            else:
                assert 1 <= requests - others <= 1 + rollbacks, scene.names
                assert produced <= output_tokens <= (1 + rollbacks) * max(produced, RESERVED), scene.names
