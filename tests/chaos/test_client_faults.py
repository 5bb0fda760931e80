"""Faults of nodes and clients, under load; the numbers are those of the table of faults in docs/failures.md."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from chaos_scene import KEYS, RPM, Row, Scene, eventually, no_fault, scene, write_keys
from test_store_faults import assert_answered

from bench_client.servers.procfs import NODE, limiter_processes
from limiter_node.credentials import key_id
from limiter_node.store.admin.store_admin import administering
from limiter_node.store.url import parse_store_url

SOCKETS = 2_000


def node_pids(on: Scene) -> list[int]:
    """The node processes."""
    return [process.pid for process in limiter_processes(on.fleet.process.pid) if process.kind == NODE]


def open_files(pids: list[int]) -> int:
    return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids)


def resident_mb(pids: list[int]) -> float:
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
    return pages * resource.getpagesize() / 1e6


async def quiet(on: Scene, files: int) -> None:
    """Sockets are as many as before."""

    async def gone() -> bool:
        return open_files(node_pids(on)) <= files + 4

    await eventually(gone, 30)


@pytest.mark.chaos
async def test_15_a_node_is_killed(directory: Path, binary: str | None, row: Row) -> None:
    async with scene(directory, binary) as on:

        async def kill() -> None:
            os.kill(node_pids(on)[0], signal.SIGKILL)

        outcome = await on.under_load(kill, 10)
        row("15", "node killed (-9), started again by its supervisor", outcome)
        assert set(outcome.errors) <= {"connect", "reset", "closed", "disconnect"}, outcome
        assert outcome.last_s < 2 + 5, "it is back"
        assert outcome.excess <= outcome.most_excess
        assert len(node_pids(on)) == 2


@pytest.mark.chaos
async def test_16_nodes_are_stopped_under_load(directory: Path, binary: str | None, row: Row) -> None:
    """What was under way is answered; what comes afterwards finds nobody, which no client takes for an answer."""
    async with scene(directory, binary, "--mock-latency-ms", "300") as on:

        async def stop() -> None:
            for pid in node_pids(on)[:1]:
                os.kill(pid, signal.SIGTERM)

        outcome = await on.under_load(stop, 8)
        row("16", "one of two nodes stopped (SIGTERM), started again", outcome)
        assert set(outcome.errors) <= {"connect"}, outcome
        assert outcome.excess <= outcome.most_excess
        assert outcome.proved, outcome.audit
        assert outcome.counted == outcome.admitted


@pytest.mark.chaos
async def test_17_clients_leave(directory: Path, binary: str | None, row: Row) -> None:
    """Ten thousand of them, in the middle of their requests; what they reserved comes back."""
    async with scene(directory, binary, "--mock-latency-ms", "200", rpm=100_000) as on:
        others = write_keys(directory / "others.toml", 1_000_000, "gone")
        await on.declare(others)
        host, _, port = on.fleet.nodes[0].removeprefix("http://").rpartition(":")
        body = b'{"model":"gpt-4o","max_tokens":100,"messages":[{"role":"user","content":"Hi"}]}'
        lines = [
            "POST /v1/chat/completions HTTP/1.1",
            "Host: n",
            "Authorization: Bearer sk-gone-%d",
            "Content-Length: %d",
        ]
        head = "\r\n".join([*lines, "", ""]).encode()

        async def leave(number: int) -> None:
            _, writer = await asyncio.open_connection(host, int(port))
            writer.write(head % (number % KEYS, len(body)) + body)
            await asyncio.sleep(0.02 * (number % 10))
            writer.transport.abort()

        async def leave_all() -> None:
            for start in range(0, 10_000, 200):
                await asyncio.gather(*(leave(number) for number in range(start, start + 200)))

        await leave_all()  # so that what a node keeps for good is there before it is looked at
        files, before_mb = open_files(node_pids(on)), resident_mb(node_pids(on))
        outcome = await on.under_load(leave_all, 25, qps=50)
        row("17", "10,000 disconnects in the middle of requests", outcome)
        assert not outcome.errors, outcome
        assert outcome.proved, outcome.audit
        await quiet(on, files)
        used = [usage.used for usage in await on.usages(others)]
        assert sum(each.requests for each in used) >= 5_000, "not all had been read when they were left"
        assert all(each.output_tokens == 5 * each.requests for each in used), "reserved: 100, produced: 5"
        assert resident_mb(node_pids(on)) < before_mb * 1.2 + 20


@pytest.mark.chaos
async def test_18_silent_sockets(directory: Path, binary: str | None, row: Row) -> None:
    """Silent ones, half heads, half bodies: honest requests notice little, and the sockets are closed."""
    timeouts = ("--header-timeout", "4", "--body-timeout", "4")
    async with scene(directory, binary, *timeouts) as on, AsyncExitStack() as sockets:
        files = open_files(node_pids(on))
        kinds = (b"", b"POST /v1/chat", b"POST /v1/embeddings HTTP/1.1\r\nHost: n\r\nContent-Length: 9\r\n\r\n{")
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(10_000, hard), hard))

        def abort(writer: asyncio.StreamWriter) -> None:
            writer.transport.abort()

        async def connect() -> None:
            for number in range(SOCKETS):
                host, _, port = on.fleet.nodes[number % 2].removeprefix("http://").rpartition(":")
                _, writer = await asyncio.open_connection(host, int(port))
                writer.write(kinds[number % 3])
                sockets.callback(abort, writer)

        outcome = await on.under_load(connect, 10, after_s=2)
        row("18", "2,000 silent, half-head and half-body sockets", outcome)
        assert_answered(outcome)
        assert outcome.proved, outcome.audit
        await quiet(on, files)


@pytest.mark.chaos
async def test_25_a_key_floods(directory: Path, binary: str | None, row: Row) -> None:
    """One at a hundred times its limit; nobody else notices. (`benchmarks.flood` measures it near a node's limits.)"""
    async with scene(directory, binary, rpm=100_000) as on:
        flooding, out = write_keys(directory / "flooding.toml", 600, "flooding", 1), directory / "flood"
        await on.declare(flooding)

        async def flood() -> None:
            async with on.load(flooding, out, 1_000, 6):
                pass

        outcome = await on.under_load(flood, 10, after_s=1)
        row("25", "one key floods at 100 × its limit", outcome)
        assert_answered(outcome)
        assert outcome.proved, outcome.audit
        assert outcome.counted == outcome.admitted == outcome.requests
        flooded = await on.judged(out)
        assert flooded.proved, flooded.audit
        assert (flooded.admitted, flooded.rejected) == (600, flooded.requests - 600)


@pytest.mark.chaos
async def test_25_a_key_of_an_account_floods(directory: Path, binary: str | None, row: Row) -> None:
    """One at a hundred times its limit; the other keys of its account, whose limits have room, don't notice."""
    async with scene(directory, binary, rpm=100_000) as on:
        in_account = 'account = "one"\n'
        account = "[accounts.one]\nrpm = 100_000\n"
        others = [f'[keys."sk-chaos-{number}"]\n{in_account}rpm = 10_000\n' for number in range(KEYS)]
        on.keys.write_text(account + "".join(others))
        flooding, out = directory / "flooding.toml", directory / "flood"
        flooding.write_text(f'{account}[keys."sk-flooding"]\n{in_account}rpm = 600\n')
        await on.declare(on.keys)
        await on.declare(flooding)

        async def flood() -> None:
            async with on.load(flooding, out, 1_000, 6):
                pass

        outcome = await on.under_load(flood, 10, after_s=1)
        row("25", "one key of an account floods at 100 × its limit, beside the other keys of the account", outcome)
        assert_answered(outcome)
        assert (outcome.admitted, outcome.degraded) == (outcome.requests, 0)
        flooded = await on.judged(out)
        assert (flooded.admitted, flooded.rejected) == (600, flooded.requests - 600)
        assert not flooded.errors
        async with administering(parse_store_url(on.store.url)) as admin:
            usage = await admin.peek(key_id("sk-flooding"))
        assert usage is not None
        assert usage.path is not None
        whole, own = usage.path.used
        assert (whole.requests, own.requests) == (outcome.admitted + 600, 600)


@pytest.mark.chaos
async def test_all_keys_are_above_their_limits(directory: Path, binary: str | None, row: Row) -> None:
    """What is above is rejected, and nothing else."""
    async with scene(directory, binary) as on:
        outcome = await on.under_load(no_fault, 10, qps=1_000, after_s=1)
        row("25", "all keys at three times their limits", outcome)
        assert_answered(outcome)
        assert outcome.proved, outcome.audit
        assert outcome.counted == outcome.admitted == KEYS * RPM
