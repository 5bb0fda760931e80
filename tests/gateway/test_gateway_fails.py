"""Services that fail in every way: what the caller is told, what it is charged, and what the service notices."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Callable
from typing import Any

import pytest
from gateway_caller import INPUT, body, post, raw_request
from gateway_node import KEY, gateway, service_at
from in_process import api_key_on
from ports import free_ports
from raw_server import RawServer
from scripted_service import (
    DONE,
    STREAM_END,
    STREAM_HEAD,
    Asked,
    Script,
    ScriptedService,
    answers_chat,
    chunk,
    completion,
    framed,
    http,
    running_service,
    says,
    streams,
)

from limiter_node.limits import Amounts
from limiter_node.telemetry import Telemetry
from limiter_node.upstream.errors import UpstreamError
from limiter_node.upstream.gateway.sending.timeouts import UpstreamTimeouts
from limiter_node.upstream.gateway.upstream import Gateway
from limiter_node.upstream.requests import ChatRequest


async def silent(_asked: Asked, _writer: asyncio.StreamWriter) -> None:
    """Says nothing for as long as anybody waits."""
    await _asked.left.wait()


async def trickles(_asked: Asked, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{")
    await _asked.left.wait()


OPENAI_ERROR = {"error": {"message": "No.", "type": "invalid_request_error", "param": "x", "code": "no"}}


def fails(status: int, answer: Any = OPENAI_ERROR, **headers: str) -> Script:
    return says(http(json.dumps(answer).encode(), status, **headers))


@pytest.mark.parametrize(
    ("script", "status", "code", "upstream_status"),
    [
        (fails(400), 400, "no", "400"),
        (fails(404), 404, "no", "404"),
        (fails(422, {"detail": [{"loc": ["body", "x"], "msg": "bad"}]}), 422, "upstream_error", "422"),
        (fails(500), 502, "no", "500"),
        (fails(503, {"detail": "busy"}), 503, "upstream_error", "503"),
        (fails(599), 502, "no", "599"),
        (says(http(b"<h1>Bad Gateway</h1>", 502, "text/html")), 502, "upstream_error", "502"),
        (fails(401), 502, "upstream_error", None),
        (fails(403), 502, "upstream_error", None),
        (says(http(b"", 204)), 502, "upstream_error", None),
        (says(http(b"<h1>It works!</h1>", 200, "text/html")), 502, "upstream_error", None),
        (says(http(b"", 200)), 502, "upstream_error", None),
        (says(http(b"[1]", 200)), 502, "upstream_error", None),
        (fails(200, {"error": {**OPENAI_ERROR["error"], "type": "server_error"}}), 502, "no", None),
        (says(b"SSH-2.0-OpenSSH_9.2\r\n", then_close=True), 502, "upstream_error", None),
        (says(b"", then_close=True), 502, "upstream_error", None),
        (says(http(completion())[:200], then_close=True), 502, "upstream_error", None),
        (says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nZZZ\r\n"), 502, "upstream_error", None),
        (silent, 504, "upstream_error", None),
        (trickles, 504, "upstream_error", None),
    ],
)
async def test_a_failure_before_any_output_refunds_the_tokens(
    single_store: str, service: ScriptedService, script: Script, status: int, code: str, upstream_status: str | None
) -> None:
    service.script = script
    api_key = api_key_on(single_store)
    async with gateway(single_store, service_at(service.base_url), timeouts=UpstreamTimeouts(read_s=0.2)) as node:
        for stream in (False, True):
            told, headers, answer = await post(node, api_key, body(stream=stream))
            assert told == status, answer
            error = json.loads(answer)["error"]
            assert error["code"] == code
            assert set(error) >= {"message", "type", "param", "code"}
            assert headers.get("x-limiter-upstream-status") == upstream_status
            assert "x-ratelimit-limit-requests" in headers
        requests, *tokens = await node.used(api_key)
        assert requests == len(service.asked)
        assert tokens == [0, 0]


async def test_a_refusal_of_any_length_is_a_refusal(single_store: str, service: ScriptedService) -> None:
    """Some repeat the input that they refuse; callers can't have an address ejected that way."""
    service.script = fails(400, {"error": {"message": "x" * 70_000}})
    api_key = api_key_on(single_store)
    async with gateway(single_store, service_at(service.base_url)) as node:
        status, headers, answer = await post(node, api_key, body())
        assert (status, headers["x-limiter-upstream-status"]) == (400, "400")
        assert json.loads(answer)["error"]["code"] == "upstream_error"
        assert await node.used(api_key) == Amounts(1, 0, 0)


async def test_a_stream_that_nobody_asked_for_is_a_failure(single_store: str, service: ScriptedService) -> None:
    service.script = streams(DONE)
    api_key = api_key_on(single_store)
    async with gateway(single_store, service_at(service.base_url)) as node:
        assert (await post(node, api_key, body()))[0] == 502
        assert await node.used(api_key) == Amounts(1, 0, 0)


async def test_a_limit_of_the_service_is_told_apart_from_ours(single_store: str, service: ScriptedService) -> None:
    error = {"error": {"message": "Slow down.", "type": "tokens", "param": None, "code": "rate_limit_exceeded"}}
    limits = {"x_ratelimit_limit_requests": "3", "x_ratelimit_reset_tokens": "6s"}
    service.script = fails(429, error, retry_after="7", retry_after_ms="6500", **limits)
    api_key = api_key_on(single_store, rpm=2)
    async with gateway(single_store, service_at(service.base_url)) as node:
        for stream in (False, True):
            status, theirs, answer = await post(node, api_key, body(stream=stream))
            assert (status, json.loads(answer)) == (429, error)
            assert theirs["x-limiter-upstream-status"] == "429"
            assert "x-limiter-exceeded" not in theirs
            assert (theirs["retry-after"], theirs["retry-after-ms"]) == ("7", "6500")
            assert theirs.getall("x-ratelimit-limit-requests") == ["3"]
            assert theirs["x-ratelimit-reset-tokens"] == "6s"
            assert {name.lower() for name in theirs if "ratelimit" in name.lower()} == {
                name.replace("_", "-") for name in limits
            }, "none of the key's own limits stands beside the service's"
            assert await node.used(api_key) == Amounts(1 + stream, 0, 0)
        status, ours, _ = await post(node, api_key, body())
        assert (status, ours["x-limiter-exceeded"], ours["x-ratelimit-limit-requests"]) == (429, "requests", "2")
        assert "x-limiter-upstream-status" not in ours


@pytest.mark.parametrize(
    ("status", "told"),
    [(429, {"retry_after": "7"}), (400, {"x_ratelimit_limit_requests": "3", "RateLimit": '"rpm";r=0'}), (429, {})],
)
async def test_an_error_without_limits_of_the_service_tells_the_keys(
    single_store: str, service: ScriptedService, status: int, told: dict[str, str]
) -> None:
    service.script = fails(status, OPENAI_ERROR, **told)
    api_key = api_key_on(single_store, rpm=2)
    async with gateway(single_store, service_at(service.base_url)) as node:
        told_status, headers, _ = await post(node, api_key, body())
    assert (told_status, headers["x-limiter-upstream-status"]) == (status, str(status))
    assert headers.getall("x-ratelimit-limit-requests") == ["2"]
    assert headers["RateLimit"].startswith('"rpm";r=1;')


HELLO = (chunk("Hello"), chunk(" there"))


async def breaks_off(asked: Asked, writer: asyncio.StreamWriter) -> None:
    await streams(*HELLO, end=b"", then_close=True)(asked, writer)


async def falls_silent(asked: Asked, writer: asyncio.StreamWriter) -> None:
    await streams(*HELLO, end=b"")(asked, writer)
    await asked.left.wait()


SAID_ERROR = b'data: {"error": {"message": "CUDA", "type": "server_error", "param": null, "code": "oom"}}\n\n'


@pytest.mark.parametrize(
    ("script", "code", "charged"),
    [
        (breaks_off, "upstream_error", 2),
        (falls_silent, "upstream_error", 2),
        (streams(*HELLO), "upstream_error", 2),
        (streams(*HELLO, b"data: {"), "upstream_error", 2),
        (streams(*HELLO, SAID_ERROR, DONE), "oom", 2),
    ],
)
async def test_a_stream_that_breaks_off_is_charged_what_came(
    single_store: str, service: ScriptedService, script: Script, code: str, charged: int
) -> None:
    """By its tokens; what can't be read, by its bytes."""
    service.script = script
    api_key = api_key_on(single_store)
    async with gateway(single_store, service_at(service.base_url), timeouts=UpstreamTimeouts(read_s=0.3)) as node:
        status, _, answer = await post(node, api_key, body(stream=True))
        assert status == 200
        assert answer.startswith(b"".join(HELLO))
        assert DONE not in answer
        assert json.loads(answer.rstrip().rpartition(b"data: ")[2])["error"]["code"] == code
        assert await node.used(api_key) == Amounts(1, INPUT, charged)


async def test_an_error_that_begins_a_stream_is_a_response(single_store: str, service: ScriptedService) -> None:
    service.script = streams(SAID_ERROR, DONE)
    api_key = api_key_on(single_store)
    async with gateway(single_store, service_at(service.base_url)) as node:
        status, _, answer = await post(node, api_key, body(stream=True))
        assert (status, json.loads(answer)["error"]["code"]) == (502, "oom")
        assert await node.used(api_key) == Amounts(1, 0, 0)


async def test_an_error_that_is_nested_too_deeply_is_told_in_our_words(
    single_store: str, service: ScriptedService
) -> None:
    service.script = streams(b'data: {"error": {"message": ' + b"[" * 600 + b"]" * 600 + b"}}\n\n")
    api_key = api_key_on(single_store)
    async with gateway(single_store, service_at(service.base_url)) as node:
        status, _, answer = await post(node, api_key, body(stream=True))
        assert status == 502
        assert json.loads(answer)["error"]["message"] == "The upstream service answered with status 502."
        assert await node.used(api_key) == Amounts(1, 0, 0)


OWN_ERRORS = [
    {"error": {"message": "Too long.", "type": "BadRequestError", "param": None, "code": 400}},
    {"choices": [], "error": {"message": "Too long.", "code": "400"}},
    {"object": "error", "message": "Too long.", "type": "BadRequestError", "code": 400},
]


@pytest.mark.parametrize("said", OWN_ERRORS, ids=["error", "no choices", "bare"])
@pytest.mark.parametrize("is_stream", [False, True], ids=["whole", "stream"])
async def test_an_error_of_the_caller_has_its_status_and_blames_no_address(
    single_store: str, service: ScriptedService, said: Any, is_stream: bool
) -> None:
    """Also where it comes with status 200. Three failures in a row would put an address aside."""
    answer = json.dumps(said).encode()
    service.script = streams(b"data: %b\n\n" % answer, DONE) if is_stream else says(http(answer))
    api_key = api_key_on(single_store)
    async with gateway(single_store, service_at(service.base_url, service.base_url + "/")) as node:
        for _ in range(8):
            status, headers, told = await post(node, api_key, body(stream=is_stream))
            assert (status, headers["x-limiter-upstream-status"]) == (400, "400")
            assert json.loads(told)["error"]["message"] == "Too long."
        assert await node.used(api_key) == Amounts(8, 0, 0)
        metrics = await (await node.session.get(node.url + "/metrics")).text()
    counts = dict(line.rsplit(" ", 1) for line in metrics.splitlines() if line.startswith("limiter_upstream_"))
    requests = {name: float(count) for name, count in counts.items() if "_requests_total{" in name and float(count)}
    assert requests == {'limiter_upstream_requests_total{outcome="refused",upstream="svc"}': 8}
    assert {float(count) for name, count in counts.items() if "_ejected{" in name} == {0.0}


async def test_a_limit_that_is_told_with_status_200_is_a_limit(single_store: str, service: ScriptedService) -> None:
    service.script = says(http(json.dumps({"error": {"message": "Slow down.", "code": 429}}).encode(), Retry_After="7"))
    api_key = api_key_on(single_store)
    async with gateway(single_store, service_at(service.base_url)) as node:
        status, headers, _ = await post(node, api_key, body())
        assert (status, headers["retry-after"], headers["x-limiter-upstream-status"]) == (429, "7", "429")
        assert "x-limiter-exceeded" not in headers
        assert await node.used(api_key) == Amounts(1, 0, 0)


async def test_an_error_that_is_a_stream_keeps_its_message(single_store: str, service: ScriptedService) -> None:
    said = {"error": {"message": "Too long.", "type": "BadRequestError", "param": None, "code": 400}}
    service.script = says(http(b"data: %b\n\ndata: [DONE]\n\n" % json.dumps(said).encode(), 400, "text/event-stream"))
    api_key = api_key_on(single_store)
    async with gateway(single_store, service_at(service.base_url)) as node:
        for is_stream in (False, True):
            status, _, told = await post(node, api_key, body(stream=is_stream))
            assert (status, json.loads(told)) == (400, said)


async def test_fewer_choices_than_were_asked_for_are_a_whole_stream(
    single_store: str, service: ScriptedService
) -> None:
    parts = (*HELLO, chunk(None, "stop"))
    service.script = streams(*parts)
    api_key = api_key_on(single_store)
    async with gateway(single_store, service_at(service.base_url)) as node:
        assert (await post(node, api_key, body(stream=True, n=2)))[2] == b"".join(parts)
        assert (await node.used(api_key)).output_tokens == 2


async def test_a_whole_stream_needs_no_last_word(single_store: str, service: ScriptedService) -> None:
    """Neither [DONE] where every choice has finished, nor an end where [DONE] has come."""
    api_key = api_key_on(single_store)
    async with gateway(single_store, service_at(service.base_url)) as node:
        service.script = streams(*HELLO, chunk(None, "stop"))
        assert (await post(node, api_key, body(stream=True)))[2] == b"".join((*HELLO, chunk(None, "stop")))
        service.script = streams(*HELLO, DONE, end=b"")
        assert (await post(node, api_key, body(stream=True)))[2] == b"".join((*HELLO, DONE))
        assert (await node.used(api_key)).output_tokens == 4


async def test_a_stream_may_take_longer_than_the_patience(single_store: str, service: ScriptedService) -> None:
    """Silence has a deadline, an answer has none: here each piece comes within it, and all of them don't."""

    async def slowly(_asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD)
        for _ in range(6):
            await asyncio.sleep(0.15)
            writer.write(framed(chunk("x")))
        writer.write(framed(DONE) + STREAM_END)

    service.script = slowly
    api_key = api_key_on(single_store)
    async with gateway(single_store, service_at(service.base_url), timeouts=UpstreamTimeouts(read_s=0.6)) as node:
        status, _, answer = await post(node, api_key, body(stream=True))
        assert status == 200
        assert answer.endswith(DONE)


@pytest.mark.parametrize("begun", [False, True], ids=["before its answer", "in a stream"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_client_that_leaves_ends_the_services_work(
    single_store: str, service: ScriptedService, stream: bool, begun: bool
) -> None:
    if begun and not stream:
        return

    async def script(asked: Asked, writer: asyncio.StreamWriter) -> None:
        if begun:
            await streams(*HELLO, end=b"")(asked, writer)
        await asked.left.wait()

    service.script = script
    api_key = api_key_on(single_store)
    data = body(stream=stream)
    async with gateway(single_store, service_at(service.base_url), read_on_s=0.05) as node, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", int(node.url.rpartition(":")[2]))
        writer.write(raw_request(api_key, data))
        if begun:
            while b"there" not in await reader.readline():
                pass
        while not service.asked:
            await asyncio.sleep(0.002)
        writer.close()
        await service.asked[0].left.wait()
        while node.routes.under_way:
            await asyncio.sleep(0.002)
        charged = 2 if begun else 0 if stream else 256  # what an answer that comes whole has cost nobody can tell
        assert await node.used(api_key) == Amounts(1, INPUT, charged)


async def test_many_that_leave_leave_nothing_behind(single_store: str, service: ScriptedService) -> None:
    service.script = silent
    api_key = api_key_on(single_store)
    data = body()
    async with gateway(single_store, service_at(service.base_url), read_on_s=0.05) as node, asyncio.timeout(30):
        tasks = len(asyncio.all_tasks())
        for _ in range(5):
            pairs = [await asyncio.open_connection("127.0.0.1", int(node.url.rpartition(":")[2])) for _ in range(20)]
            seen = len(service.asked)
            for _, writer in pairs:
                writer.write(raw_request(api_key, data))
            while len(service.asked) < seen + 20:
                await asyncio.sleep(0.002)
            for _, writer in pairs:
                writer.transport.abort()
        while node.routes.under_way or not all(each.left.is_set() for each in service.asked):
            await asyncio.sleep(0.005)
        requests, _, output = await node.used(api_key)
        assert (requests, output) == (100, 100 * 256)
        while len(asyncio.all_tasks()) > tasks:
            await asyncio.sleep(0.005)


async def test_an_address_that_refuses_is_passed_over(single_store: str, service: ScriptedService) -> None:
    (closed,) = free_ports(1)
    api_key = api_key_on(single_store)
    dead = f"http://127.0.0.1:{closed}/v1"
    async with gateway(single_store, service_at(dead, service.base_url)) as node:
        for _ in range(8):
            assert (await post(node, api_key, body()))[0] == 200
    async with gateway(single_store, service_at(dead)) as node:
        status, _, answer = await post(node, api_key, body(stream=True))
        assert (status, json.loads(answer)["error"]["code"]) == (502, "upstream_error")
        assert (await node.used(api_key))[0] == 9
        async with node.session.get(f"{node.url}/v1/models", headers={"Authorization": f"Bearer {api_key}"}) as models:
            assert models.status == 502


async def test_a_list_of_models_is_not_waited_for_as_an_answer_is(
    single_store: str, service: ScriptedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And those who wait for the same list don't wait one after the other."""
    monkeypatch.setattr("limiter_node.upstream.gateway.model_list._LISTING_S", 0.05)
    monkeypatch.setattr("limiter_node.upstream.gateway.model_list._FAILURE_REMEMBERED_S", 60.0)
    service.script = silent
    api_key = api_key_on(single_store)

    async def status_of_models() -> int:
        headers = {"Authorization": f"Bearer {api_key}"}
        async with node.session.get(f"{node.url}/v1/models", headers=headers) as response:
            return response.status

    async with gateway(single_store, service_at(service.base_url)) as node, asyncio.timeout(10):
        assert await asyncio.gather(*(status_of_models() for _ in range(3))) == [504] * 3
    assert len(service.asked) == 1


async def test_a_failing_address_is_left_alone(
    single_store: str, service: ScriptedService, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_service() as bad:
        bad.script = fails(500)
        api_key = api_key_on(single_store)
        async with gateway(single_store, service_at(bad.base_url, service.base_url)) as node:
            statuses = [(await post(node, api_key, body()))[0] for _ in range(20)]
    assert statuses.count(502) == len(bad.asked) == 3
    assert statuses[6:] == [200] * 14
    ejected = [each for each in caplog.records if getattr(each, "event", "") == "upstream_ejected"]
    assert len(ejected) == 1
    assert getattr(ejected[0], "target") == bad.base_url.split("/")[2]  # noqa: B009 - set by `extra`


@pytest.mark.parametrize(
    ("said", "quoted"),
    [
        (b'{"error": {"message": "Incorrect API key:\\n  %b.", "type": "t"}}', ': "Incorrect API key: [redacted]."'),
        (b'{"detail": "Not authenticated"}', ': "Not authenticated"'),
        (b'{"detail": "%b"}' % (b"x" * 300), f': "{"x" * 200}…"'),
        (b"<html>forbidden</html>", ""),
        (b"", ""),
    ],
)
async def test_the_log_says_why_a_service_does_not_take_our_key(
    single_store: str, service: ScriptedService, caplog: pytest.LogCaptureFixture, said: bytes, quoted: str
) -> None:
    service.script = says(http(said.replace(b"%b", KEY.encode()), 401))
    async with gateway(single_store, service_at(service.base_url, name="upstream")) as node:
        status, headers, answer = await post(node, api_key_on(single_store), body())
    assert status == 502
    assert b"authenticated" not in answer
    (line,) = [each.getMessage() for each in caplog.records if getattr(each, "event", "") == "upstream_failed"]
    where = service.base_url.split("/")[2]
    who = f"request {headers['x-request-id']} failed: upstream {where}"
    assert line == f"{who} does not accept this node's key (status 401){quoted}"


async def test_connecting_has_a_deadline(single_store: str) -> None:
    """A listener whose backlog is full lets nobody in."""
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for each in (first, second):
            each.setblocking(False)
            each.connect_ex(full.getsockname())
        api_key = api_key_on(single_store)
        stuck = service_at(f"http://127.0.0.1:{full.getsockname()[1]}/v1")
        async with gateway(single_store, stuck, timeouts=UpstreamTimeouts(connect_s=0.2, read_s=0.2)) as node:
            status, _, _ = await post(node, api_key, body())
            assert status in (502, 504)
            assert await node.used(api_key) == Amounts(1, 0, 0)


async def test_a_kept_connection_that_died_costs_nobody_an_answer(single_store: str, service: ScriptedService) -> None:
    """The service closes without a word after each answer, as some do, just when the next request is sent."""

    async def closes_when_asked_again(asked: Asked, writer: asyncio.StreamWriter) -> None:
        if len([each for each in service.asked if each.connection == asked.connection]) > 1:
            writer.close()
            return
        await answers_chat(asked, writer)

    service.script = closes_when_asked_again
    api_key = api_key_on(single_store)
    async with gateway(single_store, service_at(service.base_url)) as node:
        for _ in range(4):
            assert (await post(node, api_key, body()))[0] == 200
        assert (await node.used(api_key))[0] == 4


async def test_a_request_that_may_have_been_read_is_not_sent_again(single_store: str, service: ScriptedService) -> None:
    service.script = says(b"", then_close=True)
    api_key = api_key_on(single_store)
    async with gateway(single_store, service_at(service.base_url)) as node:
        assert (await post(node, api_key, body()))[0] == 502
    assert len(service.asked) == 1


async def test_nor_is_one_that_a_service_fails_over_on_a_kept_connection(
    single_store: str, service: ScriptedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("limiter_node.upstream.gateway.sending.service_sender._STALE_S", 0.02)

    async def dies_over_the_second(asked: Asked, writer: asyncio.StreamWriter) -> None:
        if len(service.asked) > 1:
            await asyncio.sleep(0.05)
            writer.close()
            return
        await answers_chat(asked, writer)

    service.script = dies_over_the_second
    api_key = api_key_on(single_store)
    async with gateway(single_store, service_at(service.base_url)) as node:
        assert [(await post(node, api_key, body()))[0] for _ in range(2)] == [200, 502]
        assert (await node.used(api_key))[0] == 2
    assert [each.connection for each in service.asked] == [1, 1]


def echoing(make: Callable[[str], bytes]) -> Script:
    async def script(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(make(asked.headers["authorization"]))

    return script


@pytest.mark.parametrize(
    "make",
    [
        lambda key: http(json.dumps({"error": {"message": f"bad {key}"}}).encode(), 400),
        lambda key: http(json.dumps({"error": {"message": f"bad {key}"}}).encode(), 401),
        lambda key: http(json.dumps({"detail": f"bad {key}"}).encode(), 500),
        lambda key: http(f"<h1>{key}</h1>".encode(), 503, "text/html"),
        lambda key: http(json.dumps({"error": {"message": key}}).encode(), 429, retry_after=key, x_ratelimit_k=key),
        lambda key: http(key.encode(), 200),
        lambda key: f"{key}\r\n\r\n".encode(),
        lambda key: b"HTTP/1.1 200 OK\r\nX: a\r\n " + key.encode() + b"\r\n\r\n",
        lambda key: STREAM_HEAD + framed(b'data: {"error": {"message": "%b"}}\n\n' % key.encode()) + STREAM_END,
        lambda key: STREAM_HEAD + framed(chunk("x") + b'data: {"error": "%b"}\n\n' % key.encode()) + STREAM_END,
    ],
)
async def test_no_credential_gets_into_errors_or_logs(
    single_store: str, service: ScriptedService, caplog: pytest.LogCaptureFixture, make: Callable[[str], bytes]
) -> None:
    caplog.set_level(logging.DEBUG)
    service.script = echoing(make)
    api_key = api_key_on(single_store)
    async with gateway(single_store, service_at(service.base_url), timeouts=UpstreamTimeouts(read_s=0.3)) as node:
        _, headers, answer = await post(node, api_key, body(stream=True))
    assert KEY.encode() not in answer
    assert KEY not in str(headers)
    said = caplog.text + str([vars(each) for each in caplog.records if each.name.startswith("limiter_node")])
    assert KEY not in said
    assert api_key not in said


async def test_a_service_that_does_not_read_is_given_up(service: ScriptedService) -> None:
    """Asked directly, since a node's own bound on bodies keeps what the system buffers."""

    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.Event().wait()

    data = body(messages=[{"role": "user", "content": "x " * 10_000_000}], max_tokens=1)
    request = ChatRequest("m", 1, 1, False, False, 1, json.loads(data))
    async with RawServer(never) as server:
        stuck = service_at(f"{server.url}/v1")
        gateway = Gateway([stuck], Telemetry(), UpstreamTimeouts(connect_s=0.2, read_s=0.2))
        try:
            with pytest.raises(UpstreamError) as caught:
                async with asyncio.timeout(20):
                    await gateway.prepared(gateway.drafter.draft(request, data)).ask(1, "req_1", {})
            assert caught.value.status == 504
        finally:
            await gateway.close()
