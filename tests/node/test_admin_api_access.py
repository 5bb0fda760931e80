"""Who reaches the admin API, and how much: the token, the ports, sizes of bodies, a store that is away."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from admin_client import TOKEN, AdminClient
from admin_nodes import AdminNode, admin_node, new_name, token_file
from fault_proxy import FaultProxy
from node_commands import StartCommand, store_ports
from ports import free_ports
from store_tools import store_client

from limiter_node.http.admin.table import MAX_BODY_BYTES, MAX_FILE_BYTES, PREFIX, ROUTES

PROBES = ("/healthz", "/readyz", "/metrics")


@pytest.fixture
def token(tmp_path: Path) -> Path:
    return token_file(tmp_path)


@pytest_asyncio.fixture
async def node(limiter_node: StartCommand, embedded_single: str, token: Path) -> AsyncIterator[AdminNode]:
    async with admin_node(limiter_node, embedded_single, token) as running:
        yield running


async def asked(
    url: str, method: str = "GET", authorization: str = f"Bearer {TOKEN}", **options: Any
) -> tuple[int, dict[str, str], str]:
    """A request's status, headers and body."""
    headers = {"Authorization": authorization} if authorization else {}
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, url, headers=headers | options.pop("headers", {}), **options) as response,
    ):
        return response.status, {k.lower(): v for k, v in response.headers.items()}, await response.text()


async def test_nothing_without_the_token(node: AdminNode) -> None:
    url = node.admin.url
    for authorization in ("", "Bearer wrong", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN}x"):
        for route in ROUTES:
            path = PREFIX + route.path.replace("{", "").replace("}", "")
            status, headers, text = await asked(url + path, route.method, authorization, data=b"{")
            assert (status, json.loads(text)["error"]["code"]) == (401, "invalid_admin_token")
            assert headers["www-authenticate"] == "Bearer"
        for path in ("/admin/", "/admin/v1", "/admin/v1/nothing", "/admin/v2/keys"):
            assert (await asked(url + path, authorization=authorization))[0] == 401
        assert [(await asked(url + path, authorization=authorization))[0] for path in PROBES] == [200] * 3
        status, _, document = await asked(f"{url}{PREFIX}/openapi.json", authorization=authorization)
        assert (status, json.loads(document)["openapi"]) == (200, "3.1.0")


async def test_two_tokens_are_none(node: AdminNode) -> None:
    async with aiohttp.ClientSession() as session:
        headers = [("Authorization", f"Bearer {TOKEN}")] * 2
        async with session.get(f"{node.admin.url}{PREFIX}/keys", headers=headers) as response:
            assert response.status == 401


async def test_with_the_token_errors_are_json(node: AdminNode) -> None:
    url = node.admin.url
    for path in ("/admin/", "/admin/v1", "/admin/v1/nothing", "/admin/v1/keys/a/b/c", "/admin/v1/keys/a/rotate/b"):
        status, _, text = await asked(url + path)
        assert (status, json.loads(text)["error"]["code"]) == (404, "unknown_url")
    status, headers, text = await asked(f"{url}{PREFIX}/keys/a/rotate")
    assert (status, headers["allow"], json.loads(text)["error"]["code"]) == (405, "POST", "method_not_allowed")
    assert set((await asked(f"{url}{PREFIX}/keys", "PUT"))[1]["allow"].split(", ")) == {"GET", "HEAD", "POST"}
    status, headers, text = await asked(f"{url}{PREFIX}/accounts", "HEAD")
    assert (status, text) == (200, "")
    assert (await asked(f"{url}{PREFIX}/keys", "POST", headers={"Expect": "tea"}, data=b"{}"))[0] == 417


async def test_another_token_counts_from_the_next_request(node: AdminNode, token: Path) -> None:
    url = f"{node.admin.url}{PREFIX}/accounts"
    assert (await asked(url))[0] == 200
    token_file(token.parent, "second-token")
    assert (await asked(url))[0] == 401
    assert (await asked(url, authorization="Bearer second-token"))[0] == 200
    token_file(token.parent, "")
    assert (await asked(url, authorization="Bearer second-token"))[0] == 401
    assert await node.command.stop() == 0
    errors = await node.command.errors()
    assert "the admin token was read again" in errors
    assert "accepts no token until this is mended" in errors
    assert "second-token" not in errors


async def test_bodies_are_bounded(node: AdminNode) -> None:
    admin: AdminClient = node.admin
    body = {"path": new_name(), "name": "x" * MAX_BODY_BYTES}
    assert (await admin.call("createKey", body=body)).status == 413
    fits = f'[keys."{new_name("sk")}"]\nrpm = 1\n'.encode()
    assert (await admin.call("applyKeysFile", query="dry_run=true", body=fits + b"\n" * 1_000_000)).status == 200
    assert (await admin.call("applyKeysFile", body=b"#" * (MAX_FILE_BYTES + 1))).status == 413

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(MAX_BODY_BYTES // 1_000 + 2):
            yield b" " * 1_000

    assert (await asked(f"{admin.url}{PREFIX}/keys", "POST", data=endless()))[0] == 413
    packed = {"Content-Encoding": "br"}
    assert (await asked(f"{admin.url}{PREFIX}/keys", "POST", data=b"x", headers=packed))[0] == 415


async def test_without_the_option_there_is_no_api(limiter_node: StartCommand, embedded_single: str) -> None:
    port, admin = free_ports(2)
    command = await limiter_node("serve", "--store", embedded_single, "--port", port, "--admin-port", admin)
    url = (await command.line(r"node \S+ ready (\S+)"))[1]
    for base in (url, f"http://127.0.0.1:{admin}"):
        for path in ("/keys", "/openapi.json"):
            assert (await asked(f"{base}{PREFIX}{path}"))[0] == 404
    assert await command.stop() == 0


async def test_callers_do_not_reach_it(node: AdminNode) -> None:
    for path in ("/keys", "/openapi.json"):
        assert (await asked(f"{node.url}{PREFIX}{path}"))[0] == 404


async def test_the_option_comes_from_the_environment_and_reaches_the_nodes_of_up(
    limiter_node: StartCommand, token: Path, keys_file: Path
) -> None:
    admin = free_ports(2)[0]
    arguments = ("--nodes", 2, "--port", 0, "--admin-port", admin, "--store", "single", "--keys", keys_file)
    command = await limiter_node("up", *arguments, environment={"LIMITER_ADMIN_TOKEN_FILE": str(token)})
    await command.line("ready")
    for number in range(2):
        url = f"http://127.0.0.1:{admin + number}{PREFIX}/keys"
        status, _, text = await asked(url)
        assert (status, [each["name"] for each in json.loads(text)["entries"]]) == (200, ["alice"])
    assert await command.stop() == 0
    assert await command.errors() == ""


@pytest.mark.parametrize("name", ["serve", "up"])
@pytest.mark.parametrize(
    ("text", "port", "message"),
    [
        ("", True, "the file is empty"),
        ("a\nb\n", True, "the file has several lines"),
        (None, True, "No such file"),
        (TOKEN, False, "--admin-token-file needs --admin-port"),
    ],
)
async def test_a_file_that_cannot_be_used_ends_the_start(
    limiter_node: StartCommand, tmp_path: Path, name: str, text: str | None, port: bool, message: str
) -> None:
    file = tmp_path / "token"
    if text is not None:
        file.write_text(text)
    ports = ("--port", 9000, *(("--admin-port", 9100) if port else ()))
    command = await limiter_node(name, "--store", "redis://127.0.0.1:1", *ports, "--admin-token-file", file)
    assert await command.ended() == 2
    errors = (await command.errors()).splitlines()
    assert len(errors) == 1
    assert message in errors[0]


async def test_a_file_for_anybody_is_warned_of(limiter_node: StartCommand, embedded_single: str, token: Path) -> None:
    token_file(token.parent, mode=0o644)
    async with admin_node(limiter_node, embedded_single, token) as node:
        assert (await asked(f"{node.admin.url}{PREFIX}/accounts"))[0] == 200
        assert await node.command.stop() == 0
        assert (await node.command.errors()).count("any user of this machine may read it") == 1


async def test_a_store_that_is_away_is_a_503_until_it_is_back(
    limiter_node: StartCommand, embedded_single: str, token: Path
) -> None:
    """Whether the API has connected before or not."""
    (store,), nowhere = store_ports(embedded_single), free_ports(1)[0]
    async with (
        FaultProxy(store) as proxy,
        admin_node(limiter_node, f"redis://127.0.0.1:{proxy.port}", token) as node,
    ):
        admin, name = node.admin, new_name("ci")
        for calls in ([("createKey", (), {"path": name})], [("showKey", (name,), None), ("disableKey", (name,), None)]):
            proxy.target_port = nowhere
            proxy.reset_all()
            for route, values, body in calls:
                response = await admin.call(route, *values, body=body)
                assert (response.status, response.error["code"]) == (503, "store_unavailable")
                assert response.headers["retry-after"] == "1"
            proxy.target_port = store
            for route, values, body in calls:
                await admin.done(route, *values, body=body)


async def test_it_connects_once_and_not_before_it_is_asked(
    limiter_node: StartCommand, embedded_single: str, token: Path
) -> None:
    (store,) = store_ports(embedded_single)
    async with (
        FaultProxy(store) as proxy,
        admin_node(limiter_node, f"redis://127.0.0.1:{proxy.port}", token) as node,
    ):
        before = proxy.connections
        assert (await asked(f"{node.admin.url}{PREFIX}/keys", authorization="Bearer wrong"))[0] == 401
        assert (await node.admin.call("createKey", body={})).status == 400
        assert proxy.connections == before
        name = new_name()
        await node.admin.done("createAccount", body={"name": name})
        opened = proxy.connections
        assert opened > before
        for _ in range(5):
            await node.admin.done("showAccount", name)
        assert proxy.connections == opened


async def test_a_store_that_refuses_the_login_is_no_fault_of_the_request(
    limiter_node: StartCommand, embedded_single: str, token: Path
) -> None:
    with store_client(embedded_single) as client:
        client.execute_command("ACL", "SETUSER", "reader", "on", ">pw", "~*", "&*", "+@all")
    try:
        url = embedded_single.replace("redis://", "redis://reader:pw@")
        async with admin_node(limiter_node, url, token) as node:
            name = new_name("ci")
            await node.admin.done("createKey", body={"path": name})
            with store_client(embedded_single) as client:
                client.execute_command("ACL", "SETUSER", "reader", "-eval", "-evalsha", "-hgetall", "-get", "-hmget")
            response = await node.admin.call("showKey", name)
            assert response.status == 503
            assert "rights" in response.error["message"]
    finally:
        with store_client(embedded_single) as client:
            client.execute_command("ACL", "DELUSER", "reader")
