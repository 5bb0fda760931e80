"""One server process of an embedded store, and how it is configured."""

from __future__ import annotations

import re
import signal
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from limiter_node.processes import end_with_parent
from limiter_node.store.embedded.binary import StoreError

HOST = "127.0.0.1"


@dataclass(slots=True)
class EmbeddedServer:
    """One server process. `bus_port` is 0 unless it is a cluster's; `master_port` is None unless it is a replica."""

    port: int
    bus_port: int
    master_port: int | None
    command: list[str] = field(repr=False)
    directory: Path
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def pid(self) -> int:
        """The process id. Raises StoreError if it has never been started."""
        if self.process is None:
            raise StoreError(f"the store server on port {self.port} has not been started")
        return self.process.pid

    @property
    def exit_code(self) -> int | None:
        """The exit code; None while it runs, or if it was never started."""
        return None if self.process is None else self.process.poll()

    def start(self) -> None:
        """Start the process, each time in the same directory: a cluster's server finds its node file there, no data.

        The process has a session of its own, so that a Ctrl-C reaches the nodes but not their store: they still have
        reservations to settle.
        """
        with (self.directory / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                end_with_parent(self.command, signal.SIGKILL),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
                start_new_session=True,
            )

    def kill(self) -> None:
        """End the process at once: it has nothing to save. Works on a stopped (SIGSTOP) one too."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def failure(self) -> str:
        """Return why the server ended, by its log."""
        log = (self.directory / "server.log").read_text("utf-8", "replace").splitlines()
        # "12:M 01 Jan 2026 10:00:00.000 # the message"; an error says more than the last line.
        lines = [re.sub(r"^\d+:\w .*? [#*.-] ", "", line) for line in log if line.strip()]
        return next((line for line in lines if "bind:" in line or "rror" in line), lines[-1] if lines else "no message")


def server_config(port: int, directory: Path, bus_port: int) -> dict[str, str]:
    """Return the options of a server that keeps its files in `directory`; `bus_port` is 0 unless it is a cluster's."""
    config = {
        "port": str(port),
        "bind": HOST,
        "protected-mode": "yes",
        "dir": str(directory),
        "save": "",
        "appendonly": "no",
        # Any other policy can drop counters, which admits more than the limit without a word.
        "maxmemory-policy": "noeviction",
        # Otherwise a replica's first synchronization waits five seconds for company.
        "repl-diskless-sync-delay": "0",
    }
    if bus_port:
        config |= {
            "cluster-enabled": "yes",
            # The default, port + 10000, does not exist for ports above 55535.
            "cluster-port": str(bus_port),
            "cluster-announce-ip": HOST,
            "cluster-config-file": "nodes.conf",
            "cluster-node-timeout": "2000",
            # A shard that is down must not stop the others.
            "cluster-require-full-coverage": "no",
            "cluster-allow-replica-migration": "no",
        }
    return config
