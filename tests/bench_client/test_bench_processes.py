"""Several sending processes: one schedule, one start, one run's results; none outlives the command, however it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench_fakes import FakeLimiter, application, serving

from bench_client.records.record_file import RecordReader
from bench_client.records.run_directory import read_info
from bench_client.settings import MAX_CONNECTIONS, MAX_CONNECTIONS_TO_TARGET, connections_per_target

COMMAND = [sys.executable, "-m", "bench_client"]


@pytest.fixture
def url() -> Iterator[str]:
    with serving(application(FakeLimiter(limits=(20, 100_000, 100_000)).chat)) as address:
        yield address


def arguments(url: str, keys: Path, out: Path, *more: object) -> list[str]:
    return [*COMMAND, *map(str, ("run", "--target", url, "--keys", keys, "--out", out, *more))]


def children(pid: int) -> list[int]:
    """Linux only, as these tests' machines are."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_until_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() and "\nState:\tZ" not in _status(pid) for pid in pids):
        assert time.monotonic() < deadline, "a sending process outlived the command"
        time.sleep(0.02)


def _status(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return "\nState:\tZ"


def test_three_processes_make_the_run_that_one_would(url: str, keys_file: Path, tmp_path: Path) -> None:
    schedules = []
    for processes in (1, 3):
        out = tmp_path / str(processes)
        more = ("--qps", 200, "--duration", 0.7, "--warmup", 0.3, "--processes", processes)
        done = subprocess.run(arguments(url, keys_file, out, *more), capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        info, records = read_info(out), sorted(RecordReader(out / "requests.jsonl"))
        assert [record.request for record in records] == list(range(info.planned))
        schedules.append([record[1:2] + record[4:8] for record in records])
        assert [process.requests for process in info.processes] == [
            len(range(process, info.planned, processes)) for process in range(processes)
        ]
        summary = json.loads((out / "summary.json").read_bytes())
        assert summary["warmup"] + summary["total"]["requests"] == info.planned
        assert len(summary["client"]["processes"]) == processes
        names = sorted(path.name for path in out.iterdir())
        assert names == ["requests.jsonl", "run.json", "servers.json", "summary.json"]
    assert schedules[0] == schedules[1]
    audited = subprocess.run([*COMMAND, "audit", str(tmp_path / "3")], capture_output=True, text=True, timeout=60)
    assert audited.returncode == 0, audited.stdout + audited.stderr


@pytest.fixture
def long_run(url: str, keys_file: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Of two processes, caught while it sends."""
    command = arguments(url, keys_file, tmp_path / "out", "--qps", 50, "--duration", 600, "--processes", 2)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 30
        spools = [tmp_path / "out" / f"responses.{number}.spool" for number in range(2)]
        while not all(spool.exists() and spool.stat().st_size for spool in spools):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_all_of_them_and_still_reports(
    long_run: subprocess.Popen[str], tmp_path: Path, signum: signal.Signals
) -> None:
    workers = children(long_run.pid)
    assert len(workers) == 2
    long_run.send_signal(signum)
    stdout, stderr = long_run.communicate(timeout=30)
    assert long_run.returncode == 0, stderr
    assert "(interrupted)" in stdout
    assert "Traceback" not in stderr
    wait_until_gone(workers)
    info = read_info(tmp_path / "out")
    assert info.interrupted
    assert len(list(RecordReader(tmp_path / "out" / "requests.jsonl"))) == info.dispatched


def test_a_sending_process_that_dies_ends_the_run_in_one_line(long_run: subprocess.Popen[str], tmp_path: Path) -> None:
    workers = children(long_run.pid)
    os.kill(workers[1], signal.SIGKILL)
    stdout, stderr = long_run.communicate(timeout=30)
    assert long_run.returncode == 1
    assert stdout == ""
    errors = [line for line in stderr.splitlines() if "offered" not in line]
    assert len(errors) == 1, stderr
    assert "sending process 1 ended early (killed by SIGKILL)" in errors[0]
    wait_until_gone(workers)
    audited = subprocess.run([*COMMAND, "audit", str(tmp_path / "out")], capture_output=True, text=True, timeout=60)
    assert audited.returncode == 1, audited.stdout + audited.stderr
    assert audited.stdout.splitlines()[-1].startswith("audit: INCOMPLETE the run was killed")


def test_no_process_is_left_when_the_command_is_killed(long_run: subprocess.Popen[str], tmp_path: Path) -> None:
    workers = children(long_run.pid)
    long_run.kill()
    wait_until_gone(workers)


def test_what_a_process_cannot_do_is_told_in_one_line(keys_file: Path, tmp_path: Path) -> None:
    """A server that is there for the check, and whose connections then fail."""
    served = 0

    def once(listener: socket.socket) -> None:
        nonlocal served
        for status in (b"200 OK", b"404 Not Found"):
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                if status != b"200 OK":
                    listener.close()
                connection.sendall(b"HTTP/1.1 %b\r\nContent-Length: 0\r\n\r\n" % status)
            served += 1

    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread = threading.Thread(target=once, args=(listener,))
        thread.start()
        command = arguments(url, keys_file, tmp_path / "out", "--qps", 50, "--duration", 1, "--processes", 2)
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        thread.join()
    assert served == 2
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    assert "cannot open" in done.stderr


@pytest.mark.parametrize(
    ("wanted", "qps", "targets", "processes", "expected"),
    [
        (None, 1000.0, 2, 1, [500]),
        (None, 1000.0, 2, 4, [125, 125, 125, 125]),
        (None, 10.0, 1, 4, [16, 16, 16, 16]),
        (None, 10.0, 1, 100, [1] * 100),
        (10, 1000.0, 1, 4, [3, 3, 2, 2]),
        (None, 1e6, 1, 2, [MAX_CONNECTIONS] * 2),
        (None, 1e6, 1, 8, [MAX_CONNECTIONS_TO_TARGET // 8] * 8),
    ],
)
def test_connections_are_divided_over_the_processes(
    wanted: int | None, qps: float, targets: int, processes: int, expected: list[int]
) -> None:
    assert connections_per_target(wanted, qps, targets, processes) == expected
