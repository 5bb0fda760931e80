"""Policies as fields, fields as policies, and who wins where a declaration and a stored policy differ."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limiter_node.declaration_records import declaration_digest, declaration_of, was_applied, with_declaration
from limiter_node.key_states import Credential
from limiter_node.limit_names import limit_name, parse_limit_name
from limiter_node.limits import KeyLimits
from limiter_node.policy import (
    AUDIT,
    INPUT_TOKENS,
    MAX_APPLIED,
    OUTPUT_TOKENS,
    REQUESTS,
    TOKENS,
    UNITS,
    Declared,
    Limit,
    PolicyWindow,
    Subject,
    shape_of,
)
from limiter_node.policy_body import body_of
from limiter_node.policy_fields import (
    Fields,
    account_from,
    fields_of_account,
    fields_of_key,
    fields_of_plain,
    flat_account_from,
    key_from,
    plain_from,
    split_team_field,
    team_field,
    teams_in,
    three_way,
    time_ms,
    time_text,
)

KID, OTHER = "0" * 32, "1" * 32
NOW_MS = 1_000_000
MINUTE, DAY = PolicyWindow(60_000), PolicyWindow(86_400_000)
END = "2027-06-30T00:00:00Z"
ALICE: Fields = {
    "name": "alice",
    "team": "research",
    "weight": 2,
    "output_reserve": 512,
    "expires": END,
    "rpm": 60,
    "input_tokens/1d": 1_000_000,
    "output_tokens/1m for gpt-5*,o3*": {"amount": 5_000, "mode": "audit", "name": "big models"},
    "credentials": [{"digest": KID, "revoked": True}, {"digest": OTHER, "expires": END}],
}


@pytest.mark.parametrize(
    ("unit", "window", "name"),
    [
        (REQUESTS, MINUTE, "rpm"),
        (INPUT_TOKENS, MINUTE, "input_tpm"),
        (OUTPUT_TOKENS, MINUTE, "output_tpm"),
        (TOKENS, MINUTE, "tpm"),
        (INPUT_TOKENS, DAY, "input_tokens/1d"),
        (OUTPUT_TOKENS, PolicyWindow(60_000, ("O3*", "gpt-5*")), "output_tokens/1m for gpt-5*,o3*"),
        (REQUESTS, PolicyWindow(90_000, ("a,b", '"c"', "d")), 'requests/90s for "\\"c\\"","a,b",d'),
        (TOKENS, PolicyWindow(3_600_000, (" for x",)), "tokens/1h for  for x"),
    ],
)
def test_names_of_limits(unit: int, window: PolicyWindow, name: str) -> None:
    assert limit_name(unit, window) == name
    parsed = parse_limit_name(name)
    assert parsed is not None
    assert (parsed[0], shape_of(parsed[1])) == (unit, shape_of(window))


@pytest.mark.parametrize(
    "name",
    [
        *("", "name", "cost/1d", "requests", "requests/0s", "requests/1m for ", 'tokens/1m for "a'),
        *('tokens/1m for "\\x"', 'tokens/1m for "\\ud800"', "tokens/1m for a\n", f"tokens/{'9' * 5_000}d"),
    ],
)
def test_other_names_name_no_limit(name: str) -> None:
    assert parse_limit_name(name) is None


pattern = st.text(st.sampled_from('ab,"*\\ /A'), min_size=1, max_size=5)
windows = st.builds(
    lambda seconds, models: PolicyWindow(seconds * 1_000, tuple({each.lower(): each for each in models}.values())),
    st.sampled_from([1, 60, 90, 3_600, 86_400, 31 * 86_400]),
    st.lists(pattern, max_size=3),
)


@given(st.integers(0, len(UNITS) - 1), windows)
def test_every_name_is_read_as_it_was_meant(unit: int, window: PolicyWindow) -> None:
    parsed = parse_limit_name(limit_name(unit, window))
    assert parsed is not None
    assert (parsed[0], shape_of(parsed[1])) == (unit, shape_of(window))


def test_a_key_from_its_fields_has_these_fields() -> None:
    key = key_from(KID, ALICE, None, NOW_MS)
    assert (key.kid, key.revision, key.expires_ms) == (KID, 1, time_ms(END))
    assert key.credentials == (Credential(KID, 0, is_revoked=True), Credential(OTHER, time_ms(END)))
    assert {each.since_ms for each in key.windows} == {NOW_MS}
    assert Limit(OUTPUT_TOKENS, 5_000, AUDIT, "big models") in [limit for each in key.windows for limit in each.limits]
    assert fields_of_key(key) == ALICE
    assert key_from(KID, ALICE, key, NOW_MS + 1) is key
    assert key_from(KID, ALICE | {"account": "acme"}, key, NOW_MS + 1) is key


def test_a_change_keeps_windows_and_raises_the_revision() -> None:
    key = replace(key_from(KID, ALICE, None, NOW_MS), declared=Declared("{}", ("a",)))
    changed = key_from(KID, {**ALICE, "rpm": 61}, key, NOW_MS + 1)
    assert changed.revision == 2
    assert changed.declared == key.declared
    assert {each.since_ms for each in changed.windows} == {NOW_MS}
    without = {name: value for name, value in ALICE.items() if name not in ("rpm", "expires", "weight", "name")}
    bare = key_from(KID, without, changed, NOW_MS + 2)
    assert (bare.expires_ms, bare.weight, bare.name, bare.revision) == (0, 1, "", 3)
    assert [(each.per_ms, each.until_ms) for each in bare.windows if not each.limits] == [(60_000, NOW_MS + 60_002)]
    again = key_from(KID, {**without, "rpm": 1}, bare, NOW_MS + 3)
    assert {each.since_ms for each in again.windows} == {NOW_MS}


def test_state_and_credentials_stay_unless_fields_name_them() -> None:
    key = replace(key_from(KID, ALICE, None, NOW_MS), is_disabled=True)
    silent = {name: value for name, value in ALICE.items() if name != "credentials"}
    assert key_from(KID, silent, key, NOW_MS) is key
    assert not key_from(KID, {**silent, "disabled": False}, key, NOW_MS).is_disabled
    assert key_from(KID, {**silent, "disabled": True}, None, NOW_MS).is_disabled


def test_a_credential_that_is_not_listed_is_revoked_and_never_forgotten() -> None:
    plain = key_from(KID, {"rpm": 1}, None, NOW_MS)
    assert plain.credentials == ()
    assert key_from(KID, {"rpm": 1, "credentials": [{"digest": KID}]}, plain, NOW_MS) is plain
    other = key_from(KID, {"rpm": 1, "credentials": [{"digest": OTHER}]}, plain, NOW_MS)
    assert other.credentials == (Credential(OTHER), Credential(KID, is_revoked=True))
    back = key_from(KID, {"rpm": 1, "credentials": [{"digest": KID}]}, other, NOW_MS)
    assert back.credentials == (Credential(KID), Credential(OTHER, is_revoked=True))


@pytest.mark.parametrize("field", ["rmp", "show", "team research rpm", "in_flight", "key_defaults.rpm"])
def test_a_field_that_no_key_has_is_refused(field: str) -> None:
    with pytest.raises(ValueError, match="there is no field"):
        key_from(KID, {field: 1}, None, NOW_MS)


@pytest.mark.parametrize("field", ["weight", "name", "team research show", "team a credentials"])
def test_a_field_that_no_account_has_is_refused(field: str) -> None:
    with pytest.raises(ValueError, match="there is no field"):
        account_from("acme", {field: 1}, None, NOW_MS)


ACME: Fields = {
    "show": "own",
    "output_reserve": 100,
    "key_defaults.rpm": 120,
    "key_defaults.tpm": 1_000,
    "rpm": 5_000,
    "requests/1d for gpt-4o": 7,
    "team research": True,
    "team research rpm": 1_000,
    "team research/vision": True,
    "team research/vision output_reserve": 9,
    "team research/vision tokens/1d for a b": {"amount": 1, "name": "n"},
}


def test_an_account_from_its_fields_has_these_fields() -> None:
    account = account_from("acme", ACME, None, NOW_MS)
    assert [each.name for each in account.subjects] == ["", "research", "research/vision"]
    assert (account.show, account.key_defaults, account.revision) == ("own", (("rpm", 120), ("tpm", 1_000)), 1)
    assert fields_of_account(account) == ACME
    assert account_from("acme", ACME, account, NOW_MS + 1) is account
    assert list(teams_in(ACME)) == ["research", "research/vision"]
    without = {name: value for name, value in ACME.items() if "vision" not in name}
    changed = account_from("acme", without | {"team new": True}, account, NOW_MS + 1)
    assert [each.name for each in changed.subjects] == ["", "new", "research"]
    assert changed.revision == 2
    assert changed.subjects[2].windows == account.subjects[1].windows
    assert account_from("acme", {}, None, NOW_MS).subjects == (Subject(""),)


def test_fields_of_teams() -> None:
    assert team_field("research/vision") == "team research/vision"
    assert team_field("research/vision", "tokens/1d for a b") == "team research/vision tokens/1d for a b"
    assert team_field("", "rpm") == "rpm"
    for team, inner in (("research", ""), ("a/b", "tokens/1d for a b"), ("", "rpm")):
        assert split_team_field(team_field(team, inner)) == (team, inner)


def test_a_flat_key_has_the_revision_of_its_account() -> None:
    account = flat_account_from(KID, {"tpm": 5}, None, NOW_MS)
    assert account.key is not None
    assert (account.revision, account.key.revision, account.tag, account.subjects) == (1, 0, KID, ())
    assert flat_account_from(KID, {"tpm": 5}, account, NOW_MS + 1) is account
    changed = flat_account_from(KID, {"tpm": 6, "name": "x"}, account, NOW_MS + 1)
    assert changed.key is not None
    assert (changed.revision, changed.key.revision, changed.key.name) == (2, 0, "x")
    assert fields_of_key(changed.key) == {"tpm": 6, "name": "x"}


def test_plain_keys() -> None:
    limits = KeyLimits(1, 2, 3, 4, "a")
    assert fields_of_plain(limits) == {"rpm": 1, "input_tpm": 2, "output_tpm": 3, "output_reserve": 4, "name": "a"}
    assert plain_from(fields_of_plain(limits)) == limits
    assert plain_from(fields_of_plain(KeyLimits())) == KeyLimits()
    for other in ({"rpm": 4_000_000_001}, {"rpm": {"amount": 1, "mode": "audit"}}, {"tpm": 1}, {"disabled": True}):
        assert plain_from({**fields_of_plain(limits), **other}) is None
    assert plain_from({"rpm": 1, "input_tpm": 2}) is None


@pytest.mark.parametrize(
    ("base", "declared", "stored", "merged"),
    [
        ({}, {"a": 1}, {}, {"a": 1}),
        ({}, {"a": 1}, {"a": 2, "b": 3}, {"a": 1, "b": 3}),
        ({"a": 1}, {"a": 1}, {"a": 2}, {"a": 2}),
        ({"a": 1}, {"a": 1}, {}, {}),
        ({"a": 1, "b": 1}, {"a": 1, "b": 2}, {"a": 2, "b": 3, "c": 4}, {"a": 2, "b": 2, "c": 4}),
        ({"a": 1}, {}, {"a": 2, "b": 3}, {"b": 3}),
        ({"a": 1}, {}, {}, {}),
        ({}, {"a": None}, {}, {"a": None}),
    ],
)
def test_three_way(base: Fields, declared: Fields, stored: Fields, merged: Fields) -> None:
    assert three_way(base, declared, stored) == merged


def test_the_record_of_declarations() -> None:
    texts = [declaration_of({"rpm": number, "a": "ä"}) for number in range(MAX_APPLIED + 2)]
    assert texts[1] == '{"a":"ä","rpm":1}'
    declared = Declared()
    for text in texts:
        assert not was_applied(declared, text)
        declared = with_declaration(declared, text)
        assert with_declaration(declared, text) == declared
    assert declared.last == texts[-1]
    assert declared.applied == tuple(declaration_digest(each) for each in texts[-2:0:-1])
    assert not was_applied(declared, texts[-1])
    assert was_applied(declared, texts[1])
    assert not was_applied(declared, texts[0]), "the oldest is forgotten"
    back = with_declaration(declared, texts[5])
    assert back.last == texts[5]
    assert not was_applied(back, texts[5])
    assert len(back.applied) == MAX_APPLIED
    assert back.applied[0] == declaration_digest(texts[-1])


@pytest.mark.parametrize(
    ("text", "at_ms"),
    [("1970-01-01T00:00:01Z", 1_000), ("1970-01-01T00:00:00.001Z", 1), ("2027-06-30T00:00:00Z", 1_814_313_600_000)],
)
def test_times(text: str, at_ms: int) -> None:
    assert time_text(at_ms) == text
    assert time_ms(text) == at_ms


def test_times_need_an_offset() -> None:
    assert time_ms("1970-01-01T01:00:01+01:00") == 1_000
    with pytest.raises(ValueError, match="offset"):
        time_ms("1970-01-01T00:00:01")


def test_bodies_from_fields_are_the_same_in_any_order() -> None:
    backwards: Any = dict(reversed(ALICE.items()))
    assert body_of(key_from(KID, ALICE, None, NOW_MS)) == body_of(key_from(KID, backwards, None, NOW_MS))
    account: Any = dict(reversed(ACME.items()))
    assert body_of(account_from("a", ACME, None, NOW_MS)) == body_of(account_from("a", account, None, NOW_MS))
