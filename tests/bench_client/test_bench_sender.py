"""The sender against a real server that answers as told: open loop, timeouts, broken connections, interrupts."""

from __future__ import annotations

import asyncio
import socket
from array import array
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
from aiohttp import web
from bench_fakes import T0
from conftest import Serve
from raw_server import RawServer

from bench_client.clock import clock_ns
from bench_client.errors import BenchError
from bench_client.load.prompts import RequestRenderer
from bench_client.load.workload import Workload
from bench_client.processes.live_view import LiveView
from bench_client.records.spool import ERRORS, NEVER_SENT, SpoolEntry, SpoolWriter, read_spool, spool_name
from bench_client.sending.alarm import LoopAlarm, TimerFdAlarm, make_alarm
from bench_client.sending.open_loop_sender import OpenLoopSender
from bench_client.sending.outcome import SendOutcome, SendSnapshot
from bench_client.servers.targets import LoadTarget

MS = 1_000_000


class Bench:
    """A sender over a schedule given in ms, and what it spooled."""

    def __init__(self, directory: Path, urls: list[str], due_ms: list[float], **changes: float) -> None:
        count = len(due_ms)
        self.directory = directory
        self.workload = Workload(
            array("q", [int(due * MS) for due in due_ms]),
            array("I", [i % len(urls) for i in range(count)]),
            array("I", [0] * count),
            array("I", [25] * count),
            array("I", [i + 1 for i in range(count)]),
            max(due_ms) / 1000 or 1.0,
        )
        targets = [LoadTarget.parse(url) for url in urls]
        renderer = RequestRenderer(
            self.workload,
            request_heads=[target.request_head for target in targets],
            secrets=["sk-a"],
            models=["m"],
            cap_output=True,
        )
        self.spool = SpoolWriter(directory, self.workload, cap_output=True)
        settings = {"max_connections": 8, "first_connections": 1, "timeout_s": 5.0, **changes}
        self.sender = OpenLoopSender(self.workload, renderer, targets, self.spool, **settings)  # type: ignore[arg-type]

    async def run(self) -> SendOutcome:
        try:
            return await self.sender.run()
        finally:
            self.spool.close()

    def entries(self) -> list[SpoolEntry]:
        """In order of the schedule; each request exactly once."""
        entries = sorted(read_spool(self.directory / spool_name(0)))
        assert [entry.request for entry in entries] == list(range(self.sender.dispatched))
        return entries


def latency_ms(entry: SpoolEntry) -> float:
    return (entry.done_ns - entry.due_ns) / MS


async def ok(_: web.Request) -> web.StreamResponse:
    return web.json_response({"usage": {"prompt_tokens": 25, "completion_tokens": 3}})


async def test_every_request_is_sent_when_due_and_its_raw_response_kept(tmp_path: Path, serve: Serve) -> None:
    seen = []

    async def chat(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        seen.append(body["max_tokens"])
        return web.json_response({"n": body["max_tokens"]}, status=429 if body["max_tokens"] % 3 == 0 else 200)

    bench = Bench(tmp_path, [await serve(chat), await serve(chat)], [i * 2.0 for i in range(30)])
    outcome = await bench.run()
    entries = bench.entries()
    assert sorted(seen) == list(range(1, 31))
    assert outcome.dispatched == 30
    assert not outcome.interrupted
    assert bench.sender.requests.statuses == {200: 20, 429: 10}
    assert all(b'{"n": %d}' % (entry.request + 1) in entry.raw for entry in entries)
    assert all(entry.due_ns <= entry.sent_ns <= entry.done_ns for entry in entries)
    assert {entry.target for entry in entries} == {0, 1}
    assert [entry.max_tokens for entry in entries] == list(range(1, 31))
    assert abs(outcome.started_unix_ms - T0) > 0


async def test_a_stalled_server_cannot_hide_behind_the_client(tmp_path: Path, serve: Serve) -> None:
    """No coordinated omission: with one connection, what was due during a stall shows the stall in its latency."""
    stall = asyncio.Event()

    async def chat(request: web.Request) -> web.StreamResponse:
        if (await request.json())["max_tokens"] == 1:
            await stall.wait()
        return web.json_response({})

    bench = Bench(tmp_path, [await serve(chat)], [i * 20.0 for i in range(11)], max_connections=1)
    asyncio.get_running_loop().call_later(0.4, stall.set)
    await bench.run()
    latencies = [latency_ms(entry) for entry in bench.entries()]
    assert bench.sender.requests.statuses == {200: 11}
    for index, latency in enumerate(latencies):
        assert latency >= 400 - 20 * index - 60, index  # the stall's rest, as of the due time; 60 ms for the call_later
    assert latencies[0] > latencies[5] > latencies[10]


async def test_slow_responses_do_not_delay_the_schedule(tmp_path: Path, serve: Serve) -> None:
    """Open loop: further connections are opened while the first are busy, up to the bound."""
    arrived, all_arrived = 0, asyncio.Event()

    async def chat(_: web.Request) -> web.StreamResponse:
        nonlocal arrived
        arrived += 1
        if arrived == 8:
            all_arrived.set()
        await all_arrived.wait()  # nobody is answered before the eighth is here
        return web.json_response({})

    bench = Bench(tmp_path, [await serve(chat)], [i * 5.0 for i in range(8)], max_connections=8)
    await bench.run()
    assert bench.sender.requests.statuses == {200: 8}


async def test_requests_past_their_deadline_end_as_timeouts(tmp_path: Path, serve: Serve) -> None:
    never = asyncio.Event()

    async def chat(request: web.Request) -> web.StreamResponse:
        if (await request.json())["max_tokens"] == 1:
            await never.wait()
        return web.json_response({})

    bench = Bench(tmp_path, [await serve(chat)], [0.0, 10.0, 400.0], max_connections=1, timeout_s=0.2)
    await bench.run()
    never.set()
    first, waiting, later = bench.entries()
    assert (ERRORS[first.error], first.sent_ns != NEVER_SENT) == ("timeout", True)
    assert (ERRORS[waiting.error], waiting.sent_ns) == ("timeout", NEVER_SENT)
    assert latency_ms(first) >= 200
    assert ERRORS[later.error] == ""
    assert bench.sender.requests.errors == {"timeout": 2}


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"", "closed"),
        (b"HTTP/1.1 200 OK\r\nx-limiter-node: n1\r\nContent-Length: 10\r\n\r\nabc", "closed"),
        (b"SMTP ready\r\n", "protocol"),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n", "protocol"),
    ],
)
async def test_a_broken_response_is_an_error_and_the_run_goes_on(tmp_path: Path, answer: bytes, error: str) -> None:
    connections = 0

    async def answer_all(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            body = await reader.readexactly(int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0]))
            broken = b'"max_tokens":2}' in body
            writer.write(answer if broken else b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
            if broken:
                return

    async with RawServer(answer_all) as server:
        bench = Bench(tmp_path, [server.url], [0.0, 30.0, 60.0], max_connections=1)
        await bench.run()
    entries = bench.entries()
    assert [ERRORS[entry.error] for entry in entries] == ["", error, ""]
    assert entries[1].raw == answer
    assert connections == 2
    assert bench.sender.requests.statuses == {200: 2}


async def test_a_response_in_pieces_is_kept_whole(tmp_path: Path) -> None:
    pieces = (b"HTTP/1.1 200 OK\r\nContent-", b"Length: 10\r\n\r\n01234", b"56789")

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await reader.readuntil(b'"max_tokens":')
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.01)  # nothing tells the server that the piece was read by itself

    async with RawServer(drip) as server:
        bench = Bench(tmp_path, [server.url], [0.0, 100.0], max_connections=1)
        await bench.run()
    assert [entry.raw for entry in bench.entries()] == [b"".join(pieces)] * 2
    assert bench.sender.requests.statuses == {200: 2}


async def test_the_live_view_tells_rates_counts_and_latency(tmp_path: Path, serve: Serve) -> None:
    async def chat(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(0.05)
        return web.json_response({}, status=(await request.json())["max_tokens"] + 427)

    bench = Bench(tmp_path, [await serve(chat)], [0.0, 0.0, 0.0])
    await bench.run()
    snapshot = bench.sender.snapshot()
    samples = snapshot.latency_samples
    assert len(samples) == 3
    assert min(samples) >= 50 * MS
    assert bench.sender.snapshot().latency_samples == []
    half = snapshot._replace(dispatched=1, statuses={428: 1}, errors=0, latency_samples=[80 * MS])
    other = snapshot._replace(dispatched=2, statuses={429: 1, 430: 1}, latency_samples=[])
    start_ns = bench.sender.requests.start_ns
    progress = LiveView(lambda: SendSnapshot.summed([half, other]), lambda: start_ns, 2.0, StringIO())
    line = progress.line(start_ns + 1000 * MS)
    assert line == "    1/2 s  offered       3/s  achieved       3/s  200 0  429 1  errors 2  p99 80.0 ms"


async def test_a_reset_is_told_from_an_orderly_close(tmp_path: Path) -> None:
    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    async with RawServer(reset) as server:
        bench = Bench(tmp_path, [server.url], [0.0])
        await bench.run()
    assert bench.sender.requests.errors == {"reset": 1}


async def test_a_server_that_goes_away_costs_errors_not_the_run(tmp_path: Path, serve: Serve) -> None:
    async def close_all(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        server.stop_listening()

    async with RawServer(close_all) as server:
        due_ms = [0.0, 0.0, 100.0, 100.0, 120.0, 120.0, 120.0, 120.0]
        bench = Bench(tmp_path, [await serve(ok), server.url], due_ms, max_connections=2)
        await bench.run()
    assert bench.sender.requests.statuses == {200: 4}
    assert bench.sender.requests.errors == {"closed": 1, "connect": 3}
    assert all(e.sent_ns == NEVER_SENT for e in bench.entries() if ERRORS[e.error] == "connect")


async def test_a_connection_that_is_to_be_closed_is_not_used_again(tmp_path: Path, serve: Serve) -> None:
    ports = set()

    async def chat(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        ports.add(request.transport.get_extra_info("peername")[1])
        return web.json_response({}, headers={"Connection": "close"})

    bench = Bench(tmp_path, [await serve(chat)], [0.0, 20.0, 40.0], max_connections=1)
    await bench.run()
    assert bench.sender.requests.statuses == {200: 3}
    assert len(ports) == 3


async def test_the_first_interrupt_waits_for_what_is_under_way(tmp_path: Path, serve: Serve) -> None:
    async def chat(_: web.Request) -> web.StreamResponse:
        bench.sender.interrupt()
        await asyncio.sleep(0)
        return web.json_response({})

    bench = Bench(tmp_path, [await serve(chat)], [0.0, 60_000.0])
    outcome = await bench.run()
    assert outcome.interrupted
    assert outcome.dispatched == 1
    assert outcome.sending_s < 50
    assert bench.sender.requests.statuses == {200: 1}


async def test_the_second_interrupt_cuts_off(tmp_path: Path, serve: Serve) -> None:
    never = asyncio.Event()

    async def chat(_: web.Request) -> web.StreamResponse:
        bench.sender.interrupt()
        bench.sender.interrupt()
        await never.wait()
        return web.json_response({})

    bench = Bench(tmp_path, [await serve(chat)], [0.0, 60_000.0])
    await bench.run()
    never.set()
    assert bench.sender.requests.errors == {"aborted": 1}


async def test_a_target_that_cannot_be_connected_to_is_named(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(BenchError, match=f"127.0.0.1:{port}"):
            await Bench(tmp_path, [f"http://127.0.0.1:{port}"], [0.0]).run()


@pytest.mark.parametrize("make", [make_alarm, LoopAlarm])
async def test_alarms_go_off_at_their_time_and_can_be_moved(make: Callable[..., TimerFdAlarm | LoopAlarm]) -> None:
    woken: asyncio.Queue[int] = asyncio.Queue()
    alarm = make(asyncio.get_running_loop(), lambda: woken.put_nowait(clock_ns()))
    try:
        alarm.set(clock_ns() + 60_000 * MS)
        at_ns = clock_ns() + 5 * MS
        alarm.set(at_ns)
        assert await woken.get() >= at_ns - MS // 10
        alarm.set(clock_ns() - MS)  # what is past goes off at once
        await woken.get()
        assert woken.empty()
    finally:
        alarm.close()
