"""The errors of services in OpenAI's shape, without our key."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from limiter_node.upstream.gateway.service_errors.openai_shape import openai_error
from limiter_node.upstream.openai.error import error_body

SECRET = "sk-ours-1234"


@pytest.mark.parametrize(
    "body",
    [
        b'{"error":{"message":"Rate limit reached","type":"tokens","param":null,"code":"rate_limit_exceeded"}}',
        b' {\n "error": { "message": "m\\u00fc", "code": 404, "other": [1.50] },\r\n "x": 1 }\n',
        b'{"error":{"message":""}}',
    ],
)
def test_errors_of_openais_shape_pass_as_they_are(body: bytes) -> None:
    for status in (400, 429, 500):
        assert openai_error(status, body, "") == openai_error(status, body, SECRET) == body


@pytest.mark.parametrize(
    ("said", "message"),
    [
        pytest.param(
            {"object": "error", "message": "Too long.", "type": "BadRequestError", "code": 400}, "Too long.", id="vLLM"
        ),
        pytest.param({"detail": "Not Found"}, "Not Found", id="FastAPI"),
        pytest.param(
            {"detail": [{"loc": ["body", "messages"], "msg": "Field required"}]},
            '[{"loc":["body","messages"],"msg":"Field required"}]',
            id="FastAPI, fields",
        ),
        pytest.param({"error": "model 'x' not found"}, "model 'x' not found", id="Ollama"),
        pytest.param({"error": ["a", "b"]}, '["a","b"]', id="texts"),
        pytest.param({"message": "no Route matched"}, "no Route matched", id="Kong"),
        pytest.param({"message": 5, "error": "text"}, "text", id="message is no text"),
        pytest.param({"message": "", "detail": "text"}, "", id="message is empty"),
        pytest.param({"error": {"code": 5}, "detail": "text"}, "text", id="an error without a message"),
        pytest.param({"message": "x" * 5_000}, "x" * 2_000, id="a long text"),
        pytest.param({"error": {"message": 5}}, "", id="a message that is no text"),
        pytest.param({"error": None}, "", id="null"),
        pytest.param({"detail": []}, "", id="empty list"),
        pytest.param({}, "", id="empty object"),
        pytest.param([], "", id="a list"),
        pytest.param("text", "", id="a text"),
        pytest.param(None, "", id="null alone"),
    ],
)
def test_other_errors_are_put_into_it(said: Any, message: str) -> None:
    for status, kind in ((400, "invalid_request_error"), (413, "invalid_request_error"), (429, "requests")):
        expected = message or f"The upstream service answered with status {status}."
        assert openai_error(status, json.dumps(said).encode(), "") == error_body(expected, kind, code="upstream_error")
    for status in (500, 502, 503):
        told = json.loads(openai_error(status, json.dumps(said).encode(), ""))["error"]
        assert (told["type"], told["param"], told["code"]) == ("server_error", None, "upstream_error")


STREAMED = {"error": {"message": "Too long.", "type": "BadRequestError", "param": None, "code": 400}}


@pytest.mark.parametrize("before", [b"", b"\xef\xbb\xbf", b": hi\n\n", b"event: error\n", b"id: 1\r\n"])
@pytest.mark.parametrize("content_type", ["", "text/event-stream; charset=utf-8", "application/json"])
def test_an_error_that_is_a_stream_keeps_what_it_says(before: bytes, content_type: str) -> None:
    for end in (b"\n\n", b"\r\n\r\n", b"", b"\n\ndata: [DONE]\n\n"):
        body = before + b"data: " + json.dumps(STREAMED).encode() + end
        assert json.loads(openai_error(400, body, "", content_type)) == STREAMED
    told = json.loads(openai_error(400, before + b'data: {"detail": "Too long."}\n\n', "", content_type))
    assert told["error"]["message"] == "Too long."


def test_an_error_with_broken_unicode_keeps_what_it_says() -> None:
    for written in (b'"a \\ud800 b"', b'"a \xff b"', b'"a b", "value": NaN'):
        told = openai_error(400, b'{"error": {"message": %b}}' % written, "")
        assert json.loads(told)["error"]["message"].startswith("a ")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html><body>502 Bad Gateway</body></html>",
        b"upstream connect error",
        b"\xff\xfe",
        b'{"error": {"message": "cut',
        b'{"detail":' + b"[" * 600 + b"]" * 600 + b"}",
        b"[" * 5_000 + b"]" * 5_000,
    ],
)
def test_what_nobody_understands_is_not_told(body: bytes) -> None:
    expected = error_body("The upstream service answered with status 502.", "server_error", code="upstream_error")
    assert openai_error(502, body, "") == openai_error(502, body, SECRET) == expected


def test_quotes_and_unicode_stay_what_they_are() -> None:
    message = 'say "Straße"\n\\ 日本 \u2028'
    body = json.dumps({"detail": message}).encode()
    assert json.loads(openai_error(400, body, ""))["error"]["message"] == message


# Our key


def says(message: str) -> list[bytes]:
    """Errors of each shape that say `message`."""
    shapes: list[Any] = [
        {"error": {"message": message, "type": "t", "param": message, "code": None}},
        {"error": message},
        {"detail": [{"msg": message}]},
        {"message": message},
    ]
    return [json.dumps(shape).encode() for shape in shapes] + [orjson.dumps(shapes[0], option=orjson.OPT_INDENT_2)]


@pytest.mark.parametrize("secret", [SECRET, "a/b/c", "tok+/==", r"a\b", 'a"b', r"\\//\"\"", "a,b", "~[z]"])
def test_no_error_holds_our_key(secret: str) -> None:
    for body in says(f"Incorrect API key provided: {secret}, {secret}."):
        for written in (body, body.replace(b"/", b"\\/")):
            told = openai_error(400, written, secret)
            text = json.dumps(json.loads(told), ensure_ascii=False)
            assert "Incorrect API key provided: [redacted], [redacted]." in text
            assert secret not in text
            assert json.loads(told)["error"]["message"].count(secret) == 0


def test_a_key_is_not_cut_in_two() -> None:
    for length in range(1_980, 2_010):
        told = openai_error(400, json.dumps({"detail": "x" * length + SECRET}).encode(), SECRET)
        assert b"sk-" not in told


def test_nothing_is_left_out_where_there_is_no_key() -> None:
    for body in says("Incorrect API key provided: ."):
        assert b"redacted" not in openai_error(400, body, "")


leaves = st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5) | st.just(SECRET)
fields = st.sampled_from(["error", "message", "detail", "type", "code"])
any_json = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(fields, inner, max_size=4), max_leaves=12
)


@given(any_json, st.booleans(), st.sampled_from([400, 404, 429, 500, 503]))
def test_any_body_becomes_an_error_without_our_key(said: Any, is_ascii: bool, status: int) -> None:
    body = json.dumps(said, ensure_ascii=is_ascii).encode("utf-8", "surrogatepass")
    told = openai_error(status, body, SECRET)
    assert type(json.loads(told)["error"]["message"]) is str
    assert SECRET.encode() not in told


@given(st.binary(max_size=60), st.sampled_from([400, 503]))
def test_any_bytes_become_an_error(body: bytes, status: int) -> None:
    assert type(json.loads(openai_error(status, body, ""))["error"]["message"]) is str


def test_an_error_in_a_list_is_taken_out_of_it() -> None:
    error = {"error": {"code": 400, "message": "API key not valid.", "status": "INVALID_ARGUMENT"}}
    assert orjson.loads(openai_error(400, orjson.dumps([error]), "")) == error
