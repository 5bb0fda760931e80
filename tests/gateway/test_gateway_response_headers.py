"""Which headers of a service's response reach the caller: few, and none with our key."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limiter_node.upstream.gateway.response_headers import passed_headers, refusal_headers

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
