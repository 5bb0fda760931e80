"""The commands end to end against a fake limiter: results, exit codes, errors of one line, the environment."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from time import monotonic

import pytest
from aiohttp import web
from bench_fakes import FakeLimiter, application, serving, write_keys

from bench_client import cli
from bench_client.records.record_file import RecordReader
from bench_client.records.run_directory import read_info
from bench_client.results.summary import Figures
from bench_client.results.unserved import failure_message
from bench_client.servers.targets import LoadTarget, await_targets

COMMAND = [sys.executable, "-m", "bench_client"]


def bench(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command as a user runs it."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
        check=False,
    )


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """The same in this process: what is about options and errors needs no other."""
    code = cli._run_cli([str(argument) for argument in arguments])
    output = capsys.readouterr()
    return code, output.out, output.err


@pytest.fixture
def limiter() -> FakeLimiter:
    return FakeLimiter(limits=(20, 100_000, 100_000))


@pytest.fixture
def url(limiter: FakeLimiter) -> Iterator[str]:
    with serving(application(limiter.chat)) as address:
        yield address


def test_run_and_audit(limiter: FakeLimiter, url: str, keys_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = bench("run", "--target", url, "--keys", keys_file, "--qps", 100, "--duration", 1, "--out", out)
    assert done.returncode == 0, done.stderr
    assert "achieved" in done.stdout
    summary = json.loads((out / "summary.json").read_bytes())
    records = list(RecordReader(out / "requests.jsonl"))
    assert summary["total"]["admitted"] == 40
    assert summary["total"]["rejected"] == {"requests": len(records) - 40}
    assert len(records) == summary["planned"] == read_info(out).dispatched
    assert {body["model"] for body in limiter.requests} == {"first-model"}
    assert {record.key for record in records} == set(read_info(out).key_names)
    assert not any("sk-" in path.read_text() for path in out.iterdir())
    assert sorted(path.name for path in out.iterdir()) == ["requests.jsonl", "run.json", "servers.json", "summary.json"]

    audited = bench("audit", out)
    assert audited.returncode == 0, audited.stdout
    assert audited.stdout.splitlines()[-1].startswith("audit: PROVED")
    assert json.loads((out / "audit.json").read_bytes())["proved"] is True


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        ("admits too many", "window over the limit"),
        ("rejects early", "unjustified 429"),
        ("rejected ones count", "counted too much"),
    ],
)
def test_the_audit_finds_a_wrong_limiter(
    limiter: FakeLimiter, url: str, keys_file: Path, tmp_path: Path, wrong: str, kind: str
) -> None:
    limiter.wrong = wrong
    out = tmp_path / "out"
    done = bench("run", "--target", url, "--keys", keys_file, "--qps", 100, "--duration", 1, "--out", out)
    assert done.returncode == 0, done.stderr
    audited = bench("audit", out)
    assert audited.returncode == 1
    assert audited.stdout.splitlines()[-1].startswith("audit: REFUTED")
    assert kind in audited.stdout


@pytest.mark.parametrize("wrong", ["", "forgives overruns"])
def test_overruns_of_a_service_are_told_and_must_be_counted(
    limiter: FakeLimiter, url: str, keys_file: Path, tmp_path: Path, wrong: str
) -> None:
    """25 input tokens admitted and 3,025 told, of 5,000. The run is long enough for the first settles to be sure."""
    limiter.limits, limiter.beyond, limiter.wrong = (1_000, 5_000, 1_000_000), 3_000, wrong
    arguments = ("--keys", keys_file, "--qps", 20, "--duration", 2.5, "--out", tmp_path / "out")
    done = bench("run", "--target", url, *arguments)
    assert done.returncode == 0, done.stderr
    audited = bench("audit", tmp_path / "out")
    assert audited.returncode == (1 if wrong else 0), audited.stdout
    overruns = json.loads((tmp_path / "out" / "audit.json").read_bytes())["overruns"]
    assert overruns["requests"] >= 4
    assert overruns["input_tokens"] == overruns["output_tokens"] == 3_000 * overruns["requests"]
    assert "the service reported more than was admitted" in audited.stdout
    assert ("counted too little" in audited.stdout) is bool(wrong)


def test_a_trace_is_replayed(limiter: FakeLimiter, url: str, keys_file: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    rows = [f"2023-11-16 18:15:4{i}.1234567,{30 + i},{5 + i}\r\n" for i in range(8)]
    trace.write_bytes(("TIMESTAMP,ContextTokens,GeneratedTokens\r\n" + "".join(rows)).encode())
    arguments = ("run", "--target", url, "--keys", keys_file, "--trace", trace, "--out", tmp_path / "out")
    done = bench(*arguments, "--speed", 20, "--duration", 0.25, "--no-cap")
    assert done.returncode == 0, done.stderr
    records = sorted(RecordReader(tmp_path / "out" / "requests.jsonl"))
    assert [record.due_us for record in records] == [0, 50_000, 100_000, 150_000, 200_000]
    assert [record.prompt_tokens for record in records] == [30, 31, 32, 33, 34]
    assert all("max_tokens" not in body for body in limiter.requests)


def test_options_come_from_the_environment_too(url: str, keys_file: Path, tmp_path: Path) -> None:
    environment = {
        "BENCH_TARGET": url,
        "BENCH_KEYS": str(keys_file),
        "BENCH_QPS": "1",
        "BENCH_RUN_QPS": "40",
        "BENCH_ARRIVALS": "constant",
        "BENCH_DURATION": "0.5",
        "BENCH_NO_CAP": "1",
        "BENCH_OUTPUT_TOKENS": "fixed:7",
        "BENCH_RUN_OUT": str(tmp_path / "out"),
    }
    done = bench("run", **environment)
    assert done.returncode == 0, done.stderr
    info = read_info(tmp_path / "out")
    assert info.planned == 20
    assert (info.settings["output_tokens"], info.settings["cap_output"]) == ("fixed:7", False)


@pytest.mark.parametrize(
    ("environment", "code", "says"),
    [
        ({"BENCH_QPS": "many"}, 2, "Invalid value for 'BENCH_QPS' in the environment: 'many' is not a valid float"),
        ({"BENCH_QPS": "5", "BENCH_RUN_QPS": "0"}, 2, "Invalid value for 'BENCH_RUN_QPS' in the environment: 0"),
        ({"BENCH_FORCE": "perhaps"}, 2, "'BENCH_FORCE' in the environment"),
        ({"BENCH_INPUT_TOKENS": "x"}, 2, "'BENCH_INPUT_TOKENS' in the environment: "),
        ({"BENCH_TRACE": "x.csv", "BENCH_QPS": "5"}, 2, "(--qps is from BENCH_QPS, --trace is from BENCH_TRACE)"),
        ({"BENCH_TRACE": "x.csv"}, 2, "(--trace is from BENCH_TRACE)"),
        ({"BENCH_QPS": "5", "BENCH_TARGET": "nowhere"}, 2, "HTTP_HOST (--target is from BENCH_TARGET)"),
        ({"BENCH_QPS": "5", "BENCH_WAIT_READY": "0.1"}, 1, "start it or correct --target\n"),
    ],
)
def test_the_variable_that_was_wrong_is_named(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    keys_file: Path,
    tmp_path: Path,
    environment: dict[str, str],
    code: int,
    says: str,
) -> None:
    """And none that had no part in it, nor one that the command line overrides."""
    for name, value in {"BENCH_SEED": "7", "BENCH_OUT": "/nowhere", **environment}.items():
        monkeypatch.setenv(name, value)
    arguments = ["run", "--keys", keys_file, "--out", tmp_path / "out"]
    arguments += [] if "BENCH_TARGET" in environment else ["--target", f"http://127.0.0.1:{closed_port()}"]
    got, _, stderr = call(capsys, *arguments)
    assert (got, stderr.count("\n")) == (code, 1)
    assert says.replace("HTTP_HOST", "use http://HOST:PORT") in stderr
    assert "BENCH_SEED" not in stderr
    assert "BENCH_OUT" not in stderr


def test_an_interrupt_ends_the_run_early_and_still_reports(url: str, keys_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["run", "--target", url, "--keys", keys_file, "--qps", 50, "--duration", 600, "--out", out]
    process = subprocess.Popen(
        [*COMMAND, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr is not None
        assert "offered" in process.stderr.readline()  # the first line of progress
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, stderr
    assert "(interrupted)" in stdout
    assert "Traceback" not in stderr
    assert json.loads((out / "summary.json").read_bytes())["interrupted"] is True
    assert bench("audit", out).returncode == 0


def test_a_killed_run_can_still_be_audited(url: str, keys_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["run", "--target", url, "--keys", keys_file, "--qps", 50, "--duration", 600, "--out", out]
    process = subprocess.Popen([*COMMAND, *map(str, arguments)], stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        process.stderr.readline()
    finally:
        process.kill()
        process.communicate()
    audited = bench("audit", out)
    assert audited.returncode == 1, audited.stderr
    assert audited.stdout.splitlines()[-1].startswith("audit: INCOMPLETE the run was killed")


def closed_port() -> int:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return int(unused.getsockname()[1])


RUN = ["run", "--keys", "{keys}", "--out", "{out}"]
FIND_MAX = ["find-max", "--keys", "{keys}", "--target", "http://127.0.0.1:{port}", "--slo-p99-ms", "50"]
FIND_MAX_SHORTLY = ["find-max", "--slo-p99-ms", 5000, "--from", 60, "--to", 60, "--trial", 0.2, "--warmup", 0]
GOOD = [*RUN, "--target", "http://127.0.0.1:{port}", "--qps", "10"]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["run"], 2, "--target"),
        (["nonsense"], 2, "No such command"),
        ([*RUN, "--target", "http://127.0.0.1:1"], 2, "--qps is missing"),
        ([*GOOD, "--trace", "x.csv"], 2, "exclude each other"),
        ([*GOOD, "--qps", "0"], 2, "--qps"),
        ([*GOOD, "--qps", "1000000", "--duration", "1000000"], 2, "lower one of them"),
        ([*GOOD, "--arrivals", "bursty"], 2, "poisson"),
        ([*GOOD, "--input-tokens", "many"], 2, "fixed:N"),
        ([*GOOD, "--zipf", "-1"], 2, "--zipf"),
        ([*GOOD, "--nonsense"], 2, "No such option"),
        ([*GOOD, "--target", "nowhere"], 2, "use http://HOST:PORT"),
        ([*GOOD, "--keys", "missing.toml"], 2, "cannot read the keys file"),
        ([*RUN, "--target", "http://127.0.0.1:1", "--trace", "missing.csv"], 2, "cannot read the trace"),
        ([*GOOD, "--wait-ready", "0"], 1, "127.0.0.1:{port} is not reachable (connection refused); start it"),
        ([*GOOD, "--wait-ready", "0.3"], 1, "{port} is not reachable (connection refused); waited 0.3 s; start it"),
        ([*GOOD, "--wait-ready", "-1"], 2, "--wait-ready"),
        ([*GOOD, "--processes", "0"], 2, "--processes"),
        ([*GOOD, "--processes", "4", "--connections", "3"], 2, "less than one for each of 4 processes"),
        ([*GOOD, "--duration", "1", "--warmup", "2"], 2, "--warmup is longer"),
        (FIND_MAX[:-2], 2, "--slo-p99-ms"),
        ([*FIND_MAX, "--from", "200", "--to", "100"], 2, "--from is above --to"),
        ([*FIND_MAX, "--qps", "100"], 2, "No such option"),
        ([*FIND_MAX, "--trial", "1", "--warmup", "2"], 2, "--warmup is longer"),
        ([*FIND_MAX, "--out", "{keys}"], 2, "is a file"),
        ([*FIND_MAX, "--wait-ready", "0"], 1, "127.0.0.1:{port} is not reachable (connection refused); start it"),
        (["compare", "--qps", "5", "--out", "{out}", "--wait-ready", "x"], 2, "--wait-ready"),
        (["audit"], 2, "DIR"),
        (["audit", "{missing}"], 1, "is not a directory"),
        (["audit", "{empty}"], 1, "has no run.json"),
        (["compare", "--qps", "5"], 2, "--out"),
        (["compare", "--qps", "5", "--out", "{keys}"], 2, "is a file"),
    ],
)
def test_errors_are_one_line_that_says_what_to_do(
    capsys: pytest.CaptureFixture[str], keys_file: Path, tmp_path: Path, arguments: list[str], code: int, says: str
) -> None:
    (tmp_path / "empty").mkdir()
    names = {"keys": keys_file, "out": tmp_path / "out", "port": closed_port(), "missing": tmp_path / "no"}
    names["empty"] = tmp_path / "empty"
    got, stdout, stderr = call(capsys, *(argument.format(**names) for argument in arguments))
    assert got == code, stderr
    assert stderr.count("\n") == 1, stderr
    assert stderr.startswith("error: ")
    assert says.format(**names) in stderr
    assert stdout == ""


@pytest.mark.parametrize(("wait", "says"), [("0", ""), ("0.5", "; waited 0.5 s")])
def test_a_target_that_is_not_ready_is_named_with_its_reason(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    keys_file: Path,
    tmp_path: Path,
    wait: str,
    says: str,
) -> None:
    monkeypatch.setenv("BENCH_WAIT_READY", wait)
    asked = 0

    async def not_ready(_: web.Request) -> web.StreamResponse:
        nonlocal asked
        asked += 1
        return web.json_response({"reason": "store unreachable"}, status=503)

    app = web.Application()
    app.router.add_get("/readyz", not_ready)
    with serving(app) as url:
        code, _, stderr = call(
            capsys, "run", "--target", url, "--keys", keys_file, "--qps", 1, "--out", tmp_path / "out"
        )
    assert code == 1
    reason = '{"reason": "store unreachable"}'
    assert stderr == f"error: {url} is not ready ({reason}){says}; start it or correct --target\n"
    assert (asked == 1) if wait == "0" else (1 < asked <= 4)


@pytest.mark.parametrize("command", [["run", "--qps", 200, "--duration", 0.2], FIND_MAX_SHORTLY])
def test_a_target_that_becomes_ready_is_waited_for(
    capsys: pytest.CaptureFixture[str], keys_file: Path, tmp_path: Path, command: list[object]
) -> None:
    """Nothing is sent before a second after the first question, which is when it says that it is ready."""
    started: list[float] = []
    sent: list[float] = []

    async def ready(_: web.Request) -> web.StreamResponse:
        started.append(monotonic())
        return web.Response(status=200 if monotonic() - started[0] >= 1 else 503, text="loading")

    async def chat(_: web.Request) -> web.StreamResponse:
        sent.append(monotonic())
        return web.json_response({})

    app = web.Application()
    app.router.add_post("/v1/chat/completions", chat)
    app.router.add_get("/readyz", ready)
    with serving(app) as url:
        code, _, stderr = call(
            capsys, *command, "--target", url, "--keys", keys_file, "--out", tmp_path / "out", "--wait-ready", 20
        )
    assert code == 0, stderr
    assert "not ready" not in stderr
    assert min(sent) - started[0] >= 1


def test_only_targets_that_were_not_ready_are_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """One answers without a /readyz, one listens only after it was asked first."""
    asked = 0

    async def not_found(_: web.Request) -> web.StreamResponse:
        nonlocal asked
        asked += 1
        return web.Response(status=404)

    there = web.Application()
    there.router.add_get("/readyz", not_found)
    port, pauses = closed_port(), []
    with serving(there) as url, ExitStack() as late:

        def start_late(seconds: float) -> None:
            pauses.append(seconds)
            late.enter_context(serving(web.Application(), port))

        monkeypatch.setattr("bench_client.servers.targets.sleep", start_late)
        await_targets((LoadTarget.parse(url), LoadTarget.parse(f"http://127.0.0.1:{port}")), 20)
    assert len(pauses) == 1
    assert 0 < pauses[0] <= 0.5
    assert asked == 1


def test_a_server_without_a_limiter_is_measured_but_has_nothing_to_audit(keys_file: Path, tmp_path: Path) -> None:
    async def plain(_: web.Request) -> web.StreamResponse:
        return web.json_response({})

    app = web.Application()
    app.router.add_post("/v1/chat/completions", plain)
    out = tmp_path / "out"
    with serving(app) as url:
        done = bench("run", "--target", url, "--keys", keys_file, "--qps", 50, "--duration", 0.3, "--out", out)
    assert done.returncode == 0, done.stderr
    audited = bench("audit", out)
    assert audited.returncode == 1
    assert "nothing to audit" in audited.stderr


def test_a_run_without_a_single_answer_has_failed(keys_file: Path, tmp_path: Path) -> None:
    async def break_off(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    with serving(application(break_off)) as url:
        arguments = ("--keys", keys_file, "--qps", 50, "--duration", 0.3, "--out", tmp_path / "out")
        done = bench("run", "--target", url, *arguments)
    assert done.returncode == 1
    assert "no request was answered" in done.stderr


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (401, "every request was answered 401: are the keys loaded in this target?"),
        (404, "every request was answered 404: does the target serve POST /v1/chat/completions"),
        (503, "every request was answered 503: is the target's store up?"),
        (418, "every request was answered 418; look at the target"),
    ],
)
def test_a_run_of_nothing_but_refusals_has_failed(keys_file: Path, tmp_path: Path, status: int, says: str) -> None:
    async def refuse(_: web.Request) -> web.StreamResponse:
        return web.json_response({"error": {"message": "no"}}, status=status)

    with serving(application(refuse)) as url:
        arguments = ("--keys", keys_file, "--qps", 50, "--duration", 0.3, "--out", tmp_path / "out")
        done = bench("run", "--target", url, *arguments)
    assert done.returncode == 1
    assert str(status) in done.stdout, "the table is shown all the same"
    assert done.stderr.splitlines()[-1].startswith(f"error: {says}")


def figures(statuses: dict[int, int], **errors: int) -> Figures:
    return Figures(sum(statuses.values()) + sum(errors.values()), statuses=Counter(statuses), errors=Counter(errors))


def test_what_a_run_without_a_decision_met_is_told() -> None:
    assert failure_message(figures({200: 1, 401: 99})) is None
    assert failure_message(figures({429: 1, 401: 99})) is None
    theirs = Figures(9, statuses=Counter({429: 9}), upstream=Counter({429: 9}))
    assert failure_message(theirs) == "every request was answered 429; look at the target"
    mixed = "no request was served or rejected (5 answered 401, 3 answered 404, 2 timeout): are the keys loaded in"
    assert failure_message(figures({404: 3, 401: 5}, timeout=2)) == f"{mixed} this target?"
    assert failure_message(figures({}, connect=7)) == "no request was answered (7 connect); check the targets"
    assert failure_message(figures({})) == "no request was answered (none was sent); check the targets"


def test_keys_given_as_digests_are_left_out_with_a_note(url: str, tmp_path: Path) -> None:
    keys = write_keys(tmp_path / "keys.toml", "alice")
    keys.write_text(keys.read_text() + f'[keys."sha256:{"0" * 64}"]\n')
    done = bench("run", "--target", url, "--keys", keys, "--qps", 20, "--duration", 0.3, "--out", tmp_path / "out")
    assert done.returncode == 0
    assert "note: 1 keys" in done.stderr


def test_an_unforeseen_error_is_one_line_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("oh\nno")

    monkeypatch.setattr(cli, "audit_directory", broken)
    code, _, stderr = call(capsys, "audit", tmp_path)
    assert code == 1
    assert stderr == "error: unexpected ZeroDivisionError: oh no (set BENCH_DEBUG=1 to see where)\n"


def test_nothing_of_the_limiter_is_imported() -> None:
    code = "import sys, bench_client.cli; print([m for m in sys.modules if m.split('.')[0] == 'limiter_node'])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
