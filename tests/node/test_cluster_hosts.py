"""Clusters whose servers don't name hosts, as behind a load balancer: the host is the one that was asked."""

from __future__ import annotations

import asyncio
import shutil
from typing import Any

import pytest
from dispatching import dispatching
from ports import free_ports
from redis import Redis
from redis.exceptions import InvalidResponse
from store_tools import new_api_key

from limiter_node.credentials import key_id
from limiter_node.decisions import Need, Outcome
from limiter_node.errors import StoreUnavailable
from limiter_node.limits import KeyLimits
from limiter_node.store.admin.store_admin import administering
from limiter_node.store.admin.watch import StoreWatch
from limiter_node.store.embedded.stores import EmbeddedStore
from limiter_node.store.keyspace import SLOTS
from limiter_node.store.slots import SlotRange, redirect_endpoint, slot_ranges
from limiter_node.store.url import parse_store_url
from limiter_node.store.wire.discovery import Discovery

SERVERS = [None, *(["redis-server"] if shutil.which("redis-server") else [])]
LIMITS = KeyLimits(1_000, 1_000, 1_000, 10, "tester")


@pytest.mark.parametrize(
    ("told", "host"),
    [
        ([b"10.0.0.1", 7000, b"id"], "10.0.0.1"),
        ([None, 7000, b"id", [b"ip", b"10.0.0.1"]], "asked"),
        ([b"", 7000, b"id", []], "asked"),
        ([b"?", 7000, b"id", [b"ip", b"10.0.0.1"]], "10.0.0.1"),
        ([b"?", 7000, b"id", [b"ip", b""]], "asked"),
        ([b"?", 7000], "asked"),
        ([b"store-1.example", 7000, b"id", [b"ip", b"10.0.0.1"]], "store-1.example"),
    ],
)
def test_a_host_that_is_not_told_is_the_one_that_was_asked(told: list[Any], host: str) -> None:
    replica = [None, 7001, b"id"]
    assert slot_ranges([[5, 9, told, replica]], "asked") == [SlotRange(5, 9, (host, 7000), (("asked", 7001),))]


@pytest.mark.parametrize("reply", [b"PONG", None, 7, [[1, 2]], [[1, 2, [b"host"]]], [[1, b"x", [b"host", 7]]], [[]]])
def test_a_reply_of_another_kind_is_refused(reply: Any) -> None:
    with pytest.raises(InvalidResponse, match="not a list of slots"):
        slot_ranges(reply, "asked")


@pytest.mark.parametrize(
    ("address", "endpoint"),
    [
        ("10.0.0.1:7000", ("10.0.0.1", 7000)),
        ("[::1]:7000", ("::1", 7000)),
        ("::1:7000", ("::1", 7000)),
        (":7000", ("asked", 7000)),
        ("?:7000", ("asked", 7000)),
    ],
)
def test_a_redirection_without_a_host_leads_to_the_one_that_redirected(address: str, endpoint: tuple[str, int]) -> None:
    assert redirect_endpoint(address, "asked") == endpoint


@pytest.mark.parametrize("binary", SERVERS)
@pytest.mark.parametrize("endpoints", ["unknown-endpoint", "hostname"])
async def test_a_cluster_that_names_no_hosts_serves_all_keys(endpoints: str, binary: str | None) -> None:
    """Decided, administered and watched, with replicas beside the masters."""
    config = {"cluster-preferred-endpoint-type": endpoints}
    async with asyncio.timeout(40), EmbeddedStore("cluster", replicas=1, binary=binary, extra_config=config) as store:
        # By name: who is asked as `localhost` is reached as that, not as the address the servers know of themselves.
        port = store.servers[0].port
        url = f"redis+cluster://localhost:{port}"
        with Redis(port=port) as client:
            told = {shard[2][0] for shard in client.execute_command("CLUSTER SLOTS")}
        assert told == {None if endpoints == "unknown-endpoint" else b"?"}, "a cluster that names hosts proves nothing"
        kids = [key_id(new_api_key()) for _ in range(30)]
        async with administering(parse_store_url(url)) as admin:
            assert await admin.check_store() == []
            await admin.load_limits(dict.fromkeys(kids, LIMITS))
            assert (await admin.list_keys()).total == 30
        async with dispatching(url) as dispatcher:
            decisions = await asyncio.gather(*(dispatcher.admit(kid, Need(1, 1, 0)) for kid in kids))
            assert {decision.outcome for decision in decisions} == {Outcome.ADMITTED}
            host = "localhost" if endpoints == "unknown-endpoint" else "127.0.0.1"
            masters = {f"{host}:{server.port}" for server in store.servers[:3]}
            assert {connection.address for connection in dispatcher._topology.masters()} == masters
        watch = StoreWatch(parse_store_url(url), most_keys=0, timeout_s=5)
        try:
            reading = await watch.look()
            assert {shard.address for shard in reading.shards} == masters
            assert not any(shard.problem for shard in reading.shards)
        finally:
            await watch.close()


async def test_a_server_that_is_gone_does_not_hide_the_cluster(embedded_cluster: str) -> None:
    """Whatever of the addresses is asked first; those that failed are asked last from then on."""
    (gone,) = free_ports(1)
    address = parse_store_url(embedded_cluster.replace("://", f"://127.0.0.1:{gone},"))
    discovery = Discovery(address)
    try:
        for _ in range(5):
            ranges = await discovery.ranges()
            assert sum(each.last + 1 - each.first for each in ranges) == SLOTS
        assert discovery._failed <= {("127.0.0.1", gone)}
        assert discovery._order()[-1] == ("127.0.0.1", gone), "known servers come before it"
    finally:
        await discovery.close()


async def test_slots_that_one_server_does_not_tell_are_told_by_the_next() -> None:
    async with EmbeddedStore("cluster") as store:
        with Redis(port=store.servers[0].port) as client:
            client.execute_command("CLUSTER DELSLOTSRANGE", 0, 9)
        discovery = Discovery(parse_store_url(store.url))  # its first address is asked first
        try:
            told = {slot for each in await discovery.ranges() for slot in range(each.first, each.last + 1)}
            assert told == set(range(SLOTS))
        finally:
            await discovery.close()


async def test_a_cluster_without_slots_and_a_server_that_is_no_cluster_are_told_apart(embedded_single: str) -> None:
    async with EmbeddedStore("single", extra_config={"cluster-enabled": "yes"}) as store:
        discovery = Discovery(parse_store_url(store.url.replace("redis://", "redis+cluster://")))
        try:
            with pytest.raises(StoreUnavailable, match="the cluster has no slots yet"):
                await discovery.ranges()
        finally:
            await discovery.close()
    discovery = Discovery(parse_store_url(embedded_single.replace("redis://", "redis+cluster://")))
    try:
        with pytest.raises(Exception, match="is not a cluster: use redis:// in --store"):
            await discovery.ranges()
    finally:
        await discovery.close()


@pytest.mark.parametrize("binary", SERVERS)
@pytest.mark.parametrize("login", ["app:@", "app@"])
async def test_a_user_without_a_password_logs_in(login: str, binary: str | None) -> None:
    async with EmbeddedStore("single", binary=binary) as store:
        with Redis(port=store.servers[0].port) as client:
            client.execute_command("ACL", "SETUSER", "app", "on", "nopass", "~rl:*", "&*", "+@all")
            client.execute_command("ACL", "SETUSER", "default", "off")
        url = store.url.replace("://", f"://{login}")
        kid = key_id(new_api_key())
        async with administering(parse_store_url(url)) as admin:
            await admin.put_limits(kid, LIMITS)
        async with dispatching(url) as dispatcher:
            assert (await dispatcher.admit(kid, Need(1, 1, 0))).outcome is Outcome.ADMITTED
