"""A declared policy and the stored one, made one: who wins, and what goes on counting."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limiter_node.declaration_merging import (
    apply_account_fields,
    apply_key_fields,
    flat_to_store,
    key_to_store,
    merge_account,
    merge_account_fields,
    merge_key,
    merge_key_fields,
)
from limiter_node.declaration_records import declaration_digest, declaration_of
from limiter_node.key_states import Credential
from limiter_node.policy import AccountPolicy, Declared, KeyPolicy, Limit, PolicyWindow, Subject, shape_of
from limiter_node.policy_body import Tombstone, body_of
from limiter_node.policy_fields import Fields, account_from, fields_of_account, fields_of_key, key_from
from limiter_node.window_merging import MAX_STORED_WINDOWS, merge_windows

NOW_MS = 1_000_000
LIMITS = (Limit(0, 5),)
KID, OTHER = "0" * 32, "1" * 32


def key(*windows: PolicyWindow) -> KeyPolicy:
    return KeyPolicy(KID, windows=windows)


def last(fields: Fields) -> Declared:
    return Declared(declaration_of(fields))


def test_new_windows_count_from_now() -> None:
    declared = key(PolicyWindow(1_000, limits=LIMITS))
    merged = merge_key(None, declared, "acme", NOW_MS)
    assert merged.windows == (PolicyWindow(1_000, limits=LIMITS, since_ms=NOW_MS),)
    assert merged.declared.last == '{"account":"acme","requests/1s":5}'
    assert merged.revision == 1


def test_a_window_whose_length_has_passed_without_limits_is_dropped() -> None:
    lingering = PolicyWindow(1_000, (), (), 1, NOW_MS)
    declared = PolicyWindow(1_000, limits=LIMITS)
    assert merge_windows((lingering,), (), NOW_MS) == ()
    assert merge_windows((lingering,), (), NOW_MS - 1) == (lingering,)
    # Declared again, it counts since then, or as before.
    assert merge_windows((lingering,), (declared,), NOW_MS)[0].since_ms == NOW_MS
    assert merge_windows((lingering,), (declared,), NOW_MS - 1) == (declared._replace(since_ms=1),)


def test_of_many_windows_without_limits_those_that_end_last_are_kept() -> None:
    many = [PolicyWindow(1_000 * (number + 1), limits=LIMITS) for number in range(MAX_STORED_WINDOWS + 5)]
    declared = PolicyWindow(999_000, limits=LIMITS)
    merged = merge_windows(many, [declared], NOW_MS)
    assert len(merged) == MAX_STORED_WINDOWS
    assert merged[0].per_ms == 999_000
    assert sorted(each.per_ms for each in merged[1:]) == [each.per_ms for each in many[6:]]


def test_teams_that_are_not_declared_stay_as_they_are() -> None:
    old = Subject("old", (PolicyWindow(1_000, limits=LIMITS, since_ms=1),), 7)
    stored = AccountPolicy("a", (Subject(""), old, Subject("kept")), "own", (("rpm", 1),))
    declared = AccountPolicy("a", (Subject(""), Subject("new"), Subject("kept")))
    merged = merge_account(replace(stored, declared=last(fields_of_account(stored))), declared, NOW_MS)
    assert merged.subjects == (Subject(""), Subject("kept"), Subject("new"), old)
    assert (merged.show, merged.key_defaults) == ("path", ())
    applied = apply_account_fields(fields_of_account(declared), fields_of_account(stored))
    assert account_from("a", applied, stored, NOW_MS).subjects == merged.subjects


def test_a_team_that_was_deleted_does_not_come_back_by_a_file() -> None:
    base: Fields = {"rpm": 1, "team a": True, "team a rpm": 1, "team a/b": True}
    wanted: Fields = {"rpm": 2, "team a": True, "team a rpm": 2, "team a/b": True, "team a/b rpm": 3, "team new": True}
    assert merge_account_fields(last(base), wanted, {"rpm": 1}) == {"rpm": 2, "team new": True}
    assert apply_account_fields(wanted, {"rpm": 1}) == wanted


STORED: Fields = {
    "name": "alice",
    "rpm": 7,
    "disabled": True,
    "credentials": [{"digest": KID, "revoked": True}, {"digest": OTHER}],
}


def test_what_a_file_does_not_say_stays() -> None:
    wanted: Fields = {"account": "acme", "name": "alice", "rpm": 6}
    base = {**wanted, "rpm": 5, "tpm": 1}
    assert merge_key_fields(last(base), wanted, {**STORED, "tpm": 2, "weight": 3}) == {**STORED, "rpm": 6, "weight": 3}
    assert merge_key_fields(last(wanted), wanted, STORED) == STORED
    # A person's word leaves only what a file can't say.
    assert apply_key_fields(wanted, {**STORED, "tpm": 2}) == {**STORED, "rpm": 6, "account": "acme"}


def test_a_listed_credential_becomes_valid_again_by_a_persons_word_alone() -> None:
    wanted: Fields = {"rpm": 7, "credentials": [{"digest": KID}]}
    assert merge_key_fields(Declared(), wanted, STORED)["credentials"] == [{"digest": KID, "revoked": True}]
    assert apply_key_fields(wanted, STORED)["credentials"] == [{"digest": KID}]


def test_a_key_that_comes_back_goes_on() -> None:
    tombstone = Tombstone(7, Declared('{"rpm":1}', ("a",)), (OTHER,))
    record = Declared('{"rpm":2}', (declaration_digest('{"rpm":1}'), "a"))
    back = key_to_store(KID, {"rpm": 2}, {"rpm": 2}, None, NOW_MS, tombstone)
    assert (back.revision, back.declared) == (8, record)
    assert back.credentials == (Credential(KID), Credential(OTHER, is_revoked=True))
    flat = flat_to_store(KID, {"rpm": 2}, {"rpm": 2}, None, NOW_MS, tombstone)
    assert flat.key is not None
    assert (flat.revision, flat.key.declared, flat.key.credentials) == (8, record, back.credentials)
    listed: Fields = {"rpm": 2, "credentials": [{"digest": OTHER}]}
    back = key_to_store(KID, listed, listed, None, NOW_MS, Tombstone(7, revoked=(KID, OTHER)))
    assert back.credentials == (Credential(OTHER), Credential(KID, is_revoked=True))
    alone = key_to_store(KID, {"rpm": 2}, {"rpm": 2}, None, NOW_MS, Tombstone(7, revoked=(KID,)))
    assert alone.credentials == (Credential(KID, is_revoked=True),)


def test_the_record_alone_is_a_revision() -> None:
    stored = key_from(KID, {"rpm": 1}, None, NOW_MS)
    declared = key_to_store(KID, {"rpm": 1}, {"rpm": 1}, stored, NOW_MS)
    assert (stored.revision, declared.revision, declared.declared.last) == (1, 2, '{"rpm":1}')
    assert key_to_store(KID, {"rpm": 1}, {"rpm": 1}, declared, NOW_MS) is declared


@pytest.mark.parametrize("is_flat", [True, False])
def test_merging_twice_changes_nothing(is_flat: bool) -> None:
    declared = replace(key(PolicyWindow(1_000, limits=LIMITS)), name="x")
    if is_flat:
        account = merge_account(None, AccountPolicy(key=declared), NOW_MS)
        assert merge_account(account, AccountPolicy(key=declared), NOW_MS + 1) is account
        changed = merge_account(account, AccountPolicy(key=replace(declared, name="y")), NOW_MS + 1)
        assert changed.key is not None
        assert (changed.key.name, changed.revision) == ("y", 2)
    else:
        merged = merge_key(None, declared, "acme", NOW_MS)
        assert merge_key(merged, declared, "acme", NOW_MS + 1) is merged


window = st.builds(
    lambda per_ms, models: PolicyWindow(per_ms, models, LIMITS),
    st.sampled_from([1_000, 2_000, 60_000]),
    st.sampled_from([(), ("a",), ("A",), ("b", "a"), ("A", "b")]),
)
declared_windows = st.lists(window, max_size=6, unique_by=shape_of)


@given(st.lists(st.tuples(declared_windows, st.integers(0, 5_000)), min_size=1, max_size=8))
def test_any_sequence_of_files(files: list[tuple[list[PolicyWindow], int]]) -> None:
    """Windows keep the time since when they have counted without a break; loading twice changes nothing."""
    now_ms, stored = NOW_MS, None
    since: dict[object, int] = {}
    until: dict[object, int] = {}
    for windows, later_ms in files:
        now_ms += later_ms
        before = stored
        wanted = fields_of_key(key(*windows))
        stored = key_to_store(KID, wanted, wanted, before, now_ms)
        assert body_of(key_to_store(KID, wanted, wanted, stored, now_ms)) == body_of(stored)
        # Windows that have ended may stay as long as nothing else changes: no plan has them.
        ended: Any = [shape for shape, ends_ms in until.items() if ends_ms <= now_ms]
        for shape in ended:
            del since[shape], until[shape]
        shapes = [shape_of(each) for each in windows]
        for shape in shapes:
            since.setdefault(shape, now_ms)
            until.pop(shape, None)
        for shape in since.keys() - set(shapes) - until.keys():
            until[shape] = now_ms + shape[0]  # type: ignore[index]
        found = [each for each in stored.windows if not 0 < each.until_ms <= now_ms]
        assert {shape_of(each): each.since_ms for each in found} == since
        assert {shape_of(each): each.until_ms for each in found if not each.limits} == until
        assert {shape_of(each) for each in found if each.limits} == set(shapes)
