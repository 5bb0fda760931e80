"""The admin port: probes and metrics are there and not on the callers' port, in any state of the node."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path

import aiohttp
import pytest
from in_process import api_key_on
from node_commands import StartCommand, ask, eventually
from ports import free_ports

PROBES = ("/healthz", "/readyz", "/metrics")


@pytest.fixture
def api_key(embedded_single: str) -> str:
    return api_key_on(embedded_single)


async def statuses(base_url: str, *paths: str, method: str = "GET") -> list[int]:
    async with aiohttp.ClientSession() as session:
        found = []
        for path in paths:
            async with session.request(method, base_url + path) as response:
                found.append(response.status)
        return found


async def test_probes_are_on_the_admin_port_and_nowhere_else(
    limiter_node: StartCommand, embedded_single: str, api_key: str
) -> None:
    port, admin = free_ports(2)
    arguments = ("--store", embedded_single, "--port", port, "--admin-port", admin)
    command = await limiter_node("serve", "--node-id", "me", *arguments)
    assert (await command.line(r"node me admin (\S+)"))[1] == f"http://127.0.0.1:{admin}"
    url = (await command.line(r"node me ready (\S+)"))[1]
    assert url == f"http://127.0.0.1:{port}"
    assert await statuses(f"http://127.0.0.1:{admin}", *PROBES) == [200] * 3
    assert await statuses(url, *PROBES) == [404] * 3
    assert await statuses(f"http://127.0.0.1:{admin}", *PROBES, method="POST") == [405] * 3
    limited = ("/v1/models", "/v1/rate_limits", "/v1/chat/completions", "/")
    assert await statuses(f"http://127.0.0.1:{admin}", *limited) == [404] * 4
    assert await ask(url, api_key) == (200, "me")
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{url}/metrics") as response:
            assert (await response.json())["error"]["code"] == "unknown_url"
        async with session.get(f"http://127.0.0.1:{admin}/metrics") as response:
            page = await response.text()
    # What is asked there is no caller's: one chat and four 404s were.
    assert 'limiter_responses_total{code="200"} 1.0' in page
    assert 'limiter_responses_total{code="404"} 4.0' in page
    assert "limiter_connections" in page
    assert await command.stop() == 0


async def test_it_listens_where_it_is_told(limiter_node: StartCommand, embedded_single: str) -> None:
    port, admin = free_ports(2)
    arguments = ("--port", port, "--admin-port", admin, "--admin-host", "127.0.0.2")
    command = await limiter_node("serve", "--store", embedded_single, *arguments)
    assert (await command.line(r"node \S+ admin (\S+)"))[1] == f"http://127.0.0.2:{admin}"
    await command.line(r"node \S+ ready \S+")
    assert await statuses(f"http://127.0.0.2:{admin}", "/readyz") == [200]
    with pytest.raises(aiohttp.ClientConnectionError):
        await statuses(f"http://127.0.0.1:{admin}", "/readyz")
    assert await command.stop() == 0


async def test_it_is_answered_while_the_callers_port_is_full(
    limiter_node: StartCommand, embedded_single: str, api_key: str
) -> None:
    """All connections of callers are taken, and the one request that may be under way is."""
    port, admin = free_ports(2)
    arguments = ("--store", embedded_single, "--port", port, "--admin-port", admin)
    bounds = ("--max-connections", 1, "--max-in-flight", 1, "--mock-latency-ms", 60_000, "--drain-timeout", 0)
    command = await limiter_node("serve", *arguments, *bounds)
    url = (await command.line(r"node \S+ ready (\S+)"))[1]
    asking = asyncio.create_task(ask(url, api_key))

    async def is_under_way() -> bool:
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{admin}/metrics") as response:
            return "limiter_requests_in_flight 1.0" in await response.text()

    await eventually(is_under_way)
    assert await statuses(url, "/v1/models") == [503]
    assert await statuses(f"http://127.0.0.1:{admin}", *PROBES) == [200] * 3
    assert await command.stop() == 0
    await asyncio.gather(asking, return_exceptions=True)  # cut off


async def test_it_tells_of_the_drain_until_the_end(
    limiter_node: StartCommand, embedded_single: str, api_key: str
) -> None:
    """Also once the callers' port doesn't listen any more, while a request is still under way."""
    port, admin = free_ports(2)
    arguments = ("--store", embedded_single, "--port", port, "--admin-port", admin)
    command = await limiter_node("serve", *arguments, "--mock-ttft-ms", 60_000, "--drain-timeout", 3_600)
    url = (await command.line(r"node \S+ ready (\S+)"))[1]
    body = json.dumps({"model": "gpt-4o", "stream": True, "messages": [{"role": "user", "content": "x"}]}).encode()
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: n\r\nAuthorization: Bearer %s\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (api_key.encode(), len(body), body)
    )
    admin_url = f"http://127.0.0.1:{admin}"

    async def is_under_way() -> bool:
        async with aiohttp.ClientSession() as session, session.get(f"{admin_url}/metrics") as response:
            return "limiter_requests_in_flight 1.0" in await response.text()

    await eventually(is_under_way)
    command.process.terminate()

    async def refuses() -> bool:
        try:
            await statuses(url, "/v1/models")
        except aiohttp.ClientConnectionError:
            return True
        return False

    await eventually(refuses)
    assert await statuses(admin_url, *PROBES) == [200, 503, 200]
    writer.close()  # the last request is gone: the drain is over
    assert await command.ended() == 0


async def test_up_counts_on_from_it(limiter_node: StartCommand, keys_file: Path) -> None:
    admin, _ = free_ports(2)
    arguments = ("--nodes", 2, "--port", 0, "--admin-port", admin, "--store", "single", "--keys", keys_file)
    command = await limiter_node("up", *arguments)
    told = [(await command.line(r"node (\d (?:admin|ready) http://127\.0\.0\.1:\d+)"))[1].split() for _ in range(4)]
    await command.line("ready")
    for number in "12":
        kinds = [kind for node, kind, _ in told if node == number]
        assert kinds == ["admin", "ready"], "a node is told to be ready when all of it has been told"
    urls = {(node, kind): url for node, kind, url in told}
    assert [urls[node, "admin"] for node in "12"] == [f"http://127.0.0.1:{admin + i}" for i in range(2)]
    for node in "12":
        assert await statuses(urls[node, "admin"], *PROBES) == [200] * 3
        assert await statuses(urls[node, "ready"], *PROBES) == [404] * 3
    assert await command.stop() == 0
    assert await command.errors() == ""


@pytest.mark.parametrize("command_name", ["serve", "up"])
async def test_a_port_in_use_is_named(limiter_node: StartCommand, embedded_single: str, command_name: str) -> None:
    port, _, admin, _ = free_ports(4)  # `up` starts two nodes
    with socket.create_server(("127.0.0.1", admin)):
        arguments = ("--store", embedded_single, "--port", port, "--admin-port", admin)
        command = await limiter_node(command_name, *arguments)
        assert await command.ended() == 1
    errors = (await command.errors()).splitlines()
    assert str(admin) in errors[-1]
    assert errors[-1].startswith("error: ")
    assert "--admin-port" in errors[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--port", 9000, "--admin-port", 9001), "--port and --admin-port overlap"),
        (("--port", 9001, "--admin-port", 9000), "--port and --admin-port overlap"),
        (("--port", 9000, "--admin-port", 65_535), "--admin-port 65535 is too high"),
        (("--port", 9000, "--admin-host", "127.0.0.1"), "--admin-host needs --admin-port"),
        (("--port", 9000, "--admin-port", 9100, "--admin-host", "a b"), "--admin-host must be"),
    ],
)
async def test_ports_that_cannot_be(limiter_node: StartCommand, arguments: tuple[object, ...], message: str) -> None:
    command = await limiter_node("up", *arguments)
    assert await command.ended() == 2
    assert message in await command.errors()


async def test_a_half_head_ends_at_the_deadline(limiter_node: StartCommand, embedded_single: str) -> None:
    port, admin = free_ports(2)
    arguments = ("--store", embedded_single, "--port", port, "--admin-port", admin, "--header-timeout", 0.1)
    command = await limiter_node("serve", *arguments)
    await command.line(r"node \S+ ready \S+")
    reader, writer = await asyncio.open_connection("127.0.0.1", admin)
    writer.write(b"GET /metrics HTTP/1.1\r\n")
    async with asyncio.timeout(20):
        assert b"408" in await reader.readline()
    writer.close()
    assert await command.stop() == 0
