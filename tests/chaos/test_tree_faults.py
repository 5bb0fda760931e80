"""Faults of the store, the network and nodes with an account: four nodes, teams, windows of 5 s, a minute and an hour.

The numbers are those of the table of faults in docs/failures.md, whose rows these stand beside.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
from asking import node_pid
from chaos_scene import Row, scene_behind_proxy
from redis import Redis
from test_network_faults import blackhole
from test_store_faults import move_slots, ready
from tree_scene import (
    KEYS,
    NODES,
    TAG,
    bound_of_outages,
    home_of,
    no_excess,
    plant,
    secret,
    tree_scene,
    tree_under_load,
)

from limiter_node.credentials import key_id
from limiter_node.store.embedded.server import EmbeddedServer
from limiter_node.store.keyspace import member_key, shared_key

_WITH = ", an account with teams on four nodes"
GONE = ("connect", "reset", "closed", "disconnect")


async def freeze(servers: Sequence[EmbeddedServer], seconds: float) -> None:
    """Let servers stand still."""
    for server in servers:
        os.kill(server.pid, signal.SIGSTOP)
    await asyncio.sleep(seconds)
    for server in servers:
        os.kill(server.pid, signal.SIGCONT)


# ---- the store is away -----------------------------------------------------------------------------------------------


async def test_4_the_accounts_shard_is_frozen_twice(directory: Path, binary: str | None, row: Row) -> None:
    """The second time as soon as it answers again: charges of the first may still be under way."""
    async with tree_scene(directory, binary) as on:
        home = home_of(on)

        async def fault() -> None:
            await freeze([home], 1)
            await asyncio.sleep(0.1)
            await freeze([home], 1)

        tree = await tree_under_load(on, fault, 10)
        row("4", f"master frozen for 1 s, and again 0.1 s later{_WITH}", tree.outcome)
        assert tree.outcome.degraded > 0
        tree.assert_bounded(bound_of_outages)
        tree.assert_counted(is_exact=True)
        assert tree.outcome.proved, tree.outcome.audit
        await ready(on)


@pytest.mark.chaos
@pytest.mark.parametrize("policy", ["closed", "open"])
async def test_26_the_shard_is_frozen_under_other_policies(
    directory: Path, binary: str | None, row: Row, policy: str
) -> None:
    async with tree_scene(directory, binary, "--on-store-failure", policy) as on:
        home = home_of(on)
        tree = await tree_under_load(on, lambda: freeze([home], 2), 10, *(["503"] if policy == "closed" else []))
        row("26", f"master frozen for 2 s, policy {policy}{_WITH}", tree.outcome)
        if policy == "closed":
            assert tree.outcome.errors["503"] > 0
            tree.assert_bounded(lambda limit: limit)
        else:
            assert tree.outcome.degraded > 0
        tree.assert_counted(is_exact=True)
        assert tree.outcome.proved, tree.outcome.audit
        await ready(on)


@pytest.mark.chaos
async def test_1_the_accounts_master_is_killed(directory: Path, binary: str | None, row: Row) -> None:
    async with tree_scene(directory, binary, replicas=1) as on:
        home = home_of(on)

        async def kill() -> None:
            home.kill()

        tree = await tree_under_load(on, kill, 14)
        row("1", f"master killed (-9); its replica takes over{_WITH}", tree.outcome)
        tree.assert_bounded(bound_of_outages)
        tree.assert_counted(is_exact=False)
        await ready(on)


@pytest.mark.chaos
async def test_5_a_failover_that_was_asked_for(directory: Path, binary: str | None, row: Row) -> None:
    async with tree_scene(directory, binary, replicas=1) as on:
        replica = on.replica_of(home_of(on))

        async def fail_over() -> None:
            with on.client(replica) as client:
                client.execute_command("CLUSTER", "FAILOVER")

        tree = await tree_under_load(on, fail_over, 10)
        row("5", f"CLUSTER FAILOVER{_WITH}", tree.outcome)
        tree.assert_bounded(bound_of_outages)
        tree.assert_counted(is_exact=True)
        assert tree.outcome.proved, tree.outcome.audit
        await ready(on)


@pytest.mark.chaos
async def test_6_the_whole_cluster_is_down(directory: Path, binary: str | None, row: Row) -> None:
    """It comes back with what it had on disk, which may lack the last second."""
    async with tree_scene(directory, binary) as on:

        async def restart() -> None:
            for master in on.masters:
                master.kill()
            await asyncio.sleep(3)
            for master in on.masters:
                master.start()

        tree = await tree_under_load(on, restart, 16)
        row("6", f"3 of 3 masters down for 3 s{_WITH}", tree.outcome)
        assert tree.outcome.degraded > 0
        tree.assert_bounded(bound_of_outages)
        tree.assert_counted(is_exact=False)
        await ready(on)


@pytest.mark.chaos
async def test_7_slots_move(directory: Path, binary: str | None, row: Row) -> None:
    async with tree_scene(directory, binary) as on:
        tree = await tree_under_load(on, lambda: move_slots(on), 12)
        row("7", f"every slot in use moved to another master{_WITH}", tree.outcome)
        tree.assert_bounded(no_excess)
        tree.assert_counted(is_exact=True)
        assert tree.outcome.proved, tree.outcome.audit
        await ready(on)


@pytest.mark.chaos
async def test_12_the_network_is_cut(directory: Path, binary: str | None, row: Row) -> None:
    async with scene_behind_proxy(directory, binary, nodes=NODES) as (on, proxy):
        await plant(on)
        tree = await tree_under_load(on, lambda: blackhole(proxy), 10, after_s=1.5)
        row("12", f"half-open connections for 2 s{_WITH}", tree.outcome)
        assert tree.outcome.degraded > 0
        tree.assert_bounded(bound_of_outages)
        tree.assert_counted(is_exact=True)
        assert tree.outcome.proved, tree.outcome.audit


# ---- the store loses data --------------------------------------------------------------------------------------------


def after_a_loss(limit: int) -> int:
    """Each node may admit once more what the others had not charged again yet; some may have decided alone, too."""
    return 2 * limit + (NODES - 1) * (limit // NODES)


@pytest.mark.chaos
@pytest.mark.parametrize("lost", ["all", "windows"])
async def test_27_the_store_loses_all(directory: Path, binary: str | None, row: Row, lost: str) -> None:
    """The nodes declare the account, its teams and its keys again, and charge each what it had admitted."""
    async with tree_scene(directory, binary) as on:
        home = home_of(on)

        async def lose() -> None:
            with on.client(home) as client:
                if lost == "all":
                    client.flushall()
                else:
                    client.delete(*names_of_counts())

        tree = await tree_under_load(on, lose, 10)
        row("27", f"the store loses {lost}{_WITH}", tree.outcome)
        tree.assert_bounded(lambda limit: 2 * limit)
        tree.assert_counted(is_exact=True)
        if lost == "all":
            assert "declared again" in (directory / "stderr").read_text()
        await ready(on)


def names_of_counts() -> list[str]:
    """All that counts of the account, by the names of the store's keys: they are in one slot, and go at once."""
    return [shared_key(TAG), *(member_key(TAG, key_id(secret(number))) for number in range(KEYS))]


@pytest.mark.chaos
async def test_3_the_accounts_master_comes_back_without_its_data(directory: Path, binary: str | None, row: Row) -> None:
    async with tree_scene(directory, binary) as on:
        home = home_of(on)

        async def lose() -> None:
            home.kill()
            for path in home.directory.iterdir():
                if path.is_dir():
                    shutil.rmtree(path)
                elif path.suffix in (".rdb", ".aof"):
                    path.unlink()
            home.start()

        tree = await tree_under_load(on, lose, 14, "503")
        row("3", f"master restarted at once, without its data{_WITH}", tree.outcome)
        tree.assert_bounded(after_a_loss)
        tree.assert_counted(is_exact=True)
        assert "declared again" in (directory / "stderr").read_text()
        await ready(on)


@pytest.mark.chaos
async def test_28_the_account_is_restored_from_before(directory: Path, binary: str | None, row: Row) -> None:
    """All that counts of it, as it was half a second before: each node charges again what it had admitted since."""
    async with tree_scene(directory, binary) as on:
        home = home_of(on)

        async def roll_back() -> None:
            with on.client(home) as client:
                before = dump(client)
                await asyncio.sleep(0.5)
                with client.pipeline() as pipeline:
                    for name, ttl_ms, value in before:
                        pipeline.restore(name, ttl_ms, value, replace=True)
                    pipeline.execute()

        tree = await tree_under_load(on, roll_back, 10)
        row("28", f"all that counts restored as it was 0.5 s before{_WITH}", tree.outcome)
        tree.assert_bounded(lambda limit: 2 * limit)
        tree.assert_counted(is_exact=False)
        await ready(on)


def dump(client: Redis) -> list[tuple[str, int, bytes]]:
    """All that counts of the account, with its time to live, at one moment."""
    names = names_of_counts()
    with client.pipeline() as pipeline:
        for name in names:
            pipeline.pttl(name).dump(name)
        found = pipeline.execute()
    return [(name, found[2 * at], found[2 * at + 1]) for at, name in enumerate(names) if found[2 * at + 1]]


# ---- nodes -----------------------------------------------------------------------------------------------------------


@pytest.mark.chaos
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
async def test_15_a_node_goes(directory: Path, binary: str | None, row: Row, number: signal.Signals) -> None:
    """What it has admitted counts on; of what its callers got no answer to, nobody can know."""
    async with tree_scene(directory, binary) as on:

        async def end() -> None:
            os.kill(node_pid(on, 1), number)

        tree = await tree_under_load(on, end, 10, *GONE)
        how = "killed (-9)" if number is signal.SIGKILL else "stopped (SIGTERM)"
        row("15" if number is signal.SIGKILL else "16", f"one of four nodes {how}, started again{_WITH}", tree.outcome)
        tree.assert_bounded(no_excess)
        tree.assert_counted(is_exact=True)
        assert tree.outcome.proved, tree.outcome.audit
