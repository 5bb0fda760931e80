"""Errors of status 200: found wherever services put them, with the status that they say, blamed on whom it concerns."""

from __future__ import annotations

import json
from typing import Any

import pytest
from gateway_answers import answer_error, chunk_account, first_event_error
from hypothesis import given
from hypothesis import strategies as st

from limiter_node.tokens.vocabulary import O200K_BASE
from limiter_node.upstream.errors import UpstreamError, UpstreamRefusal
from limiter_node.upstream.gateway.cost.responses_api_account import ResponsesApiAccount
from limiter_node.upstream.gateway.passing.event_reader import EventReader
from limiter_node.upstream.gateway.service_errors.in_band import (
    MAX_ERROR_BYTES,
    InBandError,
    find_in_band_error,
    to_in_band_error,
)

SECRET = "sk-ours-1234"
CHAT = {"id": "c", "object": "chat.completion", "choices": [{"index": 0, "message": {"content": "Hi"}}]}
TOO_LONG = {"message": "Too long.", "type": "BadRequestError", "param": None, "code": 400}


def found(said: Any) -> InBandError | None:
    """What a whole answer that is `said` says; the same with what servers put around it."""
    body = json.dumps(said).encode()
    error = find_in_band_error(body, is_complete=True)
    spaced = find_in_band_error(b"\xef\xbb\xbf \n" + json.dumps(said, indent=1).encode() + b"\n", is_complete=True)
    assert (error and error.status) == (spaced and spaced.status)
    return error


ERRORS = [
    pytest.param({"error": TOO_LONG}, 400, id="an error"),
    pytest.param({"error": {**TOO_LONG, "code": "429"}}, 429, id="a code in quotes"),
    pytest.param({"error": {"message": "No.", "code": 600}}, 502, id="a code that is no status"),
    pytest.param({"error": {"message": "No.", "code": 200}}, 502, id="a code of success"),
    pytest.param({"error": {"message": "No.", "code": True}}, 502, id="a code that is no number"),
    pytest.param({"error": {"message": "No.", "code": None}}, 502, id="no code"),
    pytest.param({"error": {"message": "No.", "code": "context_length_exceeded"}}, 400, id="OpenAI's code"),
    pytest.param({"error": {"message": "No.", "status": 503}}, 503, id="a status"),
    pytest.param({"error": {"message": "No.", "code": "x"}, "status_code": 404}, 404, id="a status beside it"),
    pytest.param({"error": "model not found"}, 502, id="a text"),
    pytest.param({"error": ["a"]}, 502, id="a list"),
    pytest.param({"choices": [], "error": TOO_LONG}, 400, id="no choices"),
    pytest.param({"error": TOO_LONG, "choices": None}, 400, id="null choices"),
    pytest.param({"id": "c", "object": "chat.completion", "choices": [], "error": TOO_LONG}, 400, id="as a completion"),
    pytest.param({"object": "list", "data": [], "error": TOO_LONG}, 400, id="embeddings"),
    pytest.param({"object": "list", "data": None, "error": TOO_LONG}, 400, id="embeddings, null"),
    pytest.param({"output": [], "error": TOO_LONG}, 400, id="a response"),
    pytest.param({"object": "error", **TOO_LONG}, 400, id="vLLM"),
    pytest.param({"object": "error", "message": "No."}, 502, id="vLLM, no code"),
    pytest.param({"detail": "Not Found"}, 502, id="FastAPI"),
    pytest.param({"detail": [{"loc": ["body"], "msg": "Field required"}]}, 502, id="FastAPI, fields"),
    pytest.param({"status": 404, "title": "Not Found", "detail": "No such model."}, 404, id="RFC 9457"),
    pytest.param({"message": "no Route matched"}, 502, id="Kong"),
    pytest.param({"code": 401, "msg": "token expired", "success": False}, 401, id="msg"),
    pytest.param({"success": False, "errors": [{"code": 7003, "message": "No route"}]}, 502, id="Cloudflare"),
    pytest.param({"code": "InvalidParameter", "message": "No.", "request_id": "r"}, 502, id="DashScope"),
    pytest.param({"error_code": 18, "error_msg": "qps"}, 502, id="error_msg"),
    pytest.param({"choices": None, "base_resp": {"status_code": 1004, "status_msg": "No."}}, 502, id="MiniMax"),
    pytest.param([{"error": {"code": 429, "message": "quota", "status": "RESOURCE_EXHAUSTED"}}], 429, id="Gemini"),
    pytest.param(
        {"choices": [{"error": {"code": 503, "message": "No."}, "finish_reason": "error", "message": {"content": ""}}]},
        503,
        id="OpenRouter, in the choice",
    ),
]


@pytest.mark.parametrize(("said", "status"), ERRORS)
def test_an_error_is_one_whatever_its_status(said: Any, status: int) -> None:
    error = found(said)
    assert error is not None
    assert error.status == status
    told = error.to_upstream_error("")
    assert told.body is not None or status == 401
    if told.body is not None:
        assert type(json.loads(told.body)["error"]["message"]) is str


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(CHAT, id="a chat"),
        pytest.param({**CHAT, "error": None}, id="error null"),
        pytest.param({**CHAT, "error": {}}, id="error empty"),
        pytest.param({**CHAT, "message": "ok", "code": 400}, id="a message beside choices"),
        pytest.param({**CHAT, "base_resp": {"status_code": 0, "status_msg": ""}}, id="MiniMax"),
        pytest.param({**CHAT, "choices": [{"message": {"content": 'say {"error": 1}'}}]}, id="an error in a text"),
        pytest.param({"choices": [{"message": {"content": "Hi"}, "error": {"code": 502}}]}, id="a part of an answer"),
        pytest.param({"object": "list", "data": [{"embedding": [1.5]}], "model": "m"}, id="embeddings"),
        pytest.param({"object": "response", "output": [], "error": {"code": "server_error"}}, id="a failed response"),
        pytest.param({"object": "response", "output": [{"type": "message"}], "error": None}, id="a response"),
        pytest.param({"choices": []}, id="no choices"),
        pytest.param({}, id="nothing"),
    ],
)
def test_an_answer_is_none(said: Any) -> None:
    assert found(said) is None


@pytest.mark.parametrize("body", [b"", b" \n", b"<h1>It works!</h1>", b"7", b'"a"', b"[1]", b"[]", b"\x1f\x8b\x08"])
def test_what_is_no_object_is_no_answer(body: bytes) -> None:
    error = find_in_band_error(body, is_complete=True)
    assert error is not None
    assert error.status == 502
    assert "is its base URL right?" in error.what
    assert error.to_upstream_error("").body is None


@pytest.mark.parametrize(
    "body",
    [
        b'{"choices": [{"message": {"content": "a \xff"}}]}',
        b'{"choices": [{"message": {"content": "\\ud800"}, "logprobs": NaN}]}',
        b'{"choices": [{"message": {"content": "cut',
        b'{"a":' * 5_000,
    ],
)
def test_an_answer_that_is_broken_is_an_answer(body: bytes) -> None:
    assert find_in_band_error(body, is_complete=True) is None


def test_of_a_long_answer_its_beginning_says_it() -> None:
    long = "x" * MAX_ERROR_BYTES
    for is_complete in (False, True):
        for said, status in (
            ({"error": {"code": 400, "message": long}}, 400),
            ({"error": {"message": long, "code": 400}}, 502),  # where nobody looks
            ({"object": "error", "code": "429", "message": long}, 429),
            ({"detail": [long]}, 502),
        ):
            body = json.dumps(said).encode()
            error = find_in_band_error(body if is_complete else body[:MAX_ERROR_BYTES], is_complete=is_complete)
            assert error is not None
            assert error.status == status
        for said in ({"error": None, "choices": [long]}, {"choices": [long], "error": {"code": 400}}, {"id": long}):
            body = json.dumps(said).encode()
            assert find_in_band_error(body if is_complete else body[:MAX_ERROR_BYTES], is_complete=is_complete) is None


# Whom it is told, and whose fault it is


@pytest.mark.parametrize("status", [400, 404, 413, 422, 429])
def test_a_callers_own_error_is_a_refusal(status: int) -> None:
    error = InBandError("said no", status, b'{"error": {"message": "No.", "code": 1}}')
    assert error.is_callers_own
    assert error.outcome == ("rate_limited" if status == 429 else "refused")
    told = error.to_upstream_error(SECRET, [("retry-after", "7"), ("x-request-id", "r")])
    assert type(told) is UpstreamRefusal
    assert (told.status, told.body) == (status, b'{"error": {"message": "No.", "code": 1}}')
    assert f"x-limiter-upstream-status: {status}\r\n" in told.headers
    assert "retry-after: 7\r\n" in told.headers


@pytest.mark.parametrize(("status", "shown"), [(500, 502), (502, 502), (503, 503), (504, 504), (529, 502)])
def test_a_services_error_is_a_failure(status: int, shown: int) -> None:
    error = InBandError("said no", status, b'{"error": {"message": "No."}}')
    assert not error.is_callers_own
    assert error.outcome == "failed"
    told = error.to_upstream_error(SECRET)
    assert type(told) is UpstreamError
    assert (told.status, told.body) == (shown, error.body)
    assert told.headers == f"x-limiter-upstream-status: {status}\r\n"


@pytest.mark.parametrize("status", [401, 403, 407])
def test_a_key_that_is_refused_is_our_fault_unless_it_is_the_callers(status: int) -> None:
    error = InBandError("said no", status, b'{"error": {"message": "Incorrect key sk-ours-1234."}}')
    assert error.outcome == "failed"
    told = error.to_upstream_error(SECRET)
    assert (type(told), told.status, told.body) == (UpstreamError, 502, None)
    assert str(told) == f'does not accept this node\'s key (code {status}): "Incorrect key [redacted]."'
    told = error.to_upstream_error(SECRET, forwards_key=True)
    assert (type(told), told.status) == (UpstreamRefusal, status)
    assert told.body is not None
    assert SECRET.encode() not in told.body


def test_an_answer_that_has_begun_cannot_be_refused_any_more() -> None:
    error = InBandError("said no", 400, b'{"error": {"message": "No."}}')
    told = error.to_upstream_error(SECRET, produced_tokens=7, has_begun=True)
    assert (type(told), told.produced_tokens, told.body) == (UpstreamError, 7, error.body)
    assert error.is_callers_own  # still no failure of the address


# Events

FIRST = [
    pytest.param({"error": TOO_LONG}, 400, id="an error"),
    pytest.param({"error": {"object": "error", **TOO_LONG}}, 400, id="vLLM"),
    pytest.param({"object": "error", **TOO_LONG}, 400, id="vLLM, bare"),
    pytest.param({"error": "busy"}, 502, id="a text"),
    pytest.param({"id": "c", "choices": [], "error": {"code": 429, "message": "No."}}, 429, id="beside no choices"),
    pytest.param(
        {"choices": [{"delta": {"content": ""}, "finish_reason": "error"}], "error": {"code": "502", "message": "No."}},
        502,
        id="OpenRouter",
    ),
    pytest.param({"choices": None, "base_resp": {"status_code": 1004, "status_msg": "No."}}, 502, id="MiniMax"),
    pytest.param(
        {"choices": [{"delta": {"content": ""}, "finish_reason": "error", "error": {"code": 429, "message": "No."}}]},
        429,
        id="OpenRouter, in the choice",
    ),
    pytest.param({"detail": "Not Found"}, 502, id="FastAPI"),
    pytest.param({"message": "No.", "code": 422}, 422, id="a message"),
    pytest.param({"type": "error", "error": {"type": "overloaded_error", "message": "No."}}, 502, id="Anthropic"),
]


@pytest.mark.parametrize(("fields", "status"), FIRST)
@pytest.mark.parametrize("before", [b"", b"\xef\xbb\xbf", b": OPENROUTER PROCESSING\n\n", b"event: message\n"])
def test_the_first_event_may_be_an_error(fields: dict[str, Any], status: int, before: bytes) -> None:
    stream = before + b"data: %b\n\n" % json.dumps(fields).encode()
    account = chunk_account()
    assert b"data" not in EventReader(account).feed(stream + b"data: [DONE]\n\n")
    for error in (to_in_band_error(account.error), first_event_error(stream)):
        assert error is not None
        assert error.status == status
        assert type(json.loads(error.to_upstream_error("").body or b"")["error"]["message"]) is str
    assert account.output_tokens == 0


@pytest.mark.parametrize(
    "data", ['{"message": "No.", "type": "x"}', '{"error": {"message": "No."}}', "No.", '{"a": 1}']
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_an_event_that_is_named_error_is_one(data: str, end: str) -> None:
    for account in (chunk_account(), ResponsesApiAccount(O200K_BASE)):
        before = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
        stream = f"event: error{end}data: {data}{end}{end}".encode()
        assert EventReader(account).feed(before + stream + before) == before
        error = to_in_band_error(account.error)
        assert error is not None
        body = error.to_upstream_error("").body or b""
        assert ("No." in json.loads(body)["error"]["message"]) is ("No." in data)


@pytest.mark.parametrize(
    "fields",
    [
        {"message": "Searching", "type": "status"},
        {"detail": "x", "progress": 0.5},
        {"choices": [], "prompt_filter_results": []},
        {"error": None, "choices": []},
        {"type": "ping"},
    ],
)
def test_other_events_are_no_errors(fields: dict[str, Any]) -> None:
    account = chunk_account()
    event = b"data: %b\n\n" % json.dumps(fields).encode()
    assert EventReader(account).feed(event) == event
    assert account.error is None
    assert first_event_error(event) is None


def test_a_later_event_is_an_error_only_where_it_says_so() -> None:
    said = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
    for fields, is_error in (({"message": "x"}, False), ({"detail": "x"}, False), ({"error": "x"}, True)):
        account = chunk_account()
        EventReader(account).feed(said + b"data: %b\n\n" % json.dumps(fields).encode())
        assert (account.error is not None) is is_error


def test_an_error_event_may_be_nested_too_deeply_to_be_told() -> None:
    account = chunk_account()
    deep = b"[" * 900 + b"]" * 900
    assert EventReader(account).feed(b'data: {"error": {"code": 400, "message": %b}}\n\n' % deep) == b""
    error = to_in_band_error(account.error)
    assert error is not None
    assert error.status == 400
    assert b"The upstream service answered with status 400." in (error.to_upstream_error("").body or b"")


# Whatever comes

leaves = st.none() | st.booleans() | st.integers(-5, 600) | st.sampled_from(["error", "400", "x", ""])
FIELDS = "error message detail type code choices delta data output object status success errors base_resp"
names = st.sampled_from(FIELDS.split())
any_json = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4), max_leaves=12
)


@given(any_json, st.booleans())
def test_any_json_is_an_answer_or_an_error_that_can_be_told(said: Any, is_stream: bool) -> None:
    body = json.dumps(said).encode()
    held = b"data: %b\n\n" % body if is_stream else body
    error = answer_error(held, is_stream=is_stream)
    if error is not None:
        assert 400 <= error.status < 600
        told = error.to_upstream_error(SECRET).body
        assert told is None or type(json.loads(told)["error"]["message"]) is str


@given(st.binary(max_size=60), st.booleans(), st.booleans())
def test_any_bytes_are_an_answer_or_an_error(held: bytes, is_complete: bool, is_stream: bool) -> None:
    error = answer_error(held, is_stream=is_stream, is_complete=is_complete)
    assert error is None or 400 <= error.status < 600
