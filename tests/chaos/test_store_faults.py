"""Faults of the store, under load; the numbers are those of the table of faults in docs/failures.md."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
from pathlib import Path

import pytest
from aiohttp import ClientSession
from chaos_scene import IS_TIMED, RPM, Outcome, Row, Scene, eventually, scene
from faketime import CLOCK_FILE, needs_faketime, skip_for_jemalloc, stepped_clock
from redis import Redis

from limiter_node.store.embedded.server import EmbeddedServer

IN_TIME_MS = 300
"""How long an answer may take, whatever happens to the store; on a machine that does all of this on two cores,
twice."""


# Redis 7.0 has no `os`, but a live TIME; Valkey's stands still within a script.
BUSY = """
local has_os, clock = pcall(function() return os.clock end)
if not has_os then
    clock = function()
        local time = redis.call('TIME')
        return time[1] + time[2] / 1000000
    end
end
local begun = clock()
repeat until clock() - begun > 2
"""


def assert_answered(outcome: Outcome, *allowed: str) -> None:
    """Every request was answered, in time, by 200 or 429 or as allowed."""
    overloaded = {"503"} if 0 < outcome.errors["503"] <= outcome.shed else set()
    assert {error for error, count in outcome.errors.items() if count} <= {*allowed, *overloaded}, outcome
    assert not IS_TIMED or outcome.slowest_ms <= 2 * IN_TIME_MS, outcome


def assert_exact(outcome: Outcome) -> None:
    """No limit was exceeded, and the store counts what was admitted: once each."""
    assert outcome.proved, outcome.audit
    assert outcome.excess <= outcome.most_excess, outcome
    assert outcome.counted == outcome.admitted, outcome


@pytest.mark.chaos
async def test_1_a_master_is_killed(directory: Path, binary: str | None, row: Row) -> None:
    async with scene(directory, binary, replicas=1) as on:

        async def kill() -> None:
            on.masters[0].kill()

        outcome = await on.under_load(kill, 14)
        row("1", "master killed (-9); its replica takes over", outcome)
        assert_answered(outcome)
        assert outcome.last_s < 2 + 6, "back to normal within 6 s"
        assert outcome.excess <= RPM, "less than twice the limit"
        await ready(on)


@pytest.mark.chaos
async def test_2_a_master_is_killed_whose_replica_is_behind(directory: Path, binary: str | None, row: Row) -> None:
    async with scene(directory, binary, replicas=1) as on:
        master = on.masters[0]
        replica = on.replica_of(master)

        async def kill() -> None:
            os.kill(replica.pid, signal.SIGSTOP)
            await asyncio.sleep(0.5)
            master.kill()
            os.kill(replica.pid, signal.SIGCONT)

        outcome = await on.under_load(kill, 14)
        row("2", "master killed while its replica stood still for 0.5 s", outcome)
        assert_answered(outcome)
        assert outcome.excess <= RPM
        await ready(on)


@pytest.mark.chaos
async def test_3_a_master_comes_back_without_its_data(directory: Path, binary: str | None, row: Row) -> None:
    async with scene(directory, binary) as on:
        master = on.masters[0]

        async def lose() -> None:
            await asyncio.sleep(2)
            master.kill()
            for path in master.directory.iterdir():
                if path.is_dir():
                    shutil.rmtree(path)
                elif path.suffix in (".rdb", ".aof"):
                    path.unlink()
            master.start()

        outcome = await on.under_load(lose, 14)
        row("3", "master restarted without its data", outcome)
        assert_answered(outcome, "503")
        assert outcome.excess <= RPM, "keys are declared again, nodes charge what they had admitted"
        assert outcome.counted >= outcome.admitted * 0.9
        said = (directory / "stderr").read_text()
        assert "has lost" in said
        await ready(on)


async def test_4_a_master_is_frozen_for_a_second(directory: Path, binary: str | None, row: Row) -> None:
    async with scene(directory, binary) as on:
        await frozen(on, row, on.masters[:1], "4", "master frozen for 1 s")


async def frozen(on: Scene, row: Row, servers: list[EmbeddedServer], number: str, fault: str) -> None:
    async def freeze() -> None:
        for server in servers:
            os.kill(server.pid, signal.SIGSTOP)
        await asyncio.sleep(1)
        for server in servers:
            os.kill(server.pid, signal.SIGCONT)

    outcome = await on.under_load(freeze, 8, after_s=1)
    row(number, fault, outcome)
    assert_answered(outcome)
    assert outcome.degraded > 0
    assert not IS_TIMED or outcome.last_s < 2 + 1 + 1, "back within a second"
    assert outcome.counted == outcome.admitted, outcome
    assert outcome.excess <= RPM


@pytest.mark.chaos
async def test_5_a_failover_that_was_asked_for(directory: Path, binary: str | None, row: Row) -> None:
    async with scene(directory, binary, replicas=1) as on:

        async def fail_over() -> None:
            for master in on.masters:
                with on.client(on.replica_of(master)) as client:
                    client.execute_command("CLUSTER", "FAILOVER")
                await asyncio.sleep(1)

        outcome = await on.under_load(fail_over, 10, after_s=1)
        row("5", "CLUSTER FAILOVER of all masters in turn", outcome)
        assert_answered(outcome)
        assert outcome.counted == outcome.admitted
        assert outcome.excess <= RPM
        await ready(on)


@pytest.mark.chaos
@pytest.mark.parametrize("down", [2, 3])
async def test_6_most_of_the_cluster_is_down(directory: Path, binary: str | None, row: Row, down: int) -> None:
    async with scene(directory, binary) as on:

        async def restart() -> None:
            for master in on.masters[:down]:
                master.kill()
            await asyncio.sleep(1)
            async with ClientSession() as session, session.get(f"{on.fleet.nodes[0]}/readyz") as response:
                told = await response.json()
                assert (response.status, told["status"]) == (200, "degraded"), told
            await asyncio.sleep(2)
            for master in on.masters[:down]:
                master.start()

        outcome = await on.under_load(restart, 16, after_s=1)
        row("6", f"{down} of 3 masters down for 3 s", outcome)
        assert_answered(outcome)
        assert outcome.excess <= RPM
        await ready(on)


@pytest.mark.chaos
async def test_7_slots_move(directory: Path, binary: str | None, row: Row) -> None:
    async with scene(directory, binary) as on:
        outcome = await on.under_load(lambda: move_slots(on), 12, after_s=1)
        row("7", "every slot in use moved to another master", outcome)
        assert_answered(outcome)
        assert_exact(outcome)


async def move_slots(on: Scene) -> None:
    """Each slot that holds keys goes to the next master, key by key, under the traffic."""
    clients = [Redis(port=server.port) for server in on.masters]
    try:
        ids = [client.execute_command("CLUSTER MYID") for client in clients]
        held = [
            [slot for slot in range(16384) if client.execute_command("CLUSTER COUNTKEYSINSLOT", slot)]
            for client in clients
        ]
        for number, client in enumerate(clients):
            target = (number + 1) % len(clients)
            for slot in held[number]:
                clients[target].execute_command("CLUSTER SETSLOT", slot, "IMPORTING", ids[number])
                client.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", ids[target])
                while keys := client.execute_command("CLUSTER GETKEYSINSLOT", slot, 10):
                    port = str(on.masters[target].port)
                    client.execute_command("MIGRATE", "127.0.0.1", port, "", 0, 5000, "KEYS", *keys)
                    await asyncio.sleep(0)
                for each in (target, number):
                    clients[each].execute_command("CLUSTER SETSLOT", slot, "NODE", ids[target])
                await asyncio.sleep(0.02)
    finally:
        for client in clients:
            client.close()


@pytest.mark.chaos
async def test_8_scripts_are_flushed_all_the_time(directory: Path, binary: str | None, row: Row) -> None:
    async with scene(directory, binary) as on:

        async def flush() -> None:
            for _ in range(100):
                for master in on.masters:
                    with on.client(master) as client:
                        client.script_flush()
                await asyncio.sleep(0.02)

        outcome = await on.under_load(flush, 6, after_s=1)
        row("8", "SCRIPT FLUSH 50 times a second", outcome)
        assert_answered(outcome)
        assert_exact(outcome)


@pytest.mark.chaos
async def test_9_memory_is_full(directory: Path, binary: str | None, row: Row) -> None:
    async with scene(directory, binary) as on:

        async def fill() -> None:
            for limit in (1, 0):
                for master in on.masters:
                    with on.client(master) as client:
                        client.config_set("maxmemory", limit)
                await asyncio.sleep(2)

        outcome = await on.under_load(fill, 9, after_s=1)
        row("9", "memory full for 2 s", outcome)
        assert_answered(outcome)
        assert outcome.degraded > 0
        assert outcome.counted == outcome.admitted
        assert outcome.excess <= RPM


@pytest.mark.chaos
@needs_faketime
@pytest.mark.parametrize("step_s", [-90, 90])
async def test_11_a_clock_steps(directory: Path, binary: str | None, row: Row, step_s: int) -> None:
    """Back: no limit is exceeded, no key is blocked for longer than a window. Forward: windows end early."""
    skip_for_jemalloc(binary)
    async with scene(directory, binary, server_environment=stepped_clock()) as on:
        master = on.masters[0]

        def time_s() -> float:
            with on.client(master) as client:
                seconds, micros = client.time()
                return float(seconds + micros / 1e6)

        async def step() -> None:
            before_s = time_s()
            (master.directory / CLOCK_FILE).write_text(f"{step_s:+d}")
            assert abs(time_s() - before_s - step_s) < 5, "the clock has stepped"

        outcome = await on.under_load(step, 14, after_s=1)
        row("11", f"clock of one master stepped by {step_s:+d} s", outcome)
        assert_answered(outcome)
        if step_s < 0:
            # The times that are told repeat by up to a bucket at the step, so that the audit can't order what was told
            # of usage then; what was decided it can judge.
            for what in ("windows over the limit", "unjustified 429s"):
                assert re.search(rf"{what} +0\n", outcome.audit), outcome.audit
            assert outcome.excess <= outcome.most_excess, outcome
            assert outcome.counted == outcome.admitted
            usages = await on.usages()
            assert max(usage.reset_ms.requests for usage in usages) <= 60_100
        else:
            assert outcome.excess <= RPM


@pytest.mark.chaos
async def test_13_clients_are_killed_all_the_time(directory: Path, binary: str | None, row: Row) -> None:
    async with scene(directory, binary) as on:

        async def kill() -> None:
            for _ in range(50):
                for master in on.masters:
                    with on.client(master) as client:
                        client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
                await asyncio.sleep(0.05)

        asked = queries(on)
        outcome = await on.under_load(kill, 8, after_s=1)
        row("13", "CLIENT KILL 20 times a second", outcome)
        assert_answered(outcome)
        assert outcome.counted == outcome.admitted
        assert outcome.excess <= RPM
        assert queries(on) - asked < 2 * 5 * 10, "four topology queries a second and node at most"


def queries(on: Scene) -> int:
    total = 0
    for master in on.masters:
        with on.client(master) as client:
            for name, stats in client.info("commandstats").items():
                if name in ("cmdstat_cluster|slots", "cmdstat_cluster|shards"):
                    total += stats["calls"]
    return total


@pytest.mark.chaos
async def test_14_a_script_blocks_a_shard(directory: Path, binary: str | None, row: Row) -> None:
    """Two seconds; the other shards' keys notice nothing."""
    async with scene(directory, binary) as on:

        async def block() -> None:
            def run() -> None:
                with on.client(on.masters[0]) as client:
                    client.eval(BUSY, 0)

            await asyncio.to_thread(run)

        outcome = await on.under_load(block, 8, after_s=1)
        row("14", "a script blocks one shard for 2 s", outcome)
        assert_answered(outcome)
        assert 0 < outcome.degraded < outcome.requests / 2
        assert outcome.last_s < 2 + 2 + 1
        assert outcome.counted == outcome.admitted
        assert outcome.excess <= RPM


async def ready(on: Scene) -> None:
    """Both nodes find that all shards decide."""

    async def is_ready(node: str) -> bool:
        async with ClientSession() as session, session.get(f"{node}/readyz") as response:
            return response.status == 200 and (await response.json())["status"] == "ready"

    for node in on.fleet.nodes:
        await eventually(lambda node=node: is_ready(node))  # type: ignore[misc]
