"""Fields as people write them: what they become, and what is refused, with the messages of the keys file."""

from __future__ import annotations

from typing import Any

import pytest

from limiter_node.errors import ConfigError
from limiter_node.management.fields import (
    KEY_FIELDS,
    changed,
    changed_account,
    changed_team,
    limit_field,
    without_team,
)

STORED: dict[str, Any] = {"rpm": 60, "requests/1d": 1_000, "weight": 2, "name": "alice"}


@pytest.mark.parametrize(
    ("patch", "differs"),
    [
        ({}, {}),
        ({"rpm": 120}, {"rpm": 120}),
        ({"rpm": None, "weight": None}, {"rpm": None, "weight": None}),
        ({"rpm": "none"}, {"rpm": None}),
        ({"requests/24h": 7}, {"requests/1d": 7}),
        ({"requests/60s": 7}, {"rpm": 7}),
        ({"tokens/1m": 0}, {"tpm": 0}),
        ({"output_tokens/1m for o3*,GPT-5*": 5}, {"output_tokens/1m for gpt-5*,o3*": 5}),
        ({"rpm": {"amount": 7, "mode": "audit", "name": "a"}}, {"rpm": {"amount": 7, "mode": "audit", "name": "a"}}),
        ({"rpm": {"amount": 7, "mode": "enforce", "name": ""}}, {"rpm": 7}),
        ({"limits": []}, {"requests/1d": None}),
        ({"limits": None}, {"requests/1d": None}),
        ({"limits": [{"tokens": 5, "per": "7d"}]}, {"requests/1d": None, "tokens/7d": 5}),
        (
            {"limits": [{"output_tokens": 5, "per": "1m", "models": ["o3*"], "name": "big"}]},
            {"requests/1d": None, "output_tokens/1m for o3*": {"amount": 5, "name": "big"}},
        ),
        ({"limits": [{"requests": 5, "per": "1m"}]}, {"requests/1d": None, "rpm": 5}),
        ({"expires": "2027-06-30T02:00:00+02:00"}, {"expires": "2027-06-30T00:00:00Z"}),
        (
            {"disabled": True, "team": "a/b", "output_reserve": 9},
            {"disabled": True, "team": "a/b", "output_reserve": 9},
        ),
        ({"disabled": None}, {"disabled": False}),
        ({"team": "", "name": ""}, {"name": None}),
    ],
)
def test_fields_are_changed(patch: dict[str, object], differs: dict[str, object]) -> None:
    after = changed(STORED, patch, KEY_FIELDS)
    wanted = {name: value for name, value in {**STORED, **differs}.items() if value is not None}
    assert after == wanted
    assert STORED == {"rpm": 60, "requests/1d": 1_000, "weight": 2, "name": "alice"}


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        ({"rpm": -1}, 'rpm must be an integer from 0 to 999,999,999,999,999, or "none"'),
        ({"rpm": True}, "rpm must be an integer"),
        ({"rpm": 1.5}, "rpm must be an integer"),
        ({"rpm": {"amount": "7"}}, "rpm must be an integer"),
        ({"rpm": {}}, "rpm must be an integer"),
        ({"rpm": {"amount": 7, "mod": "audit"}}, "rpm: unknown field 'mod': there are amount, mode, name"),
        ({"rpm": {"amount": 7, "mode": "off"}}, "rpm: mode must be 'enforce' or 'audit'"),
        ({"requests/32d": 7}, 'per must be a length from "1s" to "31d"'),
        ({"requests/day": 7}, 'a limit is called as "input_tokens/1d"'),
        ({"calls/1d": 7}, "a limit is called as"),
        ({"output_tokens/1m for *a*b*c*d*": 7}, r"a pattern may have at most 4 \*"),
        ({"limits": {}}, "limits must be a list"),
        ({"limits": [{"requests": 1}]}, "limits, entry 1: per must be a length"),
        ({"limits": [{"per": "1d"}]}, "limits, entry 1: must have exactly one of requests"),
        (
            {"limits": [{"requests": 1, "per": "1d"}, {"requests": 2, "per": "24h"}]},
            "entry 2: two limits of requests/1d",
        ),
        ({"limits": [{"requests": 1, "per": f"{n}s"} for n in range(1, 33)]}, "limits lie on 33 windows: at most 32"),
        ({"weight": 0}, "weight must be an integer from 1 to 1000"),
        ({"output_reserve": 0}, "output_reserve must be an integer from 1 to 1,000,000"),
        ({"expires": "2027-06-30"}, "expires must be a date and time with its offset"),
        ({"expires": "2027-06-30T00:00:00"}, "expires must be a date and time with its offset"),
        ({"expires": 17}, "expires must be a date and time with its offset"),
        ({"disabled": 1}, "disabled must be true or false"),
        ({"team": "a//b"}, "team must be a team of the key's account"),
        ({"name": "a\nb"}, "name must be a text of at most 128 printable characters"),
        ({"wieght": 2}, "unknown field 'wieght': there are rpm, input_tpm"),
        ({"sk-secret": 2}, "unknown field: there are"),
        ({"show": "own"}, "unknown field 'show'"),
        ({"credentials": []}, "unknown field 'credentials'"),
    ],
)
def test_a_wrong_field_is_named(patch: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        changed(STORED, patch, KEY_FIELDS)


def test_fields_of_accounts_and_teams_are_changed() -> None:
    stored = changed_account({}, {"rpm": 5, "key_defaults": {"rpm": 1}, "team a": True, "team a rpm": 2, "show": "own"})
    assert stored == {"rpm": 5, "key_defaults.rpm": 1, "team a": True, "team a rpm": 2, "show": "own"}
    after = changed_account(stored, {"key_defaults.tpm": 9, "show": None, "team a/b rpm": 3})
    assert after == {
        "rpm": 5,
        "key_defaults.rpm": 1,
        "key_defaults.tpm": 9,
        "team a": True,
        "team a rpm": 2,
        "team a/b": True,
        "team a/b rpm": 3,
    }
    assert changed_account(after, {"key_defaults": {"tpm": "none"}, "rpm": None}) == {
        name: value for name, value in after.items() if not name.startswith("key_defaults") and name != "rpm"
    }
    assert changed_team(stored, "a", {"rpm": None, "output_reserve": 7})["team a output_reserve"] == 7
    assert without_team(after, "a") == {"rpm": 5, "key_defaults.rpm": 1, "key_defaults.tpm": 9}
    assert without_team(after, "a/b") == {name: value for name, value in after.items() if "a/b" not in name}


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        ({"team b/c rpm": 1}, "there is no team 'b' above it: create that first"),
        ({"team a": None}, "a team is deleted by a command of its own"),
        ({"team a/b/c/d/e": True}, "a team is up to 4 names"),
        ({"team a weight": 1}, "unknown field 'weight'"),
        ({"show": "all"}, "show must be 'path' or 'own'"),
        ({"key_defaults": {"rpm": -1}}, "key_defaults.rpm must be an integer"),
        ({"key_defaults": {"rps": 1}}, "unknown field"),
        ({"key_defaults": 1}, "must be a section of fields"),
    ],
)
def test_a_wrong_field_of_an_account_is_named(patch: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        changed_account({"team a": True}, patch)


def test_a_limit_as_in_the_keys_file_has_a_field() -> None:
    assert limit_field({"output_tokens": 5, "per": "60s", "models": ["o3*", "GPT-5*"], "mode": "audit"}) == (
        "output_tokens/1m for gpt-5*,o3*",
        {"amount": 5, "mode": "audit"},
    )
