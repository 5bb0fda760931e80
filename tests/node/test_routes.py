"""The main flow with an upstream that behaves badly: what is charged, what comes back, what the caller is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from accounts_in_store import put_account
from fault_proxy import FaultProxy
from in_process import Node, api_key_on, serving
from multidict import CIMultiDictProxy
from store_tools import declare, new_api_key, store_client

from limiter_node.credentials import key_id
from limiter_node.errors import StoreUnavailable
from limiter_node.limiter.policies import policy
from limiter_node.limits import Amounts
from limiter_node.policy import AccountPolicy, KeyPolicy, Subject
from limiter_node.policy_body import Forward, body_of, forward_body
from limiter_node.store.keyspace import policy_key
from limiter_node.store.url import parse_store_url
from limiter_node.upstream.errors import UpstreamError
from limiter_node.upstream.requests import ChatRequest, EmbeddingRequest
from limiter_node.upstream.source import Completion, Embeddings


@pytest.fixture
async def node(embedded_single: str) -> AsyncIterator[Node]:
    async with serving(embedded_single) as running:
        yield running


async def test_the_reservation_is_settled_to_what_was_produced(node: Node, embedded_single: str) -> None:
    api_key = api_key_on(embedded_single, output_reserve=64)
    status, body = await node.chat(api_key)
    assert status == 200
    assert await node.used(api_key) == Amounts(1, body["usage"]["prompt_tokens"], 1)


async def test_the_upstream_is_held_to_the_reservation(node: Node, embedded_single: str) -> None:
    api_key = api_key_on(embedded_single, output_reserve=64)
    await node.chat(api_key)
    await node.chat(api_key, n=3)
    await node.chat(api_key, max_tokens=10, n=2)
    await node.chat(api_key, max_tokens=10, max_completion_tokens=7)
    assert node.upstream.caps == [64, 64, 10, 7]


@pytest.mark.parametrize(
    ("path", "fields", "caps", "charged"),
    [
        ("/v1/completions", {"prompt": "x"}, [64], Amounts(1, 1, 1)),
        ("/v1/completions", {"prompt": ["x", "x"], "n": 2}, [64], Amounts(1, 2, 4)),
        ("/v1/completions", {"prompt": ["x", "x"], "n": 2, "best_of": 5, "max_tokens": 7}, [7], Amounts(1, 2, 4)),
        ("/v1/responses", {"input": "x"}, [64], Amounts(1, 8, 1)),
        ("/v1/responses", {"input": "x", "max_output_tokens": 9}, [9], Amounts(1, 8, 1)),
        ("/v1/embeddings", {"input": ["x"]}, [], Amounts(1, 1, 0)),
        ("/v1/embeddings", {"input": [1, 2]}, [], Amounts(1, 2, 0)),
    ],
)
async def test_every_route_holds_the_upstream_and_settles(
    node: Node, embedded_single: str, path: str, fields: dict[str, Any], caps: list[int], charged: Amounts
) -> None:
    api_key = api_key_on(embedded_single, output_reserve=64)
    headers = {"Authorization": f"Bearer {api_key}"}
    async with node.session.post(node.url + path, json={"model": "m", **fields}, headers=headers) as response:
        assert response.status == 200
    assert node.upstream.caps == caps
    assert await node.used(api_key) == charged


async def test_a_failed_embedding_gives_back_its_tokens(
    node: Node, embedded_single: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(request: EmbeddingRequest, request_id: str) -> Embeddings:
        raise UpstreamError("down", status=503)

    monkeypatch.setattr(node.upstream, "embed", fail)
    api_key = api_key_on(embedded_single)
    headers = {"Authorization": f"Bearer {api_key}"}
    async with node.session.post(
        f"{node.url}/v1/embeddings", json={"model": "m", "input": "x"}, headers=headers
    ) as response:
        assert response.status == 503
    assert await node.used(api_key) == Amounts(1, 0, 0)


async def test_a_failure_before_any_output_gives_back_the_tokens_but_not_the_request(
    node: Node, embedded_single: str
) -> None:
    async def fail(request: ChatRequest, cap: int) -> Completion:
        raise UpstreamError("connection refused by 10.0.0.1", status=502)

    node.upstream.answer = fail
    api_key = api_key_on(embedded_single)
    status, body = await node.chat(api_key, max_tokens=50)
    assert status == 502
    assert body["error"]["code"] == "upstream_error"
    assert "10.0.0.1" not in str(body), "the upstream's own words stay inside"
    assert await node.used(api_key) == Amounts(1, 0, 0)


async def test_a_failure_after_some_output_charges_what_was_produced(node: Node, embedded_single: str) -> None:
    async def fail(request: ChatRequest, cap: int) -> Completion:
        raise UpstreamError("broken off", produced_tokens=7)

    node.upstream.answer = fail
    api_key = api_key_on(embedded_single)
    assert (await node.chat(api_key, max_tokens=50))[0] == 502
    used = await node.used(api_key)
    assert (used.requests, used.output_tokens) == (1, 7)
    assert used.input_tokens > 0


async def test_a_bug_in_the_upstream_is_a_500_and_leaks_no_reservation(
    node: Node, embedded_single: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(request: ChatRequest, cap: int) -> Completion:
        raise ZeroDivisionError("secret detail")

    node.upstream.answer = fail
    api_key = api_key_on(embedded_single)
    status, body = await node.chat(api_key, max_tokens=50)
    assert status == 500
    assert "secret" not in str(body)
    assert "secret detail" in caplog.text
    assert api_key not in caplog.text
    assert await node.used(api_key) == Amounts(1, 0, 0)


async def test_more_output_than_reserved_is_charged(node: Node, embedded_single: str) -> None:
    async def overshoot(request: ChatRequest, cap: int) -> Completion:
        return Completion(("x",), ("stop",), (cap + 5,), cap + 5, "fp_test")

    node.upstream.answer = overshoot
    api_key = api_key_on(embedded_single)
    await node.chat(api_key, max_tokens=50)
    assert (await node.used(api_key)).output_tokens == 55


async def test_a_key_that_stays_sealed_for_a_move_is_a_503_that_says_so(embedded_single: str) -> None:
    api_key = new_api_key()
    key = KeyPolicy(key_id(api_key), "alice")
    account = AccountPolicy("acme-moving", (Subject(""),))
    put_account(embedded_single, account, [key])
    mark = forward_body(Forward("@elsewhere", "0f" * 8, 1, body_of(key).decode()))
    with store_client(embedded_single) as client:
        client.hdel(policy_key(account.tag), key.kid, f"k:{key.kid}")
        client.hset(policy_key(account.tag), f"f:{key.kid}", mark)
    async with serving(embedded_single) as node:
        status, body = await node.chat(api_key)
    assert (status, body["error"]["code"]) == (503, "key_is_moving")


async def test_a_silent_store_is_a_503_with_a_retry_after_in_time(embedded_single: str) -> None:
    _, port = parse_store_url(embedded_single).endpoints[0]
    api_key = api_key_on(embedded_single)
    async with FaultProxy(port) as proxy, serving(f"redis://127.0.0.1:{proxy.port}", timeout_ms=200) as node:
        _, answered = await node.chat(api_key)
        async with node.session.get(f"{node.url}/readyz") as response:
            assert response.status == 200
        proxy.pass_replies = False
        async with asyncio.timeout(10):
            status, body = await node.chat(api_key)
        assert status == 503
        assert body["error"]["code"] == "store_unavailable"
        async with node.session.get(f"{node.url}/readyz") as response:
            assert response.status == 503
            assert response.headers["retry-after"] == "1"
            assert (await response.json())["error"]["message"]
        async with node.session.get(f"{node.url}/healthz") as response:
            assert response.status == 200
        proxy.pass_replies = True
        proxy.reset_all()
        async with asyncio.timeout(20):
            while (await node.chat(api_key))[0] != 200:
                pass
        # The one that got a 503 was decided all the same, and has been given back.
        used = await node.used(api_key)
        assert used == Amounts(2, 2 * answered["usage"]["prompt_tokens"], 2)
    with pytest.raises(StoreUnavailable):
        await node.dispatcher.check()


async def test_a_node_that_decides_without_its_store_says_so(embedded_single: str) -> None:
    api_key = new_api_key()
    declare(embedded_single, api_key, rpm=6)
    _, port = parse_store_url(embedded_single).endpoints[0]
    async with (
        FaultProxy(port) as proxy,
        serving(f"redis://127.0.0.1:{proxy.port}", 100, lambda _: policy("local", lambda: 2)) as node,
    ):
        authorized = {"Authorization": f"Bearer {api_key}"}
        chat = {"model": "m", "messages": [{"role": "user", "content": "x"}]}

        async def ask() -> tuple[int, CIMultiDictProxy[str]]:
            async with node.session.post(f"{node.url}/v1/chat/completions", json=chat, headers=authorized) as response:
                return response.status, response.headers

        async def metrics() -> dict[str, int]:
            async with node.session.get(f"{node.url}/metrics") as response:
                assert (response.status, response.content_type) == (200, "text/plain")
                lines = (await response.text()).splitlines()
            told = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
            without_store = ("limiter_degraded", "limiter_shards", "limiter_shard_outages", "limiter_shard_cut_off")
            return {name: int(float(value)) for name, value in told.items() if name.startswith(without_store)}

        assert "x-limiter-degraded" not in (await ask())[1]
        assert set((await metrics()).values()) == {0}
        proxy.pass_requests = False
        answers = [await ask() for _ in range(3)]
        assert [status for status, _ in answers] == [200, 200, 429]
        assert {headers["x-limiter-degraded"] for _, headers in answers} == {"local"}
        assert [headers["x-ratelimit-remaining-requests"] for _, headers in answers] == ["1", "0", "0"]
        assert int(answers[-1][1]["retry-after-ms"]) > 50_000
        async with node.session.get(f"{node.url}/v1/rate_limits", headers=authorized) as response:
            assert (response.status, response.headers["x-limiter-degraded"]) == (200, "local")
            assert (await response.json())["remaining"]["requests"] == 0
        async with node.session.get(f"{node.url}/readyz") as response:
            told = await response.json()
            assert (response.status, told["status"]) == (200, "degraded")
            assert str(proxy.port) in told["reason"]
        assert await metrics() == {
            'limiter_degraded_decisions_total{outcome="admitted"}': 2,
            'limiter_degraded_decisions_total{outcome="rejected"}': 1,
            'limiter_degraded_decisions_total{outcome="refused"}': 0,
            f'limiter_shard_cut_off{{shard="127.0.0.1:{proxy.port}"}}': 1,
            "limiter_shards_cut_off": 1,
            "limiter_shard_outages_total": 1,
        }
        proxy.pass_requests = True
        proxy.reset_all()
        async with asyncio.timeout(20):
            while "x-limiter-degraded" in (await ask())[1]:
                await asyncio.sleep(0.05)
        assert (await metrics())["limiter_shards_cut_off"] == 0
        async with node.session.get(f"{node.url}/readyz") as response:
            assert await response.json() == {"status": "ready"}


async def test_a_full_queue_is_a_503(embedded_single: str) -> None:
    api_key = api_key_on(embedded_single)
    async with serving(embedded_single) as node:
        node.dispatcher._pending.most = 0
        status, body = await node.chat(api_key)
        assert (status, body["error"]["code"]) == (503, "overloaded")
