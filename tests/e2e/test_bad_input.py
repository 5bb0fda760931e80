"""Bad requests over HTTP: a clear error in OpenAI's shape that names the field, and not a byte changed in the store."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from fleet import Fleet, many_connections
from store_tools import raw_counters

from limiter_node.credentials import key_id

MESSAGES = [{"role": "user", "content": "Hello"}]
GOOD = {"model": "gpt-4o", "messages": MESSAGES}


@pytest.fixture(scope="module")
def api_key(fleet: Fleet) -> str:
    return fleet.new_key()


async def post(
    fleet: Fleet, body: bytes | io.BytesIO, headers: dict[str, str], path: str = "/v1/chat/completions"
) -> tuple[int, Any]:
    async with (
        many_connections() as session,
        session.post(fleet.nodes[0] + path, data=body, headers=headers) as response,
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


COUNTS = {
    "/v1/completions": ("max_tokens", "n", "best_of"),
    "/v1/responses": ("max_output_tokens",),
    "/v1/embeddings": ("dimensions",),
}
VALID: dict[str, dict[str, Any]] = {
    "/v1/completions": {"model": "gpt-4o", "prompt": "x"},
    "/v1/responses": {"model": "gpt-4o", "input": "x"},
    "/v1/embeddings": {"model": "gpt-4o", "input": "x"},
}
FUNCTION = {"type": "function", "name": "f"}
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("/v1/completions", {"model": None}, "model"),
    ("/v1/completions", {"prompt": 5}, "prompt"),
    ("/v1/completions", {"prompt": []}, "prompt"),
    ("/v1/completions", {"prompt": ["x", 5]}, "prompt[1]"),
    ("/v1/completions", {"prompt": [1, "x"]}, "prompt[1]"),
    ("/v1/completions", {"prompt": [1, -1]}, "prompt[1]"),
    ("/v1/completions", {"prompt": [1, True]}, "prompt[1]"),
    ("/v1/completions", {"prompt": [[1], []]}, "prompt[1]"),
    ("/v1/completions", {"prompt": [[1], [1.5]]}, "prompt[1][0]"),
    ("/v1/completions", {"prompt": ["x"] * 2_049}, "prompt"),
    ("/v1/completions", {"prompt": ["x"] * 17, "n": 128}, "prompt"),
    ("/v1/completions", {"n": 3, "best_of": 2}, "best_of"),
    ("/v1/completions", {"prompt": [1], "echo": True}, "echo"),
    ("/v1/completions", {"echo": "yes"}, "echo"),
    ("/v1/completions", {"logprobs": 6}, "logprobs"),
    ("/v1/completions", {"suffix": 1}, "suffix"),
    ("/v1/completions", {"stop": list("abcde")}, "stop"),
    ("/v1/completions", {"stream_options": {"include_usage": True}}, "stream_options"),
    ("/v1/responses", {"model": None}, "model"),
    ("/v1/responses", {"input": None}, "input"),
    ("/v1/responses", {"input": 5}, "input"),
    ("/v1/responses", {"input": []}, "input"),
    ("/v1/responses", {"input": ["x"]}, "input[0]"),
    ("/v1/responses", {"input": [{}]}, "input[0].type"),
    ("/v1/responses", {"input": [{"role": "king", "content": "x"}]}, "input[0].role"),
    ("/v1/responses", {"input": [{"role": "user"}]}, "input[0].content"),
    ("/v1/responses", {"input": [{"role": "user", "content": [{"type": "text?"}]}]}, "input[0].content[0].type"),
    ("/v1/responses", {"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content[0].text"),
    ("/v1/responses", {"input": [{"type": "function_call", "call_id": "c", "name": "f"}]}, "input[0].arguments"),
    ("/v1/responses", {"input": [{"type": "function_call_output", "output": "x"}]}, "input[0].call_id"),
    ("/v1/responses", {"input": [{"type": "item_reference", "id": "x"}]}, "input[0].id"),
    ("/v1/responses", {"instructions": 5}, "instructions"),
    ("/v1/responses", {"previous_response_id": "resp_1"}, "previous_response_id"),
    ("/v1/responses", {"background": True}, "background"),
    ("/v1/responses", {"metadata": {"a": 1}}, "metadata.a"),
    ("/v1/responses", {"reasoning": {"effort": "huge"}}, "reasoning.effort"),
    ("/v1/responses", {"truncation": "perhaps"}, "truncation"),
    ("/v1/responses", {"tools": [{"type": "teapot"}]}, "tools[0].type"),
    ("/v1/responses", {"tools": [{"type": "function"}]}, "tools[0].name"),
    ("/v1/responses", {"tools": [FUNCTION], "tool_choice": {"type": "function", "name": "g"}}, "tool_choice"),
    ("/v1/responses", {"text": {"format": {"type": "xml"}}}, "text.format.type"),
    ("/v1/responses", {"text": {"format": {"type": "json_schema", "name": "s"}}}, "text.format.schema"),
    ("/v1/embeddings", {"model": None}, "model"),
    ("/v1/embeddings", {"input": None}, "input"),
    ("/v1/embeddings", {"input": ""}, "input"),
    ("/v1/embeddings", {"input": ["x", ""]}, "input"),
    ("/v1/embeddings", {"input": {}}, "input"),
    ("/v1/embeddings", {"input": [None]}, "input[0]"),
    ("/v1/embeddings", {"input": ["x"] * 2_049}, "input"),
    ("/v1/embeddings", {"encoding_format": "hex"}, "encoding_format"),
    ("/v1/embeddings", {"dimensions": 3_073}, "dimensions"),
    ("/v1/chat/completions", {"tools": [{"type": "function"}]}, "tools[0].function"),
    ("/v1/chat/completions", {"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
    ("/v1/chat/completions", {"tools": [{"type": "function", "function": {"name": ""}}]}, "tools[0].function.name"),
    ("/v1/chat/completions", {"tools": [{}] * 129}, "tools"),
    ("/v1/chat/completions", {"tool_choice": "required"}, "tool_choice"),
    ("/v1/chat/completions", {"tool_choice": "always"}, "tool_choice"),
    ("/v1/chat/completions", {"tool_choice": {}}, "tool_choice.type"),
    ("/v1/chat/completions", {"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    ("/v1/chat/completions", {"response_format": {"type": "xml"}}, "response_format.type"),
    ("/v1/chat/completions", {"logit_bias": {"5": 101}}, "logit_bias.5"),
    ("/v1/chat/completions", {"functions": [{}]}, "functions[0].name"),
]


@pytest.mark.parametrize(("path", "fields", "param"), REFUSED)
async def test_the_other_routes_name_the_field_too(
    fleet: Fleet, api_key: str, path: str, fields: dict[str, Any], param: str
) -> None:
    before = raw_counters(fleet.store, key_id(api_key))
    body = json.dumps({**VALID.get(path, GOOD), **fields}).encode()
    status, error = await post(fleet, body, {"Authorization": f"Bearer {api_key}"}, path)
    assert (status, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert raw_counters(fleet.store, key_id(api_key)) == before


@pytest.mark.parametrize("path", COUNTS)
async def test_counts_that_are_no_counts_on_the_other_routes(fleet: Fleet, api_key: str, path: str) -> None:
    before = raw_counters(fleet.store, key_id(api_key))
    for field in COUNTS[path]:
        for text in ("-1", "0", "NaN", "1e400", "18446744073709551616", "true", '"5"', "1.0", "[1]"):
            body = (json.dumps(VALID[path])[:-1] + f',"{field}":{text}}}').encode()
            status, error = await post(fleet, body, {"Authorization": f"Bearer {api_key}"}, path)
            assert status == 400, (field, text)
            assert error["param"] == (None if text in {"NaN", "1e400"} else field)
    assert raw_counters(fleet.store, key_id(api_key)) == before


@pytest.mark.parametrize("path", VALID)
async def test_the_other_routes_refuse_what_is_no_request(fleet: Fleet, api_key: str, path: str) -> None:
    before = raw_counters(fleet.store, key_id(api_key))
    authorized = {"Authorization": f"Bearer {api_key}"}
    for body in (b"", b"[]", b"[" * 1_000_000, b'{"model": "\xff"}'):
        assert (await post(fleet, body, authorized, path))[0] == 400
    assert (await post(fleet, io.BytesIO(b"x" * 21_000_000), authorized, path))[0] == 413
    for header in ({}, {"Authorization": "Bearer {sk-braces}"}):
        status, error = await post(fleet, b"{", header, path)
        assert (status, error["code"]) == (401, "invalid_api_key")
    assert raw_counters(fleet.store, key_id(api_key)) == before


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
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
    body = io.BytesIO(json.dumps({**GOOD, "user": "x" * 21_000_000}).encode())
    status, error = await post(fleet, body, {"Authorization": f"Bearer {api_key}"})
    assert status == 413
    assert error["type"] == "invalid_request_error"
    assert "20971520" in error["message"]
    assert raw_counters(fleet.store, key_id(api_key)) == before


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/chat/completions", 405),
        ("POST", "/v1/models", 405),
        ("DELETE", "/healthz", 405),
        ("GET", "/", 404),
        ("POST", "/v1/nope", 404),
        ("GET", "/v1/embeddings", 405),
        ("DELETE", "/v1/models/gpt-4o", 405),
        ("GET", "/v1/models/", 404),
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
        for path in ("/v1/models", "/v1/models/gpt-4o", "/v1/rate_limits"):
            async with session.get(fleet.nodes[0] + path) as response:
                assert response.status == 401
            async with session.get(fleet.nodes[0] + path, headers={"Authorization": f"Bearer {api_key}"}) as response:
                assert response.status == 200
                body = await response.json()
        assert body["object"] == "rate_limits"
        assert body["window_ms"] == 60_000
        assert set(body["limits"]) == set(body["used"]) == set(body["reset_ms"])
