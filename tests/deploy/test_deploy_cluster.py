"""deploy/form-cluster.sh on real servers: it forms a cluster, leaves one alone, and mends what restarts broke."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from balancers import DEPLOY, program
from ports import free_ports
from redis import Redis

from limiter_node.store.embedded.binary import server_binary


class Servers:
    """Six servers, each on an address of its own, and the shipped script to make a cluster of them."""

    def __init__(self, directory: Path, port: int, bus_port: int) -> None:
        self.directory, self.port, self.bus_port = directory, port, bus_port
        self.nets = dict.fromkeys(range(1, 7), 0)
        (self.directory / "auth.conf").write_text("requirepass secret\nmasterauth secret\n")
        self.processes: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, *numbers: int) -> None:
        for number in numbers:
            directory = self.directory / str(number)
            directory.mkdir(exist_ok=True)
            command = [
                *(str(server_binary(None, self.directory)), str(DEPLOY / "valkey.conf"), "--dir", str(directory)),
                *("--port", str(self.port), "--cluster-port", str(self.bus_port)),
                *("--bind", self.address(number), "--cluster-announce-ip", self.address(number)),
                *("--include", str(self.directory / "auth.conf"), "--repl-diskless-sync-delay", "0"),
            ]
            with (directory / "log").open("a") as log:
                self.processes[number] = subprocess.Popen(command, stdout=log)

    def stop(self, *numbers: int) -> None:
        for number in numbers:
            self.processes[number].kill()
        for number in numbers:
            self.processes.pop(number).wait()

    def address(self, number: int) -> str:
        return f"127.0.{self.nets[number]}.{number}"

    def form(self, look_at: Callable[[str], None] = lambda line: None) -> str:
        """Run the script; what it said. `look_at` sees each line as it comes."""
        names = [f"{self.address(number)}:{self.port}@{self.bus_port}" for number in range(1, 7)]
        command = ["sh", str(DEPLOY / "form-cluster.sh"), "3", *names]
        environment = {**os.environ, "CLI": program("redis-cli"), "REDISCLI_AUTH": "secret"}
        said = ""
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                said += line
                look_at(line)
        assert process.returncode == 0
        return said

    def client(self, number: int) -> Redis:
        return Redis(host=self.address(number), port=self.port, password="secret")

    def owners(self) -> list[Any]:
        """Slots and whose they are, as the first sees it."""
        with self.client(1) as client:
            return [shard[:3] for shard in client.execute_command("CLUSTER SLOTS")]

    def roles(self) -> list[str]:
        found = []
        for number in range(1, 7):
            with self.client(number) as client:
                found.append(client.role()[0].decode())
        return found


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    if sys.platform != "linux":
        pytest.skip("needs 127.0.0.2 and its like")
    program("redis-cli")
    program("getent")
    running = Servers(tmp_path, *free_ports(2))
    try:
        running.start(*range(1, 7))
        yield running
    finally:
        running.stop(*running.processes)


def test_a_cluster_is_formed_once_and_mended(servers: Servers) -> None:
    """compose.yaml and Kubernetes run this script at each start."""
    assert "the cluster of 6 servers is up" in servers.form()
    assert servers.roles() == ["master"] * 3 + ["slave"] * 3
    with servers.client(1) as client:
        client.set("x{06S}", "kept")  # of slot 0
        assert client.wait(1, 5_000) == 1
    before = servers.owners()
    servers.form()
    assert servers.owners() == before, "what is there stays as it is"

    # Its disk is lost, and its replica was restarted, which keeps it from taking over by itself. The empty server must
    # not take the slots whose data the replica has; a person decides, as the script says.
    servers.stop(1, 4)
    shutil.rmtree(servers.directory / "1")
    servers.nets[1] = 1  # a new pod
    servers.start(1, 4)

    def decide(line: str) -> None:
        if "CLUSTER FAILOVER TAKEOVER" in line:
            with servers.client(4) as client:
                client.execute_command("CLUSTER FAILOVER", "TAKEOVER")

    assert "waiting for owner of each slot" in servers.form(decide)
    assert servers.roles() == ["slave", "master", "master", "master", "slave", "slave"]
    with servers.client(4) as client:
        assert client.get("x{06S}") == b"kept"
        assert client.wait(1, 5_000) == 1, "the empty one has become its replica"

    # All at once come back under other addresses, so that none finds any of those it remembers.
    servers.stop(*range(1, 7))
    servers.nets = dict.fromkeys(range(1, 7), 2)
    servers.start(*range(1, 7))
    servers.form()
    with servers.client(4) as client:
        assert client.get("x{06S}") == b"kept"
        listed = client.execute_command("CLUSTER NODES")
    assert {address.partition(":")[0] for address in listed} >= {servers.address(number) for number in range(1, 7)}
