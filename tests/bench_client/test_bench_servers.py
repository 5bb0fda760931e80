"""What the servers did during a run: sampled from /metrics without waiting for anybody, written down and read again."""

from __future__ import annotations

import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from aiohttp import web
from bench_fakes import FakeLimiter, application, held_until, run_info, serving

from bench_client.clock import clock_ns
from bench_client.commands.run import run
from bench_client.errors import BenchError
from bench_client.load.sizes import SizeDistribution
from bench_client.records.process_report import ProcessReport
from bench_client.records.run_directory import prepare
from bench_client.servers import metrics_page, server_watch
from bench_client.servers.metrics_page import Page, Scraper, read_pages
from bench_client.servers.procfs import LocalProcess
from bench_client.servers.server_watch import ServerWatch
from bench_client.servers.servers_file import ProcessUse, Sample, Servers, TargetSamples, read_servers, write_servers
from bench_client.servers.targets import LoadTarget
from bench_client.settings import RunSettings, SendingSettings, WorkloadSettings

METRICS = """\
# HELP process_cpu_seconds_total Total user and system CPU time spent in seconds.
# TYPE process_cpu_seconds_total counter
process_cpu_seconds_total {cpu}
# TYPE process_resident_memory_bytes gauge
process_resident_memory_bytes 1.5714304e+08
# TYPE limiter_build_info gauge
limiter_build_info{{node="n1",version="0.1.0"}} 1.0
# TYPE limiter_decisions_total counter
limiter_decisions_total{{outcome="admitted",reason="none"}} {decisions}.0
limiter_decisions_total{{outcome="rejected",reason="requests"}} 2.0
# TYPE limiter_decision_seconds histogram
limiter_decision_seconds_bucket{{le="0.0001"}} 7.0
# TYPE limiter_batch_operations histogram
limiter_batch_operations_bucket{{le="1"}} 10.0
limiter_batch_operations_bucket{{le="2"}} 14.0
limiter_batch_operations_bucket{{le="4"}} 15.0
limiter_batch_operations_bucket{{le="8"}} 15.0
limiter_batch_operations_bucket{{le="16"}} 15.0
limiter_batch_operations_bucket{{le="32"}} 15.0
limiter_batch_operations_bucket{{le="64"}} 15.0
limiter_batch_operations_bucket{{le="+Inf"}} 18.0
limiter_batch_operations_count 18.0
limiter_batch_operations_sum 400.0
"""
BATCHES = (10, 4, 1, 0, 0, 0, 0, 3)
PAGE = METRICS.format(cpu=3.25, decisions=40)


class FakeNode:
    """A node's metrics, which have gone on each time they are asked for."""

    def __init__(self) -> None:
        self.asked = 0
        self.connections: set[object] = set()

    async def metrics(self, request: web.Request) -> web.StreamResponse:
        self.asked += 1
        self.connections.add(request.transport)
        return web.Response(text=METRICS.format(cpu=self.asked / 8, decisions=100 * self.asked))


@pytest.fixture
def node() -> FakeNode:
    return FakeNode()


@pytest.fixture
def url(node: FakeNode) -> Iterator[str]:
    # A run asks three times before it ends: whether it is a node, before the load, and within.
    app = application(held_until(lambda: node.asked >= 3, FakeLimiter(limits=(1_000, 100_000, 100_000)).chat))
    app.router.add_get("/metrics", node.metrics)
    with serving(app) as address:
        yield address


def run_settings(url: str, keys: Path, out: Path, **sending: int) -> RunSettings:
    size = SizeDistribution.parse("fixed:10")
    workload = WorkloadSettings(
        qps=50,
        duration_s=0.3,
        seed=1,
        arrivals="constant",
        zipf=0.0,
        input_tokens=size,
        output_tokens=size,
        trace=None,
        speed=1.0,
        cap_output=True,
    )
    return RunSettings(workload, SendingSettings(None, 10.0, **sending), (url,), keys, out)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_writes_down_what_its_target_did(
    monkeypatch: pytest.MonkeyPatch, url: str, node: FakeNode, keys_file: Path, tmp_path: Path, processes: int
) -> None:
    monkeypatch.setattr(server_watch, "MIN_PERIOD_S", 0.2)
    monkeypatch.setattr(server_watch, "STOP_TIMEOUT_S", 20.0)
    run(run_settings(url, keys_file, tmp_path / "out", processes=processes), lambda line: None)
    servers = read_servers(tmp_path / "out")
    assert servers is not None
    (target,) = servers.targets
    assert (target.url, target.node) == (url, "n1")
    before, within, after = target.samples
    assert before.at_s < within.at_s < after.at_s
    assert within.at_s >= 0.2
    assert after.at_s >= 0.28, "when the last request has been answered"
    asked = node.asked
    assert [sample.decisions for sample in target.samples] == [100 * n + 2 for n in (asked - 2, asked - 1, asked)]
    assert {sample.batch_operations for sample in target.samples} == {BATCHES}
    assert {sample.rss_bytes for sample in target.samples} == {157_143_040}
    theirs, ours = servers.processes
    assert (theirs.name, theirs.kind, theirs.cpu_s) == ("node n1", "node", 0.25)
    assert theirs.cores == pytest.approx(0.25 / (after.at_s - before.at_s))
    assert (ours.name, ours.kind) == ("client", "client")
    assert ours.cpu_s == pytest.approx(ours.cores * 0.3)


def test_a_run_without_metrics_says_so(keys_file: Path, tmp_path: Path) -> None:
    with serving(application(FakeLimiter(limits=(1_000, 100_000, 100_000)).chat)) as url:
        run(run_settings(url, keys_file, tmp_path / "out"), lambda line: None)
    servers = read_servers(tmp_path / "out")
    assert servers is not None
    assert servers.targets == (TargetSamples(url, "", ()),)
    assert [process.kind for process in servers.processes] == ["client"]


@contextmanager
def raw_server(*answers: bytes | Callable[[socket.socket], None]) -> Iterator[tuple[LoadTarget, list[bytes]]]:
    """Serves one connection after the other: a request's head is read, then the answer given; and the requests."""
    requests: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        for answer in answers:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                requests.append(connection.recv(65_536))
                try:
                    if callable(answer):
                        answer(connection)
                    else:
                        connection.sendall(answer)
                except OSError:  # the other side has had enough
                    continue

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield LoadTarget.parse(f"http://127.0.0.1:{listener.getsockname()[1]}"), requests
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)
        assert not thread.is_alive()


def response(body: bytes, head: str = "HTTP/1.1 200 OK\r\n") -> bytes:
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def endless(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        connection.sendall(b"10000\r\n" + b"#" * 0x10000 + b"\r\n")


def trickle(connection: socket.socket) -> None:
    """One byte at a time, faster than any timeout between two of them."""
    gone = threading.Event()
    for byte in response(PAGE.encode()) * 1000:
        connection.sendall(bytes([byte]))
        gone.wait(0.01)


def hold(connection: socket.socket) -> None:
    """Says nothing until the other side leaves."""
    connection.recv(1)


@pytest.mark.parametrize(
    "answer",
    [
        response(PAGE.encode(), "HTTP/1.1 404 Not Found\r\n"),
        response(PAGE.encode(), "HTTP/1.1 503 Service Unavailable\r\n"),
        response(b"", "HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\n"),
        response(b"#" * (metrics_page.MAX_PAGE_BYTES + 1)),
        response(PAGE.encode())[:-10],
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnot a length\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
        b"220 mail.example.com ESMTP\r\n",
        b"\x16\x03\x01\x00\xff",
        b"",
        endless,
        trickle,
        hold,
    ],
    ids=lambda answer: getattr(answer, "__name__", str(answer)),
)
def test_what_is_no_page_is_none(
    monkeypatch: pytest.MonkeyPatch, answer: bytes | Callable[[socket.socket], None]
) -> None:
    monkeypatch.setattr(metrics_page, "FETCH_TIMEOUT_S", 0.3)
    with raw_server(answer) as (target, requests):
        scraper = Scraper(target)
        assert scraper.fetch() is None
        scraper.close()
    assert len(requests) == 1
    assert requests[0].startswith(b"GET /metrics HTTP/1.1\r\n")
    assert b"authorization" not in requests[0].lower()


def test_a_target_that_nobody_listens_at_is_none() -> None:
    with raw_server() as (target, _):
        pass
    assert Scraper(target).fetch() is None


def test_a_connection_is_kept_and_a_stale_one_replaced(url: str, node: FakeNode) -> None:
    scraper = Scraper(LoadTarget.parse(url))
    assert scraper.fetch()
    assert scraper.fetch()
    assert len(node.connections) == 1
    scraper.close()

    page = response(PAGE.encode())
    with raw_server(page, page, response(PAGE.encode(), "HTTP/1.1 200 OK\r\nConnection: close\r\n")) as (
        target,
        requests,
    ):
        scraper = Scraper(target)
        assert scraper.fetch()
        assert scraper.fetch()  # the server has closed the first one
        assert scraper.fetch()
        scraper.close()
    assert len(requests) == 3


def read(text: str | bytes) -> TargetSamples:
    return read_pages(
        "http://n", [Page(1_500_000_000, text if isinstance(text, bytes) else text.encode())], 1_000_000_000
    )


def test_a_page_is_read() -> None:
    assert read(PAGE) == TargetSamples("http://n", "n1", (Sample(0.5, 3.25, 157_143_040, 42, BATCHES),))


def without(start: str) -> str:
    return "".join(line for line in PAGE.splitlines(keepends=True) if not line.startswith(start))


@pytest.mark.parametrize(
    "text",
    [
        "",
        without("process_cpu"),
        without("process_resident"),
        without("limiter_batch"),
        without('limiter_batch_operations_bucket{le="16"}'),
        PAGE.replace("40.0", "forty"),
        PAGE.replace("40.0", "-40.0"),
        PAGE.replace("40.0", "40.5"),
        PAGE.replace("40.0", "NaN"),
        PAGE.replace("40.0", "+Inf"),
        PAGE.replace("40.0", "1e300"),
        PAGE.replace("3.25", "+Inf"),
        PAGE.replace("14.0", "3.0"),
        PAGE.replace('le="1"', 'le="one"'),
        PAGE.replace('node="n1",', ""),
        PAGE.replace("40.0", "40.0\nlimiter_decisions_total{"),
        PAGE.encode() + b"\xff\xfe",
    ],
)
def test_a_page_that_is_not_whole_says_nothing(text: str | bytes) -> None:
    assert read(text).samples == ()


def test_no_page_breaks_the_reading() -> None:
    seeded = random.Random(7)
    whole = PAGE.encode()
    for _ in range(500):
        page = bytearray(whole)
        for _ in range(seeded.randrange(1, 12)):
            at = seeded.randrange(len(page))
            page[at : at + seeded.randrange(4)] = seeded.randbytes(seeded.randrange(3))
        for sample in read(bytes(page)).samples:
            orjson.dumps(sample)


def pages_of(watched: ServerWatch) -> int:
    return len(watched.servers([], 1.0).targets[0].samples)


def test_an_interrupted_run_takes_its_last_sample_at_once(url: str, node: FakeNode) -> None:
    with ServerWatch([LoadTarget.parse(url)], 600.0) as watched:
        watched.on_start(clock_ns())
        deadline = time.monotonic() + 10
        while not watched._targets[0].pages:
            assert time.monotonic() < deadline
            time.sleep(0.001)
    assert pages_of(watched) == 2
    assert node.asked == 3, "one to see what it is, one before, one after"


def test_a_run_that_never_starts_has_no_samples(url: str, node: FakeNode) -> None:
    with ServerWatch([LoadTarget.parse(url)], 600.0) as watched:
        pass
    assert pages_of(watched) == 0
    assert node.asked <= 1


def test_who_is_no_node_is_asked_once() -> None:
    with raw_server(response(b"http_requests_total 1\n"), response(PAGE.encode())) as (target, requests):
        with ServerWatch([target], 600.0) as watched:
            watched.on_start(clock_ns())
            watched._targets[0].join(10)
            assert not watched._targets[0].is_alive()
        assert pages_of(watched) == 0
    assert len(requests) == 1


@pytest.mark.parametrize("before", [(), (response(PAGE.encode()), response(PAGE.encode()))], ids=["never", "no more"])
def test_nobody_waits_for_a_silent_target(monkeypatch: pytest.MonkeyPatch, before: Sequence[bytes]) -> None:
    """Its thread ends with the run, long before the time for an answer is over."""
    monkeypatch.setattr(metrics_page, "FETCH_TIMEOUT_S", 60.0)
    monkeypatch.setattr(server_watch, "STOP_TIMEOUT_S", 0.2)
    asked = threading.Event()

    def silent(connection: socket.socket) -> None:
        asked.set()
        hold(connection)

    with raw_server(*before, silent) as (target, _):
        with ServerWatch([target], 0.1) as watched:
            watched.on_start(clock_ns())
            assert asked.wait(10)
        watched._targets[0].join(10)
        assert not watched._targets[0].is_alive()
        assert pages_of(watched) == max(len(before) - 1, 0)


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setattr(server_watch, "MAX_TARGET_BYTES", len(PAGE) + 100)
    with ServerWatch([LoadTarget.parse(url)], 0.05) as watched:
        watched.on_start(clock_ns())
        watched._targets[0].join(10)
    assert pages_of(watched) == 1


@pytest.mark.parametrize(("duration_s", "period_s"), [(0.5, 1.0), (60.0, 1.0), (24_000.0, 100.0)])
def test_a_long_run_is_sampled_less_often(duration_s: float, period_s: float) -> None:
    assert ServerWatch([], duration_s).servers([], duration_s).period_s == period_s


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_known_processes_stand_in_place_of_the_targets_own_account(url: str) -> None:
    known = [LocalProcess("store 7001", "store", os.getpid()), LocalProcess("node 9", "node", 1 << 30)]
    with ServerWatch([LoadTarget.parse(url)], 600.0, known) as watched:
        watched.on_start(clock_ns())
    reports = [ProcessReport(10, cpu, 0.1, 0.2, 0) for cpu in (0.25, 0.5)]
    store, client = watched.servers(reports, 4.0).processes
    assert (store.name, store.kind) == ("store 7001", "store")
    assert store.cores == store.cpu_s / 4
    assert client == ProcessUse("client", "client", 3.0, 0.75)


def test_a_node_that_was_started_again_has_counted_from_zero_again() -> None:
    samples = [Sample(at_s, cpu_s, 1, 1, BATCHES) for at_s, cpu_s in ((0.0, 7.0), (1.0, 7.5), (2.0, 0.25), (4.0, 1.0))]
    assert TargetSamples("http://n", "n1", tuple(samples)).cpu() == ProcessUse("node n1", "node", 1.5, 0.375)
    assert TargetSamples("http://n", "n1", tuple(samples[:1])).cpu() is None


SERVERS = Servers(
    1.0,
    (TargetSamples("http://n", "n1", (Sample(-0.01, 0.5, 1, 2, BATCHES),)), TargetSamples("http://m", "", ())),
    (ProcessUse("client", "client", 1.5, 0.5),),
)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    assert read_servers(tmp_path) is None
    write_servers(tmp_path, SERVERS)
    assert read_servers(tmp_path) == SERVERS
    document = orjson.loads((tmp_path / "servers.json").read_bytes())
    assert document["format"] == "bench-client servers 1"
    assert document["batch_bounds"] == [1, 2, 4, 8, 16, 32, 64]
    assert document["processes"] == [{"name": "client", "kind": "client", "cpu_s": 1.5, "cores": 0.5}]
    prepare(tmp_path, run_info())
    assert read_servers(tmp_path) is None, "a second run into the same directory doesn't show the first one's servers"


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-20],
        lambda text: b"[]",
        lambda text: b"\xff",
        lambda text: text.replace(b'"period_s": 1.0', b'"period_s": "1.0"'),
        lambda text: text.replace(b'"cores": 0.5', b'"cores": null'),
        lambda text: text.replace(b'"cores": 0.5', b'"core": 0.5'),
        lambda text: text.replace(b'"decisions": 2', b'"decisions": -2'),
        lambda text: text.replace(b'"decisions": 2', b'"decisions": true'),
        lambda text: text.replace(b'"http://m"', b"17"),
        lambda text: text.replace(b'"samples": []', b'"samples": {}'),
        lambda text: text.replace(b"servers 1", b"servers 2"),
    ],
)
def test_a_damaged_file_is_told_in_one_line(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    write_servers(tmp_path, replace(SERVERS))
    path = tmp_path / "servers.json"
    damaged = damage(path.read_bytes())
    assert damaged != path.read_bytes()
    path.write_bytes(damaged)
    with pytest.raises(BenchError, match=r"servers\.json (is damaged|was written by another version)") as raised:
        read_servers(tmp_path)
    assert "\n" not in str(raised.value)


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "servers.json").mkdir()
    with pytest.raises(BenchError, match="cannot read"):
        read_servers(tmp_path)
