"""The admin API of a running node: what it changes counts at once, and each response is as its document says."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from admin_client import TOKEN, AdminClient
from admin_nodes import AdminNode, admin_node, new_name, token_file
from node_commands import StartCommand

from limiter_node.http.admin.table import ROUTES


@pytest_asyncio.fixture
async def node(limiter_node: StartCommand, embedded_single: str, tmp_path: Path) -> AsyncIterator[AdminNode]:
    async with admin_node(limiter_node, embedded_single, token_file(tmp_path), "--log-format", "json") as running:
        yield running


@pytest.fixture
def admin(node: AdminNode) -> AdminClient:
    return node.admin


async def test_a_key_from_its_creation_to_its_end(node: AdminNode) -> None:
    admin, name = node.admin, new_name("ci")
    made = await admin.call("createKey", body={"path": name, "rpm": 100, "input_tpm": 10_000, "output_tpm": 10_000})
    assert made.status == 201
    assert made.headers["cache-control"] == "no-store"
    secret = made.content["secret"]
    assert made.content["digest"] == "sha256:" + hashlib.sha256(secret.encode()).hexdigest()[:32]
    assert await node.status(secret) == 200
    shown = await admin.done("showKey", name)
    assert (shown["who"], shown["digest"], shown["state"]) == (name, made.content["digest"], "active")
    assert {limit["unit"]: limit["limit"] for limit in shown["limits"]}["requests"] == 100
    change = (await admin.done("changeKey", name, body={"rpm": 0}))["change"]
    assert (change["before"], change["after"]) == ({"rpm": 100}, {"rpm": 0})
    assert await node.status(secret) == 429
    await admin.done("changeKey", shown["digest"], body={"rpm": 50})
    assert await node.status(secret) == 200
    await admin.done("deleteKey", name)
    assert await node.status(secret) == 401
    assert (await admin.call("showKey", name)).status == 404


async def test_every_route(node: AdminNode) -> None:
    """One story that calls each route of the table at least once."""
    admin, account, other = node.admin, new_name(), new_name()
    done = admin.done
    await done("createAccount", body={"name": account, "rpm": 1_000, "show": "own", "key_defaults.rpm": 120})
    await done("createAccount", body={"name": other})
    await done("createTeam", body={"path": f"{account}/research", "tpm": 100_000})
    await done("createTeam", body={"path": f"{account}/research/vision", "requests/1d": 10_000})
    who = f"{account}/alice"
    limits = [{"output_tokens": 5_000, "per": "1m", "models": ["o3*"], "name": "big"}]
    body = {"path": who, "team": "research/vision", "rpm": 60, "weight": 2, "limits": limits}
    secret = (await done("createKey", body=body))["secret"]
    assert await node.status(secret) == 200

    assert who in [each["who"] for each in (await done("listKeys", query=f"account={account}&limit=10"))["entries"]]
    shown = await done("showKey", who)
    assert {each["subject"] for each in shown["limits"]} >= {account, f"{account}/research", who}
    explained = await done("explainLimits", who, query="model=gpt-4o")
    assert {each["limit"]["name"]: each["applies"] for each in explained["limits"]}["big"] is False
    changed = (await done("changeKey", who, body={"weight": None, "rpm": {"amount": 30, "mode": "audit"}}))["change"]
    assert changed["after"] == {"rpm": {"amount": 30, "mode": "audit"}}

    rotated = await admin.call("rotateKey", who, body={"grace_ms": 3_600_000})
    assert rotated.headers["cache-control"] == "no-store"
    second = rotated.content["secret"]
    assert [await node.status(each) for each in (secret, second)] == [200, 200]
    assert (await admin.call("revokeKey", who)).status == 409, "two are valid"
    await done("revokeKey", who, body={"credential": shown["digest"]})
    assert [await node.status(each) for each in (secret, second)] == [401, 200]
    await done("disableKey", who)
    assert (await done("showKey", who))["state"] == "disabled"
    assert await node.status(second) == 401
    await done("enableKey", who)
    await done("expireKey", who, body={"at": "2020-01-01T00:00:00Z"})
    assert (await done("showKey", who))["state"] == "expired"
    assert await node.status(second) == 401
    await done("expireKey", who, body={"at": None})
    assert await node.status(second) == 200
    moved = (await done("moveKey", who, body={"account": other}))["change"]
    assert moved["action"] == "moved"
    assert await node.status(second) == 200
    await done("deleteKey", f"{other}/alice")

    assert account in [each["name"] for each in (await done("listAccounts"))["entries"]]
    assert (await done("showAccount", account))["teams"] == ["research", "research/vision"]
    await done("changeAccount", account, body={"rpm": 2_000, "show": None})
    assert len((await done("listTeams", query=f"account={account}"))["entries"]) == 2
    assert (await done("showTeam", f"{account}/research"))["teams"] == 1
    await done("changeTeam", f"{account}/research", body={"tpm": None})
    assert (await admin.call("deleteTeam", f"{account}/research")).status == 409
    await done("deleteTeam", f"{account}/research", query="recursive=true")
    assert (await admin.call("deleteAccount", other)).status == 200
    file = f'[accounts.{account}]\nrpm = 10\n[keys."{new_name("sk-bob")}"]\naccount = "{account}"\nname = "bob"\n'
    for query in ("dry_run=true", "prune=true"):
        applied = await done("applyKeysFile", query=query, body=file.encode())
        assert f"{account}/bob" in [each["who"] for each in applied["changes"]]
    await done("deleteAccount", account, query="recursive=true")
    assert admin.called == {route.name for route in ROUTES}


async def test_changes_are_logged_once_and_secrets_never(node: AdminNode) -> None:
    admin, name, given = node.admin, new_name("ci"), new_name("sk-elsewhere")
    made = await admin.call("createKey", body={"path": name})
    secrets = [made.content["secret"], (await admin.done("rotateKey", name))["secret"], given]
    digest = "sha256:" + hashlib.sha256(given.encode()).hexdigest()
    elsewhere = await admin.done("createKey", body={"path": new_name("ci"), "digest": digest})
    assert elsewhere["secret"] is None
    assert await node.status(given) == 200
    await admin.call("showKey", secrets[0])
    await admin.call("applyKeysFile", body=f'[keys."{secrets[0]}"]\nrpm = "x"'.encode())
    await node.command.stop()
    lines = (await node.command.errors()).splitlines()
    events = [json.loads(line) for line in lines]
    changes = [each for each in events if each["event"] == "key_changed"]
    assert [each["action"] for each in changes] == ["created", "rotated", "created"]
    assert changes[0]["by"] == made.headers["x-request-id"]
    assert {"what", "before", "after"} <= changes[0].keys()
    for secret in (*secrets, TOKEN):
        assert not any(secret in line for line in lines)


WRONG: list[tuple[str, tuple[str, ...], Any, int, str | None]] = [
    ("createKey", (), {"path": "a/b/c"}, 400, None),
    ("createKey", (), {"path": "acme", "rpm": 1.5}, 400, "rpm"),
    ("createKey", (), {"path": "acme", "secret": "sk"}, 400, "secret"),
    ("createKey", (), {"path": "acme", "limits": [{"requests": 1, "per": "1y"}]}, 400, None),
    ("createKey", (), {"path": "acme", "requests/1y": 1}, 400, None),
    ("createKey", (), {"path": "nowhere/alice"}, 404, None),
    ("createKey", (), {"path": "acme", "digest": "sha256:00"}, 400, None),
    ("createKey", (), {"path": "acme", "expires": "tomorrow"}, 400, None),
    ("createKey", (), [], 400, None),
    ("createKey", (), b"", 400, None),
    ("createKey", (), b"{", 400, None),
    ("createKey", (), b"\xff", 400, None),
    ("changeKey", ("nobody",), {"rpm": 1}, 404, None),
    ("showKey", ("\n",), None, 400, "who"),
    ("showKey", ("x" * 513,), None, 400, "who"),
    ("expireKey", ("nobody",), {"at": "1969-01-01T00:00:00Z"}, 400, "at"),
    ("expireKey", ("nobody",), {"at": "2027-01-01"}, 400, "at"),
    ("expireKey", ("nobody",), {}, 400, "at"),
    ("moveKey", ("nobody",), {"account": 1}, 400, "account"),
    ("createAccount", (), {"name": "a/b"}, 400, None),
    ("createAccount", (), {"name": "acme", "show": "all"}, 400, "show"),
    ("createTeam", (), {"path": "acme"}, 400, None),
    ("applyKeysFile", (), b"[keys", 400, None),
    ("applyKeysFile", (), b"\xff", 400, None),
    ("applyKeysFile", (), b'[keys."sk-x"]\nrpn = 1\n', 400, None),
]
"""A route, the values in its path, a body, and the response's status and ``param``."""


async def test_wrong_input_is_named(admin: AdminClient) -> None:
    for name, values, body, status, param in WRONG:
        response = await admin.call(name, *values, body=body)
        assert (response.status, response.error["param"]) == (status, param), (name, values, body, response.content)
        assert response.error["message"]


async def test_a_file_that_is_applied_in_part_says_what_has_changed(admin: AdminClient) -> None:
    account = new_name()
    await admin.done("createAccount", body={"name": account})
    await admin.done("createKey", body={"path": f"{account}/alice"})
    section = '[keys."{}"]\nname = "{}"\naccount = "{}"\n'
    keys = section.format(new_name("sk-a"), "alice", account) + section.format(new_name("sk-b"), "bob", account)
    response = await admin.call("applyKeysFile", body=f"[accounts.{account}]\n{keys}".encode())
    assert (response.status, response.error["code"]) == (400, "partly_applied")
    assert "another key of account" in response.error["message"]
    assert [each["who"] for each in response.error["changes"]] == [f"{account}/bob"]
    assert (await admin.call("showKey", f"{account}/bob")).status == 200


async def test_a_secret_in_a_url_is_refused(admin: AdminClient) -> None:
    secret = (await admin.done("createKey", body={"path": new_name("ci")}))["secret"]
    for name in ("showKey", "deleteKey", "disableKey"):
        response = await admin.call(name, secret)
        assert (response.status, secret in str(response.content)) == (400, False)


async def test_what_stands_in_the_way_is_a_conflict(admin: AdminClient) -> None:
    account = new_name()
    await admin.done("createAccount", body={"name": account})
    again = await admin.call("createAccount", body={"name": account})
    assert (again.status, again.error["code"]) == (409, "conflict")
    await admin.done("createKey", body={"path": f"{account}/alice"})
    assert (await admin.call("createKey", body={"path": f"{account}/alice"})).status == 409
    assert (await admin.call("createTeam", body={"path": f"{account}/alice"})).status == 409
    assert (await admin.call("deleteAccount", account)).status == 409
    file = "".join(f'[keys."{account}{each}"]\nname = "{account} twice"\n' for each in "ab")
    await admin.done("applyKeysFile", body=file.encode())
    ambiguous = await admin.call("showKey", f"{account} twice")
    assert (ambiguous.status, ambiguous.error["code"]) == (409, "ambiguous")
    assert len(ambiguous.error["candidates"]) == 2
