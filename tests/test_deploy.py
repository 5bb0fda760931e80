"""What operators copy works: the configuration is one that a server takes and a node accepts."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ports import free_ports
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from limiter_node.store.admin.store_admin import administering
from limiter_node.store.embedded.binary import server_binary
from limiter_node.store.url import parse_store_url

ROOT = Path(__file__).parent.parent
SERVERS = ["embedded", *(["redis-server"] if shutil.which("redis-server") else [])]


@pytest.mark.parametrize("server", SERVERS)
async def test_a_server_takes_the_configuration(tmp_path: Path, server: str) -> None:
    program = str(server_binary(None, tmp_path)) if server == "embedded" else str(shutil.which(server))
    port, bus_port = free_ports(2)
    process = subprocess.Popen(
        [program, str(ROOT / "deploy" / "valkey.conf"), "--port", str(port), "--cluster-port", str(bus_port),
         "--dir", str(tmp_path)],
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    client = Redis(port=port)
    try:
        async with asyncio.timeout(20):
            while True:
                try:
                    client.ping()
                    break
                except RedisConnectionError:
                    assert process.poll() is None, "the server refused its configuration"
                    await asyncio.sleep(0.02)
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        async with asyncio.timeout(20):
            while client.cluster("INFO")["cluster_state"] != "ok":
                await asyncio.sleep(0.02)
        async with administering(parse_store_url(f"redis+cluster://127.0.0.1:{port}")) as admin:
            assert await admin.check_store() == []
    finally:
        client.close()
        process.kill()
        process.wait()


def test_the_unit_names_options_that_exist() -> None:
    unit = (ROOT / "deploy" / "limiter-node@.service").read_text()
    environment = (ROOT / "deploy" / "limiter-node.env").read_text()
    command = [sys.executable, "-m", "limiter_node", "serve", "--help"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for line in environment.splitlines():
        if line and not line.startswith("#"):
            assert "--" + line.partition("=")[0].removeprefix("LIMITER_").lower().replace("_", "-") in listed
    assert "serve --host 0.0.0.0 --port %i" in unit
