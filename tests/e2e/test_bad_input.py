"""Bad requests over HTTP: a clear error in OpenAI's shape that names the field, and not a byte changed in the store."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from fleet import Fleet, many_connections
from store_tools import raw_counters

from limiter_node.store.keyspace import key_id

MESSAGES = [{"role": "user", "content": "Hello"}]
GOOD = {"model": "gpt-4o", "messages": MESSAGES}


@pytest.fixture(scope="module")
def api_key(fleet: Fleet) -> str:
    return fleet.new_key()


async def post(fleet: Fleet, body: bytes | io.BytesIO, headers: dict[str, str]) -> tuple[int, Any]:
    async with (
        many_connections() as session,
        session.post(f"{fleet.nodes[0]}/v1/chat/completions", data=body, headers=headers) as response,
    ):
        assert response.content_type == "application/json"
        assert response.headers["x-request-id"]
        return response.status, (await response.json()).get("error")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", None),
        (b"{", None),
        (b"[]", None),
        (b"null", None),
        (b"[" * 100_000, None),
        (b'{"model": "\xff"}', None),
        ({}, "model"),
        ({"messages": MESSAGES}, "model"),
        ({"model": 4, "messages": MESSAGES}, "model"),
        ({"model": "", "messages": MESSAGES}, "model"),
        ({"model": "gpt-4o"}, "messages"),
        ({"model": "gpt-4o", "messages": []}, "messages"),
        ({"model": "gpt-4o", "messages": "Hello"}, "messages"),
        ({"model": "gpt-4o", "messages": ["Hello"]}, "messages[0]"),
        ({"model": "gpt-4o", "messages": [{"content": "Hello"}]}, "messages[0].role"),
        ({"model": "gpt-4o", "messages": [{"role": "king", "content": "Hello"}]}, "messages[0].role"),
        ({"model": "gpt-4o", "messages": [*MESSAGES, {"role": "user", "content": 5}]}, "messages[1].content"),
        ({**GOOD, "max_tokens": 0}, "max_tokens"),
        ({**GOOD, "max_tokens": -1}, "max_tokens"),
        ({**GOOD, "max_tokens": "5"}, "max_tokens"),
        ({**GOOD, "max_tokens": 1.0}, "max_tokens"),
        ({**GOOD, "max_tokens": True}, "max_tokens"),
        ({**GOOD, "max_tokens": 2**64}, "max_tokens"),
        (b'{"model":"gpt-4o","messages":[{"role":"user","content":"x"}],"max_tokens":NaN}', None),
        (b'{"model":"gpt-4o","messages":[{"role":"user","content":"x"}],"max_tokens":1e400}', None),
        ({**GOOD, "max_completion_tokens": 2**53}, "max_completion_tokens"),
        ({**GOOD, "n": 0}, "n"),
        ({**GOOD, "n": 10**9}, "n"),
        ({**GOOD, "n": [1]}, "n"),
        ({**GOOD, "stream": "yes"}, "stream"),
        ({**GOOD, "temperature": 3}, "temperature"),
    ],
)
async def test_a_malformed_request_is_told_its_field_and_counts_for_nothing(
    fleet: Fleet, api_key: str, body: Any, param: str | None
) -> None:
    before = raw_counters(fleet.store, key_id(api_key))
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    status, error = await post(fleet, data, {"Authorization": f"Bearer {api_key}"})
    assert status == 400
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert error["message"]
    assert raw_counters(fleet.store, key_id(api_key)) == before


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer  sk-x",
        "Basic c2stYWxpY2U6",
        "Bearer sk-nobody-knows",
        "Bearer {sk-braces}",
        "Bearer sk-" + "x" * 7000,
        "Bearer sk-\u00e9moji",
    ],
)
async def test_a_bad_key_is_a_401_whatever_the_body(fleet: Fleet, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header}
    for body in (json.dumps(GOOD).encode(), b"{"):
        status, error = await post(fleet, body, headers)
        assert status == 401
        assert error["code"] == "invalid_api_key"
        assert "sk-" not in error["message"]


async def test_an_oversize_body_is_a_413(fleet: Fleet, api_key: str) -> None:
    before = raw_counters(fleet.store, key_id(api_key))
    body = io.BytesIO(json.dumps({**GOOD, "user": "x" * 1_100_000}).encode())
    status, error = await post(fleet, body, {"Authorization": f"Bearer {api_key}"})
    assert status == 413
    assert error["type"] == "invalid_request_error"
    assert "1048576" in error["message"]
    assert raw_counters(fleet.store, key_id(api_key)) == before


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/chat/completions", 405),
        ("POST", "/v1/models", 405),
        ("DELETE", "/healthz", 405),
        ("GET", "/", 404),
        ("POST", "/v1/nope", 404),
        ("GET", "/v1/%ff%00", 404),
    ],
)
async def test_unknown_routes_are_answered_in_the_same_shape(fleet: Fleet, method: str, path: str, status: int) -> None:
    async with many_connections() as session, session.request(method, fleet.nodes[0] + path) as response:
        assert response.status == status
        assert (await response.json())["error"]["type"] == "invalid_request_error"


async def test_the_other_routes(fleet: Fleet, api_key: str) -> None:
    async with many_connections() as session:
        for path in ("/healthz", "/readyz"):
            async with session.get(fleet.nodes[0] + path) as response:
                assert response.status == 200
        for path in ("/v1/models", "/v1/rate_limits"):
            async with session.get(fleet.nodes[0] + path) as response:
                assert response.status == 401
            async with session.get(fleet.nodes[0] + path, headers={"Authorization": f"Bearer {api_key}"}) as response:
                assert response.status == 200
                body = await response.json()
        assert body["object"] == "rate_limits"
        assert body["window_ms"] == 60_000
        assert set(body["limits"]) == set(body["used"]) == set(body["reset_ms"])
