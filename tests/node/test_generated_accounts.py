"""``keys generate`` with an account: a file that nodes can read, with all limits as they were given."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from limiter_node.cli import run
from limiter_node.errors import ConfigError
from limiter_node.keysfile.making import GeneratedAccount, generate_keys
from limiter_node.keysfile.reading import read_keys
from limiter_node.limits import KeyLimits
from limiter_node.policy import AUDIT, OUTPUT_TOKENS, REQUESTS, TOKENS, Limit, PolicyWindow

SECONDS = tuple(PolicyWindow(1_000 * length, (), (Limit(REQUESTS, 1),)) for length in range(1, 34))


def test_a_generated_account_can_be_read(tmp_path: Path) -> None:
    """Its keys are the last of the file, in turn in its teams; no limit is lost or changed."""
    model = PolicyWindow(1_000, ("a,b", 'c"ü\U0001f600*'), (Limit(OUTPUT_TOKENS, 5, AUDIT, 'big "ü" models'),))
    hour = PolicyWindow(3_600_000, (), (Limit(REQUESTS, 9), Limit(TOKENS, 10**15 - 1)))
    team = PolicyWindow(60_000, (), (Limit(REQUESTS, 7),))
    account = GeneratedAccount("a.b", 5, ("research/vision", "sales"), (model, hour), (team,))
    path = tmp_path / "keys.toml"
    path.write_text(generate_keys(7, KeyLimits(1, 2, 3, 4), account), encoding="utf-8")
    declared = read_keys(path)
    (found,) = declared.accounts.values()
    assert [(each.name, each.windows) for each in found.subjects] == [
        ("", (model, hour)),
        ("research", ()),
        ("research/vision", (team,)),
        ("sales", (team,)),
    ]
    assert found.subjects[0].output_reserve == 4
    assert found.key_defaults == (("rpm", 1), ("input_tpm", 2), ("output_tpm", 3))
    assert [each.name for each in declared.plain.values()] == ["key-0001", "key-0002"]
    teams = ("research/vision", "sales", "research/vision", "sales", "research/vision")
    places = [(each.key.name, each.key.team) for each in declared.keys.values()]
    assert places == [(f"key-000{number}", team) for number, team in enumerate(teams, 3)]


@pytest.mark.parametrize(
    ("account", "message"),
    [
        (GeneratedAccount("a b", 1), "--account: the name of an account is 1 to 64 of the characters"),
        (GeneratedAccount("key-0001", 1), "must differ from those of the keys"),
        (GeneratedAccount("acme", 1, ("key-12345",)), "must differ from those of the keys"),
        (GeneratedAccount("acme", 1, ("a//b",)), "--team: a team is up to four names"),
        (GeneratedAccount("acme", 0), "--account-keys must be from 1 to the 3 of --count"),
        (GeneratedAccount("acme", 4), "--account-keys must be from 1 to the 3 of --count"),
        (GeneratedAccount("acme", 1, (), SECONDS), "account 'acme': limits lie on 33 windows"),
        (GeneratedAccount("acme", 1, ("a",), (), SECONDS), "team 'a': limits lie on 33 windows"),
    ],
)
def test_an_account_that_no_node_could_read_is_not_generated(account: GeneratedAccount, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        generate_keys(3, KeyLimits(), account)


def generate(*arguments: str) -> int:
    return run(["keys", "generate", *arguments])


def test_an_account_is_generated_by_the_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    limits = ["--account-limit", "requests=9/60s", "--account-limit", 'tokens=5/1h for o3* as "big ones" audit']
    teams = ["--team", "research", "--team", "sales", "--team-limit", "requests=2/1s"]
    assert generate("--count", "9", "--account", "acme", "--account-keys", "3", *limits, *teams) == 0
    assert capsys.readouterr().out == "9 keys in keys.toml\n"
    declared = read_keys("keys.toml")
    assert (len(declared.plain), len(declared.keys)) == (6, 3)
    account, *of_teams = declared.accounts["acme"].subjects
    assert account.windows == (
        PolicyWindow(60_000, (), (Limit(REQUESTS, 9),)),
        PolicyWindow(3_600_000, ("o3*",), (Limit(TOKENS, 5, AUDIT, "big ones"),)),
    )
    assert {each.windows for each in of_teams} == {(PolicyWindow(1_000, (), (Limit(REQUESTS, 2),)),)}
    assert generate("--count", "2", "--account", "acme", "--force") == 0
    assert [len(each) for each in (read_keys("keys.toml").plain, read_keys("keys.toml").keys)] == [0, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--account-keys", "3"], "--account-keys needs an --account"),
        (["--team", "research"], "--team needs an --account"),
        (["--team-limit", "requests=2/1s"], "--team-limit needs an --account"),
        (["--account", "acme", "--team-limit", "requests=2/1s"], "--team-limit needs a --team"),
        (["--account", "acme", *["--account-limit", "requests=2/1s"] * 2], "--account-limit: give each limit once"),
        (["--account", "acme", "--account-limit", "requests=none/1s"], "--account-limit: give each limit once, and"),
        (["--account", "acme", "--account-keys", "2"], "--account-keys must be from 1 to the 1 of --count"),
    ],
)
def test_wrong_options_of_an_account_are_said(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert generate(*arguments) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "keys.toml").exists()
