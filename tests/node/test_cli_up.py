"""``limiter-node up`` as a real process: what it prints, what it restarts, and that nothing outlives it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
from pathlib import Path

import pytest
from node_commands import (
    StartCommand,
    alive,
    all_free,
    ask,
    eventually,
    linux_only,
    listening,
    node_process,
    readiness,
    store_ports,
)
from ports import free_ports
from store_tools import store_client

from limiter_node.commands.options import node_arguments
from limiter_node.credentials import key_id
from limiter_node.settings import NodeSettings
from limiter_node.store.admin.store_admin import administering
from limiter_node.store.url import parse_store_url


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_nodes_share_an_embedded_cluster(
    limiter_node: StartCommand, keys_file: Path, number: signal.Signals
) -> None:
    port, _ = free_ports(2)
    command = await limiter_node("up", "--port", port, "--keys", keys_file, "--models", "gpt-4o")
    url = (await command.line(r"store (\S+)"))[1]
    ready = {(await command.line(r"node (.*)"))[1] for _ in range(2)}
    assert ready == {f"{i} ready http://127.0.0.1:{port + i - 1}" for i in (1, 2)}
    await command.line("ready")
    assert [await ask(f"http://127.0.0.1:{port + i}", "sk-alice") for i in (0, 1)] == [(200, "1"), (200, "2")]
    async with administering(parse_store_url(url)) as admin:
        usage = await admin.peek(key_id("sk-alice"))
    assert usage is not None
    assert (usage.used.requests, usage.limits.requests, usage.name) == (2, 50, "alice")
    assert await command.stop(number) == 0
    assert all_free([port, port + 1, *store_ports(url)])
    assert await command.errors() == ""


async def test_without_keys_the_shown_curl_line_works(limiter_node: StartCommand) -> None:
    command = await limiter_node("up", "--store", "single", "--nodes", 1, "--port", free_ports(1)[0])
    key = (await command.line(r"demo key (sk-demo-\S{32}); try it:"))[1]
    line = (await command.line(r"  (curl .*)"))[1]
    await command.line("ready")
    base, body = re.search(r"-i (\S+)/v1/chat/completions", line), re.search(r"-d '(.*)'", line)
    assert base
    assert body
    assert json.loads(body[1])["messages"]
    assert f"Authorization: Bearer {key}" in line
    assert await ask(base[1], key) == (200, "1")
    assert await command.stop() == 0


async def test_a_running_store_is_left_as_it_was(limiter_node: StartCommand, embedded_single: str) -> None:
    command = await limiter_node("up", "--store", embedded_single, "--nodes", 1, "--port", free_ports(1)[0])
    kid = key_id((await command.line(r"demo key (\S+); try it:"))[1])
    await command.line("ready")
    async with administering(parse_store_url(embedded_single)) as admin:
        assert await admin.get(kid) is not None
        assert await command.stop() == 0
        assert await admin.get(kid) is None


async def test_a_dead_node_is_started_again(limiter_node: StartCommand, keys_file: Path) -> None:
    command = await limiter_node(
        "up", "--store", "single", "--nodes", 2, "--port", free_ports(2)[0], "--keys", keys_file
    )
    urls = [(await command.line(r"node \d ready (\S+)"))[1] for _ in range(2)]
    await command.line("ready")
    victim = node_process(command, urls[0])
    os.kill(victim, signal.SIGKILL)
    await eventually(lambda: not alive(victim))
    assert (await ask(urls[1], "sk-alice"))[0] == 200

    errors = await command.errors_until("is ready again")
    assert (await ask(urls[0], "sk-alice"))[0] == 200
    assert await command.stop() == 0
    assert re.search(r"WARNING node \d ended \(SIGKILL\): restart in 0\.2 s", errors)
    assert re.search(r"WARNING node \d is ready again", errors)


async def test_up_is_ready_when_its_nodes_are(
    limiter_node: StartCommand, embedded_single: str, keys_file: Path, free_port: int
) -> None:
    """A login that may do all but decide: the keys are loaded, the nodes listen, and none of them is ready."""
    ((host, store_port),) = parse_store_url(embedded_single).endpoints
    with store_client(embedded_single) as client:
        keys = ["rl:{nodes}*", *(f"rl:*:{each}" for each in ("limits", "deleted", "declared", "policy"))]  # no windows
        client.acl_setuser("undecided", enabled=True, passwords=["+pw"], keys=keys, commands=["+@all"])
        try:
            store = f"redis://undecided:pw@{host}:{store_port}"
            arguments = ("--nodes", 1, "--port", free_port, "--keys", keys_file)
            command = await limiter_node("up", "--store", store, *arguments)
            await command.line(r"store \S+")
            line = asyncio.create_task(command.line(r".*ready.*"))
            url = f"http://127.0.0.1:{free_port}"
            await listening(url)

            async def says_why() -> bool:
                status, why = await readiness(url)
                assert status == 503
                return "has not decided yet: NOPERM" in why

            await eventually(says_why)
            assert not line.done()
            client.acl_setuser("undecided", keys=["*"])
            assert (await line)[0] == f"node 1 ready {url}"
            await command.line("ready")
            assert await readiness(url) == (200, "")
            assert await command.stop() == 0
        finally:
            client.acl_deluser("undecided")


async def test_a_port_in_use_shows_at_once(limiter_node: StartCommand) -> None:
    first, _ = free_ports(2)
    with socket.create_server(("127.0.0.1", first + 1)):
        command = await limiter_node("up", "--port", first)
        assert await command.ended() == 1
    assert await command.errors() == f"error: port {first + 1} is in use: choose another with --port\n"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--store", "nowhere"], 2, "--store must be a URL"),
        (["--store", "redis://127.0.0.1:1"], 1, "cannot reach the store at redis://127.0.0.1:1"),
        (["--store", "redis://127.0.0.1:1", "--replicas", "1"], 2, "are for an embedded store"),
        (["--store", "single", "--replicas", "1"], 2, "--replicas needs a cluster"),
        (["--keys", "/nowhere.toml"], 2, "/nowhere.toml: No such file or directory"),
        (["--port", "65535"], 2, "--port 65535 is too high: 2 nodes need ports up to 65536"),
        (["--host", "no.such.host.invalid"], 2, "cannot listen on no.such.host.invalid"),
        (["--host", "192.0.2.1"], 2, "cannot listen on 192.0.2.1: this machine has no such address"),
        (["--mock-length", "none"], 2, "--mock-length 'none' is not a length distribution: use "),
        (["--nodes", "0"], 2, "Invalid value for '--nodes'"),
        (["--server-binary", "/nowhere"], 2, "--server-binary /nowhere: there is no such program"),
    ],
)
async def test_what_cannot_start_says_why_in_one_line(
    limiter_node: StartCommand, arguments: list[str], code: int, message: str
) -> None:
    command = await limiter_node("up", *([] if "--port" in arguments else ["--port", free_ports(2)[0]]), *arguments)
    assert await command.ended() == code
    errors = await command.errors()
    assert message in errors
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1


async def test_a_node_that_cannot_start_ends_everything_with_its_reason(
    limiter_node: StartCommand, free_port: int, keys_file: Path
) -> None:
    """The port is taken between the look at it and the node's start: while the cluster forms."""
    command = await limiter_node("up", "--nodes", 1, "--port", free_port, "--keys", keys_file)
    await eventually(lambda: len(command.children()) == 3)
    with socket.create_server(("127.0.0.1", free_port)):
        url = (await command.line(r"store (\S+)"))[1]
        assert await command.ended() == 1
    errors = await command.errors()
    assert re.fullmatch(rf"error: node 1 could not start: .*{free_port}.*\n", errors), errors
    assert all_free(store_ports(url))


@linux_only
@pytest.mark.parametrize("servers", [0, 1, 3])
async def test_a_signal_during_the_start_leaves_nothing(limiter_node: StartCommand, servers: int) -> None:
    command = await limiter_node("up", "--port", free_ports(2)[0])
    # Before our handlers are there, a signal just ends the process: nothing is running yet.
    await eventually(lambda: len(command.children()) >= servers or not servers)
    children = command.children()
    code = await command.stop()
    assert code in ((0, -signal.SIGTERM) if not servers else (0,))
    await eventually(lambda: not any(alive(pid) for pid in children))


@linux_only
async def test_nothing_survives_a_killed_parent(limiter_node: StartCommand, keys_file: Path) -> None:
    command = await limiter_node("up", "--port", free_ports(2)[0], "--keys", keys_file)
    await command.line("ready")
    children = command.children()
    assert len(children) == 5
    await command.stop(signal.SIGKILL)
    await eventually(lambda: not any(alive(pid) for pid in children))


@linux_only
async def test_a_frozen_node_is_killed_at_the_end(limiter_node: StartCommand, keys_file: Path) -> None:
    command = await limiter_node(
        "up", "--nodes", 1, "--store", "single", "--port", free_ports(1)[0], "--keys", keys_file, "--drain-timeout", 0
    )
    url = (await command.line(r"node 1 ready (\S+)"))[1]
    await command.line("ready")
    os.kill(node_process(command, url), signal.SIGSTOP)
    command.process.send_signal(signal.SIGINT)
    assert await command.stop(signal.SIGTERM) == 0  # the second signal: don't wait
    assert "node 1 did not end in time and was killed" in await command.errors()


@linux_only
async def test_the_end_of_the_store_is_the_end(limiter_node: StartCommand, keys_file: Path) -> None:
    command = await limiter_node(
        "up", "--nodes", 1, "--store", "single", "--port", free_ports(1)[0], "--keys", keys_file
    )
    url = (await command.line(r"node 1 ready (\S+)"))[1]
    await command.line("ready")
    node = node_process(command, url)
    (server,) = set(command.children()) - {node}
    os.kill(server, signal.SIGKILL)
    assert await command.ended() == 1
    assert "error: all servers of the embedded store have ended: start the command again" in await command.errors()
    assert not alive(node)


def test_the_password_is_not_in_the_process_list() -> None:
    settings = NodeSettings(store="redis://:secret@127.0.0.1")
    assert not any("secret" in argument for argument in node_arguments(settings))
