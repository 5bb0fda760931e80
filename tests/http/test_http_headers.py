"""The headers of decided responses, all of them, literally; request ids."""

from __future__ import annotations

from typing import Any

import pytest
from multidict import CIMultiDict

from limiter_node.decisions import Decision, Outcome
from limiter_node.http.responses.headers import RequestIds, ResponseHeaders, merged
from limiter_node.limits import Amounts

HEADERS = ResponseHeaders("node-1")

ADMITTED = Decision(
    outcome=Outcome.ADMITTED,
    dimension=-1,
    retry_after_ms=0,
    limits=Amounts(600, 100_000, 50_000),
    used=Amounts(13, 28_039, 4_711),
    reset_ms=Amounts(12, 1_000, 60_050),
    need=Amounts(1, 25, 100),
    time_ms=1_763_916_000_123,
    name="",
)
ALWAYS = {
    "Server": "limiter-node",
    "Content-Type": "application/json",
    "x-ratelimit-limit-requests": "600",
    "x-ratelimit-remaining-requests": "587",
    "x-ratelimit-reset-requests": "12ms",
    "x-ratelimit-limit-input-tokens": "100000",
    "x-ratelimit-remaining-input-tokens": "71961",
    "x-ratelimit-reset-input-tokens": "1s",
    "x-ratelimit-limit-output-tokens": "50000",
    "x-ratelimit-remaining-output-tokens": "45289",
    "x-ratelimit-reset-output-tokens": "1m0.05s",
    "x-ratelimit-limit-tokens": "50000",
    "x-ratelimit-remaining-tokens": "45289",
    "x-ratelimit-reset-tokens": "1m0.05s",
    "RateLimit-Policy": '"rpm";q=600;w=60, "input-tpm";q=100000;w=60, "output-tpm";q=50000;w=60',
    "RateLimit": '"rpm";r=587;t=1, "input-tpm";r=71961;t=1, "output-tpm";r=45289;t=61',
    "x-limiter-time-ms": "1763916000123",
    "x-limiter-input-tokens": "25",
    "x-limiter-reserved-output": "100",
    "x-limiter-node": "node-1",
    "x-request-id": "req_1",
}


KID = "0123456789abcdef0123456789abcdef"


def header_fields(block: str) -> CIMultiDict[str]:
    """A block's lines as fields."""
    return CIMultiDict((name, value) for name, _, value in (line.partition(": ") for line in block.splitlines()))


def decided(**changes: Any) -> dict[str, str]:
    block = HEADERS.decided(ADMITTED._replace(**changes), "req_1", KID)
    assert block.endswith("\r\n")
    headers = header_fields(block)
    assert len(headers) == block.count("\r\n") == block.count(": ")
    assert len({name.lower() for name in headers}) == len(headers), "a header is there twice"
    return dict(headers)


def test_the_limit_that_rejected_is_named_by_its_key() -> None:
    """In what a header can hold, whatever an operator calls a key."""
    rejected = decided(outcome=Outcome.REJECTED, dimension=0, retry_after_ms=1, name="älice, 1")
    assert rejected["x-limiter-limit"] == "%C3%A4lice%2C 1 requests/1m"


def test_admitted() -> None:
    assert decided() == ALWAYS


@pytest.mark.parametrize(("dimension", "exceeded"), [(0, "requests"), (1, "input_tokens"), (2, "output_tokens")])
def test_rejected(dimension: int, exceeded: str) -> None:
    assert decided(outcome=Outcome.REJECTED, dimension=dimension, retry_after_ms=3_890) == ALWAYS | {
        "retry-after-ms": "3890",
        "retry-after": "4",
        "x-limiter-exceeded": exceeded,
        "x-limiter-limit": f"0123456789ab {exceeded}/1m",
    }


def test_never_fits() -> None:
    assert decided(outcome=Outcome.NEVER_FITS, dimension=1) == ALWAYS | {
        "x-should-retry": "false",
        "x-limiter-exceeded": "input_tokens",
        "x-limiter-limit": "0123456789ab input_tokens/1m",
    }


@pytest.mark.parametrize(
    ("ms", "seconds"),
    [
        (1, "1"),
        (999, "1"),
        (1_000, "1"),
        (1_001, "2"),
        (59_999, "60"),
        (60_000, "60"),
        (60_001, "60"),
        (60_100, "60"),
        (60_101, "61"),
        (90_000, "90"),
    ],
)
def test_retry_after_is_exact_in_ms_and_rounded_up_in_seconds_to_60_within_a_window(ms: int, seconds: str) -> None:
    headers = decided(outcome=Outcome.REJECTED, dimension=0, retry_after_ms=ms)
    assert (headers["retry-after-ms"], headers["retry-after"]) == (str(ms), seconds)


@pytest.mark.parametrize(
    ("used", "remaining"),
    [
        (Amounts(600, 100_000, 50_000), ("0", "0", "0")),
        (Amounts(601, 100_001, 50_001), ("0", "0", "0")),
        (Amounts(599, 99_999, 49_999), ("1", "1", "1")),
        (Amounts(0, 0, 0), ("600", "100000", "50000")),
    ],
)
def test_remaining_is_never_negative(used: Amounts, remaining: tuple[str, str, str]) -> None:
    headers = decided(used=used)
    assert (
        headers["x-ratelimit-remaining-requests"],
        headers["x-ratelimit-remaining-input-tokens"],
        headers["x-ratelimit-remaining-output-tokens"],
    ) == remaining


@pytest.mark.parametrize(
    ("used", "triple"),
    [
        (Amounts(0, 0, 0), ("50000", "50000", "1m0.05s")),
        (Amounts(0, 50_001, 0), ("100000", "49999", "1s")),
        (Amounts(0, 50_000, 0), ("100000", "50000", "1s")),
        (Amounts(0, 99_999, 49_998), ("100000", "1", "1s")),
        (Amounts(0, 99_998, 49_999), ("50000", "1", "1m0.05s")),
    ],
)
def test_the_tokens_triple_is_the_tighter_one(used: Amounts, triple: tuple[str, str, str]) -> None:
    headers = decided(used=used)
    assert tuple(headers[f"x-ratelimit-{each}-tokens"] for each in ("limit", "remaining", "reset")) == triple


def test_undecided_responses() -> None:
    plain = {
        "Server": "limiter-node",
        "Content-Type": "application/json",
        "x-limiter-node": "node-1",
        "x-request-id": "req_1",
    }
    assert dict(header_fields(HEADERS.plain("req_1"))) == plain
    assert dict(header_fields(HEADERS.unavailable("req_1", 1_500))) == plain | {
        "retry-after-ms": "1500",
        "retry-after": "2",
    }


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("", "a: 1\r\nRateLimit: x\r\nx-ratelimit-limit-tokens: 5\r\nb: 2\r\n"),
        ("A: 3\r\n", "RateLimit: x\r\nx-ratelimit-limit-tokens: 5\r\nb: 2\r\nA: 3\r\n"),
        ("c: 3\r\n", "a: 1\r\nRateLimit: x\r\nx-ratelimit-limit-tokens: 5\r\nb: 2\r\nc: 3\r\n"),
        ("X-RateLimit-A: 3\r\n", "a: 1\r\nb: 2\r\nX-RateLimit-A: 3\r\n"),
        ("ratelimit-reset: 3\r\n", "a: 1\r\nb: 2\r\nratelimit-reset: 3\r\n"),
        ("anthropic-ratelimit-tokens-limit: 3\r\n", "a: 1\r\nb: 2\r\nanthropic-ratelimit-tokens-limit: 3\r\n"),
    ],
)
def test_lines_are_replaced_by_name_and_those_about_limits_together(lines: str, expected: str) -> None:
    assert merged("a: 1\r\nRateLimit: x\r\nx-ratelimit-limit-tokens: 5\r\nb: 2\r\n", lines) == expected


def test_request_ids_are_unique() -> None:
    ids, others = RequestIds(), RequestIds()
    made = {each.next() for each in (ids, others) for _ in range(1_000)}
    assert len(made) == 2_000
    assert all(each.startswith("req_") and len(each) == 28 and int(each[4:], 16) >= 0 for each in made)


@pytest.mark.parametrize(("window_ms", "seconds"), [(60_000, 60), (1_000, 1), (1_500, 2), (100, 1)])
def test_the_policies_tell_the_window(window_ms: int, seconds: int) -> None:
    policy = header_fields(ResponseHeaders("node-1", window_ms).decided(ADMITTED, "req_1"))["ratelimit-policy"]
    assert policy == f'"rpm";q=600;w={seconds}, "input-tpm";q=100000;w={seconds}, "output-tpm";q=50000;w={seconds}'


@pytest.mark.parametrize(("ms", "seconds"), [(0, 0), (1, 1), (1_000, 1), (1_001, 2), (60_100, 61)])
def test_the_ietf_field_is_rounded_up_and_never_negative(ms: int, seconds: int) -> None:
    headers = decided(used=Amounts(601, 100_001, 0), reset_ms=Amounts(ms, ms, ms))
    expected = f'"rpm";r=0;t={seconds}, "input-tpm";r=0;t={seconds}, "output-tpm";r=50000;t={seconds}'
    assert headers["RateLimit"] == expected


def test_many_sets_of_limits_are_told_apart() -> None:
    for rpm in range(1, 3_000):
        headers = header_fields(HEADERS.decided(ADMITTED._replace(limits=Amounts(rpm, 2, 3)), "req_1"))
        assert headers["x-ratelimit-limit-requests"] == str(rpm)
        assert headers["ratelimit-policy"].startswith(f'"rpm";q={rpm};')
    assert len(HEADERS._limit_lines) <= 1_024
