"""Nodes asked for their metrics: all at once, each with a reason where it doesn't tell them."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from ports import free_ports

from limiter_node.errors import ConfigError
from limiter_node.top.polling import Target, parse_target, polling


@pytest.mark.parametrize(
    ("url", "name", "metrics"),
    [
        ("http://127.0.0.1:8080", "127.0.0.1:8080", "http://127.0.0.1:8080/metrics"),
        ("http://node/", "node:80", "http://node/metrics"),
        ("https://node", "node:443", "https://node/metrics"),
        (" http://[::1]:8080/metrics ", "[::1]:8080", "http://[::1]:8080/metrics"),
        ("http://proxy:1/limiter/", "proxy:1/limiter", "http://proxy:1/limiter/metrics"),
    ],
)
def test_a_target_is_a_base_url(url: str, name: str, metrics: str) -> None:
    assert parse_target(url) == Target(name, metrics)


@pytest.mark.parametrize(
    "url", ["", "node:8080", "ftp://node", "http://", "http://node:99999", "http://n?x=1", "http://[x"]
)
def test_another_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="--target"):
        parse_target(url)


def test_a_login_is_refused_and_not_shown() -> None:
    with pytest.raises(ConfigError) as error:
        parse_target("http://me:secret@node:8080")
    assert "secret" not in str(error.value)


async def test_each_target_has_its_answer_or_its_reason() -> None:
    released = asyncio.Event()

    async def metrics(request: web.Request) -> web.Response:
        return web.Response(text="limiter_waiting_requests 7\n")

    async def other(request: web.Request) -> web.Response:
        return web.Response(text="go_goroutines 7\n")

    async def silent(request: web.Request) -> web.Response:
        await released.wait()
        return web.Response()

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(100):
            await response.write(b"limiter_x 1\n" * 10_000)
        return response

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/silent/metrics", silent)
    app.router.add_get("/endless/metrics", endless)
    app.router.add_get("/other/metrics", other)
    (free,) = free_ports(1)
    async with TestServer(app) as server:
        base = f"http://127.0.0.1:{server.port}"
        targets = [f"{base}{path}" for path in ("", "/nothing", "/other", "/silent", "/endless")]
        async with polling([parse_target(each) for each in (*targets, f"http://127.0.0.1:{free}")], 1) as poller:
            readings = await poller.poll()
        released.set()
    assert readings[0].sample is not None
    assert (readings[0].sample.waiting, readings[0].problem) == (7, "")
    assert [each.sample for each in readings[1:]] == [None] * 5
    assert [each.problem for each in readings[1:]] == [
        "/metrics returned status 404",
        "its metrics are not a limiter's: is it a node?",
        "no answer within 1 s",
        "its metrics are not a limiter's: is it a node?",
        "connection refused",
    ]
