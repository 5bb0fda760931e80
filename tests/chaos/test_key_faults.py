"""Faults after which a node may believe of a key what is no longer so: that it is there, that it isn't, its limits.

Rows 29 and 32 to 35 of the table of faults; `test_belief_faults` has those of windows, times and replies.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from asking import Answer, ask, ask_each, node_pid
from chaos_scene import KEYS, RPM, Row, Scene, eventually, no_fault, scene, write_keys
from redis import Redis
from test_belief_faults import note, signal_all, special_keys
from test_client_faults import resident_mb
from test_store_faults import assert_answered, ready

from limiter_node.credentials import key_id
from limiter_node.keysfile.reading import read_keys
from limiter_node.limits import KeyLimits
from limiter_node.store.admin.store_admin import StoreAdmin, administering
from limiter_node.store.embedded.server import EmbeddedServer
from limiter_node.store.keyspace import limits_key, past_key, window_key
from limiter_node.store.url import parse_store_url


@asynccontextmanager
async def admin_of(on: Scene) -> AsyncIterator[StoreAdmin]:
    """Open the administration that the commands `limiter-node keys` use."""
    async with administering(parse_store_url(on.store.url)) as admin:
        yield admin


async def ask_both(on: Scene, key: str) -> tuple[Answer, Answer]:
    """One request to each node."""
    return await ask(on, 0, key), await ask(on, 1, key)


# ---- 29: keys and limits after a loss --------------------------------------------------------------------------------


@pytest.mark.chaos
async def test_29_limits_are_lost_after_they_had_changed(directory: Path, binary: str | None, row: Row) -> None:
    """The nodes go by what they had learned, and for the rest by the file as it is now."""
    async with scene(directory, binary) as on:
        file = on.keys
        on.keys = Path(shutil.copy(file, directory / "load.toml"))
        special = ["revoked", "changed", "revoked-in-store", "changed-in-store", "steady"]
        declared = {f"sk-{name}": 40 for name in special}
        write_file(on.keys, file, declared)
        await on.declare(file)

        async def lose() -> None:
            for name in special:
                assert [each.status for each in await ask_both(on, f"sk-{name}")] == [200, 200]
            # Whoever reads the keys file for an unknown key has read it before it changes.
            assert [each.status for each in await ask_both(on, "sk-invented")] == [401, 401]
            del declared["sk-revoked"]
            declared.update({"sk-changed": 30, "sk-added": 20})
            write_file(on.keys, file, declared)
            async with admin_of(on) as admin:
                for name in ("revoked", "revoked-in-store"):
                    assert await admin.delete(key_id(f"sk-{name}"))
                await admin.put_limits(key_id("sk-changed"), read_keys(file).plain[key_id("sk-changed")])
                await admin.put_limits(key_id("sk-changed-in-store"), KeyLimits(rpm=35))
            before = {"revoked": 401, "changed": 30, "revoked-in-store": 401, "changed-in-store": 35, "steady": 40}
            assert {name: await told(on, f"sk-{name}") for name in special} == before, "both nodes have learned it"
            await asyncio.sleep(10.5)  # what a node has learned holds for longer than it puts off asking again
            for master in on.masters:
                with on.client(master) as client:
                    client.flushall()
            after = {name: await told(on, f"sk-{name}") for name in [*special, "added", "invented"]}
            assert after == before | {"added": 20, "invented": 401}

        await note(
            on, row, "limits and windows lost after a key had been revoked, one changed, one added", lose, "29", 14
        )
        assert "declared again" in (directory / "stderr").read_text()


def write_file(others: Path, file: Path, keys: dict[str, int]) -> None:
    """Replace the keys file at once: the other keys, and these with their limits."""
    sections = [f'[keys."{key}"]\nrpm = {rpm}\n' for key, rpm in keys.items()]
    new = file.with_suffix(".new")
    new.write_text(others.read_text() + "\n" + "\n".join(sections))
    new.replace(file)


async def told(on: Scene, key: str) -> int | tuple[int, ...]:
    """The limit that both nodes tell the key, or the status of their refusal; both where they differ."""
    answers = await ask_both(on, key)
    different = {each.limit if each.status == 200 else each.status for each in answers}
    return different.pop() if len(different) == 1 else tuple(sorted(different))


# ---- 32: invented keys -----------------------------------------------------------------------------------------------


@pytest.mark.chaos
async def test_32_invented_keys_beside_known_ones(directory: Path, binary: str | None, row: Row) -> None:
    """Known keys stay known, and a node as small as it was. (With the load's, the known ones are 20,000.)"""
    known, invented = 20_000 - KEYS, 20_000
    async with scene(directory, binary) as on:
        await on.declare(write_keys(directory / "known.toml", 100, "known", known))
        keys = [f"sk-known-{number}" for number in range(known)]
        pid = node_pid(on, 0)

        async def invent(times: int, count: int = invented) -> None:
            asked = (f"sk-invented-{times}-{number}" for number in range(count))
            assert await ask_each(on, 0, asked) == {401: count}

        await invent(0, 1_000)  # so that what a node keeps for good is there before it is looked at
        before_mb = resident_mb([pid])
        await invent(1)
        invented_mb = resident_mb([pid]) - before_mb
        assert await ask_each(on, 0, keys) == {200: known}
        known_mb = resident_mb([pid]) - before_mb - invented_mb
        for times in range(2, 6):
            await invent(times)
        later_mb = resident_mb([pid]) - before_mb - invented_mb - known_mb
        grown = (
            f"MB: {invented_mb:.0f} by {invented:,} invented keys, {known_mb:.0f} by known ones, then {later_mb:.0f}"
        )
        outcome = await on.under_load(no_fault, 2, qps=100, before_s=0, after_s=0.3)
        row("32", f"{5 * invented:,} invented keys beside {known:,} known ones, then the store away", outcome)
        assert_answered(outcome)
        signal_all(on, signal.SIGSTOP)
        try:
            statuses = await ask_each(on, 0, keys[::20])
        finally:
            signal_all(on, signal.SIGCONT)
        assert invented_mb <= 10, grown
        assert known_mb <= known * 4 / 1024, grown
        assert later_mb <= 10, grown
        assert statuses == {200: known // 20}, "a key that is known is decided without the store"
        await ready(on)


# ---- 33: slots on the move -------------------------------------------------------------------------------------------


def slot_of(key: str) -> int:
    return slot_of(key_id(key))


def owner_of(on: Scene, key: str) -> EmbeddedServer:
    for master in on.masters:
        with on.client(master) as client:
            if client.execute_command("CLUSTER COUNTKEYSINSLOT", slot_of(key)):
                return master
    raise AssertionError("the key is in no slot")


class Migration:
    """A key's slot, on its way to another master."""

    def __init__(self, on: Scene, key: str) -> None:
        self.key = key
        source = owner_of(on, key)
        target = on.masters[(on.masters.index(source) + 1) % len(on.masters)]
        self._target_port = target.port
        self._source, self._target = Redis(port=source.port), Redis(port=target.port)
        self._ids = [client.execute_command("CLUSTER MYID") for client in (self._source, self._target)]

    def begin(self) -> None:
        self._target.execute_command("CLUSTER SETSLOT", slot_of(self.key), "IMPORTING", self._ids[0])
        self._source.execute_command("CLUSTER SETSLOT", slot_of(self.key), "MIGRATING", self._ids[1])

    def move(self) -> None:
        """All that is there of the key."""
        while keys := self._source.execute_command("CLUSTER GETKEYSINSLOT", slot_of(self.key), 10):
            self._source.execute_command("MIGRATE", "127.0.0.1", str(self._target_port), "", 0, 5000, "KEYS", *keys)

    def end(self) -> None:
        self.move()
        for client in (self._target, self._source):
            client.execute_command("CLUSTER SETSLOT", slot_of(self.key), "NODE", self._ids[1])
            client.close()


@pytest.mark.chaos
async def test_33_a_slot_on_the_move_whose_key_is_not_in_use(directory: Path, binary: str | None, row: Row) -> None:
    """A key without a window: never used, or idle for longer than one. Its limits are at the source or the target."""
    async with scene(directory, binary, window_ms=1_000) as on:
        file, keys = await special_keys(on, 100, 8)
        idle = keys[4:]

        async def migrate() -> None:
            for key in idle:
                assert [each.status for each in await ask_both(on, key)] == [200, 200]
            await asyncio.sleep(1.2)  # the window's length
            for key in idle:
                with on.client(owner_of(on, key)) as client:
                    # As the store does some 30 s later.
                    assert client.delete(window_key(key_id(key)), past_key(key_id(key))) == 2
            for key in keys:
                migration = Migration(on, key)
                migration.begin()
                if keys.index(key) % 2:
                    migration.move()
                try:
                    # Twice: the first request of a key makes its window.
                    statuses = [each.status for _ in range(2) for each in await ask_both(on, key)]
                finally:
                    migration.end()
                assert statuses == [200] * 4, f"{key}: {statuses}"
            for key in keys:
                assert [each.status for each in await ask_both(on, key)] == [200, 200]
            assert {usage.name for usage in await on.usages(file)} == {key.removeprefix("sk-") for key in keys}

        await note(on, row, "slots on the move whose keys have no window", migrate, "33")
        await ready(on)


# ---- 34: rights ------------------------------------------------------------------------------------------------------


def set_rights(on: Scene, *rules: str) -> None:
    for server in on.store.servers:
        with on.client(server) as client:
            client.execute_command("ACL", "SETUSER", "limiter", *rules)


LOST = {
    "the mark of deleted keys": ("resetkeys", "~rl:*:limits", "~rl:*:window", "~rl:*:past", "~rl:{nodes}*"),
    "scripts": ("-evalsha",),
}
REGAINED = ("resetkeys", "~*", "+@all")


@pytest.mark.chaos
@pytest.mark.parametrize("lost", LOST)
async def test_34_a_login_loses_a_right_and_regains_it(
    directory: Path, binary: str | None, row: Row, lost: str
) -> None:
    """No key that is declared is told that it doesn't exist, and all is well within a second."""
    async with scene(directory, binary, login="limiter") as on:

        async def lose() -> None:
            set_rights(on, *LOST[lost])
            if lost != "scripts":
                # Half of the keys have to be declared again, which takes that right.
                for number in range(KEYS // 2):
                    kid = key_id(f"sk-chaos-{number}")
                    with on.client(owner_of(on, f"sk-chaos-{number}")) as client:
                        assert client.delete(limits_key(kid), window_key(kid), past_key(kid)) == 3
            await asyncio.sleep(2)
            set_rights(on, *REGAINED)

        outcome = await on.under_load(lose, 7, after_s=0.5)
        row("34", f"the nodes' login has no right to {lost} for 2 s", outcome)
        assert_answered(outcome, "503")
        assert outcome.requests > outcome.errors["503"] + outcome.degraded > 0, "something was lost"
        assert outcome.last_s < 2 + 2 + 1, "back within a second"
        if lost == "scripts":
            assert outcome.counted == outcome.admitted, outcome
        else:
            assert outcome.counted >= outcome.admitted, "healed: all that was admitted is counted again"
        assert outcome.excess <= RPM, "less than twice the limit"
        await ready(on)


# ---- 35: keys that are revoked ---------------------------------------------------------------------------------------


@pytest.mark.chaos
@pytest.mark.parametrize("is_declared", [False, True], ids=["not in the file", "in the file"])
async def test_35_a_key_is_revoked_just_before_the_store_is_away(
    directory: Path, binary: str | None, row: Row, is_declared: bool
) -> None:
    """A node that was told of it admits it no more; one that wasn't may, until the store is back."""
    async with scene(directory, binary) as on:
        file, (asked, not_asked, steady) = await special_keys(on, 100, 3)
        if is_declared:
            shutil.copy(on.keys, directory / "load.toml")
            content = re.sub(r"(?s)\[defaults\].*?\n\n", "", file.read_text(), count=1)
            with on.keys.open("a") as keys_file:
                keys_file.write("\n" + content[content.index("[keys") :])
            on.keys = directory / "load.toml"
        outages: dict[str, list[int]] = {asked: [], not_asked: [], steady: []}

        async def revoke() -> None:
            for key in outages:
                assert [each.status for each in await ask_both(on, key)] == [200, 200]
            async with admin_of(on) as admin:
                for key in (asked, not_asked):
                    assert await admin.delete(key_id(key))
            assert (await ask(on, 0, asked)).status == 401
            signal_all(on, signal.SIGSTOP)
            try:
                for _ in range(5):
                    for key, statuses in outages.items():
                        statuses += [each.status for each in await ask_both(on, key)]
                    await asyncio.sleep(0.1)
            finally:
                signal_all(on, signal.SIGCONT)

            async def is_told() -> bool:
                answers = [answer for key in (asked, not_asked) for answer in await ask_both(on, key)]
                return all(answer.status == 401 for answer in answers)

            await eventually(is_told, 2)

        outcome = await on.under_load(revoke, 6, qps=100, after_s=0.5)
        row(
            "35",
            f"a key revoked ({'' if is_declared else 'not '}in the file) just before all masters are frozen",
            outcome,
        )
        assert set(outages[asked][::2]) <= {401, 503}, "the first node was told"
        assert set(outages[asked][1::2] + outages[not_asked]) <= {200, 401, 503}, outages
        assert set(outages[steady]) == {200}, outages
        assert outcome.excess <= outcome.most_excess, outcome
        await ready(on)
