"""Whether there is such a key, asked before anything of its request is read: who is met by that, and what it costs."""

from __future__ import annotations

import asyncio
import gc

import pytest
from dispatching import dispatching
from node_commands import eventually
from redis import Redis
from store_tools import Declared, declare, new_api_key, raw_counters, store_client
from test_degraded import ONE, behind_proxy, local

from limiter_node.credentials import key_id
from limiter_node.decisions import UNKNOWN_KEY, Outcome
from limiter_node.errors import StoreUnavailable
from limiter_node.key_states import CredentialState
from limiter_node.limiter.admission import Limiter
from limiter_node.limiter.policies import OpenPolicy
from limiter_node.limits import KeyLimits
from limiter_node.store.admin.store_admin import administering
from limiter_node.store.decisions.dispatcher import Dispatcher
from limiter_node.store.decisions.key_exists import _LimitsRead
from limiter_node.store.embedded.stores import EmbeddedStore
from limiter_node.store.url import parse_store_url


@pytest.fixture(params=["embedded_cluster", "system_cluster"])
def cluster(request: pytest.FixtureRequest) -> str:
    url = request.getfixturevalue(request.param)
    assert isinstance(url, str)
    return url


async def test_a_declared_key_is_met_and_nothing_is_counted(cluster: str) -> None:
    url = cluster
    kids = [declare(url, new_api_key(), rpm=2) for _ in range(20)]
    before = [raw_counters(url, kid) for kid in kids]
    async with dispatching(url) as dispatcher:
        assert not any(map(dispatcher.knows, kids))
        assert set(await asyncio.gather(*map(dispatcher.find, kids))) == {CredentialState.VALID}
        assert all(map(dispatcher.knows, kids))
        assert [raw_counters(url, kid) for kid in kids] == before
        decided = [(await dispatcher.admit(kids[0], ONE)).outcome for _ in range(3)]
        assert decided == [Outcome.ADMITTED, Outcome.ADMITTED, Outcome.REJECTED]


async def test_an_invented_key_is_counted_and_leaves_nothing_behind(embedded_single: str) -> None:
    async with dispatching(embedded_single, policy=local(1)) as dispatcher:
        limiter = Limiter(dispatcher)
        for _ in range(3):
            invented = [key_id(new_api_key()) for _ in range(200)]
            assert set(await asyncio.gather(*map(limiter.find, invented))) == {UNKNOWN_KEY}
            assert not any(map(limiter.knows, invented))
        assert limiter.telemetry.decisions.by_reason()["unknown_key", "none"] == 600
        finding = dispatcher._finder
        assert not dispatcher._queues
        assert not dispatcher._queues.unmet
        assert not finding._under_way
        assert not finding._to_send
        gc.collect()
        assert not [each for each in gc.get_objects() if type(each) is _LimitsRead and each._finder is finding]


async def test_requests_of_one_turn_share_a_write_and_those_of_one_key_a_read(
    embedded_single: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kids = [declare(embedded_single, new_api_key()), key_id(new_api_key())]
    async with dispatching(embedded_single) as dispatcher:
        sent: list[int] = []
        send = dispatcher._router.send
        monkeypatch.setattr(dispatcher._router, "send", lambda calls: (sent.append(len(calls)), send(calls)))
        found = await asyncio.gather(*(dispatcher.find(kid) for kid in kids * 10))
    assert found == [CredentialState.VALID, CredentialState.UNKNOWN] * 10
    assert sent == [2]


async def test_a_key_that_is_made_while_it_is_looked_for_is_found_by_the_next_request(embedded_single: str) -> None:
    """Which must not share the answer to a read that may have been made before."""
    async with dispatching(embedded_single) as dispatcher:
        for _ in range(20):
            api_key = new_api_key()
            first = asyncio.ensure_future(dispatcher.find(key_id(api_key)))
            await asyncio.sleep(0)
            await asyncio.sleep(0)  # it is on its way
            kid = declare(embedded_single, api_key)
            assert not first.done()
            assert await dispatcher.find(kid) is CredentialState.VALID
            await first


async def test_one_that_gives_up_waiting_takes_nothing_from_the_others(embedded_single: str) -> None:
    kid = declare(embedded_single, new_api_key())
    async with behind_proxy(embedded_single, timeout_ms=20_000) as (proxy, dispatcher):
        proxy.delay_s = 0.05
        waiting = [asyncio.ensure_future(dispatcher.find(kid)) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        assert await asyncio.gather(*waiting[1:]) == [CredentialState.VALID] * 2
        assert waiting[0].cancelled()


@pytest.mark.parametrize("policy", [lambda _: None, local(1), lambda _: OpenPolicy()])
async def test_without_the_store_nobody_says_that_a_key_is_unknown(embedded_single: str, policy: object) -> None:
    met, unmet = (declare(embedded_single, new_api_key()) for _ in range(2))
    async with behind_proxy(embedded_single, policy=policy) as (proxy, dispatcher):
        assert await dispatcher.find(met) is CredentialState.VALID
        proxy.pass_replies = False
        for kid in (unmet, key_id(new_api_key())):
            with pytest.raises(StoreUnavailable):
                await dispatcher.find(kid)
        assert dispatcher.knows(met)
        assert dispatcher.outage.is_on, "the shard is cut off, also where nothing else was asked of it"
        assert dispatcher.state().shards_cut_off == 1
        asked = asyncio.ensure_future(dispatcher.find(unmet))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert isinstance(asked.exception(), StoreUnavailable), "at once"
        assert dispatcher.state().degraded["refused"] == 3
        proxy.pass_replies = True
        await eventually(lambda: not dispatcher.outage.is_on)
        assert await dispatcher.find(unmet) is CredentialState.VALID
        assert dispatcher.knows(unmet)


async def test_a_store_that_decides_nothing_for_now_is_no_word_on_a_key() -> None:
    kid = key_id(new_api_key())
    async with EmbeddedStore("single") as store, dispatching(store.url, timeout_ms=200) as dispatcher:
        with store_client(store.url) as client:
            assert isinstance(client, Redis)
            client.acl_setuser("default", enabled=True, nopass=True, commands=["-evalsha", "-eval"])
            with pytest.raises(StoreUnavailable):
                await dispatcher.find(kid)
            client.acl_setuser("default", enabled=True, nopass=True, commands=["+evalsha", "+eval"])
        await eventually(lambda: not dispatcher.outage.is_on)
        assert await dispatcher.find(kid) is CredentialState.UNKNOWN


async def test_a_deleted_key_is_unknown_until_it_is_put_again(embedded_single: str) -> None:
    kid = key_id(new_api_key())
    async with administering(parse_store_url(embedded_single)) as admin, dispatching(embedded_single) as dispatcher:
        for _ in range(2):
            assert await dispatcher.find(kid) is CredentialState.UNKNOWN
            await admin.put_limits(kid, KeyLimits(rpm=5))
            assert await dispatcher.find(kid) is CredentialState.VALID
            await admin.delete(kid)
            assert (await dispatcher.admit(kid, ONE)).outcome is Outcome.UNKNOWN_KEY
            assert not dispatcher.knows(kid)


async def test_a_key_that_the_store_has_lost_is_found_in_the_keys_file() -> None:
    lost, deleted = key_id("sk-lost"), key_id("sk-deleted")
    file = Declared({kid: KeyLimits(rpm=3, name="declared") for kid in (lost, deleted)})

    async def find_all(dispatcher: Dispatcher) -> list[bool]:
        return await asyncio.gather(*map(dispatcher.find, (lost, deleted, key_id("sk-invented"))))

    async with EmbeddedStore("single") as store, administering(parse_store_url(store.url)) as admin:
        await admin.put_limits(deleted, KeyLimits(rpm=3))
        await admin.delete(deleted)
        expected = [CredentialState.VALID, CredentialState.UNKNOWN, CredentialState.UNKNOWN]
        async with dispatching(store.url, declared=file) as dispatcher:
            assert await find_all(dispatcher) == expected
            assert (await admin.get(lost)) == KeyLimits(rpm=3, name="declared")
            assert dispatcher.knows(lost)
            assert not dispatcher.knows(deleted)
            assert await find_all(dispatcher) == expected
