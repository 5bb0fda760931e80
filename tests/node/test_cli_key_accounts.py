"""``limiter-node keys``, ``up``, ``serve`` and ``top`` with keys of accounts, against real stores and nodes."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import pytest
from node_commands import StartCommand, ask
from ports import free_ports
from store_tools import store_client
from stores import running_store

from limiter_node.cli import run
from limiter_node.credentials import key_id
from limiter_node.keysfile.limit_warnings import warnings_of
from limiter_node.keysfile.making import write_private
from limiter_node.keysfile.reading import read_keys
from limiter_node.settings import NodeSettings
from limiter_node.store.embedded.stores import EmbeddedStore
from limiter_node.store.keyspace import deleted_key, limits_key, window_key

Run = Callable[..., tuple[int, str, str]]
EXAMPLE = Path(__file__).parents[2] / "docs" / "keys-organisation.toml"

ORGANISATION = """
[accounts.acme]
rpm = 50
[accounts.acme.teams.research]
rpm = 60
output_reserve = 99
limits = [{ output_tokens = 9_000, per = "1h", models = ["o3*", "GPT-5"], name = "big ones", mode = "audit" }]
[keys.sk-alice]
name = "alice"
account = "acme"
team = "research"
rpm = 40
tpm = 50_000
limits = [{ requests = 2, per = "1d" }]
[keys.sk-nameless]
account = "acme"
[keys.sk-own]
name = "own"
rpm = "none"
tpm = 7
[keys.sk-plain]
name = "plain"
"""


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs one command: exit code, stdout, stderr."""
    monkeypatch.delenv("LIMITER_STORE", raising=False)
    monkeypatch.chdir(tmp_path)
    write_private(tmp_path / "organisation.toml", ORGANISATION)

    def call(*arguments: object) -> tuple[int, str, str]:
        code = run([str(each) for each in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def digest(key: str) -> str:
    return key_id(key)[:12]


def test_keys_of_accounts_are_loaded_listed_shown_and_deleted(cli: Run) -> None:
    with running_store("single") as store:
        end = ("--store", store.url)
        warning = "warning: acme/research: requests/1m 60 is above the 50 of acme, which rejects first\n"
        code, out, err = cli("keys", "load", "organisation.toml", *end)
        assert (code, err) == (0, warning)
        assert out.splitlines()[-1].endswith("; the file declares 4 keys and 1 account")
        unchanged = "nothing to change: the file declares 4 keys and 1 account\n"
        assert cli("apply", "organisation.toml", *end) == (0, unchanged, warning)

        code, out, err = cli("keys", "list", *end)
        assert (code, err) == (0, "")
        header, *rows = [re.split(r" {2,}", line) for line in out.splitlines()]
        assert header == [
            *("NAME", "DIGEST", "STATE", "TEAM", "RPM", "INPUT TPM", "OUTPUT TPM", "TPM", "RESERVE", "OTHER LIMITS")
        ]
        plain = ["active", "-", "600", "100,000", "50,000", "-", "256", "-"]
        day = "2 requests/1d"
        assert {tuple(row[1:]) for row in rows} == {
            (digest("sk-nameless"), "active", *"-----", "256", "-"),
            (digest("sk-alice"), "active", "research", "40", "-", "-", "50,000", "99", day),
            (digest("sk-own"), "active", "-", "-", "100,000", "50,000", "7", "256", "-"),
            (digest("sk-plain"), *plain),
        }
        assert {row[0] for row in rows} >= {"acme/alice", "own", "plain"}
        assert all(cli("keys", "show", row[1], *end)[0] == 0 for row in rows), "digests can be typed back"
        assert all(cli("keys", "show", row[0], *end)[0] == 0 for row in rows if row[0] != "-"), "and so can names"

        code, out, err = cli("keys", "show", "acme/alice", *end)
        assert (code, err) == (0, "")
        lines = out.splitlines()
        assert lines[0] == "acme/alice"
        assert "  team     research" in lines
        assert "  reserve  99 output tokens for a request without a cap" in lines
        table = lines[lines.index("") + 2 :]
        assert {re.split(r" {2,}", line)[0] for line in table[: table.index("")]} == {
            "acme requests/1m",
            "acme/research requests/1m",
            "acme/research output_tokens/1h for gpt-5,o3*",
            "acme/alice requests/1m",
            "acme/alice tokens/1m",
            "acme/alice requests/1d",
        }
        assert lines[-3:] == ["", "the last 60 s of acme/alice, the tightest minute:", "no usage in the last 60 s"]

        code, out, err = cli("keys", "set", "acme/alice", "--rpm", 7, *end)
        assert (code, out, err) == (0, "key acme/alice changed: rpm 40 -> 7\n", "")
        assert cli("keys", "set", "own", "--tpm", "none", "--rpm", 7, *end)[0] == 0

        for who in ("acme/alice", "own"):
            assert cli("keys", "delete", who, "--yes", *end) == (0, f"key {who} deleted\n", "")
            for command in (("delete", "--yes"), ("show",)):
                gone = "error: no key has that name, digest or secret: 'limiter-node keys list' shows all\n"
                assert cli("keys", *command, who, *end) == (1, "", gone)
        assert len(cli("keys", "list", *end)[1].splitlines()) == 3
        with store_client(store.url) as client:
            assert client.exists(*(deleted_key(key_id(key)) for key in ("sk-alice", "sk-own"))) == 2
        code, out, _ = cli("keys", "load", "organisation.toml", *end)
        assert code == 0
        assert out.splitlines()[-1] == "2 keys created; the file declares 4 keys and 1 account"


async def test_up_serves_an_organisation(limiter_node: StartCommand, tmp_path: Path) -> None:
    keys = tmp_path / "organisation.toml"
    write_private(keys, ORGANISATION)
    port, _ = free_ports(2)
    command = await limiter_node("up", "--port", port, "--keys", keys, "--models", "gpt-4o,gpt-5", "--store", "single")
    await command.line("ready")
    nodes = [f"http://127.0.0.1:{port + each}" for each in (0, 1)]
    found = [(await ask(nodes[number % 2], "sk-alice"))[0] for number in range(4)]
    assert found == [200, 200, 429, 429], "two a day"
    assert (await ask(nodes[0], "sk-nameless"))[0] == 200
    assert (await ask(nodes[0], "sk-plain"))[0] == 200
    assert (await ask(nodes[0], "sk-own"))[0] == 429
    assert await command.stop() == 0
    said = await command.errors()
    assert f"{keys}: acme/research: requests/1m 60 is above the 50 of acme, which rejects first" in said
    assert f"{keys}: acme/research: no model matches 'o3*' of the limit output_tokens/1h" in said
    assert "GPT-5'" not in said


async def test_serve_loads_an_organisation(
    limiter_node: StartCommand, tmp_path: Path, embedded_cluster: str, free_port: int
) -> None:
    keys = tmp_path / "organisation.toml"
    write_private(keys, ORGANISATION.replace("acme", "served").replace("sk-", "sk-served-"))
    command = await limiter_node("serve", "--port", free_port, "--keys", keys, "--store", embedded_cluster)
    await command.line(r"node \S+ ready \S+")
    assert [(await ask(f"http://127.0.0.1:{free_port}", "sk-served-alice"))[0] for _ in range(3)] == [200, 200, 429]
    assert await command.stop() == 0
    said = await command.errors()
    assert f"{keys}: served/research: no model matches 'o3*'" in said
    assert "loaded 4 keys" in said


async def test_top_shows_accounts_and_their_keys(limiter_node: StartCommand, tmp_path: Path, free_port: int) -> None:
    write_private(tmp_path / "organisation.toml", ORGANISATION)
    async with EmbeddedStore("single") as store:
        port = free_port
        arguments = ("--keys", tmp_path / "organisation.toml", "--store", store.url)
        command = await limiter_node("serve", "--port", port, *arguments)
        await command.line(r"node \S+ ready \S+")
        for key in ("sk-alice", "sk-plain"):
            assert (await ask(f"http://127.0.0.1:{port}", key))[0] == 200
        with store_client(store.url) as client:
            # As if the key had become an account's while its window was looked at.
            client.hset(limits_key(key_id("sk-plain2")), "account", "@acme")
            client.copy(window_key(key_id("sk-plain")), window_key(key_id("sk-plain2")))
        shown = await limiter_node("top", "--store", store.url, "--target", f"http://127.0.0.1:{port}", "--once")
        assert shown.process.stdout is not None
        out = (await shown.process.stdout.read()).decode()
        assert await shown.ended() == 0, await shown.errors()
        lines = [line.split() for line in out.splitlines()]
        assert ["acme/alice", "requests/1d"] in [line[:2] for line in lines]
        assert ["acme", "requests/1m"] in [line[:2] for line in lines]
        assert ["acme/research", "requests/1m"] in [line[:2] for line in lines]
        assert any(line[:1] == ["plain"] for line in lines)
        assert "seen 3 keys and 1 account in use, all there are" in out
        assert await command.stop() == 0


def test_the_example_is_an_organisation() -> None:
    found = replace(read_keys(EXAMPLE), exposed_file="")
    (acme,) = found.accounts.values()
    assert [each.name for each in acme.subjects] == ["", "research"]
    assert [key.name for _, key in found.keys.values()] == ["alice", "bob"]
    assert {window.per_ms for each in acme.subjects for window in each.windows} == {1_000, 60_000, 86_400_000}
    assert [window.models for window in acme.subjects[0].windows if window.models] == [("gpt-4o", "gpt-4.1*")]
    assert warnings_of(found) == []
    (models,) = (each.default for each in fields(NodeSettings) if each.name == "models")
    assert warnings_of(found, models) == []
