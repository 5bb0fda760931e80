"""Starts and stops a limiter to measure, by its command line alone: ``limiter-node keys generate`` and ``up``."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from time import monotonic
from types import TracebackType
from typing import NamedTuple, Self

from bench_client.errors import BenchError
from bench_client.servers.procfs import LocalProcess, limiter_processes

COMMAND = (sys.executable, "-m", "limiter_node")
READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0
GENERATE_TIMEOUT_S = 60.0
HOST = "127.0.0.1"
_NODE_READY = re.compile(r"node (\S+) ready (https?://\S+)")


class GeneratedAccount(NamedTuple):
    """Describe an account in a generated keys file; limits are as ``limiter-node`` takes them: ``requests=5/1s``."""

    name: str
    keys: int
    """How many of the file's keys are in it."""
    teams: tuple[str, ...]
    """They take turns in these."""
    limits: tuple[str, ...]
    team_limits: tuple[str, ...]
    """Limits of each team."""


def generate_keys(
    path: Path, *, count: int, rpm: int, input_tpm: int, output_tpm: int, account: GeneratedAccount | None = None
) -> None:
    """Run the command that makes a keys file. Raises BenchError with the command's message when it fails."""
    options: list[tuple[str, object]] = [
        ("--count", count),
        ("--rpm", rpm),
        ("--input-tpm", input_tpm),
        ("--output-tpm", output_tpm),
    ]
    if account is not None:
        options += [("--account", account.name), ("--account-keys", account.keys)]
        options += [("--team", team) for team in account.teams]
        options += [("--account-limit", limit) for limit in account.limits]
        options += [("--team-limit", limit) for limit in account.team_limits]
    arguments = [text for name, value in options for text in (name, str(value))]
    command = [*COMMAND, "keys", "generate", *arguments, "--out", str(path)]
    path.unlink(missing_ok=True)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=GENERATE_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        raise BenchError(f"limiter-node keys generate did not end within {GENERATE_TIMEOUT_S:.0f} s") from None
    if done.returncode:
        raise BenchError(f"limiter-node keys generate failed: {_last_line(done.stderr)}")


class LimiterUnderTest:
    """Run ``limiter-node up``; a context manager that always ends what it started.

    Its output goes to a log file. It runs in a session of its own: an interrupt at the terminal is for the client,
    which ends its run first and then stops the limiter.
    """

    def __init__(self, *, nodes: int, store: str, keys: Path, log: Path, command: Sequence[str] = COMMAND) -> None:
        self.targets: tuple[str, ...] = ()
        """The nodes' URLs, once started."""
        self._nodes = nodes
        self._store = store
        self._keys = keys
        self._log = log
        self._command = command
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._lines: SimpleQueue[str | None] = SimpleQueue()

    def __enter__(self) -> Self:
        """Start the limiter. Raises BenchError when it does not become ready."""
        options = {
            "--nodes": str(self._nodes),
            "--host": HOST,
            "--port": "0",  # any free ports: another comparison on this machine would choose the same fixed ones
            "--store": self._store,
            "--keys": str(self._keys),
        }
        self._process = subprocess.Popen(
            [*self._command, "up", *(text for item in options.items() for text in item)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        try:
            self._reader = threading.Thread(target=self._read_output, name="limiter output", daemon=True)
            self._reader.start()
            self.targets = self._await_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def processes(self) -> list[LocalProcess]:
        """Return its nodes and store servers; none if they can't be looked up."""
        return limiter_processes(self._process.pid) if self._process is not None else []

    def stop(self) -> None:
        """Ask the limiter to drain and end; kill it if it doesn't."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
        process.wait()
        if self._reader is not None:
            self._reader.join(1.0)  # a grandchild that outlived its parent may hold the pipe open

    def _read_output(self) -> None:
        process = self._process
        assert process is not None
        assert process.stdout is not None
        with process.stdout as output, self._log.open("w", encoding="utf-8") as log:
            for line in output:
                log.write(line)
                log.flush()
                self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def _await_ready(self) -> tuple[str, ...]:
        targets: dict[str, str] = {}  # by the node's number: they come up in any order
        last, deadline = "it said nothing", monotonic() + READY_TIMEOUT_S
        while True:
            try:
                line = self._lines.get(timeout=max(deadline - monotonic(), 0))
            except Empty:
                raise BenchError(
                    f"limiter-node up was not ready within {READY_TIMEOUT_S:.0f} s; see {self._log}"
                ) from None
            if line is None:
                raise BenchError(f"limiter-node up ended before it was ready: {last}; see {self._log}")
            if match := _NODE_READY.fullmatch(line.strip()):
                targets[match[1].zfill(8)] = match[2]
            elif line.strip() == "ready":
                if not targets:
                    raise BenchError(f"limiter-node up is ready but printed no node's URL; see {self._log}")
                return tuple(url for _, url in sorted(targets.items()))
            last = line.strip() or last


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else "it said nothing"
