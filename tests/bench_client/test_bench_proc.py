"""Processes of this machine: a limiter's are found by their command lines, and their CPU is read."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench_client.servers.procfs import LocalProcess, children, cpu_seconds, limiter_processes

pytestmark = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads /proc")
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a child that runs a line of Python, says something and waits; its command line may be another's."""
    started: list[subprocess.Popen[str]] = []

    def begin(*arguments: str, name: str = sys.executable, code: str = "pass") -> subprocess.Popen[str]:
        code = f"import signal; {code}; print('there', flush=True); signal.pause()"
        command = [name, "-S", "-c", code, *arguments]
        process = subprocess.Popen(command, executable=sys.executable, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def test_a_limiters_processes_are_found_by_their_command_lines(start: Start) -> None:
    before = limiter_processes(os.getpid())  # the session's stores
    tenth = start("serve", "--port=8089", "--node-id=10")
    second = start("serve", "--port=8081", "--node-id=2")
    titled = start(name="/opt/bin/valkey-server 127.0.0.1:7002 [cluster]")
    plain = start("--port", "7001", name="redis-server")
    start("--port", "7003", name="another-server")
    found = [process for process in limiter_processes(os.getpid()) if process not in before]
    assert found == [
        LocalProcess("node 2", "node", second.pid),
        LocalProcess("node 10", "node", tenth.pid),
        LocalProcess("store 7001", "store", plain.pid),
        LocalProcess("store 7002", "store", titled.pid),
    ]


def test_cpu_is_that_of_a_process_and_of_those_it_started(start: Start) -> None:
    burn = "import time, itertools; all(time.process_time() < 0.2 for _ in itertools.count())"
    command = ["-S", "-c", f"import sys; {burn}; sys.stdin.read()"]  # which ends with its parent
    both = f"import subprocess as s, sys; child = s.Popen([sys.executable, *{command}], stdin=s.PIPE); {burn}"
    process = LocalProcess("node 1", "node", start(code=both).pid)
    assert len(children(process.pid)) == 1
    assert cpu_seconds(process.pid) >= 0.15  # the system counts in hundredths, each kind of time apart
    deadline = time.monotonic() + 20
    while (process.cpu_seconds() or 0) < 0.3:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_of_a_process_that_has_ended_there_is_nothing_to_read(start: Start) -> None:
    ended = start()
    ended.kill()
    ended.wait()
    assert LocalProcess("node 1", "node", ended.pid).cpu_seconds() is None
    assert children(ended.pid) == []
    assert limiter_processes(ended.pid) == []
