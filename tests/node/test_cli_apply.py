"""``limiter-node apply``: what it asks before something is lost, and what it says when it fails half-way."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from own_commands import Terminal
from store_tools import new_api_key

from limiter_node.cli import run

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cli(
    capsys: pytest.CaptureFixture[str], embedded_single: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Cli:
    """Runs one command on the shared single store: exit code, stdout, stderr."""
    monkeypatch.setenv("LIMITER_STORE", embedded_single)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "keys.toml").touch(0o600)

    def call(*arguments: str) -> tuple[int, str, str]:
        code = run([*arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def account() -> str:
    """An account that no other test has."""
    return f"apply-{new_api_key().rpartition('-')[2]}"


def digest(secret: str) -> str:
    return "sha256:" + hashlib.sha256(secret.encode()).hexdigest()


def write(*lines: str) -> None:
    Path("keys.toml").write_text("\n".join(lines))


def test_it_asks_before_it_revokes_secrets_that_leave_a_list(
    cli: Cli, account: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = digest(new_api_key()), digest(new_api_key())
    head = (f"[accounts.{account}]", "[keys.ci]", f'account = "{account}"', 'name = "ci"')
    write(*head, f'credentials = ["{first}", "{second}"]')
    assert cli("apply", "keys.toml")[0] == 0
    assert cli("apply", "keys.toml")[0] == 0, "nothing is lost"
    write(*head, "rpm = 5", f'credentials = ["{first}"]')
    line = f"key {account}/ci changed: credentials {second[:19]} valid -> revoked, rpm none -> 5"
    monkeypatch.setattr("sys.stdin", Terminal("n\n"))
    code, out, err = cli("apply", "keys.toml")
    assert (code, out) == (1, "")
    assert err.startswith(f"{line}\n1 secret will be refused for good. Go on? [y/N]: ")
    assert cli("apply", "keys.toml", "--dry-run")[1].startswith(line)
    assert cli("apply", "keys.toml", "--yes")[1].startswith(line)
    states = [each["state"] for each in json.loads(cli("keys", "show", f"{account}/ci", "--json")[1])["credentials"]]
    assert states == ["active", "revoked"]


def test_it_asks_for_deletions_and_revocations_at_once(cli: Cli, account: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = digest(new_api_key()), digest(new_api_key())
    head = (f"[accounts.{account}]", "[keys.ci]", f'account = "{account}"')
    write(*head, f'credentials = ["{first}", "{second}"]', f'[keys."{new_api_key()}"]', f'account = "{account}"')
    assert cli("apply", "keys.toml")[0] == 0
    write(*head, f'credentials = ["{first}"]')
    monkeypatch.setattr("sys.stdin", Terminal("n\n"))
    code, _, err = cli("apply", "keys.toml", "--prune")
    assert code == 1
    assert "1 key will be deleted, with the usage. 1 secret will be refused for good. Go on? [y/N]: " in err
    assert cli("apply", "keys.toml", "--prune", "--yes")[0] == 0


def test_what_has_changed_is_shown_though_a_key_can_not_be_as_declared(cli: Cli, account: str) -> None:
    assert cli("accounts", "create", account)[0] == 0
    assert cli("keys", "create", f"{account}/alice")[0] == 0
    keys = [(f'[keys."{new_api_key()}"]', f'name = "{name}"', f'account = "{account}"') for name in ("alice", "bob")]
    write(f"[accounts.{account}]", *keys[0], *keys[1])
    code, out, err = cli("apply", "keys.toml")
    assert code == 2
    assert out.splitlines() == [
        f"key {account}/bob created: name bob, account {account}",
        "1 key created; the file declares 2 keys and 1 account",
    ]
    assert err == (
        f"error: {account}/alice is not as it is declared: another key of account {account} has the name: "
        "rename or delete that one first\n"
    )
    code, out, _ = cli("apply", "keys.toml", "--json")
    assert (code, json.loads(out)["changes"]) == (2, [])
