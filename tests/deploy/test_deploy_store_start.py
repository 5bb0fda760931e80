"""A store's server as compose, Kubernetes and systemd start it: that very command, its files and program elsewhere."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from balancers import DEPLOY
from ports import free_ports
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError, ResponseError

from limiter_node.store.embedded.binary import server_binary


def compose_command() -> list[str]:
    file = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    command: list[str] = file["services"]["valkey-1"]["command"]
    return [word.replace("$$", "$") for word in command]  # as compose reads it


def kubernetes_command() -> list[str]:
    documents: list[Any] = list(yaml.safe_load_all((DEPLOY / "kubernetes" / "store.yaml").read_text()))
    (store,) = (each for each in documents if each["kind"] == "StatefulSet")
    command: list[str] = store["spec"]["template"]["spec"]["containers"][0]["command"]
    return command


def unit_command() -> list[str]:
    unit = (DEPLOY / "valkey@.service").read_text()
    return ["sh", "-c", "exec " + re.findall(r"(?m)^ExecStart=/usr/bin/(.*)$", unit)[0]]  # systemd runs no shell


def client(port: int, **login: str) -> Redis:
    """One that doesn't try again: what is refused stays so."""
    return Redis(port=port, username=login.get("username"), password=login.get("password"), retry=Retry(NoBackoff(), 0))


@pytest.mark.parametrize("command", [compose_command, kubernetes_command, unit_command])
async def test_a_server_starts_and_knows_its_two_users_alone(tmp_path: Path, command: Any) -> None:
    port, bus_port = free_ports(2)
    etc, data, programs = tmp_path / "etc", tmp_path / "data", tmp_path / "bin"
    for directory in (etc, data, programs):
        directory.mkdir()
    (programs / "valkey-server").symlink_to(server_binary(None, tmp_path))
    users = (DEPLOY / "users.conf").read_text()
    (etc / "users.conf").write_text(users)
    credentials = tmp_path / "credentials"  # what systemd makes of LoadCredential
    credentials.mkdir()
    (credentials / "auth.conf").write_text("requirepass servers\nmasterauth servers\n")
    (credentials / "users.conf").write_text(users.replace("DIGEST", hashlib.sha256(b"nodes").hexdigest()))
    shipped = (DEPLOY / "valkey.conf").read_text()
    assert "port 7000\n" in shipped
    (etc / "valkey.conf").write_text(shipped.replace("port 7000\n", f"port {port}\ncluster-port {bus_port}\n"))
    shell, option, script = command()
    script = script.replace("/etc/valkey", str(etc)).replace("--dir /data", f"--dir {data}").replace("%i", str(port))
    environment = {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "POD_IP": "127.0.0.1",
        "REDISCLI_AUTH": "servers",
        "NODES_PASSWORD": "nodes",
        "STATE_DIRECTORY": str(data),
        "CREDENTIALS_DIRECTORY": str(credentials),
    }
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen([shell, option, script], env=environment, stdout=log, stderr=log)
    try:
        async with asyncio.timeout(20), client(port, password="servers") as admin:
            while True:
                try:
                    await admin.ping()
                    break
                except (RedisError, OSError):
                    assert process.poll() is None, (tmp_path / "log").read_text()
                    await asyncio.sleep(0.02)
            assert set(await admin.acl_users()) == {"default", "limiter"}
            assert (await admin.config_get("masterauth")) == {"masterauth": "servers"}
            async with client(port, username="limiter", password="nodes") as node:
                assert await node.ping()
                with pytest.raises(ResponseError, match="permission"):
                    await node.config_get("*")
            for login in ({}, {"password": "nodes"}, {"username": "limiter", "password": "servers"}):
                async with client(port, **login) as stranger:
                    with pytest.raises(AuthenticationError):
                        await stranger.ping()
    finally:
        process.kill()
        process.wait()
