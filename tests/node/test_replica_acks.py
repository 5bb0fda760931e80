"""`--replica-acks`: decisions that count only when replicas have them."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from dispatching import dispatching
from node_commands import eventually
from redis import Redis
from store_tools import declare, new_api_key, raw_counters

from limiter_node.decisions import Need, Outcome
from limiter_node.errors import StoreUnavailable
from limiter_node.limits import Amounts
from limiter_node.store.embedded.server import EmbeddedServer
from limiter_node.store.embedded.stores import EmbeddedStore
from limiter_node.store.keyspace import window_key

ONE = Need(1, 1, 0)


@asynccontextmanager
async def replicated() -> AsyncIterator[tuple[EmbeddedStore, list[EmbeddedServer]]]:
    """A cluster with one replica for each master, and the replicas."""
    async with EmbeddedStore("cluster", replicas=1) as store:
        replicas = [server for server in store.servers if server.master_port is not None]
        assert len(replicas) == 3

        def linked() -> bool:
            for server in replicas:
                with Redis(port=server.port) as client:
                    if client.info("replication")["master_link_status"] != "up":
                        return False
            return True

        await eventually(linked)
        yield store, replicas


async def test_what_is_decided_is_on_the_replicas() -> None:
    async with replicated() as (store, replicas):
        kid = declare(store.url, new_api_key(), rpm=100)
        async with dispatching(store.url, replica_acks=1) as dispatcher:
            decisions = await asyncio.gather(*(dispatcher.admit(kid, ONE) for _ in range(100)))
            assert {each.outcome for each in decisions} == {Outcome.ADMITTED}
            assert (await dispatcher.admit(kid, ONE)).outcome is Outcome.REJECTED
            await dispatcher.check()
            copies = []
            for server in replicas:
                with Redis(port=server.port, single_connection_client=True) as client:
                    client.execute_command("READONLY")
                    stored = client.keys()
                    if window_key(kid).encode() in stored:
                        copies.append(client.dump(window_key(kid)))
            assert copies == [raw_counters(store.url, kid)[1]], "the replica of its shard has it, byte for byte"


async def test_replicas_that_stand_still_hold_decisions_up_and_each_counts_once() -> None:
    async with replicated() as (store, replicas):
        kid = declare(store.url, new_api_key(), rpm=100)
        async with dispatching(store.url, replica_acks=1, timeout_ms=300) as dispatcher:
            assert (await dispatcher.admit(kid, ONE)).outcome is Outcome.ADMITTED
            for server in replicas:
                os.kill(server.pid, signal.SIGSTOP)
            try:
                with pytest.raises(StoreUnavailable):
                    await dispatcher.admit(kid, Need(5, 7, 0))
            finally:
                for server in replicas:
                    os.kill(server.pid, signal.SIGCONT)
            await eventually(lambda: not dispatcher.outage.is_on)
            assert await dispatcher.drain(20)
            usage = await dispatcher.peek(kid)
            assert usage is not None
            assert usage.used == Amounts(1, 1, 1), "counted once, and given back: its caller was told otherwise"
            assert (await dispatcher.admit(kid, ONE)).outcome is Outcome.ADMITTED


async def test_without_replicas_nothing_is_decided(embedded_cluster: str) -> None:
    kid = declare(embedded_cluster, new_api_key())
    async with dispatching(embedded_cluster, replica_acks=1, timeout_ms=200) as dispatcher:
        with pytest.raises(StoreUnavailable):
            await dispatcher.admit(kid, ONE)
        with pytest.raises(StoreUnavailable):
            await dispatcher.check()
