"""Administration against real stores, cluster and single, plain and behind TLS with a password."""

from __future__ import annotations

import asyncio
import re
import shutil
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest
import trustme
from dispatching import dispatching
from fault_proxy import FaultProxy
from redis.asyncio import Redis
from redis.exceptions import MovedError, ReadOnlyError

from limiter_node.credentials import key_id
from limiter_node.decisions import Need
from limiter_node.errors import ConfigError, StoreUnavailable
from limiter_node.limits import Amounts, KeyLimits
from limiter_node.store import keyspace
from limiter_node.store.admin.masters import Masters
from limiter_node.store.admin.store_admin import StoreAdmin, administering
from limiter_node.store.embedded.stores import EmbeddedStore
from limiter_node.store.errors import translate
from limiter_node.store.url import parse_store_url

LIMITS = KeyLimits(10, 200, 300, 40, "alice")


@asynccontextmanager
async def client_of(url: str, key: str) -> AsyncIterator[Redis]:
    masters = Masters(parse_store_url(url))
    await masters.discover()
    yield masters.owner(key)
    await masters.close()


def kid_of(request: pytest.FixtureRequest, number: int = 0) -> str:
    return key_id(f"{request.node.nodeid}-{number}")


async def test_limits_are_put_and_got(admin: StoreAdmin, request: pytest.FixtureRequest) -> None:
    kid = kid_of(request)
    assert await admin.get(kid) is None
    assert await admin.peek(kid) is None
    await admin.put_limits(kid, LIMITS)
    assert await admin.get(kid) == LIMITS
    changed = KeyLimits(1, 2, 3, 4)
    await admin.put_limits(kid, changed)
    assert await admin.get(kid) == changed


async def test_usage_survives_new_limits_and_ends_with_the_key(
    admin: StoreAdmin, url: str, request: pytest.FixtureRequest
) -> None:
    from limiter_node.store.codec import pack_admit, pack_batch, pack_charge
    from limiter_node.store.scripts import load_script

    kid = kid_of(request)
    keys = (keyspace.limits_key(kid), keyspace.window_key(kid), keyspace.past_key(kid))
    await admin.put_limits(kid, LIMITS)
    async with client_of(url, keys[0]) as client:
        ten_s_ago = int(time.time() * 10) - 100
        batch = pack_batch(1, [pack_admit(5, 7, 0), pack_charge(ten_s_ago, 1, 1, 1)], resent=True)
        await client.execute_command("EVAL", load_script("decide").source, 3, *keys, "node", batch)
        await admin.put_limits(kid, KeyLimits(1, 2, 3, 4, "bob"))
        usage = await admin.peek(kid)
        assert usage is not None
        assert (usage.limits, usage.used, usage.output_reserve, usage.name) == (
            Amounts(1, 2, 3), Amounts(2, 6, 8), 4, "bob"
        )  # fmt: skip
        assert await client.exists(*keys) == 3
        assert await admin.delete(kid)
        # The node's record stays, so that it doesn't take the usage for lost should the key come back.
        assert await client.exists(*keys) == 1
        assert await client.hkeys(keyspace.window_key(kid)) == [b"node"]
        assert 0 < await client.pttl(keyspace.window_key(kid)) <= 90_000
    assert not await admin.delete(kid)


async def test_peek_works_when_the_script_is_unknown(
    admin: StoreAdmin, url: str, request: pytest.FixtureRequest
) -> None:
    kid = kid_of(request)
    await admin.put_limits(kid, LIMITS)
    async with client_of(url, keyspace.limits_key(kid)) as client:
        await client.script_flush()
    for _ in range(2):
        usage = await admin.peek(kid)
        assert usage is not None
        assert usage.used == Amounts(0, 0, 0)


async def test_ten_thousand_keys_are_loaded_and_listed_in_seconds() -> None:
    keys = {key_id(str(number)): KeyLimits(name=f"key-{number:05}", rpm=number) for number in range(10_000)}
    async with EmbeddedStore("cluster") as store, administering(parse_store_url(store.url)) as admin:
        begin_s = time.process_time()  # whatever the machine does beside
        await admin.load_limits(keys)
        assert time.process_time() - begin_s < 5
        listing = await admin.list_keys(100)
        assert listing.total == 10_000
        assert [(limits.name, limits.rpm) for _, limits in listing.entries] == [
            (f"key-{number:05}", number) for number in range(100)
        ]
        assert all(keys[kid] == limits for kid, limits in listing.entries)
        assert time.process_time() - begin_s < 10
        assert len((await admin.list_keys(20_000)).entries) == 10_000


async def test_only_limits_are_listed() -> None:
    async with EmbeddedStore("single") as store, administering(parse_store_url(store.url)) as admin:
        kid = key_id("a")
        await admin.put_limits(kid, LIMITS)
        async with client_of(store.url, "") as client:
            await client.mset({"rl:{x}:limits": 1, f"rl:{{{'0' * 32}}}:limits2": 1, "other": 1})
        assert await admin.list_keys() == ([(kid, LIMITS)], 1, [])


async def test_damaged_limits_are_named(admin: StoreAdmin, url: str, request: pytest.FixtureRequest) -> None:
    key = keyspace.limits_key(kid_of(request))
    async with client_of(url, key) as client:
        for damage in (("SET", key, b"x" * 15), ("HSET", key, "rpm", "many")):
            await client.delete(key)
            await client.execute_command(*damage)
            with pytest.raises(
                ConfigError, match=f"{re.escape(key)} in redis.* is damaged: set the key's limits again"
            ):
                await admin.get(kid_of(request))
        await admin.put_limits(kid_of(request), LIMITS)
        assert await admin.get(kid_of(request)) == LIMITS
        await client.delete(key)


async def test_a_fit_store_passes(admin: StoreAdmin) -> None:
    assert await admin.check_store() == []


async def test_a_store_that_evicts_is_refused() -> None:
    async with EmbeddedStore("cluster") as store, administering(parse_store_url(store.url)) as admin:
        async with Redis(port=store.servers[2].port, protocol=2) as client:
            await client.config_set("maxmemory-policy", "allkeys-lru")
        with pytest.raises(ConfigError, match="has maxmemory-policy allkeys-lru, which drops counters: CONFIG SET"):
            await admin.check_store()


async def test_an_old_store_is_refused(admin: StoreAdmin, monkeypatch: pytest.MonkeyPatch) -> None:
    async def old(self: Redis) -> dict[str, str]:
        return {"redis_version": "6.2.14", "maxmemory_policy": "noeviction"}

    monkeypatch.setattr(Redis, "info", old)
    with pytest.raises(ConfigError, match=r"runs version 6\.2\.14: 7\.0 or newer is needed"):
        await admin.check_store()


async def test_a_full_store_is_named() -> None:
    async with EmbeddedStore("single") as store, administering(parse_store_url(store.url)) as admin:
        async with client_of(store.url, "") as client:
            await client.config_set("maxmemory", 1)
        with pytest.raises(StoreUnavailable, match="is out of memory: raise its maxmemory"):
            await admin.put_limits("0" * 32, LIMITS)


async def test_logins_and_rights() -> None:
    async with EmbeddedStore("single") as store:
        host = store.url.removeprefix("redis://")
        async with client_of(store.url, "") as client:
            rights = ("~rl:*", "+@all", "-info", "-multi", "-exec")
            await client.execute_command("ACL", "SETUSER", "few", "on", ">pw", *rights)
            await client.config_set("requirepass", "secret")
        for login in ("", "few:wrong@", ":wrong@"):
            with pytest.raises(ConfigError, match="refuses the login: check user and password in --store") as error:
                async with administering(parse_store_url(f"redis://{login}{host}")) as admin:
                    await admin.check_store()
            assert "wrong" not in str(error.value)
        async with administering(parse_store_url(f"redis://:secret@{host}")) as admin:
            assert await admin.check_store() == []
        async with administering(parse_store_url(f"redis://few:pw@{host}")) as admin:
            assert [
                "does not permit INFO: make sure that it is 7.0 or newer" in w for w in await admin.check_store()
            ] == [True]
            await admin.put_limits("0" * 32, LIMITS)
            with pytest.raises(ConfigError, match="does not permit this: the user in --store needs more rights"):
                await admin.delete("0" * 32)


async def test_the_wrong_kind_of_store_is_named(embedded_cluster: str, embedded_single: str) -> None:
    one_of_cluster = embedded_cluster.replace("+cluster", "").split(",")[0]
    async with administering(parse_store_url(one_of_cluster)) as admin:
        with pytest.raises(ConfigError, match=r"is part of a cluster: use redis\+cluster:// in --store"):
            await admin.check_store()
        with pytest.raises(ConfigError, match=r"is part of a cluster: use redis\+cluster:// in --store"):
            await admin.get(next(k for k in map(key_id, map(str, range(100))) if _slot(k) > 5460))
    with pytest.raises(ConfigError, match="is not a cluster: use redis:// in --store"):
        async with administering(parse_store_url(embedded_single.replace("redis://", "redis+cluster://"))):
            pass
    with pytest.raises(ConfigError, match="has no database 99"):
        async with administering(parse_store_url(f"{embedded_single}/99")) as admin:
            await admin.check_store()


async def test_a_replica_is_refused() -> None:
    async with EmbeddedStore("single") as primary, EmbeddedStore("single") as replica:
        async with client_of(replica.url, "") as client:
            await client.execute_command("REPLICAOF", "127.0.0.1", primary.servers[0].port)
        async with administering(parse_store_url(replica.url)) as admin:
            with pytest.raises(ConfigError, match="is a replica: give its primary"):
                await admin.check_store()
            with pytest.raises(ConfigError, match="is a read-only replica"):
                await admin.put_limits("0" * 32, LIMITS)


async def test_a_failover_of_a_cluster_passes(embedded_cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What would be a wrong --store with one server is a moment's state of a cluster: to be tried again."""

    async def demoted(self: Redis) -> dict[str, str | int]:
        return {"redis_version": "7.0.0", "maxmemory_policy": "noeviction", "cluster_enabled": 1, "role": "slave"}

    monkeypatch.setattr(Redis, "info", demoted)
    address = parse_store_url(embedded_cluster)
    async with administering(address) as admin:
        with pytest.raises(StoreUnavailable, match="a failover is under way"):
            await admin.check_store()
    for error in (MovedError("1 127.0.0.1:1"), ReadOnlyError("You can't write against a read only replica.")):
        assert isinstance(translate(error, address), StoreUnavailable)
        assert isinstance(translate(error, parse_store_url("redis://127.0.0.1")), ConfigError)


@pytest.mark.parametrize("scheme", ["redis", "redis+cluster"])
async def test_a_store_that_is_away_is_named(scheme: str, free_port: int) -> None:
    with pytest.raises(
        StoreUnavailable, match=rf"cannot reach the store at {re.escape(scheme)}://127.0.0.1:{free_port}"
    ):
        async with administering(parse_store_url(f"{scheme}://127.0.0.1:{free_port}")) as admin:
            await admin.check_store()


async def test_keys_of_other_shards_stay_in_reach_when_a_master_is_down() -> None:
    """Also of the first endpoint: the others are asked."""
    async with EmbeddedStore("cluster") as store:
        kids = [key_id(str(number)) for number in range(20)]
        async with administering(parse_store_url(store.url)) as admin:
            await admin.load_limits(dict.fromkeys(kids, LIMITS))
        store.servers[0].kill()
        async with administering(parse_store_url(store.url)) as admin:
            found = 0
            for kid in kids:
                with suppress(StoreUnavailable):
                    found += await admin.get(kid) == LIMITS
            assert 0 < found < 20
            with pytest.raises(StoreUnavailable):
                await admin.check_store()


async def test_a_cluster_with_slots_that_nobody_owns_is_refused() -> None:
    async with EmbeddedStore("cluster") as store:
        async with Redis(port=store.servers[0].port, protocol=2) as client:
            await client.execute_command("CLUSTER DELSLOTSRANGE", 0, 9)
        async with administering(parse_store_url(store.url)) as admin:
            with pytest.raises(StoreUnavailable, match="10 of its slots have no server"):
                await admin.check_store()


async def test_a_slot_that_has_moved_is_found() -> None:
    async with EmbeddedStore("cluster") as store, administering(parse_store_url(store.url)) as admin:
        kid = next(k for k in map(key_id, map(str, range(100))) if _slot(k) < 5461)
        source, target = (store.servers[i].port for i in (0, 1))
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(Redis(port=s.port, protocol=2)) for s in store.servers]
            node_id = (await clients[1].execute_command("CLUSTER MYID")).decode()
            for client in (clients[1], clients[0], clients[2]):
                await client.execute_command("CLUSTER SETSLOT", _slot(kid), "NODE", node_id)
        assert source != target
        await admin.put_limits(kid, LIMITS)
        assert await admin.get(kid) == LIMITS


def _slot(kid: str) -> int:
    from redis.crc import key_slot

    return int(key_slot(keyspace.limits_key(kid).encode()))


async def test_tls_with_a_password_and_a_client_certificate(tmp_path: Path) -> None:
    authority, stranger = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    stranger.cert_pem.write_to_path(tmp_path / "stranger.pem")
    authority.issue_cert("client").private_key_and_cert_chain_pem.write_to_path(tmp_path / "client.pem")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    async with EmbeddedStore("single") as store, FaultProxy(store.servers[0].port, tls=context) as proxy:
        async with client_of(store.url, "") as client:
            await client.config_set("requirepass", "p@ss")
        base = f"rediss://:p%40ss@127.0.0.1:{proxy.port}?ssl_certfile={tmp_path}/client.pem"
        async with administering(parse_store_url(f"{base}&ssl_ca_certs={tmp_path}/ca.pem")) as admin:
            assert await admin.check_store() == []
            await admin.put_limits("0" * 32, LIMITS)
            assert await admin.get("0" * 32) == LIMITS
        # Decisions take their own connections, by the same URL.
        async with dispatching(f"{base}&ssl_ca_certs={tmp_path}/ca.pem") as dispatcher:
            assert (await dispatcher.admit("0" * 32, Need(1, 1, 0))).used == Amounts(1, 1, 1)
        stranger_url = f"{base}&ssl_ca_certs={tmp_path}/stranger.pem"
        for wrong in (stranger_url, stranger_url.replace("stranger", "ca").replace("p%40ss", "wrong")):
            async with dispatching(wrong, timeout_ms=300) as dispatcher:
                with pytest.raises(StoreUnavailable):
                    await dispatcher.admit("0" * 32, Need(1, 1, 0))
        with pytest.raises(ConfigError, match="is not trusted: give ssl_ca_certs=FILE in --store"):
            async with administering(parse_store_url(f"{base}&ssl_ca_certs={tmp_path}/stranger.pem")) as admin:
                await admin.check_store()
        async with administering(parse_store_url(f"{base}&ssl_cert_reqs=none")) as admin:
            assert await admin.get("0" * 32) == LIMITS
        with pytest.raises(StoreUnavailable, match=r"cannot reach the store at redis://127\.0\.0\.1:"):
            async with administering(parse_store_url(f"redis://127.0.0.1:{proxy.port}")) as admin:
                await admin.check_store()


async def test_decisions_on_a_cluster_with_a_password(request: pytest.FixtureRequest) -> None:
    async with EmbeddedStore("cluster") as store:
        for server in store.servers:
            client = Redis(port=server.port)
            await client.config_set("requirepass", "secret")
            await client.aclose()
        url = store.url.replace("://", "://:secret@")
        async with administering(parse_store_url(url)) as admin:
            kids = [kid_of(request, number) for number in range(20)]
            await admin.load_limits(dict.fromkeys(kids, LIMITS))
        async with dispatching(url) as dispatcher:
            decisions = await asyncio.gather(*(dispatcher.admit(kid, Need(1, 1, 0)) for kid in kids))
            assert {decision.used for decision in decisions} == {Amounts(1, 1, 1)}
            await dispatcher.check()


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="no system server")
async def test_a_system_redis_passes() -> None:
    async with (
        EmbeddedStore("cluster", binary="redis-server") as store,
        administering(parse_store_url(store.url)) as admin,
    ):
        assert await admin.check_store() == []
        await admin.put_limits("0" * 32, LIMITS)
        assert await admin.peek("0" * 32) is not None
