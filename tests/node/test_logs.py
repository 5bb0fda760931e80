"""What is logged: one line per event, with the request's id where there is one, as JSON where asked, never a key."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator

import pytest
from aiohttp import ClientSession
from fault_proxy import FaultProxy
from in_process import serving
from node_commands import StartCommand
from ports import free_port
from store_tools import declare, new_api_key

from limiter_node import logs
from limiter_node.credentials import key_id
from limiter_node.http.server.overload import OVER_S, LoopLoad
from limiter_node.store.url import parse_store_url
from limiter_node.upstream.errors import UpstreamError
from limiter_node.upstream.requests import ChatRequest
from limiter_node.upstream.source import Completion


@pytest.fixture
def root_logging() -> Iterator[None]:
    """The root logger as it was, afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


@pytest.mark.usefixtures("root_logging")
def test_an_event_is_one_json_object_with_its_fields(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("json", "info", "n7")
    log = logging.getLogger("limiter_node.test")
    log.debug("too little")
    log.warning("shard %s\nis away", "a:1", extra={"event": "shard_cut_off", "shard": "a:1"})
    try:
        raise ValueError("why")
    except ValueError:
        log.exception("failed")
    shard, failed = map(json.loads, capsys.readouterr().err.splitlines())
    assert shard.pop("time").endswith("+00:00")
    assert shard == {
        "level": "WARNING",
        "logger": "limiter_node.test",
        "message": "shard a:1\nis away",
        "node": "n7",
        "event": "shard_cut_off",
        "shard": "a:1",
    }
    assert "ValueError: why" in failed["exc_info"]


@pytest.mark.usefixtures("root_logging")
def test_text_says_the_same_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("text", "warning")
    log = logging.getLogger("limiter_node.test")
    log.info("too little")
    log.warning("shard %s is away", "a:1", extra={"event": "shard_cut_off"})
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("WARNING shard a:1 is away")


async def test_the_id_that_the_caller_gets_is_the_upstreams_and_the_logs(
    embedded_single: str, caplog: pytest.LogCaptureFixture
) -> None:
    api_key = new_api_key()
    declare(embedded_single, api_key)
    async with serving(embedded_single) as node:

        async def fails(request: ChatRequest, cap: int) -> Completion:
            raise UpstreamError("it is on fire", status=503)

        node.upstream.answer = fails
        headers = {"Authorization": f"Bearer {api_key}"}
        body = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
        async with node.session.post(f"{node.url}/v1/chat/completions", json=body, headers=headers) as response:
            assert response.status == 503
            request_id = response.headers["x-request-id"]
        assert node.upstream.request_ids == [request_id]
    (record,) = [each for each in caplog.records if getattr(each, "event", "") == "upstream_failed"]
    assert record.__dict__["request_id"] == request_id
    assert record.__dict__["status"] == 503
    assert request_id in record.getMessage()
    assert "it is on fire" in record.getMessage()


async def test_a_nodes_life_as_json(limiter_node: StartCommand, embedded_single: str) -> None:
    api_key = new_api_key()
    declare(embedded_single, api_key, name="somebody")
    _, store_port = parse_store_url(embedded_single).endpoints[0]
    async with FaultProxy(store_port) as proxy:
        node = await limiter_node(
            "serve",
            "--store",
            f"redis://127.0.0.1:{proxy.port}",
            "--port",
            free_port(),
            "--node-id",
            "n1",
            "--log-format",
            "json",
        )
        url = (await node.line(r"node n1 ready (\S+)"))[1]
        async with ClientSession() as session:

            async def degraded() -> str | None:
                body = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
                headers = {"Authorization": f"Bearer {api_key}"}
                async with session.post(f"{url}/v1/chat/completions", json=body, headers=headers) as response:
                    return response.headers.get("x-limiter-degraded")

            assert await degraded() is None
            proxy.pass_requests = False
            assert await degraded() == "local"
            proxy.pass_requests = True
            proxy.reset_all()
            async with asyncio.timeout(20):
                while await degraded() is not None:
                    pass
        assert await node.stop() == 0
        errors = await node.errors()
    events = [json.loads(line) for line in errors.splitlines()]
    assert {event["node"] for event in events} == {"n1"}
    names = [event.get("event") for event in events]
    assert names[0] == "node_started"
    assert names[-1] == "node_stopping"
    assert (names.count("shard_cut_off"), names.count("shard_back")) == (1, 1)
    (back,) = (event for event in events if event.get("event") == "shard_back")
    assert back["shard"] == f"127.0.0.1:{proxy.port}"
    assert back["decided"]["admitted"] >= 1
    for secret in (api_key, key_id(api_key)):
        assert secret not in errors


def test_an_overload_is_told_when_it_begins_and_when_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    load = LoopLoad()

    def told() -> list[str]:
        names = [getattr(record, "event", "") for record in caplog.records]
        caplog.clear()
        return names

    load.report(0.0)
    assert told() == []
    load.turned_away = 3
    load.report(1.0)
    assert told() == ["overload_began"]
    load.turned_away = 10
    load.report(2.0)
    load.report(2.0 + OVER_S - 0.1)
    assert told() == []
    load.report(2.0 + OVER_S)
    assert caplog.records[0].__dict__["turned_away"] == 10
    assert caplog.records[0].__dict__["seconds"] == 1.0
    assert told() == ["overload_over"]
    load.report(100.0)
    assert told() == []
    load.turned_away = 12
    load.report(101.0)
    load.report(200.0)
    assert caplog.records[-1].__dict__["turned_away"] == 2
