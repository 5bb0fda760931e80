"""The stored form of policies: what is written is read again, by earlier versions only where they obey all of it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from limiter_node.key_states import Credential, CredentialState
from limiter_node.policy import AccountPolicy, Declared, KeyPolicy, Limit, PolicyWindow, Subject
from limiter_node.policy_body import (
    Forward,
    Tombstone,
    body_of,
    forward_body,
    read_account,
    read_forward,
    read_key,
    read_tombstone,
    tombstone_of,
)

KID, OTHER = "a" * 32, "b" * 32
WINDOW = PolicyWindow(60_000, ("gpt-*",), (Limit(0, 5, "audit", "few"),), since_ms=1, until_ms=0)
KEY = KeyPolicy(KID, "alice", "research", (WINDOW,), 7, 2)


@pytest.mark.parametrize(
    "key",
    [
        KEY,
        replace(KEY, credentials=(Credential(KID, 5), Credential(OTHER, 0, is_revoked=True))),
        replace(KEY, expires_ms=9),
        replace(KEY, is_disabled=True),
        replace(KEY, revision=3, declared=Declared('{"rpm":1}', ("0123",))),
    ],
)
def test_a_key_is_read_as_it_was_written(key: KeyPolicy) -> None:
    assert read_key(body_of(key)) == key
    account = AccountPolicy(key=key, revision=4)
    assert read_account(body_of(account)) == account


def test_an_account_is_read_as_it_was_written() -> None:
    account = AccountPolicy("acme", (Subject("", (WINDOW,), 5),), "own", (("rpm", 1),), None, 2, Declared("{}", ("9",)))
    assert read_account(body_of(account)) == account


def test_what_is_kept_of_a_deleted_key() -> None:
    key = replace(
        KEY,
        revision=3,
        declared=Declared('{"rpm":1}', ("0123",)),
        credentials=(Credential(KID, is_revoked=True), Credential(OTHER)),
    )
    assert read_tombstone(tombstone_of(key)) == Tombstone(3, key.declared, (KID,))
    # Of a flat key the account has the revision, and the key what was declared.
    flat = AccountPolicy(key=replace(key, revision=0), revision=4)
    assert read_tombstone(tombstone_of(flat)) == Tombstone(4, key.declared, (KID,))
    account = AccountPolicy("acme", revision=5, declared=Declared("{}"))
    assert read_tombstone(tombstone_of(account)) == Tombstone(5, Declared("{}"))
    assert read_tombstone(tombstone_of(KeyPolicy(KID))) == Tombstone()


def test_a_forward_mark_is_read_as_it_was_written() -> None:
    forward = Forward("@acme", "0f" * 8, 17, body_of(KEY).decode())
    assert read_forward(forward_body(forward)) == forward


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"to":"@acme"}', b'{"declared":[]}'])
def test_what_is_no_forward_mark_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"Expecting|not a stored"):
        read_forward(body)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"declared":[]}'])
def test_what_is_no_tombstone_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"Expecting|not a stored"):
        read_tombstone(body)


def test_earlier_versions_read_only_keys_that_have_nothing_new() -> None:
    known_before = {"kid", "name", "team", "windows", "output_reserve", "weight"}
    assert known_before <= json.loads(body_of(replace(KEY, revision=3))).keys()
    for key in (
        replace(KEY, is_disabled=True),
        replace(KEY, expires_ms=1),
        replace(KEY, credentials=(Credential(KID),)),
    ):
        assert known_before.isdisjoint(json.loads(body_of(key)))


def test_the_state_of_a_credential() -> None:
    credentials = (Credential(KID, 50), Credential(OTHER, 0, is_revoked=True), Credential("c" * 32))
    key = replace(KEY, credentials=credentials, expires_ms=100)
    states = [key.credential_state(digest, 49) for digest in (KID, OTHER, "c" * 32, "d" * 32)]
    assert states == [
        CredentialState.VALID,
        CredentialState.REVOKED,
        CredentialState.VALID,
        CredentialState.UNKNOWN,
    ]
    assert key.credential_state(KID, 50) is CredentialState.EXPIRED
    assert [key.credential_state("c" * 32, now_ms) for now_ms in (99, 100)] == [
        CredentialState.VALID,
        CredentialState.EXPIRED,
    ]
    assert (key.ends_ms(KID), key.ends_ms("c" * 32), KEY.ends_ms(KID)) == (50, 100, 0)
    disabled = replace(key, is_disabled=True)
    assert disabled.credential_state(KID, 1) is CredentialState.DISABLED
    assert disabled.credential_state(OTHER, 1) is CredentialState.REVOKED
    assert KEY.credential_state(KID, 1) is CredentialState.VALID
