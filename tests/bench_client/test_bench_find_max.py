"""The search on servers made of a formula, the judgement of a trial, and the command against servers with a limit."""

from __future__ import annotations

import asyncio
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from bench_fakes import Ledger, application, run_info, serving

from bench_client import cli
from bench_client.commands.find_max import judge
from bench_client.commands.search import Search, Verdict
from bench_client.records.process_report import ProcessReport
from bench_client.results import client_health
from bench_client.results.summary import summarize


@dataclass(frozen=True)
class Tried:
    rate: float
    verdict: Verdict


@dataclass
class Server:
    """Holds up to ``holds`` requests/s; the trials numbered in ``hiccups`` miss for no reason."""

    holds: float
    hiccups: tuple[int, ...] = ()
    miss: Verdict = Verdict.LATENCY
    trials: int = 0

    def __call__(self, rate: float) -> Tried:
        self.trials += 1
        held = rate <= self.holds and self.trials not in self.hiccups
        return Tried(rate, Verdict.HELD if held else self.miss)


def search(server: Server, **changes: Any) -> Search[Tried]:
    values: dict[str, Any] = {"lowest": 100.0, "highest": 1e6, "precision": 0.05, "max_trials": 40, **changes}
    made = Search(server, **values)
    made.run()
    assert len(made.trials) == server.trials <= values["max_trials"]
    return made


@pytest.mark.parametrize("holds", [100, 101, 150, 199.9, 200, 777, 12_345, 99_999])
@pytest.mark.parametrize("precision", [0.02, 0.05, 0.5])
def test_the_found_rate_holds_and_one_a_little_above_misses(holds: float, precision: float) -> None:
    made = search(Server(holds), precision=precision)
    assert made.found is not None
    assert made.missed is not None
    assert made.found.rate <= holds < made.missed.rate
    assert made.missed.rate <= made.found.rate * (1 + precision) * (1 + 1e-9)
    assert made.trials[-1] is made.found
    assert sum(trial.rate == made.found.rate for trial in made.trials) == 2, "it is confirmed by a trial of its own"


def test_it_takes_few_trials() -> None:
    assert len(search(Server(12_345)).trials) <= 15


def test_nothing_is_found_where_not_even_the_lowest_rate_holds() -> None:
    made = search(Server(99))
    assert (made.found, made.missed) == (None, Tried(100, Verdict.LATENCY))
    assert len(made.trials) == 2


def test_one_hiccup_does_not_end_the_ramp() -> None:
    made = search(Server(10_000, hiccups=(3,)))
    assert made.found is not None
    assert made.found.rate > 9_000


def test_a_rate_that_is_not_confirmed_is_lowered() -> None:
    steady = search(Server(10_000))
    made = search(Server(10_000, hiccups=(len(steady.trials),)))
    assert steady.found is not None
    assert made.found is not None
    assert made.missed is not None
    assert made.found.rate == pytest.approx(steady.found.rate / 1.05)
    assert made.missed.rate == steady.found.rate


def test_the_highest_rate_allowed_ends_the_search() -> None:
    made = search(Server(1e9), highest=5_000.0)
    assert made.missed is None
    assert [trial.rate for trial in made.trials] == [100, 200, 400, 800, 1600, 3200, 5000, 5000]
    assert made.found is made.trials[-1]


def test_a_client_at_its_limit_ends_the_search_with_a_lower_bound() -> None:
    made = search(Server(3_000, miss=Verdict.CLIENT))
    assert made.found == Tried(1600, Verdict.HELD)
    assert made.missed == Tried(3200, Verdict.CLIENT)
    assert [trial.rate for trial in made.trials[-3:]] == [3200, 3200, 1600]


@pytest.mark.parametrize("max_trials", range(2, 14))
def test_trials_are_bounded_and_one_is_kept_for_the_confirmation(max_trials: int) -> None:
    made = search(Server(1_000), max_trials=max_trials)
    assert made.found is not None
    assert len(made.trials) <= max_trials


SLOW_CLIENT = [ProcessReport(100, 0.99, 1.0, 3.0, 0)]


@pytest.mark.parametrize(
    ("slow", "failed", "others", "processes", "verdict"),
    [
        (10, 0, 0, [], Verdict.HELD),
        (11, 0, 0, [], Verdict.LATENCY),
        (0, 10, 0, [], Verdict.HELD),  # one request in a hundred may miss, whichever way
        (5, 6, 0, [], Verdict.LATENCY),
        (0, 11, 0, [], Verdict.ERRORS),
        (0, 6, 5, [], Verdict.ERRORS),
        (11, 0, 0, SLOW_CLIENT, Verdict.CLIENT),
        (0, 11, 0, SLOW_CLIENT, Verdict.CLIENT),
        (0, 0, 11, SLOW_CLIENT, Verdict.ERRORS),  # no client makes a server answer 503
        (10, 0, 0, SLOW_CLIENT, Verdict.HELD),  # what holds, holds
    ],
)
def test_one_in_a_hundred_may_miss(
    ledger: Ledger, slow: int, failed: int, others: int, processes: list[ProcessReport], verdict: Verdict
) -> None:
    late, admitted = ledger.admit(0, took_ms=80), ledger.admit(0, took_ms=10)
    rejected = ledger.reject(0, 0, took_ms=10)  # a 429 is an answer
    lost, refused = ledger.lose(0), ledger.lose(0, error=None, status=503, took_ms=10)
    good = 1000 - slow - failed - others
    records = [late] * slow + [lost] * failed + [refused] * others
    records += [admitted] * (good // 2) + [rejected] * (good - good // 2)
    trial = judge(1000, summarize(records, run_info(processes=processes)), 50.0)
    assert trial.verdict is verdict, trial.cause
    assert (trial.errors, bool(trial.cause)) == (failed + others, verdict is not Verdict.HELD)


def find_max(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = cli._run_cli(["find-max", *map(str, arguments)])
    output = capsys.readouterr()
    return code, output.out, output.err


def test_a_server_of_a_known_speed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], keys_file: Path, tmp_path: Path
) -> None:
    """One request after the other, 143 a second: what comes faster queues up."""
    # Other tests may hold the client up, too; it is to blame the server for what is too late.
    monkeypatch.setattr(client_health, "LATE_MS", dict.fromkeys(client_health.LATE_MS, math.inf))
    monkeypatch.setattr(client_health, "BUSY_CPU", math.inf)
    free_at = 0.0

    async def chat(_: web.Request) -> web.StreamResponse:
        nonlocal free_at
        now = asyncio.get_running_loop().time()
        free_at = max(free_at, now) + 0.007
        await asyncio.sleep(free_at - now)
        return web.json_response({})

    with serving(application(chat)) as url:
        code, stdout, stderr = find_max(
            capsys, "--target", url, "--keys", keys_file, "--slo-p99-ms", 400, "--from", 50, "--trial", 1.5, "--warmup",
            0.1, "--precision", 100, "--arrivals", "constant", "--out", tmp_path / "out",
        )  # fmt: skip
    assert code == 0, stderr
    found = json.loads((tmp_path / "out" / "find-max.json").read_bytes())
    assert 50 <= found["highest_qps"] < 200, stdout
    assert found["limit"] == "too slow"
    *curve, verdict = stdout.splitlines()
    assert verdict == found["verdict"]
    assert "hold" in verdict
    assert curve[0].split()[0] == "offered/s"
    assert len(curve) == len(found["trials"]) + 1 == stderr.count("trial ") + 1
    assert sum("held, confirmed" in line for line in curve) == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["find-max.json"]


def test_a_server_that_holds_nothing(capsys: pytest.CaptureFixture[str], keys_file: Path) -> None:
    async def refuse(_: web.Request) -> web.StreamResponse:
        return web.Response(status=503)

    with serving(application(refuse)) as url:
        arguments = ("--target", url, "--keys", keys_file, "--slo-p99-ms", 1000, "--trial", 0.2, "--warmup", 0)
        code, stdout, _ = find_max(capsys, *arguments, "--arrivals", "constant")
    assert code == 1
    verdict = stdout.splitlines()[-1]
    said = "every request was answered 503: is the target's store up? its log tells"
    assert verdict == f"not even 100 requests/s hold p99 ≤ 1000 ms: {said}"


def test_limits_that_shape_the_curve_are_noted(capsys: pytest.CaptureFixture[str], keys_file: Path) -> None:
    async def reject(_: web.Request) -> web.StreamResponse:
        return web.json_response({}, status=429)

    with serving(application(reject)) as url:
        arguments = ("--target", url, "--keys", keys_file, "--slo-p99-ms", 5000, "--trial", 0.2, "--processes", 2)
        code, stdout, _ = find_max(capsys, *arguments, "--to", 100, "--warmup", 0.1)
    assert code == 0
    assert stdout.splitlines()[-1] == "at least 100 requests/s hold p99 ≤ 5000 ms: the highest rate tried"
    assert sum("100% of the answers were 429" in line for line in stdout.splitlines()) == 1


def test_a_server_that_goes_away_leaves_the_curve_so_far(capsys: pytest.CaptureFixture[str], keys_file: Path) -> None:
    answered = 0

    async def ready(_: web.Request) -> web.StreamResponse:
        return web.Response(status=503 if answered > 20 else 200, text="leaving")

    async def chat(_: web.Request) -> web.StreamResponse:
        nonlocal answered
        answered += 1
        return web.json_response({})

    app = web.Application()
    app.router.add_post("/v1/chat/completions", chat)
    app.router.add_get("/readyz", ready)
    with serving(app) as url:
        arguments = ("--target", url, "--keys", keys_file, "--slo-p99-ms", 5000, "--trial", 0.2, "--warmup", 0)
        code, stdout, stderr = find_max(capsys, *arguments, "--from", 60, "--arrivals", "constant")
    assert code == 1
    assert [line.split()[-1] for line in stdout.splitlines()[1:3]] == ["held", "held"]
    assert "the search ended early" in stderr
    assert "is not ready (leaving); start it" in stderr, "only the first trial waits"
