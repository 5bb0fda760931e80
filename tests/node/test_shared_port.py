"""Nodes that share one port: the kernel divides connections among them, and each comes and goes by itself."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from pathlib import Path

import aiohttp
import pytest
from node_commands import Command, StartCommand, alive, ask, eventually, linux_only
from ports import free_ports

from limiter_node.commands.ports import shared
from limiter_node.processes import port_is_free

pytestmark = linux_only

KEY = "sk-of-many-requests"


async def who_answers(url: str, count: int = 40) -> set[str]:
    """The nodes that answer so many requests, each on a connection of its own."""
    answers = await asyncio.gather(*(ask(url, KEY) for _ in range(count)))
    assert {status for status, _ in answers} == {200}
    return {node for _, node in answers}


async def answers_by(url: str, nodes: set[str]) -> bool:
    """Whether exactly these nodes answer. Connections that one which ends hasn't accepted yet are reset: then not."""
    try:
        return await who_answers(url) == nodes
    except aiohttp.ClientConnectionError:
        return False


def processes(command: Command) -> dict[str, int]:
    """The process ids of nodes, by their names."""
    found = {}
    for pid in command.children():
        for argument in Path(f"/proc/{pid}/cmdline").read_text().split("\0"):
            if argument.startswith("--node-id="):
                found[argument.removeprefix("--node-id=")] = pid
    return found


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """A keys file with a key for any number of requests."""
    path = tmp_path / "keys.toml"
    path.write_text(f'[keys."{KEY}"]\nrpm = 1_000_000\ninput_tpm = 100_000_000\noutput_tpm = 100_000_000\n')
    return path


async def test_up_runs_all_nodes_on_one_port(limiter_node: StartCommand, many: Path) -> None:
    port, admin, *_ = free_ports(4)
    arguments = ("--port", port, "--shared-port", "--admin-port", admin, "--nodes", 3, "--store", "single")
    command = await limiter_node("up", *arguments, "--keys", many)
    url = f"http://127.0.0.1:{port}"
    told = {(await command.line(r"node (\d (?:admin|ready) \S+)"))[1] for _ in range(6)}
    assert told == {f"{n} ready {url}" for n in (1, 2, 3)} | {
        f"{n} admin http://127.0.0.1:{admin + n - 1}" for n in (1, 2, 3)
    }
    await command.line("ready")
    await eventually(lambda: answers_by(url, {"1", "2", "3"}))

    victim = processes(command)["2"]
    os.kill(victim, signal.SIGKILL)
    await eventually(lambda: not alive(victim))
    await command.errors_until("node 2 is ready again")
    await eventually(lambda: answers_by(url, {"1", "2", "3"}))
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{admin + 1}/metrics") as response:
        assert 'node="2"' in await response.text()
    assert await command.stop() == 0


async def test_any_free_port_can_be_shared(limiter_node: StartCommand, many: Path) -> None:
    arguments = ("--port", 0, "--shared-port", "--nodes", 2, "--store", "single", "--keys", many)
    command = await limiter_node("up", *arguments)
    urls = {(await command.line(r"node \d ready (\S+)"))[1] for _ in range(2)}
    assert len(urls) == 1
    await command.line("ready")
    assert await command.stop() == 0


async def test_a_node_that_stops_finishes_what_it_has(
    limiter_node: StartCommand, embedded_single: str, many: Path
) -> None:
    (port,) = free_ports(1)
    arguments = ("--store", embedded_single, "--port", port, "--reuse-port", "true", "--keys", many)
    url = f"http://127.0.0.1:{port}"
    leaving = await limiter_node("serve", "--node-id", "leaving", "--mock-tokens-per-s", 20, *arguments)
    await leaving.line(rf"node leaving ready {url}")
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "x"}], "max_tokens": 20, "stream": True}
    headers = {"Authorization": f"Bearer {KEY}"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/v1/chat/completions", json=body, headers=headers) as stream,
    ):
        assert stream.headers["x-limiter-node"] == "leaving"
        await stream.content.readany()
        staying = await limiter_node("serve", "--node-id", "staying", *arguments)
        await staying.line(rf"node staying ready {url}")
        leaving.process.terminate()
        await eventually(lambda: answers_by(url, {"staying"}))
        rest = await stream.content.read()
        assert rest.endswith(b"data: [DONE]\n\n")
    assert await leaving.ended() == 0
    assert await who_answers(url) == {"staying"}
    assert await staying.stop() == 0


@pytest.mark.parametrize("reuses", [False, True])
async def test_another_program_on_the_port_shows_at_once(limiter_node: StartCommand, reuses: bool) -> None:
    with socket.socket() as other:
        if reuses:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        command = await limiter_node("up", "--port", port, "--shared-port")
        assert await command.ended() == 1
    assert await command.errors() == f"error: port {port} is in use: choose another with --port\n"


async def test_nodes_that_do_not_share_keep_to_themselves(
    limiter_node: StartCommand, embedded_single: str, many: Path
) -> None:
    (port,) = free_ports(1)
    arguments = ("--store", embedded_single, "--port", port, "--keys", many)
    first = await limiter_node("serve", *arguments)
    await first.line(r"node \S+ ready \S+")
    second = await limiter_node("serve", *arguments, "--reuse-port", "true")
    assert await second.ended() == 1
    assert f"error: cannot listen on 127.0.0.1:{port}: " in await second.errors()
    assert await first.stop() == 0


def test_the_port_is_held_between_two_lives_of_a_node(free_port: int) -> None:
    assert port_is_free("localhost", free_port)
    with shared("localhost", free_port):
        assert not port_is_free("localhost", free_port)
        with socket.socket() as node:
            node.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            node.bind(("127.0.0.1", free_port))
            node.listen()
    assert port_is_free("localhost", free_port)
