"""The limits of a keys file on the paths of its keys; ``tests/e2e/test_declared_tree.py`` holds them against nodes."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench_client.errors import BenchUsageError
from bench_client.load.declared_limits import DeclaredLimit, DeclaredTree, KeyPath
from bench_client.load.declared_paths import tree_of
from bench_client.load.keys import key_id, read_keys


def tree(tmp_path: Path, text: str) -> DeclaredTree:
    path = tmp_path / "keys.toml"
    path.write_text(text, encoding="utf-8")
    return tree_of((key.key_id, key.path) for key in read_keys(path).keys)


def test_keys_of_one_account_share_its_limits(tmp_path: Path) -> None:
    found = tree(
        tmp_path,
        """
        [accounts.acme]
        rpm = 9
        [accounts.acme.teams.research]
        limits = [{ tokens = 8, per = "1h", models = ["O3*"], name = "big", mode = "audit" }]
        [accounts.other]
        rpm = 1
        [keys.sk-a]
        name = "a"
        account = "acme"
        [keys.sk-plain]
        [keys.sk-b]
        name = "b"
        account = "acme"
        team = "research"
        rpm = 7
        """,
    )
    assert found == DeclaredTree(
        (
            DeclaredLimit("acme", "requests", 60_000, (), 9, "enforce", ""),
            DeclaredLimit("acme/research", "tokens", 3_600_000, ("o3*",), 8, "audit", "big"),
            DeclaredLimit("acme/b", "requests", 60_000, (), 7, "enforce", ""),
        ),
        {
            key_id("sk-a"): KeyPath("acme", "", "path", (0,)),
            key_id("sk-b"): KeyPath("acme", "research", "path", (0, 1, 2)),
        },
    )
    assert DeclaredTree.from_dict(found.as_dict()) == found


def test_two_keys_of_one_name_have_limits_of_their_own(tmp_path: Path) -> None:
    found = tree(tmp_path, '[keys.sk-a]\nname = "x"\ntpm = 1\n[keys.sk-b]\nname = "x"\ntpm = 1\n')
    assert [path.limits for path in found.keys.values()] == [(0, 1, 2, 3), (4, 5, 6, 7)]


UNKNOWN = """
[accounts.acme]
in_flight = 200
max_wait = "20s"
limits = [{ cost = 500.0, per = "month", tz = "Europe/Berlin" }, { requests = 5, per = "1h" }]
key_defaults = { in_flight = 3 }
[accounts.acme.teams.research]
limits = [{ requests = 4, per = "day" }, { tokens = 4, per = "1h", burst = 3 }]
[accounts.acme.teams.sales]
in_flight = 1
[keys.sk-a]
name = "a"
account = "acme"
team = "research"
expires = 2999-01-01T00:00:00Z
weight = 2
[keys.sk-flat]
name = "flat"
in_flight = 2
[keys.sk-plain]
output_reserve = 5
[prices."gpt-4o*"]
input = 2.50
"""


def test_limits_of_later_versions_are_said_in_words(tmp_path: Path) -> None:
    """Those on the paths of keys that are there; what limits nothing isn't among them."""
    found = tree(tmp_path, UNKNOWN)
    assert found.unknown == (
        "acme: in_flight",
        "acme: cost, tz per month",
        "acme/research: requests per day",
        "acme/research: burst per 1h",
        "acme/a: in_flight",
        "flat: in_flight",
    )
    assert [limit.subject for limit in found.limits] == ["acme", "flat", "flat", "flat"]
    assert set(found.keys) == {key_id("sk-a"), key_id("sk-flat")}


ACCOUNT = '[accounts.acme]\n[keys.sk-alice]\nname = "alice"\naccount = "acme"\n'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("accounts = 5\n[keys.sk-a]\n", r"\[accounts\] must be a section of fields"),
        ("[accounts]\nacme = 5\n[keys.sk-a]\n", r"\[accounts.acme\] must be a section"),
        ("[accounts.acme]\nteams = 5\n[keys.sk-a]\n", r"\[accounts.acme\]: teams must be a section"),
        ("[accounts.acme.teams]\nx = 5\n[keys.sk-a]\n", r"\[accounts.acme\]: team x must be a section"),
        ('[accounts.acme]\nshow = "all"\n[keys.sk-a]\n', r"\[accounts.acme\]: show must be 'path' or 'own'"),
        ("[accounts.acme.teams.x]\nrpm = 1.5\n[keys.sk-a]\n", "team x: rpm must be a whole number"),
        ("[accounts.acme]\nkey_defaults = { tpm = true }\n[keys.sk-a]\n", "key_defaults: tpm must be a whole number"),
        ('[defaults]\nrpm = "many"\n[keys.sk-a]\n', r"\[defaults\]: rpm must be a whole number"),
        ("[keys.sk-a]\nrpm = -1\n", "key number 1: rpm must be a whole number"),
        ('[keys.sk-a]\nname = "a"\nlimits = 5\n', "key 'a': limits must be a list"),
        ("[keys.sk-a]\nlimits = [5]\n", "limits, entry 1 must be a section"),
        ('[keys.sk-a]\nlimits = [{ per = "1m" }]\n', "entry 1 must have exactly one of requests, input_tokens"),
        ('[keys.sk-a]\nlimits = [{ requests = 1, tokens = 1, per = "1m" }]\n', "must have exactly one of"),
        ("[keys.sk-a]\nlimits = [{ requests = 1 }]\n", 'entry 1: per must be a length such as "1m"'),
        ("[keys.sk-a]\nlimits = [{ requests = 1, per = 60 }]\n", "entry 1: per must be a text"),
        ('[keys.sk-a]\nlimits = [{ requests = 1, per = "0s" }]\n', "entry 1: per must be a length"),
        ('[keys.sk-a]\nlimits = [{ requests = "1", per = "1s" }]\n', "entry 1: requests must be a whole number"),
        ('[keys.sk-a]\nlimits = [{ requests = 1, per = "1s", mode = "x" }]\n', "mode must be 'enforce' or 'audit'"),
        ('[keys.sk-a]\nlimits = [{ requests = 1, per = "1s", name = 1 }]\n', "name must be a text"),
        ('[keys.sk-a]\nlimits = [{ requests = 1, per = "1s", models = "x" }]\n', "models must be a list of patterns"),
        ('[keys.sk-a]\nlimits = [{ requests = 1, per = "1s", models = [1] }]\n', "models must be a list of patterns"),
        ('[keys.sk-a]\naccount = "acme"\n', "account is not declared"),
        (ACCOUNT + 'team = "x"\n', "key 'alice': team is not declared"),
        (ACCOUNT + 'team = "x/y"\n[accounts.acme.teams."x/y"]\n', "or one above it isn't"),
        (ACCOUNT + "team = 5\n", "team must be a text"),
    ],
)
def test_a_limit_that_cannot_be_read_is_named_by_section_and_field(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(BenchUsageError, match=says) as caught:
        tree(tmp_path, text)
    assert "sk-" not in str(caught.value)
    assert "\n" not in str(caught.value)
