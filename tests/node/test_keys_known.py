"""Known and unknown keys apart: what a node keeps of them, and which word on a key is the last one."""

from __future__ import annotations

import asyncio
import gc
import os
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from dispatching import dispatching
from node_commands import eventually
from redis import Redis
from store_tools import Declared, declare, new_api_key, store_client
from test_degraded import ONE, behind_proxy, local, outcomes

from limiter_node.credentials import key_id
from limiter_node.decisions import Need, Outcome
from limiter_node.errors import StoreUnavailable
from limiter_node.key_states import CredentialState
from limiter_node.keysfile.watching import KeysFile
from limiter_node.limiter.admission import Limiter
from limiter_node.limits import Amounts, KeyLimits
from limiter_node.store.admin.store_admin import administering
from limiter_node.store.batch import Batch
from limiter_node.store.decisions import queues
from limiter_node.store.decisions.dispatcher import Dispatcher
from limiter_node.store.embedded.stores import EmbeddedStore
from limiter_node.store.key_queue import KeyQueue
from limiter_node.store.keyspace import limits_key, past_key, window_key
from limiter_node.store.url import parse_store_url

LIMITS = KeyLimits(rpm=10, name="declared")


async def ask(dispatcher: Dispatcher, kid: str) -> Outcome:
    return (await dispatcher.admit(kid, ONE)).outcome


def lose_all(url: str) -> None:
    with store_client(url) as client:
        client.flushall()


# ---- what is kept ------------------------------------------------------------------------------------------------


async def test_invented_keys_leave_nothing_behind_and_drive_nothing_out(
    embedded_single: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queues, "MOST", 50)
    known = [declare(embedded_single, new_api_key(), rpm=3) for _ in range(50)]
    async with behind_proxy(embedded_single, policy=local(1)) as (proxy, dispatcher):
        for kid in known:
            assert (await outcomes(dispatcher, kid, 4))[Outcome.ADMITTED, ""] == 3
        for _ in range(10):
            invented = [key_id(new_api_key()) for _ in range(200)]
            answers = await asyncio.gather(*(ask(dispatcher, kid) for kid in invented))
            assert set(answers) == {Outcome.UNKNOWN_KEY}
            assert [await dispatcher.peek(kid) for kid in invented[:20]] == [CredentialState.UNKNOWN] * 20
        assert list(dispatcher._queues) == known
        assert not dispatcher._queues.unmet
        proxy.pass_requests = False
        with pytest.raises(StoreUnavailable):
            await ask(dispatcher, key_id(new_api_key()))
        assert {await ask(dispatcher, kid) for kid in known} == {Outcome.REJECTED}, "their limits are used up"
        refused = [dispatcher.admit(key_id(new_api_key()), ONE) for _ in range(100)]
        assert all(isinstance(each.exception(), StoreUnavailable) for each in refused)
        assert len(dispatcher._queues.unmet) == 1, "that of the batch under way"


async def test_the_least_recently_used_key_is_forgotten_first(
    embedded_single: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queues, "MOST", 3)
    monkeypatch.setattr(queues, "MOST_OF_ALL", 3)
    kids = [declare(embedded_single, new_api_key()) for _ in range(5)]
    async with dispatching(embedded_single) as dispatcher:
        for index in (0, 1, 2, 0, 3, 4, 0):
            await dispatcher.admit(kids[index], ONE)
        assert list(dispatcher._queues) == [kids[3], kids[4], kids[0]]
        busy = [dispatcher.admit(kid, ONE) for kid in kids[:3]]  # two of them are new
        await asyncio.gather(*busy)
        assert len(dispatcher._queues) == 3
        assert set(dispatcher._queues) >= {kids[1], kids[2]}


async def test_what_a_key_costs_a_node(embedded_single: str) -> None:
    """A known one 4 KB at most, however busy it was for a window; an invented one nothing."""
    count, cells = 200, 61
    kids = [declare(embedded_single, new_api_key()) for _ in range(count)]
    async with dispatching(embedded_single, policy=local(1)) as dispatcher:
        limiter = Limiter(dispatcher)
        for kid in [declare(embedded_single, new_api_key()), *(key_id(new_api_key()) for _ in range(200))]:
            await dispatcher.admit(kid, ONE)  # what is made once is made
        gc.collect()
        tracemalloc.start()
        try:
            for kid in kids:
                decision = await limiter.admit(kid, Need(1_000, 1_000, 0))
                limiter.reservation(kid, decision).settle(10)
                own = dispatcher._queues[kid].knowledge.own
                for second in range(1, cells):
                    own.add(
                        decision.time_ms + 1_000 * second,
                        Amounts(1_000, 1_000_000, 1_000_000),
                        decision.time_ms + 1_000 * second,
                    )
            assert await dispatcher.drain(20)
            gc.collect()
            after_known, _ = tracemalloc.get_traced_memory()
            for _ in range(10):
                await asyncio.gather(*(ask(dispatcher, key_id(new_api_key())) for _ in range(200)))
            await eventually(lambda: not dispatcher._pending)  # answered ones are let go by the next sweep
            gc.collect()
            after_invented, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert after_known / count <= 4_096
    assert (after_invented - after_known) / 2_000 < 100, "what dictionaries keep of their largest size, no more"


# ---- which word counts -------------------------------------------------------------------------------------------


async def test_a_key_revoked_in_file_and_store_stays_revoked_after_a_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """… another one's change stays changed, a third one is known: also if nobody asked for them since."""
    monkeypatch.setattr("limiter_node.store.decisions.declared_file._READ_PATIENCE_S", 5.0)  # for a busy machine
    file = tmp_path / "keys.toml"
    names = ("revoked", "changed", "added", "same")
    kids = {name: key_id(f"sk-{name}") for name in names}

    def write(**limits: int) -> None:
        file.write_text("".join(f'[keys."sk-{name}"]\nrpm = {rpm}\n' for name, rpm in limits.items()))

    async with (
        EmbeddedStore("single") as store,
        administering(parse_store_url(store.url)) as admin,
    ):
        write(revoked=5, changed=5, same=5)
        for name in ("revoked", "changed", "same"):
            await admin.put_limits(kids[name], KeyLimits(rpm=5))
        async with dispatching(store.url, policy=local(1), declared=KeysFile(file)) as dispatcher:
            for name in ("revoked", "changed", "same"):
                assert await ask(dispatcher, kids[name]) is Outcome.ADMITTED
            write(changed=3, added=4, same=5)
            await eventually(lambda: kids["added"] in dispatcher._declared._now.plain)
            await admin.delete(kids["revoked"])
            await admin.put_limits(kids["changed"], KeyLimits(rpm=3))
            await admin.put_limits(kids["added"], KeyLimits(rpm=4))
            lose_all(store.url)
            assert await ask(dispatcher, kids["revoked"]) is Outcome.UNKNOWN_KEY
            assert await dispatcher.peek(kids["revoked"]) is CredentialState.UNKNOWN
            for name, rpm, left in (("changed", 3, 2), ("added", 4, 4), ("same", 5, 4)):
                decided = await outcomes(dispatcher, kids[name], 6)
                assert decided == {(Outcome.ADMITTED, ""): left, (Outcome.REJECTED, ""): 6 - left}, name
                found = await admin.get(kids[name])
                assert found is not None
                assert found.rpm == rpm


async def test_what_the_store_told_last_counts_where_the_file_is_older() -> None:
    kids = {name: key_id(f"sk-{name}") for name in ("deleted", "changed", "by hand")}
    file = Declared({kids["deleted"]: LIMITS, kids["changed"]: LIMITS})
    async with (
        EmbeddedStore("single") as store,
        administering(parse_store_url(store.url)) as admin,
        dispatching(store.url, policy=local(1), declared=file) as dispatcher,
    ):
        for kid in kids.values():
            await admin.put_limits(kid, KeyLimits(rpm=5, name="by hand"))
            assert await ask(dispatcher, kid) is Outcome.ADMITTED
        await admin.delete(kids["deleted"])
        assert await ask(dispatcher, kids["deleted"]) is Outcome.UNKNOWN_KEY
        lose_all(store.url)
        for _ in range(2):
            assert await ask(dispatcher, kids["deleted"]) is Outcome.UNKNOWN_KEY, "the store had told so"
        for name in ("changed", "by hand"):
            decided = await outcomes(dispatcher, kids[name], 6)
            assert decided == {(Outcome.ADMITTED, ""): 4, (Outcome.REJECTED, ""): 2}
            assert await admin.get(kids[name]) == KeyLimits(rpm=5, name="by hand")
        assert dispatcher._redeclared.counts == {"store": 2}


async def test_a_key_that_is_lost_again_while_it_is_declared_is_not_taken_for_deleted(
    embedded_single: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kid = declare(embedded_single, new_api_key(), rpm=20)
    async with dispatching(embedded_single, policy=local(1)) as dispatcher:
        assert await ask(dispatcher, kid) is Outcome.ADMITTED
        redeclared, losses = dispatcher._replies._on_redeclared, 2

        def lose_again(*arguments: Any) -> None:
            nonlocal losses
            if losses:
                losses -= 1
                lose()
            redeclared(*arguments)

        def lose() -> None:
            with store_client(embedded_single) as client:
                client.delete(limits_key(kid), window_key(kid), past_key(kid))

        monkeypatch.setattr(dispatcher._replies, "_on_redeclared", lose_again)
        lose()
        assert await outcomes(dispatcher, kid, 3) == {(Outcome.ADMITTED, "local"): 3}
        assert await outcomes(dispatcher, kid, 3) == {(Outcome.ADMITTED, "local"): 3}
        assert await outcomes(dispatcher, kid, 20) == {(Outcome.ADMITTED, ""): 13, (Outcome.REJECTED, ""): 7}


async def test_a_key_that_the_file_has_again_is_declared_after_a_loss() -> None:
    """The store had said last that it is deleted; the file has it since."""
    kid = key_id("sk-again")
    file = Declared({kid: LIMITS})
    async with (
        EmbeddedStore("single") as store,
        administering(parse_store_url(store.url)) as admin,
        dispatching(store.url, policy=local(1), declared=file) as dispatcher,
    ):
        assert await ask(dispatcher, kid) is Outcome.ADMITTED
        await admin.delete(kid)
        file.keys.clear()
        dispatcher._declared._fresh_until_s = 0.0
        assert await ask(dispatcher, kid) is Outcome.UNKNOWN_KEY
        assert await ask(dispatcher, kid) is Outcome.UNKNOWN_KEY
        file.keys[kid] = LIMITS
        dispatcher._declared._fresh_until_s = 0.0
        lose_all(store.url)
        assert await ask(dispatcher, kid) is Outcome.ADMITTED


async def test_a_key_that_was_deleted_and_is_put_again_is_a_key(embedded_single: str) -> None:
    kid = key_id(new_api_key())
    file = Declared({kid: LIMITS})
    async with (
        administering(parse_store_url(embedded_single)) as admin,
        dispatching(embedded_single, policy=local(1), declared=file) as dispatcher,
    ):
        for _ in range(2):
            await admin.put_limits(kid, LIMITS)
            assert await ask(dispatcher, kid) is Outcome.ADMITTED
            await admin.delete(kid)
            assert await ask(dispatcher, kid) is Outcome.UNKNOWN_KEY
            assert await dispatcher.peek(kid) is CredentialState.UNKNOWN
        await admin.put_limits(kid, LIMITS)
        usage = await dispatcher.peek(kid)
        assert usage is not None
        assert usage.limits.requests == 10


async def test_a_file_that_cannot_be_read_any_more_is_known_as_it_was(
    embedded_single: str, caplog: pytest.LogCaptureFixture
) -> None:
    kid = key_id(new_api_key())
    file = Declared({kid: LIMITS})
    async with dispatching(embedded_single, declared=file) as dispatcher:
        assert await ask(dispatcher, kid) is Outcome.ADMITTED
        file.error = OSError("gone")
        for _ in range(2):
            dispatcher._declared._fresh_until_s = 0.0
            with store_client(embedded_single) as client:
                client.delete(limits_key(kid), window_key(kid), past_key(kid))
            assert await ask(dispatcher, kid) is Outcome.ADMITTED
            assert await ask(dispatcher, key_id(new_api_key())) is Outcome.UNKNOWN_KEY
    assert sum("can no longer be read" in record.message for record in caplog.records) == 1


def test_a_keys_file_is_read_again_when_it_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text('[keys."sk-a"]\nrpm = 1\n[keys."sk-b"]\nrpm = 1\n')
    file, a, b = KeysFile(path), key_id("sk-a"), key_id("sk-b")
    first = file.declarations()
    assert file.declarations() is first
    assert file.changed_s_ago(a) == float("inf"), "what a node has loaded at its start is older than any reply"
    os.utime(path, (1, 1))
    assert file.declarations() == first
    assert file.changed_s_ago(a) == float("inf")
    path.write_text('[keys."sk-a"]\nrpm = 2\n')
    assert file.declarations().plain == {a: KeyLimits(rpm=2)}
    assert (file.was_declared(a), file.was_declared(b), file.was_declared(key_id("sk-c"))) == (True, True, False)
    assert file.changed_s_ago(a) < 10
    path.write_text("[keys")
    for _ in range(2):
        with pytest.raises(Exception, match="syntax error"):
            file.declarations()


# ---- keys that can't be decided ------------------------------------------------------------------------------------


@pytest.mark.parametrize("told_by", ["a request", "a look at its usage"])
async def test_a_key_that_is_known_to_be_deleted_is_not_admitted_without_the_store(
    embedded_single: str, told_by: str
) -> None:
    kid = declare(embedded_single, new_api_key(), rpm=20)
    async with (
        behind_proxy(embedded_single, policy=local(1)) as (proxy, dispatcher),
        administering(parse_store_url(embedded_single)) as admin,
    ):
        assert await ask(dispatcher, kid) is Outcome.ADMITTED
        await admin.delete(kid)
        if told_by == "a request":
            assert await ask(dispatcher, kid) is Outcome.UNKNOWN_KEY
        else:
            assert await dispatcher.peek(kid) is CredentialState.UNKNOWN
        proxy.pass_requests = False
        for _ in range(3):  # nor refused for good: it may have been put again
            with pytest.raises(StoreUnavailable):
                await ask(dispatcher, kid)
        with pytest.raises(StoreUnavailable):
            await dispatcher.peek(kid)


async def test_a_login_without_rights_makes_no_key_unknown() -> None:
    fewer = ("resetkeys", "~rl:*:limits", "~rl:*:window", "~rl:*:past")
    async with EmbeddedStore("single") as store:
        port = store.servers[0].port
        known, lost = (declare(store.url, new_api_key(), rpm=20) for _ in range(2))
        file = Declared({lost: KeyLimits(rpm=20)})
        with Redis(port=port) as client:
            rights = ("ACL", "SETUSER", "node", "on", ">pw", "~*", "+@all")
            client.execute_command(*rights)
            url = f"redis://node:pw@127.0.0.1:{port}"
            async with dispatching(url, timeout_ms=100, policy=local(1), declared=file) as dispatcher:
                assert await ask(dispatcher, known) is Outcome.ADMITTED
                client.execute_command("ACL", "SETUSER", "node", *fewer)
                client.delete(limits_key(lost))
                for _ in range(2):
                    with pytest.raises(StoreUnavailable, match="NOPERM"):
                        await ask(dispatcher, lost)
                    with pytest.raises(StoreUnavailable, match="NOPERM"):
                        await dispatcher.peek(lost)
                assert (await dispatcher.admit(known, ONE)).degraded == "", "others are decided as ever"
                client.delete(limits_key(known))  # this one the node knows: it goes on within its share
                assert await outcomes(dispatcher, known, 3) == {(Outcome.ADMITTED, "local"): 3}
                client.execute_command(*rights)
                assert await ask(dispatcher, lost) is Outcome.ADMITTED
                assert (await dispatcher.admit(known, ONE)).used.requests == 6
                client.execute_command("ACL", "SETUSER", "node", "-evalsha", "-eval")
                assert (await dispatcher.admit(known, ONE)).degraded == "local"
                client.execute_command(*rights)
                async with asyncio.timeout(5):
                    while (await dispatcher.admit(known, ONE)).degraded:
                        await asyncio.sleep(0.01)
                assert await dispatcher.drain(20)


async def test_a_damaged_key_is_tried_again_at_leisure_and_harms_no_other(embedded_single: str) -> None:
    damaged, sound = (declare(embedded_single, new_api_key(), rpm=20) for _ in range(2))
    async with dispatching(embedded_single, timeout_ms=100, policy=local(1)) as dispatcher:
        limiter = Limiter(dispatcher)
        reservation = limiter.reservation(damaged, await limiter.admit(damaged, Need(10, 100, 0)))
        with store_client(embedded_single) as client:
            client.set(window_key(damaged), b"no hash")
            reservation.settle(30)
            refused = dispatcher._router.errors
            await eventually(lambda: refused["refused"] == 1)
            since_s = time.monotonic()
            await eventually(lambda: refused["refused"] == 2)
            assert time.monotonic() - since_s > 0.45
            assert await outcomes(dispatcher, damaged, 3) == {(Outcome.ADMITTED, "local"): 3}
            assert await outcomes(dispatcher, sound, 3) == {(Outcome.ADMITTED, ""): 3}
            assert dispatcher.outage.shards.openings == 0
            client.delete(window_key(damaged))
        assert await dispatcher.drain(20)
        usage = await dispatcher.peek(damaged)
        assert usage is not None
        assert usage.used == Amounts(4, 13, 33)


@pytest.mark.parametrize("moved", ["nothing", "limits"])
async def test_an_unused_key_is_decided_while_its_slot_moves(moved: str) -> None:
    """It has limits and nothing else, so that servers refuse the script until the slot has arrived."""
    async with EmbeddedStore("cluster") as store:
        kid = declare(store.url, new_api_key(), rpm=20, output_reserve=7, name="idle")
        key = limits_key(kid)
        clients = {server.port: Redis(port=server.port) for server in store.servers}
        try:
            with store_client(store.url) as client:
                source = client.get_node_from_key(key).port
            target = next(port for port in clients if port != source)
            slot = clients[source].cluster("KEYSLOT", key)
            ids = {port: each.execute_command("CLUSTER", "MYID").decode() for port, each in clients.items()}
            clients[target].execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source])
            clients[source].execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target])
            async with dispatching(store.url, timeout_ms=500, policy=local(2)) as dispatcher:
                if moved == "limits":
                    clients[source].execute_command("MIGRATE", "127.0.0.1", target, key, 0, 5_000)
                decided = await outcomes(dispatcher, kid, 12, Need(1, 0, 1))
                assert decided == {(Outcome.ADMITTED, "local"): 10, (Outcome.REJECTED, "local"): 2}
                assert await ask(dispatcher, key_id(new_api_key())) is Outcome.UNKNOWN_KEY
                if moved == "nothing":
                    clients[source].execute_command("MIGRATE", "127.0.0.1", target, key, 0, 5_000)
                for port in (target, source):
                    clients[port].execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[target])
                assert await dispatcher.drain(20)
                usage = await dispatcher.peek(kid)
                assert usage is not None
                assert (usage.used, usage.name) == (Amounts(10, 10, 70), "idle")
                assert dispatcher.outage.shards.openings == 0, "no shard is to blame"
        finally:
            for each in clients.values():
                each.close()


# ---- what waits ---------------------------------------------------------------------------------------------------


async def test_a_queue_that_is_cut_off_between_two_batches_is_decided(embedded_single: str) -> None:
    kid = declare(embedded_single, new_api_key(), rpm=20)
    async with behind_proxy(embedded_single, policy=local(1)) as (proxy, dispatcher):
        assert await ask(dispatcher, kid) is Outcome.ADMITTED
        proxy.pass_requests = False
        waiting = dispatcher.admit(kid, ONE)  # scheduled; then its shard is cut off before it is sent
        queue: KeyQueue = dispatcher._queues[kid]
        assert queue.is_scheduled
        dispatcher.outage.shards.open_breaker(queue.target.slot, "for this test")
        dispatcher.outage.is_on = True
        await asyncio.sleep(0)
        assert waiting.done()
        assert waiting.result().degraded == "local"


@pytest.mark.parametrize("garbage", [b"\0" * 2, b"\1" * 43, b"\0" * 52, b"\4", b"\3\3", b"\7", b"", 0, None, [b"\0"]])
async def test_a_reply_that_makes_no_sense_is_asked_for_again(
    embedded_single: str, monkeypatch: pytest.MonkeyPatch, garbage: Any
) -> None:
    """Under its number, so that it counts once; and no deadline of the node stops working."""
    on_reply, spoiled = Batch.on_reply, []

    def spoil(batch: Batch, reply: Any) -> None:
        if len(spoiled) % 2 == 0 and isinstance(reply, bytes):
            spoiled.append(reply)
            reply = garbage
        else:
            spoiled.append(None)
        on_reply(batch, reply)

    kid, other = (declare(embedded_single, new_api_key(), rpm=3) for _ in range(2))
    async with dispatching(embedded_single) as dispatcher:
        monkeypatch.setattr(Batch, "on_reply", spoil)
        for each in (kid, other):
            assert await outcomes(dispatcher, each, 5) == {(Outcome.ADMITTED, ""): 3, (Outcome.REJECTED, ""): 2}
        dispatcher.give_back(kid, 0, 1, 1)  # a batch that nobody waits for
        assert await dispatcher.drain(20)
        monkeypatch.undo()
        for each in (kid, other):
            usage = await dispatcher.peek(each)
            assert usage is not None
            assert usage.used.requests == 3


async def test_the_sweep_goes_on_whatever_happens_in_it(
    embedded_single: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kid = declare(embedded_single, new_api_key(), rpm=20)
    async with behind_proxy(embedded_single, policy=local(1)) as (proxy, dispatcher):
        await dispatcher.admit(kid, ONE)
        on_overdue, failures = dispatcher.outage.on_overdue, []

        def fail_once(batch: Any) -> None:
            if not failures:
                failures.append(batch)
                raise RuntimeError("for this test")
            on_overdue(batch)

        monkeypatch.setattr(dispatcher.outage, "on_overdue", fail_once)
        proxy.pass_requests = False
        async with asyncio.timeout(5):
            assert (await dispatcher.admit(kid, ONE)).degraded == "local"
        assert failures
    assert "the check of deadlines failed" in caplog.text
