"""What of a service's response reaches the caller: few headers, and errors in OpenAI's shape without our key."""

from __future__ import annotations

import json
import re
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from limiter_node.upstream.gateway.incoming import openai_error, passed_headers, refusal_headers
from limiter_node.upstream.openai.error import error_body

SECRET = "sk-ours-1234"


def fields_of(*pairs: tuple[str, str]) -> list[tuple[str, str]]:
    """Headers as they are given: names in lower case."""
    return [(name.lower(), value) for name, value in pairs]


def passed(*pairs: tuple[str, str]) -> str:
    return passed_headers(fields_of(*pairs), "")


def refused(status: int, *pairs: tuple[str, str]) -> str:
    return refusal_headers(status, fields_of(*pairs), "")


# Headers of good answers


def test_what_says_something_about_the_answer_passes_in_its_order() -> None:
    lines = passed(
        ("Openai-Model", "gpt-4o-2024-08-06"),
        ("OpenAI-Processing-MS", "12"),
        ("OpenAI-Version", "2020-10-01"),
        ("CF-Ray", "abc-FRA"),
        ("X-Inference-Time", "1"),
        ("Server-Timing", "a;dur=1"),
        ("server-timing", "b;dur=2"),
        ("X-Vllm-Anything", "2"),
        ("Deprecation", "@1688169599"),
    )
    assert lines == (
        "openai-model: gpt-4o-2024-08-06\r\nopenai-processing-ms: 12\r\nopenai-version: 2020-10-01\r\n"
        "cf-ray: abc-FRA\r\nx-inference-time: 1\r\nserver-timing: a;dur=1\r\nserver-timing: b;dur=2\r\n"
        "x-vllm-anything: 2\r\ndeprecation: @1688169599\r\n"
    )


@pytest.mark.parametrize(
    "name",
    [
        *("Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Proxy-Connection", "TE", "Trailer"),
        *(
            "Transfer-Encoding",
            "Upgrade",
            "Content-Length",
            "Content-Encoding",
            "Content-Type",
            "Date",
            "Server",
            "Via",
        ),
        *("Set-Cookie", "Alt-Svc", "Strict-Transport-Security", "WWW-Authenticate", "OpenAI-Organization"),
        *("OpenAI-Project", "Cache-Control", "Retry-After", "Retry-After-Ms", "X-Should-Retry"),
        *("X-RateLimit-Limit-Requests", "x-ratelimit-reset-tokens", "RateLimit", "RateLimit-Policy", "RateLimit-Reset"),
        *("Anthropic-RateLimit-Requests-Limit", "X-Limiter-Node", "X-Limiter-Upstream-Status", "X-LIMITER-Anything"),
        *("Clear-Site-Data", "Refresh", "Location", "Content-Location", "Link", "Content-Security-Policy", "NEL"),
        *("Access-Control-Allow-Origin", "Access-Control-Expose-Headers", "Cross-Origin-Resource-Policy", "Report-To"),
        *("X-Frame-Options", "Service-Worker-Allowed", "SourceMap", "Set-Login", "X-LiteLLM-Key-Spend", "X-Powered-By"),
        *(
            "X-Anything",
            "Vary",
            "ETag",
            "Age",
            "Accept-Ranges",
            "Content-Disposition",
            "LLM_Provider-X-RateLimit-Limit",
        ),
    ],
)
def test_whatever_is_not_in_the_list_does_not(name: str) -> None:
    assert passed((name, "5")) == ""
    assert passed((name.lower(), "5"), ("OpenAI-Model", "1"), (name.upper(), "5")) == "openai-model: 1\r\n"


def test_long_values_and_many_headers_are_left_out() -> None:
    """They must not make a head that callers can't read."""
    assert passed(("Server-Timing", "a" * 1_025), ("X-Request-Id", "a" * 9_000), ("CF-Ray", "1")) == "cf-ray: 1\r\n"
    assert passed(("Server-Timing", "a" * 1_024)) == f"server-timing: {'a' * 1_024}\r\n"
    assert passed(*[(f"X-Inference-{number}", "1") for number in range(200)]).count("\r\n") == 32
    assert refused(429, *[(f"X-RateLimit-{number}", "1") for number in range(200)]).count("\r\n") == 33
    assert refused(429, ("X-RateLimit-A", "a" * 1_025)) == "x-limiter-upstream-status: 429\r\n"


def test_what_connection_names_is_of_the_connection() -> None:
    given_ = (("X-Vllm-Hop", "1"), ("x-vllm-other", "1"), ("CF-Ray", "1"), ("X-Vllm-A", "1"))
    assert (
        passed(("Connection", "close, X-Vllm-Hop ,x-vllm-OTHER"), ("connection", "cf-ray"), *given_)
        == "x-vllm-a: 1\r\n"
    )
    assert passed(*given_, ("Connection", "X-Vllm-Hop,X-Vllm-Other"), ("Connection", ",cf-ray")) == "x-vllm-a: 1\r\n"


def test_the_services_request_id_passes_under_another_name() -> None:
    assert passed(("X-Request-Id", "req_9")) == "x-limiter-upstream-request-id: req_9\r\n"
    assert refused(500, ("x-request-id", "req_9")).startswith("x-limiter-upstream-request-id: req_9\r\n")


@pytest.mark.parametrize("value", ["", "a\r\nx-evil: 1", "a\nb", "a\rb", "a\x00b", "a\tb", "\x7f", "ü", "\udce9"])
def test_values_that_are_not_plain_do_not_pass(value: str) -> None:
    assert passed(("X-Vllm-A", value), ("X-Request-Id", value), ("CF-Ray", "1")) == "cf-ray: 1\r\n"
    assert refused(429, ("Retry-After", value), ("X-RateLimit-A", value)) == "x-limiter-upstream-status: 429\r\n"


@pytest.mark.parametrize("suffix", ["\r\nx-evil", " b", ":b", "\tb", "\n", "\x00", "ü", "(b)", '"', "/", "@", "b" * 64])
def test_names_that_are_not_plain_do_not_pass(suffix: str) -> None:
    assert passed((f"x-vllm-{suffix}", "1"), ("CF-Ray", "1")) == "cf-ray: 1\r\n"
    lines = refused(429, (f"x-ratelimit-{suffix}", "1"), ("X-RateLimit-B", "1"))
    assert lines == "x-ratelimit-b: 1\r\nx-limiter-upstream-status: 429\r\n"


# Headers of errors


LIMITS = (
    ("Retry-After", "7"),
    ("Retry-After-Ms", "6500"),
    ("X-Should-Retry", "true"),
    ("X-RateLimit-Limit-Requests", "60"),
    ("RateLimit-Reset", "7"),
    ("Anthropic-RateLimit-Tokens-Remaining", "0"),
    ("OpenAI-Organization", "org-1"),
    ("Set-Cookie", "a=b"),
    ("X-Limiter-Upstream-Status", "200"),
    ("X-A", "1"),
)
RETRYING = "retry-after: 7\r\nretry-after-ms: 6500\r\nx-should-retry: true\r\n"


def test_a_429_tells_the_limits_that_it_is_about() -> None:
    assert refused(429, *LIMITS) == (
        f"{RETRYING}x-ratelimit-limit-requests: 60\r\nratelimit-reset: 7\r\n"
        "anthropic-ratelimit-tokens-remaining: 0\r\nx-limiter-upstream-status: 429\r\n"
    )


@pytest.mark.parametrize("status", [400, 404, 500, 503])
def test_other_errors_tell_when_to_try_again(status: int) -> None:
    assert refused(status, *LIMITS) == f"{RETRYING}x-limiter-upstream-status: {status}\r\n"


def test_what_connection_names_is_not_told_by_errors() -> None:
    assert refused(503, ("Connection", "retry-after"), *LIMITS).startswith("retry-after-ms: 6500\r\n")


def test_no_header_holds_our_key() -> None:
    given_ = fields_of(
        ("X-Vllm-A", f"Bearer {SECRET}"), ("X-Request-Id", SECRET), ("Retry-After", SECRET), ("CF-Ray", "1")
    )
    assert passed_headers(given_, SECRET) == "cf-ray: 1\r\n"
    assert refusal_headers(503, given_, SECRET) == "x-limiter-upstream-status: 503\r\n"


names = st.text(max_size=12) | st.sampled_from(
    ["x-ratelimit-", "X-Limiter-A", "retry-after", "x-request-id", "X-Vllm-A"]
)


@given(st.lists(st.tuples(names, st.text(max_size=12)), max_size=6), st.sampled_from([200, 400, 429, 503]))
def test_only_plain_lines_come_out(pairs: list[tuple[str, str]], status: int) -> None:
    lines = passed(*pairs) if status == 200 else refused(status, *pairs)
    assert re.fullmatch(r"(?:[a-z0-9!#$%&'*+.^_`|~-]+: [ -~]+\r\n)*", lines)
    ours = {line.partition(":")[0] for line in lines.splitlines() if line.startswith("x-limiter-")}
    assert ours <= {"x-limiter-upstream-request-id", *([] if status == 200 else ["x-limiter-upstream-status"])}


# Errors


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
