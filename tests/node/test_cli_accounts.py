"""``limiter-node accounts``, ``teams``, ``limits``, ``keys move`` and ``apply``, against a real store."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from own_commands import Terminal
from stores import running_store

from limiter_node.cli import run

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    """The URL of a store of this module's own."""
    with running_store("single") as running:
        yield running.url


@pytest.fixture
def cli(store: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cli:
    """Runs one command typed as one text: exit code, stdout, stderr. No terminal."""
    monkeypatch.setenv("LIMITER_STORE", store)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    monkeypatch.chdir(tmp_path)

    def call(typed: str, *more: str) -> tuple[int, str, str]:
        code = run([*typed.split(), *more])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def succeeds(cli: Cli, typed: str, *more: str) -> str:
    code, out, err = cli(typed, *more)
    assert code == 0, err
    return out


def test_an_account_with_teams_and_keys(cli: Cli) -> None:
    out = succeeds(cli, "accounts create acme --rpm 5_000 --key-default rpm=120 --limit", "requests=50_000/1d")
    assert out.startswith("account acme created: ")
    assert {"rpm 5,000", "key_defaults.rpm 120", "requests/1d 50,000"} == set(
        out.partition(": ")[2].strip().split(", ")
    )
    assert cli("accounts create acme")[0] == 1
    assert succeeds(cli, "teams create acme/research --rpm 1000").startswith("team acme/research created")
    assert succeeds(cli, "teams create acme/research/vision").startswith("team acme/research/vision created")
    code, out, err = cli("teams create acme/nowhere/vision")
    assert code != 0
    assert "nowhere" in err
    succeeds(cli, "keys create acme/alice --team research/vision --weight 2")

    lines = succeeds(cli, "accounts show acme").splitlines()
    assert lines[0] == "acme"
    assert "  key defaults  rpm 120" in lines
    assert "  teams         research, research/vision" in lines
    assert [re.split(r" {2,}", line)[:2] for line in lines[-2:]] == [
        ["acme requests/1m", "5,000"],
        ["acme requests/1d", "50,000"],
    ]
    assert succeeds(cli, "teams list acme").splitlines()[1:] == [
        "acme/research            0      1  1,000 requests/1m",
        "acme/research/vision     1      0  -",
    ]
    assert "acme/research requests/1m" in succeeds(cli, "teams show acme/research")
    key = json.loads(succeeds(cli, "keys show acme/alice --json"))
    assert (key["account"], key["team"], key["weight"]) == ("acme", "research/vision", 2)
    assert {each["subject"] for each in key["limits"]} == {"acme", "acme/research", "acme/alice"}

    assert succeeds(cli, "accounts set acme --rpm none --show own --key-default rpm=none").startswith(
        "account acme changed: "
    )
    account = json.loads(succeeds(cli, "accounts list --json"))[0]
    assert (account["show"], account["key_defaults"], len(account["limits"])) == ("own", {}, 1)
    assert succeeds(cli, "teams set acme/research --rpm 900") == "team acme/research changed: rpm 1,000 -> 900\n"
    assert cli("teams set acme/research") == (
        2, "", "error: nothing to set: give at least one option, such as --rpm 1000\n"
    )  # fmt: skip

    succeeds(cli, "keys move acme/alice acme")
    assert json.loads(succeeds(cli, "keys show acme/alice --json"))["team"] is None
    succeeds(cli, "keys move acme/alice acme --team research")
    assert succeeds(cli, "keys list --account acme --team research").count("acme/alice") == 1

    for name in ("teams delete acme/research", "accounts delete acme"):
        for command in (name, f"{name} --yes"):
            code, out, err = cli(command)
            assert (code, out) == (1, ""), command
            assert re.fullmatch(r"error: .* has \d teams? and 1 key: delete them first, or all with --recursive\n", err)
    out = succeeds(cli, "accounts delete acme --recursive --yes")
    assert {"key acme/alice deleted", "account acme deleted"} <= set(out.splitlines())
    assert succeeds(cli, "accounts list") == "no accounts\n"
    assert cli("accounts show acme")[0] == 1


def test_limits_are_explained(cli: Cli) -> None:
    succeeds(cli, "accounts create words --rpm 50")
    succeeds(cli, "keys create words/alice --rpm 0 --limit", "output_tokens=100/1h for o3* as 'big ones' audit")
    out = succeeds(cli, "limits show words/alice --model gpt-4o")
    applying, _, others = out.partition("These do not apply:")
    assert "words requests/1m: 50 of 50 left" in applying
    assert "words/alice requests/1m: 0 of 0 left" in applying
    assert "output_tokens/1h for o3*" in others
    explained = json.loads(succeeds(cli, "limits show words/alice --model o3-mini --json"))
    assert [each["applies"] for each in explained["limits"]] == [True, True, True]
    assert explained["binding"]["subject"] == "words/alice"
    succeeds(cli, "keys disable words/alice")
    assert "disabled" in succeeds(cli, "limits show words/alice --model o3")
    succeeds(cli, "accounts delete words --recursive --yes")


def test_apply_shows_the_difference_and_makes_it_so(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    file = Path("keys.toml")
    file.write_text("""
[accounts.filed]
rpm = 50
[accounts.filed.teams.a]
[accounts.filed.teams.b]
[keys.sk-one]
name = "one"
account = "filed"
team = "a"
[keys.sk-two]
name = "two"
account = "filed"
[keys.sk-flat]
name = "flat"
rpm = 10
""")
    planned = succeeds(cli, "apply keys.toml --dry-run")
    assert planned.splitlines()[-1].startswith("would be ")
    assert cli("accounts show filed")[0] == 1, "nothing was written"
    done = succeeds(cli, "apply keys.toml")
    assert done.splitlines()[:-1] == planned.splitlines()[:-1]
    assert "key flat created" in done
    assert succeeds(cli, "keys load keys.toml") == "nothing to change: the file declares 3 keys and 1 account\n"

    succeeds(cli, "accounts set filed --rpm 70")
    succeeds(cli, "keys set flat --rpm 20")
    succeeds(cli, "keys create filed/three")
    out = succeeds(cli, "apply keys.toml")
    assert out.splitlines() == [
        "account filed changed: rpm 70 -> 50",
        "key flat changed: rpm 20 -> 10",
        "1 account and 1 key changed; the file declares 3 keys and 1 account",
    ]
    assert "filed/three" in succeeds(cli, "keys list"), "what the file doesn't have stays"

    file.write_text(file.read_text().replace("[accounts.filed.teams.b]\n", "").partition("[keys.sk-two]")[0])
    monkeypatch.setattr("sys.stdin", Terminal("n\n"))
    code, out, err = cli("apply keys.toml --prune")
    assert (code, out) == (1, "")
    assert "key filed/three deleted" in err
    assert "will be deleted, with the usage. Go on? [y/N]: " in err
    changes = json.loads(succeeds(cli, "apply keys.toml --prune --dry-run --json"))
    assert changes["dry_run"] is True
    assert {(each["who"], each["action"]) for each in changes["changes"]} == {
        ("filed/two", "deleted"),
        ("filed/three", "deleted"),
        ("filed/b", "deleted"),
    }
    succeeds(cli, "apply keys.toml --prune --yes")
    listed = succeeds(cli, "keys list")
    assert "filed/one" in listed
    assert "flat" in listed
    assert "filed/two" not in listed
    assert "key flat deleted" in succeeds(cli, "apply keys.toml --prune-keys --yes")
    succeeds(cli, "accounts delete filed --recursive --yes")


def test_a_mistake_in_a_file_is_named_with_its_line(cli: Cli) -> None:
    Path("keys.toml").write_text('[keys."sk-a"]\nname = "a"\nrpm = "many"\n')
    code, out, err = cli("apply keys.toml")
    assert (code, out) == (2, "")
    assert err.startswith("error: keys.toml, line 3: key 'a': rpm must be an integer from 0 to ")
    assert err.count("\n") == 1


def test_a_key_moves_between_accounts(cli: Cli) -> None:
    for account in ("one", "two"):
        succeeds(cli, f"accounts create {account}")
    succeeds(cli, "teams create two/red")
    succeeds(cli, "keys create one/alice --rpm 5")
    assert "moved" in succeeds(cli, "keys move one/alice two --team red")
    assert json.loads(succeeds(cli, "keys show two/alice --json"))["team"] == "red"
    assert cli("keys show one/alice")[0] == 1
    assert cli("keys move two/alice nowhere")[0] == 1
    succeeds(cli, "keys move two/alice --no-account")
    key = json.loads(succeeds(cli, "keys show alice --json"))
    assert (key["account"], [each["limit"] for each in key["limits"]]) == (None, [5])
    succeeds(cli, "keys delete alice --yes")
    for account in ("one", "two"):
        succeeds(cli, f"accounts delete {account} --recursive --yes")
