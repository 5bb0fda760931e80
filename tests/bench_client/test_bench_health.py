"""Whether the client was the bottleneck: the judgement on given figures, and one client that truly is too slow."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from bench_fakes import Ledger, application, run_info, serving

from bench_client.clock import clock_ns
from bench_client.commands.run import run
from bench_client.load.sizes import SizeDistribution
from bench_client.records.process_report import ProcessReport, lateness_percentiles_ms
from bench_client.results.client_health import ClientHealth
from bench_client.results.summary import summarize
from bench_client.results.tables import summary_text
from bench_client.sending.open_loop_sender import OpenLoopSender
from bench_client.settings import RunSettings, SendingSettings, WorkloadSettings

Latency = tuple[float, float]


def report(**changes: Any) -> ProcessReport:
    values = {"requests": 1000, "cpu": 0.6, "lateness_p50_ms": 0.05, "lateness_p99_ms": 0.4, "all_busy": 0}
    return ProcessReport(**{**values, **changes})


def health(*processes: ProcessReport, p50: Latency = (1.0, 1.0), p99: Latency = (5.0, 5.0)) -> ClientHealth:
    """Each latency from the due time and from the sending."""
    return ClientHealth(list(processes), {"p50": p50[0], "p99": p99[0]}, {"p50": p50[1], "p99": p99[1]})


@pytest.mark.parametrize(
    ("changes", "p99", "says"),
    [
        ({}, (5.0, 5.0), None),
        ({"cpu": 0.94}, (5.0, 5.0), None),
        ({"cpu": 0.95}, (5.0, 5.0), "used 95% of a core; raise --processes"),
        ({"lateness_p99_ms": 2.0}, (5.0, 1.0), None),
        ({"lateness_p99_ms": 2.1}, (5.0, 1.0), "makes up 2.1 of the 5.0 ms of p99; raise --processes"),
        ({"lateness_p99_ms": 40.0}, (5.0, 1.0), "makes up 4.0 of the 5.0 ms of p99"),
        ({"lateness_p99_ms": 2.1, "cpu": 0.2}, (5.0, 1.0), "other work on this machine holds it up); free a core"),
        ({"lateness_p99_ms": 40.0}, (400.0, 300.0), None),  # the answers were late for another reason
        ({"lateness_p99_ms": 40.1}, (400.0, 300.0), "40.1 of the 400.0 ms"),
        ({"lateness_p99_ms": 40.1}, (50.0, 49.0), None),  # the late ones were not the slow ones
        ({"lateness_p99_ms": 40.1}, (50.0, 50.1), None),
        (
            {"lateness_p99_ms": 3.0, "cpu": 0.99},
            (5.0, 1.0),
            "99% of a core, requests left late, which makes up 3.0",
        ),
    ],
)
def test_the_worst_process_decides(changes: dict[str, float], p99: Latency, says: str | None) -> None:
    judged = health(report(), report(**changes), report(), p99=p99)
    assert (judged.bottleneck is None) == (says is None)
    assert judged.as_dict()["bottleneck"] == (says is not None)
    if says is None:
        assert judged.remark is None
    else:
        assert (judged.remark or "").startswith("the client was the bottleneck: ")
        assert says in (judged.remark or "")


def test_a_median_that_lateness_has_changed_is_told_too() -> None:
    late = report(lateness_p50_ms=1.5, lateness_p99_ms=1.9)
    assert "makes up 1.5 of the 2.5 ms of p50;" in str(health(late, p50=(2.5, 0.9)).remark)
    assert health(late, p50=(1.5, 0.6)).remark is None, "less than a millisecond of it"
    assert ClientHealth([late], {}, {}).remark is None, "nothing was answered"


def test_late_requests_that_were_not_the_slow_ones_change_no_figure(ledger: Ledger) -> None:
    """A tenth leaves 30 ms late and is answered at once, another tenth takes 200 ms."""
    for number in range(200):
        kind = number % 10
        late_us = 30_000 if kind == 0 else 0
        ledger.admit(10 * number, took_ms=200 if kind == 1 else 5, sent_us=10_000 * number + late_us)
        if kind == 0:
            ledger.records[-1] = ledger.records[-1]._replace(done_us=10_000 * number + 35_000)
    client = summarize(ledger.records, run_info(processes=[report(lateness_p99_ms=30.0)])).client
    assert client.remark is None
    assert client.late_ms["p99"] == 0


def test_waiting_for_a_connection_is_told_but_is_not_the_clients_fault() -> None:
    judged = health(report(all_busy=61), report(requests=2000))
    assert judged.bottleneck is None
    assert "61 requests found all connections busy" in (judged.remark or "")
    assert health(report(all_busy=60), report(requests=2000)).remark is None


def test_lateness_percentiles() -> None:
    assert lateness_percentiles_ms([]) == (0.0, 0.0)
    assert lateness_percentiles_ms([5_000_000]) == (5.0, 5.0)
    assert lateness_percentiles_ms([i * 1_000_000 for i in reversed(range(100))]) == (50.0, 99.0)


def test_the_table_and_the_summary_tell_it(ledger: Ledger) -> None:
    ledger.admit(0)
    summary = summarize(ledger.records, run_info(processes=[report(cpu=0.31), report(cpu=0.97)]))
    text = summary_text(summary)
    assert "client CPU 31% 97%" in text
    assert sum("the client was the bottleneck" in line for line in text.splitlines()) == 1
    client: Any = summary.as_dict()["client"]
    assert (client["bottleneck"], client["lateness_ms"]) == (True, {"p50": 0.05, "p99": 0.4})
    assert client["reason"] == "a sending process used 97% of a core"
    assert [process["cpu"] for process in client["processes"]] == [0.31, 0.97]


def test_a_client_that_is_too_slow_says_so(keys_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests are due every 2 ms, and it looks for them no more often than every 50 ms."""

    async def answer(_: web.Request) -> web.StreamResponse:
        return web.json_response({})

    send_due = OpenLoopSender._send_due

    def slowly(self: OpenLoopSender, now_ns: int) -> None:
        time.sleep(0.05)
        send_due(self, clock_ns())

    monkeypatch.setattr(OpenLoopSender, "_send_due", slowly)
    size = SizeDistribution.parse("fixed:25")
    workload = WorkloadSettings(500, 0.4, 1, "constant", 0.0, size, size, None, 1.0, True)
    out = tmp_path / "out"
    with serving(application(answer)) as url:
        settings = RunSettings(workload, SendingSettings(None, 10.0), (url,), keys_file, out)
        result = run(settings, lambda line: None)
    assert "requests left late" in (result.summary.client.bottleneck or "")
    client = json.loads((out / "summary.json").read_bytes())["client"]
    assert client["bottleneck"] is True
    assert client["lateness_ms"]["p99"] > 40
    assert client["processes"][0]["requests"] == 200
