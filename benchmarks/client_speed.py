"""The rate and lateness of one client process that sends open-loop, when the server is not the limit.

``python -m benchmarks.client_speed``: a trivially fast server on one core (it frames requests and answers each with the
same bytes, as long as a limiter's answer), ``bench-client run`` on another. Shown are medians over the rounds; the CPU
per request is the sending process's own, which a busy machine hardly changes. Last comes the highest rate that one
process holds with 99 % of its requests at most 1 ms late: where CPU per request times rate nears a core, or the server
its own limit. Weakness: on a busy or single-core machine lateness measures the scheduler.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import tempfile
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import click
import httptools
import orjson
import uvloop

from bench_client.commands.run import RunResult, run
from bench_client.commands.search import Search, Verdict
from bench_client.load.sizes import SizeDistribution
from bench_client.settings import RunSettings, SendingSettings, WorkloadSettings
from benchmarks.lib.measuring import Row, row, show
from limiter_node.keysfile.making import write_private

LATE_P99_MS = 1.0
HELD_SHARE = 0.98
"""The share of offered requests to answer; a run that answers less has not held its rate, however punctual."""
SEARCH_FROM, SEARCH_TO, SEARCH_PRECISION, SEARCH_TRIALS = 20_000.0, 160_000.0, 0.1, 16

BODY = orjson.dumps(
    {
        "id": "chatcmpl-0123456789abcdef",
        "object": "chat.completion",
        "model": "none",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "word " * 100}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 25, "completion_tokens": 100, "total_tokens": 125},
    }
)
HEADERS = {
    "Content-Type": "application/json",
    "Content-Length": len(BODY),
    "x-ratelimit-limit-requests": 600,
    "x-ratelimit-remaining-requests": 599,
    "x-ratelimit-limit-input-tokens": 100_000,
    "x-ratelimit-remaining-input-tokens": 99_975,
    "x-ratelimit-limit-output-tokens": 50_000,
    "x-ratelimit-remaining-output-tokens": 49_872,
    "x-limiter-time-ms": 1_700_000_000_000,
    "x-limiter-reserved-output": 128,
    "x-limiter-node": "none",
}
ANSWER = b"HTTP/1.1 200 OK\r\n" + b"".join(b"%b: %b\r\n" % (k.encode(), str(v).encode()) for k, v in HEADERS.items())
ANSWER += b"\r\n" + BODY


class Answering(asyncio.Protocol):
    """Answer every request with the same bytes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._parser = httptools.HttpRequestParser(self)

    def on_message_complete(self) -> None:
        self._transport.write(ANSWER)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)


def pin(core: int) -> None:
    """Bind this process to one core, if the system can and there are two."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) > 1:
            os.sched_setaffinity(0, {cores[core % len(cores)]})


def serve(pipe: Connection) -> None:
    """Run the server's process; it ends with the pipe."""

    async def answer_until_closed() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Answering, "127.0.0.1", 0)
        pipe.send(server.sockets[0].getsockname()[1])
        closed = asyncio.Event()
        loop.add_reader(pipe.fileno(), closed.set)
        await closed.wait()

    pin(1)
    uvloop.run(answer_until_closed())


def measure(port: int, qps: float, duration_s: float, directory: Path) -> dict[str, float]:
    """Measure one round at one rate."""
    keys = directory / "keys.toml"
    write_private(keys, '[keys."sk-speed"]\nname = "speed"\n', overwrite=True)
    settings = RunSettings(
        workload=WorkloadSettings(
            qps=qps,
            duration_s=duration_s,
            seed=1,
            arrivals="poisson",
            zipf=0.0,
            input_tokens=SizeDistribution.parse("fixed:25"),
            output_tokens=SizeDistribution.parse("lognormal:128:0.7"),
            trace=None,
            speed=1.0,
            cap_output=True,
        ),
        sending=SendingSettings(connections=256, timeout_s=10.0, models=(("none", 1),)),
        targets=(f"http://127.0.0.1:{port}",),
        keys=keys,
        out=directory / "run",
        force=True,
    )
    return figures(run(settings, lambda line: None))


def figures(result: RunResult) -> dict[str, float]:
    summary = result.summary
    late, latency = summary.lateness_us, summary.total.latency_us
    return {
        "target_qps": summary.target_qps,
        "achieved_qps": summary.achieved_qps,
        "cpu_us": summary.client.processes[0].cpu / summary.target_qps * 1e6,
        "errors": summary.total.errors.total(),
        "late_p50_ms": late.get_value_at_percentile(50.0) / 1000,
        "late_p99_ms": late.get_value_at_percentile(99.0) / 1000,
        "late_max_ms": late.get_max_value() / 1000,
        "latency_p99_ms": latency.get_value_at_percentile(99.0) / 1000,
    }


@dataclass(frozen=True, slots=True)
class Tried:
    """Hold one rate, and whether the client kept to it."""

    rate: float
    verdict: Verdict


def highest_held(port: int, duration_s: float) -> float:
    """Return the highest rate held, in requests/s; 0 if not even the first rate of the search was."""

    def trial(rate: float) -> Tried:
        with tempfile.TemporaryDirectory() as directory:
            measured = measure(port, rate, duration_s, Path(directory))
        held = measured["late_p99_ms"] <= LATE_P99_MS and measured["errors"] == 0
        held = held and measured["achieved_qps"] >= HELD_SHARE * measured["target_qps"]
        return Tried(rate, Verdict.HELD if held else Verdict.LATENCY)

    search = Search(trial, SEARCH_FROM, SEARCH_TO, SEARCH_PRECISION, SEARCH_TRIALS)
    search.run()
    return search.found.rate if search.found is not None else 0.0


@click.command(context_settings={"show_default": True})
@click.option("--qps", "rates", type=float, multiple=True, default=(10_000, 20_000, 30_000, 40_000), help="Repeatable.")
@click.option("--duration", "duration_s", type=float, default=5.0, help="Seconds per round.")
@click.option("--rounds", type=click.IntRange(1), default=3, help="Rounds per rate; the median is shown.")
@click.option("--json", "json_path", metavar="FILE", help="Write the rows there, too.")
def main(rates: tuple[float, ...], duration_s: float, rounds: int, json_path: str | None) -> None:
    """Measure the client's own speed."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    server = context.Process(target=serve, args=(theirs,), daemon=True)
    server.start()
    theirs.close()
    rows: list[Row] = []
    try:
        port = ours.recv()
        pin(0)
        for qps in rates:
            with tempfile.TemporaryDirectory() as directory:
                runs = [measure(port, qps, duration_s, Path(directory)) for _ in range(rounds)]
            offered = f"{qps:,.0f} requests/s offered"
            rows += [
                row(f"{offered}: achieved", "1/s", [each["achieved_qps"] for each in runs]),
                row(f"{offered}: lateness p50", "ms", [each["late_p50_ms"] for each in runs]),
                row(f"{offered}: lateness p99", "ms", [each["late_p99_ms"] for each in runs], "≤ 1 at 40,000"),
                row(f"{offered}: CPU per request", "µs", [each["cpu_us"] for each in runs]),
                row(f"{offered}: errors", "", [each["errors"] for each in runs]),
            ]
        rows.append(row("highest rate held by a process", "1/s", [highest_held(port, duration_s)], "≥ 40,000"))
    finally:
        ours.close()
        server.join(5)
        if server.is_alive():
            server.terminate()
    show("The client, one process, against a trivially fast server", rows, json_path=json_path)


if __name__ == "__main__":
    main()
