"""A service's headers about limits beside those of the key: a key of an account that has no limit per minute."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest
from accounts_in_store import put_account
from gateway_caller import body, post
from gateway_node import gateway, service_at
from limit_headers import listed_limits, x_ratelimits
from scripted_service import DONE, STREAM_HEAD, Script, ScriptedService, chunk, completion, framed, http, says
from store_tools import new_api_key

from limiter_node.credentials import key_id
from limiter_node.policy import AUDIT, REQUESTS, AccountPolicy, KeyPolicy, Limit, PolicyWindow, Subject

OF_SERVICE = {
    "x_ratelimit_limit_requests": "3",
    "x_ratelimit_remaining_requests": "2",
    "x_ratelimit_reset_requests": "1s",
    "x_ratelimit_limit_tokens": "7",
    "RateLimit": '"theirs";r=1',
    "RateLimit_Policy": '"theirs";q=2',
    "x_limiter_limit": "theirs",
    "x_limiter_exceeded": "tokens",
    "x_limiter_audit": "theirs",
    "x_limiter_degraded": "open",
    "x_limiter_time_ms": "1",
}
"""As if another limiter stood behind the node."""
LINES = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in OF_SERVICE.items()).encode()
STREAM = STREAM_HEAD.removesuffix(b"\r\n") + LINES + b"\r\n"
EVENTS = b"".join(framed(each) for each in (chunk("Hello"), chunk(finish="stop"), DONE)) + b"0\r\n\r\n"
ERROR = json.dumps({"error": {"message": "No.", "type": "requests", "param": None, "code": "no"}}).encode()


def new_account(store: str) -> tuple[str, str]:
    """Return the name of an account that admits five requests a day and audits one an hour, and a key of it."""
    api_key = new_api_key()
    name = api_key.removeprefix("sk-")
    day = PolicyWindow(86_400_000, (), (Limit(REQUESTS, 5),))
    hour = PolicyWindow(3_600_000, (), (Limit(REQUESTS, 1, AUDIT, "ours"),))
    put_account(store, AccountPolicy(name, (Subject("", (day, hour)),)), [KeyPolicy(key_id(api_key), "alice")])
    return name, api_key


def assert_ours(headers: Mapping[str, str], name: str, remaining: int) -> None:
    (listed,) = listed_limits(headers)
    assert (listed.name, listed.remaining) == (f"{name} requests/1d", remaining)
    assert x_ratelimits(headers) == {}
    assert headers.get("x-limiter-audit") == (None if remaining == 4 else "ours")
    assert "x-limiter-degraded" not in headers
    assert int(headers["x-limiter-time-ms"]) > 1


@pytest.mark.parametrize(
    ("script", "is_stream", "status"),
    [
        (says(http(completion(), **OF_SERVICE)), False, 200),
        (says(STREAM + EVENTS), True, 200),
        (says(http(ERROR, 400, **OF_SERVICE)), True, 400),
        (says(http(ERROR, 500, **OF_SERVICE)), True, 502),
        (says(http(b"[1]", 200, **OF_SERVICE)), False, 502),
    ],
)
async def test_a_services_limits_are_none_of_the_keys(
    single_store: str, service: ScriptedService, script: Script, is_stream: bool, status: int
) -> None:
    service.script = script
    name, api_key = new_account(single_store)
    async with gateway(single_store, service_at(service.base_url)) as node:
        for remaining in (4, 3):
            told, headers, _ = await post(node, api_key, body(stream=is_stream))
            assert told == status
            assert_ours(headers, name, remaining)
            assert not {"x-limiter-exceeded", "x-limiter-limit"} & set(headers)


async def test_a_services_429_tells_its_limits_alone_and_ours_tells_ours(
    single_store: str, service: ScriptedService
) -> None:
    service.script = says(http(ERROR, 429, **OF_SERVICE))
    name, api_key = new_account(single_store)
    async with gateway(single_store, service_at(service.base_url)) as node:
        for _ in range(5):
            status, headers, _ = await post(node, api_key, body())
            assert (status, headers["x-limiter-upstream-status"]) == (429, "429")
            assert {each for each in headers if "ratelimit" in each.lower()} == {
                each.replace("_", "-").lower() for each in OF_SERVICE if "ratelimit" in each.lower()
            }
            assert headers["RateLimit"] == OF_SERVICE["RateLimit"]
            assert not {"x-limiter-exceeded", "x-limiter-limit", "x-limiter-degraded"} & set(headers)
        status, headers, _ = await post(node, api_key, body())
        assert (status, headers["x-limiter-limit"]) == (429, f"{name} requests/1d")
        assert "x-limiter-upstream-status" not in headers
        assert_ours(headers, name, 0)
