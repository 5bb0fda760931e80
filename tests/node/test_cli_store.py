"""``limiter-node store`` as a real process: whole when ready, gone at the end."""

from __future__ import annotations

import os
import signal
import socket
from typing import Any

import pytest
from node_commands import StartCommand, alive, all_free, eventually, linux_only, store_ports

from limiter_node.store.admin.store_admin import administering
from limiter_node.store.url import parse_store_url


@pytest.mark.parametrize(("arguments", "servers"), [(["--replicas", 1], 6), (["--mode", "single"], 1), ([], 3)])
async def test_a_store_runs_until_it_is_told_to_stop(
    limiter_node: StartCommand, arguments: list[Any], servers: int
) -> None:
    command = await limiter_node("store", "--port", 0, *arguments)
    ports = []
    for number in range(servers):
        line = await command.line(r"(master|replica) 127\.0\.0\.1:(\d+)(?: of 127\.0\.0\.1:(\d+))?")
        assert line[1] == ("master" if number < 3 else "replica")
        assert line[3] is None or int(line[3]) == ports[number - 3]
        ports.append(int(line[2]))
    url = (await command.line(r"store (\S+)"))[1]
    await command.line("ready")
    assert store_ports(url) == ports[:3]
    async with administering(parse_store_url(url)) as admin:
        assert await admin.check_store() == []
    assert await command.stop(signal.SIGINT) == 0
    assert all_free(ports)
    assert await command.errors() == ""


async def test_a_port_in_use_is_named(limiter_node: StartCommand) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = await limiter_node("store", "--mode", "single", "--port", port)
        assert await command.ended() == 1
    assert await command.errors() == f"error: port {port} is in use: choose another with --port\n"


@linux_only
async def test_nothing_survives_a_killed_parent(limiter_node: StartCommand) -> None:
    command = await limiter_node("store", "--port", 0)
    await command.line("ready")
    children = command.children()
    assert len(children) == 3
    await command.stop(signal.SIGKILL)
    await eventually(lambda: not any(alive(pid) for pid in children))


@linux_only
async def test_a_dead_server_is_reported_and_the_last_one_ends_it(limiter_node: StartCommand) -> None:
    command = await limiter_node("store", "--port", 0)
    ports = [int((await command.line(r"master 127\.0\.0\.1:(\d+)"))[1]) for _ in range(3)]
    await command.line("ready")
    for child in command.children():
        os.kill(child, signal.SIGKILL)
    assert await command.ended() == 1
    errors = await command.errors()
    for port in ports:
        assert f"WARNING the store server on port {port} has ended (SIGKILL)" in errors
    assert errors.endswith("error: all servers of the embedded store have ended: start the command again\n")


@pytest.mark.parametrize(("option", "value"), [("--log-format", "xml"), ("--log-level", "loud")])
async def test_a_log_that_cannot_be_is_refused_in_one_line(limiter_node: StartCommand, option: str, value: str) -> None:
    command = await limiter_node("store", "--port", 0, option, value)
    assert await command.ended() == 2
    assert (await command.errors()).startswith(f"error: {option} must be one of ")
