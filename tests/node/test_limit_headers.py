"""The headers about limits on every kind of response, for every kind of key: read by a parser of structured fields.

Each decision's headers are held against what ``GET /v1/rate_limits`` tells next, by rules of the test's own.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from fault_proxy import FaultProxy
from in_process import Node, serving
from limit_headers import assert_told, listed_limits, x_ratelimits
from multidict import CIMultiDictProxy
from own_commands import output_of

from limiter_node.limiter.policies import policy
from limiter_node.store.url import parse_store_url
from limiter_node.upstream.source import Delta

KEYS = (
    """
[accounts.headers]
rpm = 50
tpm = 100_000
limits = [
  { output_tokens = 5_000, per = "1m", models = ["O3*"], name = 'große, "alle" 100 %' },
  { requests = 1_000, per = "1d" },
  { requests = 3, per = "1h", mode = "audit", name = ' zu viel, "heute" ü\\' },
  { tokens = 40, per = "1d", mode = "audit" },
]
[accounts.headers.teams.research]
limits = [{ input_tokens = 9_000, per = "1h" }, { requests = 40, per = "10s", models = ["gpt*"] }]
[keys.sk-headers-path]
name = "alice"
account = "headers"
team = "research"
rpm = 5
[accounts.headers-shy]
show = "own"
rpm = 5
tpm = 100_000
limits = [{ requests = 1, per = "1h", mode = "audit", name = "secret" }]
[keys.sk-headers-own]
name = "bob"
account = "headers-shy"
limits = [{ output_tokens = 50_000, per = "1m" }, { requests = 1, per = "1d", mode = "audit" }]
[accounts.headers-bare]
show = "own"
rpm = 5
[accounts.headers-bare.teams.t]
limits = [{ requests = 2, per = "1h", mode = "audit" }]
[keys.sk-headers-bare]
account = "headers-bare"
team = "t"
[keys.sk-headers-flat]
name = ' Jörg "J", 100 % \\ Söhne '
rpm = 5
limits = [
  { requests = 500, per = "1d" },
  { tokens = 90_000, per = "1m", models = ["o3*"] },
  { input_tokens = 999_999_999_999_999, per = "31d" },
]
[keys.sk-headers-day]
rpm = "none"
input_tpm = "none"
output_tpm = "none"
limits = [{ requests = 5, per = "1d" }, { output_tokens = 0, per = "1m", mode = "audit", name = "nothing" }]
[keys.sk-headers-plain]
name = 'Örtliche "Firma", 1 % '
rpm = 5
[accounts.headers-late]
rpm = 5
limits = [{ requests = 5, per = "1h" }]
[accounts.headers-late.teams.t]
limits = [{ requests = 5, per = "1d" }]
[keys.sk-headers-late]
name = "fay"
account = "headers-late"
team = "t"
rpm = 5
limits = [{ requests = 5, per = "10s" }]
[accounts.headers-never]
limits = [{ tokens = 90, per = "1d" }, { requests = 1, per = "1m", mode = "audit" }]
[keys.sk-headers-never-path]
name = "dave"
account = "headers-never"
limits = [{ output_tokens = 30, per = "1m" }, { output_tokens = 80, per = "1h" }]
[accounts.headers-never-own]
show = "own"
limits = [{ output_tokens = 50, per = "1m", name = "secret" }]
[keys.sk-headers-never-own]
name = "erin"
account = "headers-never-own"
limits = [{ output_tokens = 90, per = "1m" }]
[keys.sk-headers-never-flat]
name = 'a, "b"'
rpm = 9
output_tpm = 25
limits = [{ tokens = 20, per = "1h" }]
[keys.sk-headers-never-plain]
name = 'a, "c"'
input_tpm = 5
output_tpm = 6
[accounts.headers-away]
rpm = 3
limits = [{ requests = 4, per = "1h", mode = "audit" }, { requests = 900, per = "1d" }]
[keys.sk-headers-away-path]
account = "headers-away"
limits = [{ output_tokens = 800, per = "1m" }]
[keys.sk-headers-away-flat]
rpm = 3
limits = [{ requests = 900, per = "1d" }, { output_tokens = 800, per = "1m", models = ["o3*"] }]
[keys.sk-headers-away-plain]
rpm = 3
[keys.sk-headers-many]
limits = [
"""
    + "\n".join(f'  {{ requests = {5 * n}, per = "{60 + n}s" }},' for n in range(1, 20))
    + "\n]\n"
)

MODEL = "o3-mini"
CHAT: dict[str, Any] = {"model": MODEL, "max_tokens": 1, "messages": [{"role": "user", "content": "Hi"}]}
ROUTES: list[tuple[str, dict[str, Any]]] = [
    ("chat/completions", CHAT),
    ("chat/completions", CHAT | {"stream": True}),
    ("embeddings", {"model": MODEL, "input": "Hi"}),
    ("responses", {"model": MODEL, "max_output_tokens": 1, "input": "Hi"}),
    ("completions", {"model": MODEL, "max_tokens": 1, "prompt": "Hi"}),
    ("chat/completions", CHAT | {"stream": True}),
    ("chat/completions", CHAT),
]
"""Seven requests: each key admits five."""
ABOUT_LIMITS = ("x-ratelimit", "ratelimit", "x-limiter-limit", "x-limiter-exceeded", "x-limiter-audit", "retry-after")


async def one_token() -> AsyncGenerator[Sequence[Delta], None]:
    """The whole cap, so that settling changes nothing."""
    yield [Delta(0, "Hello", 1, "length")]


@pytest.fixture(scope="module")
def store(embedded_single: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store in which the keys are declared."""
    file: Path = tmp_path_factory.mktemp("headers") / "keys.toml"
    file.write_text(KEYS)
    output_of("limiter-node", "keys", "load", str(file), "--store", embedded_single)
    return embedded_single


@pytest.fixture
async def node(store: str) -> AsyncIterator[Node]:
    async with serving(store) as running:
        running.upstream.deltas = one_token
        yield running


Told = tuple[int, CIMultiDictProxy[str], Any]


async def ask(node: Node, key: str, route: str, fields: Mapping[str, Any]) -> Told:
    """Status, headers, and the body or nothing for a stream."""
    authorization = {"Authorization": f"Bearer sk-headers-{key}"}
    async with node.session.post(f"{node.url}/v1/{route}", json=fields, headers=authorization) as response:
        for name in response.headers:
            assert len(response.headers.getall(name)) == 1, f"{name} is there twice"
        text = await response.read()
        is_json = response.content_type == "application/json"
        return response.status, response.headers, await response.json() if is_json else text


async def rate_limits(node: Node, key: str, query: str = "") -> dict[str, Any]:
    """The body, whose response has no header about limits."""
    authorization = {"Authorization": f"Bearer sk-headers-{key}"}
    async with node.session.get(f"{node.url}/v1/rate_limits{query}", headers=authorization) as response:
        assert response.status == 200
        assert not about_limits(response.headers)
        body: dict[str, Any] = await response.json()
        return body


def about_limits(headers: Mapping[str, str]) -> list[str]:
    return [name for name in headers if name.lower().startswith(ABOUT_LIMITS)]


def assert_retry(headers: Mapping[str, str]) -> None:
    """Seconds are rounded up, and 60 at most for waits of a minute's window: clients give up above that."""
    wait_ms, wait_s = int(headers["retry-after-ms"]), int(headers["retry-after"])
    rounded_up = -(-wait_ms // 1_000)
    assert wait_s == (min(rounded_up, 60) if wait_ms <= 60_100 else rounded_up)
    assert wait_ms > 0
    assert "x-should-retry" not in headers


def need_of(headers: Mapping[str, str]) -> dict[str, int]:
    tokens = int(headers["x-limiter-input-tokens"]), int(headers["x-limiter-reserved-output"])
    return {"requests": 1, "input_tokens": tokens[0], "output_tokens": tokens[1], "tokens": sum(tokens)}


@pytest.mark.parametrize(
    ("key", "limit", "listed", "per_minute"),
    [
        ("path", "headers/alice requests/1m", 6, {"requests", "output_tokens", "tokens"}),
        ("own", "account", 1, {"output_tokens", "tokens"}),
        ("bare", "account", 0, set()),
        ("flat", "%20J%C3%B6rg %22J%22%2C 100 %25 %5C S%C3%B6hne  requests/1m", 6, {"requests", "tokens"}),
        ("day", "e14aea8e2ea5 requests/1d", 1, set()),
        ("plain", "%C3%96rtliche %22Firma%22%2C 1 %25  requests/1m", 3, {"requests", "tokens"}),
        ("late", "headers-late/t requests/1d", 5, {"requests"}),  # of several in the way, the one that frees last
        ("many", "e818c6c98742 requests/61s", 16, {"requests", "tokens"}),
    ],
)
async def test_every_decision_tells_what_rate_limits_tells(
    node: Node, key: str, limit: str, listed: int, per_minute: set[str]
) -> None:
    is_flat = key in ("flat", "day", "plain", "many")
    statuses = []
    for route, fields in ROUTES:
        status, headers, body = await ask(node, key, route, fields)
        assert await node.dispatcher.drain(20)
        told = await rate_limits(node, key, f"?model={MODEL}")
        assert_told(headers, told, need=need_of(headers), is_flat=is_flat, is_plain=key == "plain")
        assert len(listed_limits(headers)) == listed
        assert per_minute <= set(x_ratelimits(headers))
        statuses.append(status)
        if status == 429:
            assert headers["x-limiter-exceeded"] == "requests"
            assert headers["x-limiter-limit"] == limit
            assert_retry(headers)
            assert (body["error"]["type"], body["error"]["code"]) == ("requests", "rate_limit_exceeded")
        else:
            assert not {"x-limiter-exceeded", "x-limiter-limit", "retry-after", "retry-after-ms"} & set(headers)
    assert statuses == [200] * 5 + [429] * 2


@pytest.mark.parametrize(
    ("key", "limit", "message"),
    [
        (
            "never-path",
            "headers-never/dave output_tokens/1m",
            "Request too large for headers-never/dave on output tokens per min (output TPM): Limit 30, Requested 100.",
        ),
        ("never-own", "account", "Request too large for erin on output tokens of its account: Requested 100."),
        (
            "never-flat",
            "a%2C %22b%22 tokens/1h",
            'Request too large for a, "b" on tokens per 1h: Limit 20, Requested 108.',
        ),
        (
            "never-plain",
            "a%2C %22c%22 input_tokens/1m",
            'Request too large for a, "c" on input tokens per min (input TPM): Limit 5, Requested 8.',
        ),
    ],
)
async def test_what_can_never_fit_names_the_smallest_limit_and_no_time(
    node: Node, key: str, limit: str, message: str
) -> None:
    for fields in (CHAT | {"max_tokens": 100}, CHAT | {"max_tokens": 100, "stream": True}):
        status, headers, body = await ask(node, key, "chat/completions", fields)
        told = await rate_limits(node, key, f"?model={MODEL}")
        is_flat = key in ("never-flat", "never-plain")
        assert_told(headers, told, need=need_of(headers), is_flat=is_flat, is_plain=key == "never-plain")
        assert (status, headers["x-should-retry"]) == (429, "false")
        assert not {"retry-after", "retry-after-ms"} & set(headers)
        assert headers["x-limiter-limit"] == limit
        assert headers["x-limiter-exceeded"] == limit.rpartition(" ")[2].partition("/")[0].replace(
            "account", "output_tokens"
        )
        assert body["error"] == {
            "message": message,
            "type": "tokens",
            "param": None,
            "code": "rate_limit_exceeded",
        }
        assert all(each["used"] == 0 for each in told["limits_on_path"]), "it is counted nowhere"


async def test_rate_limits_with_and_without_a_model(node: Node) -> None:
    """Without one, all limits are listed, and those for some models don't count for the numbers at the top."""

    def models(body: Mapping[str, Any]) -> list[tuple[str, str, list[str] | None]]:
        return [(each["unit"], each["window"], each.get("models")) for each in body["limits_on_path"]]

    all_models, matching, others = [
        await rate_limits(node, "path", query) for query in ("", "?model=O3-MINI", "?model=gpt-4o")
    ]
    big, gpt = ("output_tokens", "1m", ["o3*"]), ("requests", "10s", ["gpt*"])
    assert len(models(all_models)) == 9
    assert [each for each in models(all_models) if each != gpt] == models(matching)
    assert [each for each in models(all_models) if each != big] == models(others)
    assert [body["limits"]["output_tokens"] for body in (all_models, matching, others)] == [None, 5_000, None]
    named = [each["name"] for each in all_models["limits_on_path"] if each["name"]]
    assert named == ['große, "alle" 100 %', ' zu viel, "heute" ü\\']
    for key in ("day", "bare"):
        for query in ("", "?model=m"):
            body = await rate_limits(node, key, query)
            for field in ("limits", "used", "remaining", "reset_ms"):
                assert body[field] == {"requests": None, "input_tokens": None, "output_tokens": None}
    assert (await rate_limits(node, "bare"))["limits_on_path"] == []


@pytest.mark.parametrize("key", ["path", "own", "flat", "day", "plain"])
@pytest.mark.parametrize(
    ("route", "fields", "status"),
    [
        ("chat/completions", {"model": MODEL, "messages": []}, 400),
        ("chat/completions", {"model": MODEL, "messages": 5}, 400),
        ("unknown", {}, 404),
        ("models", {}, 405),
    ],
)
async def test_responses_without_a_decision_have_no_headers_about_limits(
    node: Node, key: str, route: str, fields: dict[str, Any], status: int
) -> None:
    told, headers, _ = await ask(node, key, route, fields)
    assert (told, about_limits(headers)) == (status, [])


async def test_a_policys_decision_tells_the_same_limits(store: str) -> None:
    """The store is away: the headers list the same limits, and say who decided."""
    async with FaultProxy(parse_store_url(store).endpoints[0][1]) as proxy:
        url = f"redis://127.0.0.1:{proxy.port}"
        async with serving(url, timeout_ms=300, policy=lambda _: policy("local", lambda: 1)) as node:
            node.upstream.deltas = one_token
            for key in ("away-path", "away-flat", "away-plain"):
                _, before, _ = await ask(node, key, "chat/completions", CHAT)
                assert "x-limiter-degraded" not in before
            assert await node.dispatcher.drain(20)
            proxy.pass_requests = False
            for key in ("away-path", "away-flat", "away-plain"):
                authorization = {"Authorization": f"Bearer sk-headers-{key}"}
                async with node.session.get(f"{node.url}/v1/rate_limits", headers=authorization) as response:
                    assert response.headers["x-limiter-degraded"] == "local"
                statuses = []
                for route, fields in (*ROUTES[:2], ROUTES[0]):
                    status, headers, body = await ask(node, key, route, fields)
                    assert headers["x-limiter-degraded"] == "local"
                    told = await rate_limits(node, key, f"?model={MODEL}")
                    is_flat = key != "away-path"
                    assert_told(headers, told, need=need_of(headers), is_flat=is_flat, is_plain=key == "away-plain")
                    statuses.append(status)
                    if status == 429:
                        assert headers["x-limiter-limit"].endswith(" requests/1m")
                        assert_retry(headers)
                        assert body["error"]["code"] == "rate_limit_exceeded"
                assert statuses == [200, 200, 429]
            proxy.pass_requests = True
