"""The shipped load balancers' configurations, run in front of a fleet: only addresses and paths are put in."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from fleet import Fleet
from ports import free_ports

DEPLOY = Path(__file__).parents[2] / "deploy"


@dataclass(frozen=True)
class Balancer:
    """A running load balancer."""

    name: str
    url: str

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        host, _, port = self.url.removeprefix("http://").rpartition(":")
        return host, int(port)


@contextmanager
def haproxy(fleet: Fleet, directory: Path) -> Iterator[Balancer]:
    """deploy/haproxy.cfg as it is; its addresses come from the environment."""
    port, metrics_port = free_ports(2)
    first, second = (node.removeprefix("http://") for node in fleet.nodes)
    environment = {
        "BIND": f"127.0.0.1:{port}",
        "METRICS_BIND": f"127.0.0.1:{metrics_port}",
        "NODE_1": first,
        "NODE_2": second,
        "ADMIN_PORT_1": fleet.admin[0].rpartition(":")[2],
        "ADMIN_PORT_2": fleet.admin[1].rpartition(":")[2],
    }
    command = [program("haproxy"), "-db", "-f", str(DEPLOY / "haproxy.cfg")]
    with _running(command, directory / "haproxy.log", port, environment):
        yield Balancer("haproxy", f"http://127.0.0.1:{port}")


@contextmanager
def nginx(fleet: Fleet, directory: Path) -> Iterator[Balancer]:
    """deploy/nginx.conf with other addresses, and its pid file elsewhere."""
    (port,) = free_ports(1)
    config = directory / "nginx.conf"
    text = (DEPLOY / "nginx.conf").read_text()
    for shipped, ours in (
        ("listen 8000 ", f"listen 127.0.0.1:{port} "),
        ("server 127.0.0.1:8080 ", f"server {fleet.nodes[0].removeprefix('http://')} "),
        ("server 127.0.0.1:8081 ", f"server {fleet.nodes[1].removeprefix('http://')} "),
        ("pid /run/nginx.pid;", f"pid {directory}/nginx.pid;"),
    ):
        assert text.count(shipped) == 1, shipped
        text = text.replace(shipped, ours)
    config.write_text(text)
    command = [program("nginx"), "-p", str(directory), "-c", str(config), "-g", "daemon off;"]
    with _running(command, directory / "nginx.log", port, {}):
        yield Balancer("nginx", f"http://127.0.0.1:{port}")


def program(name: str) -> str:
    """Where it is; the test is skipped on a machine without it."""
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin")
    if path is None:
        pytest.skip(f"no {name} on this machine")
    return path


@contextmanager
def _running(command: Sequence[str], log: Path, port: int, environment: Mapping[str, str]) -> Iterator[None]:
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, **environment})
    try:
        _until(lambda: _accepts(port) or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        yield
    finally:
        process.terminate()
        process.wait(10)


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def node_process(fleet: Fleet, node: str) -> int:
    """The process id of the node at that URL."""
    port = node.rpartition(":")[2]
    for pid in _children(fleet.process.pid):
        if f"--port={port}\0" in Path(f"/proc/{pid}/cmdline").read_text():
            return pid
    raise AssertionError(f"no node at {node}")


def runs(pid: int) -> bool:
    """Whether the process is still there."""
    return Path(f"/proc/{pid}").exists()


def _until(condition: Callable[[], bool], timeout_s: float = 10) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "it did not come about"
        time.sleep(0.01)


def _children(pid: int) -> set[int]:
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}
