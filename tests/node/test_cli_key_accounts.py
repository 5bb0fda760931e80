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
    return key_id(key)[:8]


def test_keys_of_accounts_are_loaded_listed_shown_and_deleted(cli: Run) -> None:
    with running_store("single") as store:
        end = ("--store", store.url)
        warning = "warning: acme/research: requests/1m 60 is above the 50 of acme, which rejects first\n"
        assert cli("keys", "load", "organisation.toml", *end) == (0, "4 keys and 1 account loaded\n", warning)
        assert cli("keys", "load", "organisation.toml", *end) == (0, "4 keys and 1 account loaded\n", warning)

        code, out, err = cli("keys", "list", *end)
        assert (code, err) == (0, "")
        nameless = f"acme/{key_id('sk-nameless')[:12]}"
        assert [re.split(r" {2,}", line) for line in out.splitlines()] == [
            ["NAME", "DIGEST", "RPM", "INPUT TPM", "OUTPUT TPM", "OUTPUT RESERVE", "TEAM", "FURTHER LIMITS"],
            *sorted(
                [
                    [nameless, digest("sk-nameless"), "-", "-", "-", "256", "-", "-"],
                    [
                        *("acme/alice", digest("sk-alice"), "40", "-", "-", "99", "research"),
                        "50000 tokens/1m, 2 requests/1d",
                    ],
                ]
            ),
            ["own", digest("sk-own"), "-", "100000", "50000", "256", "-", "7 tokens/1m"],
            ["plain", digest("sk-plain"), "600", "100000", "50000", "256", "-", "-"],
        ]

        code, out, err = cli("keys", "show", "sk-alice", *end)
        assert (code, err) == (0, "")
        head, *table = out.splitlines()
        assert head == f"acme/alice (key {digest('sk-alice')}…), team research, output reserve 99"
        assert [re.split(r" {2,}", line) for line in table] == [
            ["LIMIT", "MODE", "AMOUNT", "USED", "REMAINING", "ALL FREE IN"],
            ["acme requests/1m", "enforce", "50", "0", "50", "-"],
            ["acme/research requests/1m", "enforce", "60", "0", "60", "-"],
            ["acme/research output_tokens/1h for o3*, GPT-5 (big ones)", "audit", "9000", "0", "9000", "-"],
            ["acme/alice requests/1m", "enforce", "40", "0", "40", "-"],
            ["acme/alice tokens/1m", "enforce", "50000", "0", "50000", "-"],
            ["acme/alice requests/1d", "enforce", "2", "0", "2", "-"],
        ]
        own, *_ = cli("keys", "show", "sk-own", *end)[1].splitlines()
        assert own == f"own (key {digest('sk-own')}…), output reserve 256"

        for key, name, why in (
            ("sk-alice", "acme/alice", "is a key of account acme"),
            ("sk-own", "own", "has, or once had, other limits than rpm, input_tpm and output_tpm"),
        ):
            message = f"error: {name} (key {digest(key)}…) {why}: change its limits in the keys file, and load it\n"
            assert cli("keys", "set", key, "--rpm", 7, *end) == (2, "", message)

        for key in ("sk-alice", "sk-own"):
            assert cli("keys", "delete", key, *end) == (0, f"key {digest(key)}… deleted\n", "")
            gone = f"error: key {digest(key)}… is not in the store: add it with 'keys set' or 'keys load'\n"
            assert cli("keys", "delete", key, *end) == (1, "", gone)
            assert cli("keys", "show", key, *end) == (1, "", gone)
        assert [line.split()[0] for line in cli("keys", "list", *end)[1].splitlines()[1:]] == [nameless, "plain"]
        with store_client(store.url) as client:
            assert client.exists(*(deleted_key(key_id(key)) for key in ("sk-alice", "sk-own"))) == 2
        assert cli("keys", "set", "sk-alice", "--rpm", 7, *end)[0] == 0
        with store_client(store.url) as client:
            assert client.type(limits_key(key_id("sk-alice"))) == b"string"


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


async def test_top_passes_over_accounts(limiter_node: StartCommand, tmp_path: Path, free_port: int) -> None:
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
        assert "plain" in out
        assert "alice" not in out
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
