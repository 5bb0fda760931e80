"""What nodes keep and do through rarer courses of events; some tests have a case in which nothing is the matter."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from pathlib import Path
from unittest import mock

import pytest
from dispatching import dispatching
from node_commands import eventually
from store_tools import Declared, declare, new_api_key, store_client
from test_degraded import BUDGET_MS, ONE, behind_proxy, local, outcomes, recovered, used
from test_keys_known import ask, lose_all
from test_losses import frozen, lose_window

from limiter_node.credentials import key_id
from limiter_node.decisions import Need, Outcome
from limiter_node.declarations import Declarations
from limiter_node.errors import Overloaded, StoreUnavailable
from limiter_node.key_states import CredentialState
from limiter_node.keysfile.reading import read_keys
from limiter_node.keysfile.watching import KeysFile
from limiter_node.limiter.admission import Limiter
from limiter_node.limits import KeyLimits
from limiter_node.store.admin.preparation import Preparation
from limiter_node.store.admin.store_admin import administering
from limiter_node.store.decisions import queues
from limiter_node.store.embedded.stores import EmbeddedStore
from limiter_node.store.keyspace import limits_key
from limiter_node.store.url import parse_store_url

# ---- the own window --------------------------------------------------------------------------------------------------


async def test_what_is_given_back_of_a_late_verdict_is_taken_off_where_the_node_had_admitted_it() -> None:
    """One node, an outage: never more than the limit. The store counts a request later than the node admitted it."""
    async with EmbeddedStore("single") as store:
        kid = declare(store.url, new_api_key(), output_tpm=1_000)
        async with dispatching(
            store.url, timeout_ms=BUDGET_MS, stall_timeout_s=20, policy=local(1), window_buckets=40
        ) as dispatcher:
            limiter = Limiter(dispatcher)
            assert await ask(dispatcher, kid) is Outcome.ADMITTED
            begun_s = time.monotonic()
            async with frozen(store.servers[0]):
                early = await limiter.admit(kid, Need(1, 500, 0))
                assert (early.outcome, early.degraded) == (Outcome.ADMITTED, "local")
                await asyncio.sleep(1.5)
            await eventually(lambda: not dispatcher._batches.in_flight and not dispatcher.outage.is_on)
            late = await limiter.admit(kid, Need(1, 400, 0))
            late_s = time.monotonic()
            assert (late.outcome, late.degraded) == (Outcome.ADMITTED, "")
            limiter.reservation(kid, early).settle(0)
            assert await dispatcher.drain(5)
            assert (await used(dispatcher, kid)).output_tokens == 401
            await asyncio.sleep(begun_s + 4.5 - time.monotonic())
            async with frozen(store.servers[0]):
                decision = await limiter.admit(kid, Need(1, 900, 0))
                assert time.monotonic() - late_s < 3.9, "the machine is too slow for this test"
                assert decision.degraded == "local"
                assert decision.outcome is Outcome.REJECTED, "400 of the last 4 s and these 900 are above the limit"


async def test_what_is_given_back_of_a_late_verdict_is_given_back_after_a_loss() -> None:
    async with EmbeddedStore("single") as store:
        kid = declare(store.url, new_api_key())
        async with dispatching(
            store.url, timeout_ms=BUDGET_MS, stall_timeout_s=20, policy=local(1), window_buckets=100
        ) as dispatcher:
            limiter = Limiter(dispatcher)
            assert await ask(dispatcher, kid) is Outcome.ADMITTED
            async with frozen(store.servers[0]):
                early = await limiter.admit(kid, Need(1, 500, 0))
                assert early.degraded == "local"
                await asyncio.sleep(0.7)
            await eventually(lambda: not dispatcher._batches.in_flight and not dispatcher.outage.is_on)
            limiter.reservation(kid, early).settle(0)
            assert await dispatcher.drain(5)
            lose_window(store.url, kid)
            assert await ask(dispatcher, kid) is Outcome.ADMITTED
            usage = await dispatcher.peek(kid)
            assert usage is not None
            assert sum(bucket.output_tokens for bucket in usage.buckets) == 2


@pytest.mark.parametrize("decided_late", [False, True])
async def test_a_loss_is_noticed_after_a_batch_that_was_decided_late_and_told_from_its_record(
    decided_late: bool,
) -> None:
    """Its record is younger than the batch: it counts for a window from its decision on."""
    async with EmbeddedStore("single") as store:
        kid = declare(store.url, new_api_key(), rpm=10)
        async with behind_proxy(store.url, timeout_ms=20_000, stall_timeout_s=20, window_buckets=40) as (
            proxy,
            dispatcher,
        ):
            await ask(dispatcher, key_id(new_api_key()))  # the store has the script from then on
            begun_s = time.monotonic()
            proxy.pass_replies = False
            if decided_late:
                async with frozen(store.servers[0]):
                    waiting = asyncio.ensure_future(outcomes(dispatcher, kid, 20))
                    await asyncio.sleep(2.5)
            else:
                await asyncio.sleep(2.5)
                waiting = asyncio.ensure_future(outcomes(dispatcher, kid, 20))
            decided_s = time.monotonic()
            await proxy.swallowed.wait()
            proxy.pass_replies = True
            proxy.reset_all()
            assert (await waiting)[Outcome.ADMITTED, ""] == 10
            await asyncio.sleep(begun_s + 4.3 - time.monotonic())
            lose_window(store.url, kid)
            admitted = (await outcomes(dispatcher, kid, 12))[Outcome.ADMITTED, ""]
            assert time.monotonic() - decided_s < 3.5, "the machine is too slow for this test"
            assert admitted == 0, "10 were admitted less than a window ago"


async def test_what_a_loss_leaves_with_a_node_is_gone_with_the_window(embedded_single: str) -> None:
    kid = declare(embedded_single, new_api_key())
    async with dispatching(embedded_single, policy=local(1), window_buckets=10) as dispatcher:
        for _ in range(8):
            assert await ask(dispatcher, kid) is Outcome.ADMITTED
            await asyncio.sleep(0.1)
        lose_window(embedded_single, kid)
        assert await ask(dispatcher, kid) is Outcome.ADMITTED
        assert dispatcher._queues[kid].knowledge.recharges
        await asyncio.sleep(1.5)
        assert await ask(dispatcher, kid) is Outcome.ADMITTED
        assert not dispatcher._queues[kid].knowledge.recharges, "nothing of it counts any more"


# ---- a healthy shard -------------------------------------------------------------------------------------------------


LONGER_BUDGET_MS = 1_000
"""Less than a `SlowFile` takes; more than a busy machine takes to look at some hundreds of requests."""


class SlowFile(Declared):
    """A keys file that takes a while to be read: it is large, or its disk is slow."""

    def declarations(self) -> Declarations:
        if self.reads:
            time.sleep(1.6)
        return super().declarations()


async def test_a_keys_file_that_is_read_slowly_cuts_no_shard_off(embedded_single: str) -> None:
    kid = declare(embedded_single, new_api_key())
    file = SlowFile({kid: KeyLimits()})
    async with dispatching(embedded_single, timeout_ms=LONGER_BUDGET_MS, policy=local(1), declared=file) as dispatcher:
        assert await ask(dispatcher, kid) is Outcome.ADMITTED
        await eventually(lambda: dispatcher._declared._reading is None)
        dispatcher._declared._fresh_until_s = 0.0
        invented = asyncio.ensure_future(dispatcher.admit(key_id(new_api_key()), ONE))
        degraded = []
        for _ in range(20):
            degraded.append((await dispatcher.admit(kid, ONE)).degraded)
            await asyncio.sleep(0.02)
        await asyncio.wait({invented})
        invented.exception()
        assert dispatcher.outage.shards.openings == 0
        assert set(degraded) == {""}


async def test_a_peek_ends_whenever_the_store_stops_answering(embedded_single: str) -> None:
    async with behind_proxy(embedded_single, policy=local(1)) as (proxy, dispatcher):
        kid = key_id(new_api_key())

        class Stops(Declared):
            def declarations(self) -> Declarations:
                proxy.pass_requests = False
                return super().declarations()

        assert await dispatcher.peek(kid) is CredentialState.UNKNOWN
        dispatcher._declared._file = Stops({kid: KeyLimits()})
        with pytest.raises(StoreUnavailable):
            async with asyncio.timeout(3):
                await dispatcher.peek(kid)


async def test_a_batch_that_is_refused_for_good_is_not_asked_again_forty_times_a_second(
    embedded_single: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor is each refusal an ERROR line; and what has left the window is given up."""
    kid = declare(embedded_single, new_api_key())
    async with dispatching(embedded_single, policy=local(1), window_buckets=10) as dispatcher:
        limiter = Limiter(dispatcher)
        decision = await limiter.admit(kid, Need(1, 100, 0))
        with store_client(embedded_single) as client:
            client.set(limits_key(kid), b"damaged")
        limiter.reservation(kid, decision).settle(10)
        await asyncio.sleep(1.5)
        caplog.clear()
        with caplog.at_level(logging.ERROR):
            await asyncio.sleep(1)
        refused = sum("refused a script" in record.message for record in caplog.records)
        assert refused <= 2, refused
        assert await dispatcher.drain(0.5)


# ---- keys ------------------------------------------------------------------------------------------------------------


async def test_a_deleted_key_stays_revoked_where_a_node_was_told_so_that_had_not_met_it_before() -> None:
    """docs/failures.md: a node does not declare a key that the store has reported as deleted to this node."""
    kid = key_id("sk-deleted")
    file = Declared({kid: KeyLimits()})
    async with (
        EmbeddedStore("single") as store,
        administering(parse_store_url(store.url)) as admin,
        dispatching(store.url, policy=local(1), declared=file) as dispatcher,
    ):
        await admin.put_limits(kid, KeyLimits())
        await admin.delete(kid)
        assert await ask(dispatcher, kid) is Outcome.UNKNOWN_KEY
        lose_all(store.url)
        assert await ask(dispatcher, kid) is Outcome.UNKNOWN_KEY


async def test_a_key_that_was_revoked_while_a_node_waited_for_its_store_is_not_loaded(tmp_path: Path) -> None:
    """`serve --keys`: the file as it was at the start is loaded, hours later, and the marks of deletions go."""
    path = tmp_path / "keys.toml"
    path.write_text('[keys."sk-bad"]\n[keys."sk-good"]\n')
    bad = key_id("sk-bad")
    async with EmbeddedStore("single") as store, administering(parse_store_url(store.url)) as admin:
        await admin.put_limits(bad, KeyLimits())
        preparation = Preparation(parse_store_url(store.url), read_keys(path), lambda: read_keys(path))
        async with frozen(store.servers[0]):
            assert not await preparation.check(0.3), "the store is away when the node starts"
        assert await admin.delete(bad)
        path.write_text('[keys."sk-good"]\n')
        await preparation.complete()
        assert await admin.get(key_id("sk-good")) is not None
        assert await admin.get(bad) is None


@pytest.mark.parametrize("was_read_between", [True, False])
async def test_a_key_revoked_as_readme_says_stays_revoked_after_a_loss(tmp_path: Path, was_read_between: bool) -> None:
    """Declared after the node's start, and revoked by both steps; the node isn't asked for it until the loss."""
    path = tmp_path / "keys.toml"
    path.write_text('[keys."sk-old"]\n')
    kid = key_id("sk-new")
    async with (
        EmbeddedStore("single") as store,
        administering(parse_store_url(store.url)) as admin,
        dispatching(store.url, policy=local(1), declared=KeysFile(path)) as dispatcher,
    ):
        await eventually(lambda: dispatcher._declared._reading is None)
        path.write_text('[keys."sk-old"]\n[keys."sk-new"]\n')
        await admin.apply(read_keys(path))
        await asyncio.sleep(1.1)
        if was_read_between:
            assert await ask(dispatcher, key_id("sk-invented")) is Outcome.UNKNOWN_KEY
        assert await ask(dispatcher, kid) is Outcome.ADMITTED
        path.write_text('[keys."sk-old"]\n')
        assert await admin.delete(kid)
        await asyncio.sleep(1.1)
        lose_all(store.url)
        assert await ask(dispatcher, kid) is Outcome.UNKNOWN_KEY


@pytest.mark.parametrize("step_s", [0.0, -3600.0])
async def test_a_nodes_clock_that_steps_back_does_not_put_the_file_before_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step_s: float
) -> None:
    """The store's later word is that the key is deleted; the file, which has it, hasn't changed since the start."""
    path, kid = tmp_path / "keys.toml", key_id("sk-deleted")
    path.write_text('[keys."sk-deleted"]\n')
    async with (
        EmbeddedStore("single") as store,
        administering(parse_store_url(store.url)) as admin,
        dispatching(store.url, policy=local(1), declared=KeysFile(path)) as dispatcher,
    ):
        await admin.apply(read_keys(path))
        assert await ask(dispatcher, kid) is Outcome.ADMITTED
        await asyncio.sleep(1.5)
        await admin.delete(kid)
        assert await ask(dispatcher, kid) is Outcome.UNKNOWN_KEY
        now_s = time.time
        monkeypatch.setattr("limiter_node.keysfile.watching.time.time", lambda: now_s() + step_s)
        lose_all(store.url)
        assert await ask(dispatcher, kid) is Outcome.UNKNOWN_KEY


async def test_a_renamed_key_is_declared_again_with_its_new_name(embedded_single: str) -> None:
    api_key = new_api_key()
    kid = declare(embedded_single, api_key, rpm=1, name="old")
    async with dispatching(embedded_single, policy=local(1)) as dispatcher:
        await outcomes(dispatcher, kid, 2)
        declare(embedded_single, api_key, rpm=1, name="new")
        assert (await dispatcher.admit(kid, ONE)).name == "new", "the node is told"
        with store_client(embedded_single) as client:
            client.delete(limits_key(kid))
        assert (await dispatcher.admit(kid, ONE)).name == "new"


def test_a_keys_file_that_is_written_in_place_says_nothing_new_of_a_key(tmp_path: Path) -> None:
    """A read between truncation and write must not put the file's word before the store's later one."""
    path, kid = tmp_path / "keys.toml", key_id("sk-a")
    path.write_text('[keys."sk-a"]\n')
    file = KeysFile(path)
    file._path.touch()
    assert kid in file.declarations().plain
    path.write_text("")
    writing = threading.Timer(0.03, path.write_text, ('[keys."sk-a"]\n',))
    writing.start()
    assert kid in file.declarations().plain, "it waits until the file is at rest"
    writing.join()
    assert file.changed_s_ago(kid) == float("inf")


# ---- memory ----------------------------------------------------------------------------------------------------------


async def test_an_invented_key_that_is_refused_for_overload_leaves_nothing(embedded_single: str) -> None:
    async with behind_proxy(embedded_single, timeout_ms=20_000, stall_timeout_s=20, max_waiting=5) as (
        proxy,
        dispatcher,
    ):
        proxy.pass_requests = False
        waiting = [dispatcher.admit(key_id(new_api_key()), ONE) for _ in range(5)]
        for _ in range(200):
            with pytest.raises(Overloaded):
                dispatcher.admit(key_id(new_api_key()), ONE)
        proxy.pass_requests = True
        proxy.reset_all()
        await asyncio.wait(waiting)
        await eventually(lambda: not dispatcher._batches.in_flight)
        await asyncio.sleep(0.1)
        assert not dispatcher._queues.unmet


async def test_a_forgotten_charge_that_ends_late_leaves_no_queue(
    embedded_single: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queues, "MOST", 1)
    monkeypatch.setattr(queues, "MOST_OF_ALL", 1)
    kid, *others = (declare(embedded_single, new_api_key()) for _ in range(3))
    async with behind_proxy(embedded_single, policy=local(1), window_buckets=5) as (proxy, dispatcher):
        limiter = Limiter(dispatcher)
        await limiter.admit(kid, Need(1, 100, 0))
        proxy.pass_requests = False
        await limiter.admit(kid, Need(1, 100, 0))
        reservation = limiter.reservation(kid, await limiter.admit(kid, Need(1, 100, 0)))
        await asyncio.sleep(1.5)
        proxy.pass_requests = True
        await recovered(dispatcher)
        for other in others:
            await limiter.admit(other, ONE)
        assert dispatcher._queues.find(kid) is None
        reservation.settle(10)
        await asyncio.sleep(0.1)
        assert not dispatcher._queues.unmet


async def test_keys_that_stay_busy_keep_no_other_from_being_forgotten(
    embedded_single: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As keys of a shard that is away do, whose settles wait."""
    monkeypatch.setattr(queues, "MOST", 6)
    monkeypatch.setattr(queues, "MOST_OF_ALL", 6)
    monkeypatch.setattr(queues, "_LOOKED_AT", 2)
    busy = [declare(embedded_single, new_api_key()) for _ in range(2)]
    others = [declare(embedded_single, new_api_key()) for _ in range(50)]
    async with dispatching(embedded_single, policy=local(1)) as dispatcher:
        limiter = Limiter(dispatcher)
        for kid in busy:
            decision = await limiter.admit(kid, Need(1, 100, 0))
            with store_client(embedded_single) as client:
                client.set(limits_key(kid), b"damaged")
            limiter.reservation(kid, decision).settle(10)
        for kid in others:
            await limiter.admit(kid, ONE)
        assert len(dispatcher._queues) <= 8, "as many as may be, and the busy ones"


# ---- more keys than a node keeps -------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [2, 5])
@pytest.mark.parametrize("fault", ["outage", "loss"])
async def test_a_node_forgets_nothing_early_whatever_else_it_is_asked(
    embedded_single: str, monkeypatch: pytest.MonkeyPatch, fault: str, most: int
) -> None:
    """REPORT §6, rule 1: a node forgets nothing early; one node, any outage or loss: L."""
    monkeypatch.setattr(queues, "MOST", most)
    kid, *others = (declare(embedded_single, new_api_key(), rpm=10) for _ in range(3))
    async with behind_proxy(embedded_single, policy=local(1)) as (proxy, dispatcher):
        assert (await outcomes(dispatcher, kid, 10))[Outcome.ADMITTED, ""] == 10
        for other in others:
            await ask(dispatcher, other)
        assert await ask(dispatcher, kid) is Outcome.REJECTED
        if fault == "outage":
            proxy.pass_requests = False
        else:
            lose_window(embedded_single, kid)
        answers = [await ask(dispatcher, kid) for _ in range(10)]
        assert answers.count(Outcome.ADMITTED) == 0


async def test_invented_keys_cut_no_shard_off_while_the_keys_file_is_read(embedded_single: str) -> None:
    kid = declare(embedded_single, new_api_key())
    file = SlowFile({kid: KeyLimits()})
    async with dispatching(embedded_single, timeout_ms=LONGER_BUDGET_MS, policy=local(1), declared=file) as dispatcher:
        assert await ask(dispatcher, kid) is Outcome.ADMITTED
        await eventually(lambda: dispatcher._declared._reading is None)
        dispatcher._declared._fresh_until_s = 0.0
        invented, known = [], []
        for _ in range(500):
            invented.append(asyncio.ensure_future(dispatcher.admit(key_id(new_api_key()), ONE)))
            known.append(asyncio.ensure_future(dispatcher.admit(kid, ONE)))
            await asyncio.sleep(0.001)
        await asyncio.wait(invented)
        await asyncio.wait(known)
        assert sum(not each.exception() for each in invented) == 500
        assert (dispatcher.outage.shards.openings, sum(bool(each.result().degraded) for each in known)) == (0, 0)


# ---- a clock that steps back -----------------------------------------------------------------------------------------

_LIBRARIES = [Path(os.environ.get("JUDGE_FAKETIME", "/nowhere")), *Path("/usr/lib").glob("*/faketime/libfaketime.so.1")]
FAKETIME = next((path for path in _LIBRARIES if path.exists()), None)


@pytest.mark.skipif(FAKETIME is None, reason="no libfaketime on this machine")
@pytest.mark.parametrize("step_s", [0.0, -3600.0])
async def test_what_a_node_had_admitted_leaves_its_own_window_though_the_clock_stepped_back(step_s: float) -> None:
    """The key was deleted and put again meanwhile, so that the store's window has no history to go on from."""
    faked = {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": "clock",
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    store = EmbeddedStore("single")
    with mock.patch.dict(os.environ, faked):
        await store.start()
    try:
        kid = declare(store.url, new_api_key(), rpm=10)
        async with dispatching(
            store.url, timeout_ms=BUDGET_MS, stall_timeout_s=20, policy=local(1), window_buckets=10
        ) as dispatcher:
            assert (await outcomes(dispatcher, kid, 10))[Outcome.ADMITTED, ""] == 10
            (store.servers[0].directory / "clock").write_text(f"{step_s:+f}")
            async with administering(parse_store_url(store.url)) as admin:
                await admin.delete(kid)
                await admin.put_limits(kid, KeyLimits(rpm=10))
            await asyncio.sleep(3)  # three windows
            assert await ask(dispatcher, kid) is Outcome.ADMITTED
            await asyncio.sleep(1.5)
            async with frozen(store.servers[0]):
                decided = await outcomes(dispatcher, kid, 5)
            assert decided == {(Outcome.ADMITTED, "local"): 5}
    finally:
        store.stop()
