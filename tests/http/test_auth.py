"""Whose request it is, by every header in which clients send a key; and requests that leave it open."""

from __future__ import annotations

import json

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from limiter_node.credentials import given_key, key_id
from limiter_node.http.auth import caller_of
from limiter_node.http.responses.errors import ErrorResponse

KEY, OTHER = "sk-alice", "sk-bob"


def headers(*fields: tuple[str, str]) -> CIMultiDictProxy[str]:
    return CIMultiDictProxy(CIMultiDict(fields))


@pytest.mark.parametrize(
    "fields",
    [
        [("Authorization", f"Bearer {KEY}")],
        [("authorization", f"bearer {KEY}")],
        [("Authorization", f"BEARER     {KEY}")],
        [("api-key", KEY)],
        [("x-api-key", KEY)],
        [("X-API-Key", KEY)],
        [("x-api-key", KEY), ("Authorization", f"Bearer {KEY}")],
        [("api-key", KEY), ("x-api-key", KEY), ("Authorization", f"Bearer  {KEY}")],
        [("x-api-key", KEY), ("x-api-key", KEY)],
        # What a client sends for a key that it wasn't given.
        [("x-api-key", KEY), ("Authorization", "Bearer")],
        [("x-api-key", KEY), ("Authorization", "")],
        [("x-api-key", ""), ("Authorization", f"Bearer {KEY}")],
    ],
)
def test_one_key_in_any_form(fields: list[tuple[str, str]]) -> None:
    given = headers(*fields)
    assert caller_of(given) == key_id(KEY)
    assert given_key(given) == KEY


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ([("Authorization", f"Bearer {KEY}"), ("x-api-key", OTHER)], "x-api-key"),
        ([("Authorization", f"Bearer {KEY}"), ("api-key", OTHER)], "api-key"),
        ([("x-api-key", KEY), ("api-key", OTHER)], "api-key"),
        ([("x-api-key", KEY), ("x-api-key", OTHER)], "x-api-key"),
        ([("Authorization", "Basic c2s6"), ("x-api-key", KEY)], "x-api-key"),
        ([("Authorization", f"Bearer {KEY}"), ("x-api-key", "a b")], "x-api-key"),
        ([("Authorization", f"Bearer {KEY}"), ("Authorization", f"Bearer {OTHER}")], "Authorization"),
        ([("Authorization", f"Bearer {KEY}"), ("authorization", f"Bearer {KEY}")], "Authorization"),
    ],
)
def test_two_keys_are_refused(fields: list[tuple[str, str]], param: str) -> None:
    reply = caller_of(headers(*fields))
    assert isinstance(reply, ErrorResponse)
    error = json.loads(reply.body)["error"]
    assert (reply.status, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert param in error["message"]
    assert "sk-" not in error["message"]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ([], "didn't provide"),
        ([("x-api-key", "")], "didn't provide"),
        ([("Authorization", "")], "Incorrect"),
        ([("Authorization", "Bearer")], "Incorrect"),
        ([("Authorization", "Basic c2s6")], "Incorrect"),
        ([("x-api-key", "a b")], "Incorrect"),
        ([("api-key", "k" * 513)], "Incorrect"),
        ([("x-api-key", "sk-\u00e9")], "Incorrect"),
    ],
)
def test_no_key_is_a_401(fields: list[tuple[str, str]], says: str) -> None:
    reply = caller_of(headers(*fields))
    assert isinstance(reply, ErrorResponse)
    assert reply.status == 401
    assert says in json.loads(reply.body)["error"]["message"]
