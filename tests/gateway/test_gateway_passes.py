"""What passes through the gateway: bodies and streams as they are, few headers, and the service's own key."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from gateway_caller import CHAT, body, post
from gateway_node import KEY, gateway, service_at
from in_process import api_key_on
from scripted_service import (
    DONE,
    STREAM_END,
    STREAM_HEAD,
    Asked,
    ScriptedService,
    chunk,
    completion,
    framed,
    http,
    running_service,
    says,
    streams,
)

from limiter_node.limits import Amounts

MESSAGES = [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize(
    ("path", "sent", "charged"),
    [
        (CHAT, b'{ "max_tokens":7 ,"model":"m","x":[1.50,1e2],"messages":[{"role":"user","content":"\xc3\xa9"}]}\n', 3),
        ("/v1/completions", b'{"model": "m",  "prompt": "x", "max_tokens": 9}', 3),
        ("/v1/responses", b'{"model": "m",  "input": "x", "max_output_tokens": 9}', 3),
        ("/v1/embeddings", b' {"model": "m",  "input": ["x"]}', 0),
    ],
)
async def test_bodies_pass_as_they_are(
    single_store: str, service: ScriptedService, path: str, sent: bytes, charged: int
) -> None:
    answered = completion({"prompt_tokens": 1, "completion_tokens": 3, "total_tokens": 4})
    service.script = says(http(answered, openai_model="m-1", x_vendor="yes"))
    api_key = api_key_on(single_store)
    async with gateway(single_store, service_at(service.base_url)) as node:
        status, headers, answer = await post(node, api_key, sent, path=path)
        assert (status, answer) == (200, answered)
        used = await node.used(api_key)
        assert used.output_tokens == charged
        told = (headers["x-limiter-input-tokens"], headers["x-limiter-output-tokens"])
        assert told == (str(used.input_tokens), str(charged))
    (asked,) = service.asked
    assert (asked.method, asked.path, asked.body) == ("POST", path, sent)
    assert headers["openai-model"] == "m-1"
    assert "x-vendor" not in headers
    assert asked.headers["x-request-id"] == headers["x-request-id"]


async def test_the_service_gets_its_own_key_and_hardly_any_header(single_store: str, service: ScriptedService) -> None:
    api_key = api_key_on(single_store)
    given = {
        "Cookie": "a=b",
        "X-Forwarded-For": "10.0.0.1",
        "X-Forwarded-Host": "evil.example",
        "Idempotency-Key": "k",
        "OpenAI-Organization": "org",
        "x-request-id": "mine",
        "Accept-Encoding": "gzip",
        "TE": "trailers",
        "Connection": "keep-alive, x-secret",
        "X-Secret": "s",
        "OpenAI-Beta": "responses=v1",
        "traceparent": "00-1-2-01",
    }
    async with gateway(single_store, service_at(service.base_url)) as node:
        assert (await post(node, api_key, body(), **given))[0] == 200
    (asked,) = service.asked
    assert asked.headers["authorization"] == f"Bearer {KEY}"
    assert asked.headers["x-request-id"].startswith("req_")
    assert asked.headers["accept-encoding"] == "identity"
    assert set(asked.headers) == {
        *("host", "authorization", "content-type", "content-length", "accept", "accept-encoding", "user-agent"),
        *("x-request-id", "openai-beta", "traceparent"),
    }
    assert asked.headers["host"] == service.base_url.split("/")[2]


async def test_the_callers_key_goes_on_only_if_that_is_asked(single_store: str, service: ScriptedService) -> None:
    api_key = api_key_on(single_store)
    async with gateway(single_store, service_at(service.base_url, key="", forwards_key=True)) as node:
        await post(node, api_key, body())
    async with gateway(single_store, service_at(service.base_url, key="")) as node:
        await post(node, api_key, body())
    first, second = service.asked
    assert first.headers["authorization"] == f"Bearer {api_key}"
    assert "authorization" not in second.headers


@pytest.mark.parametrize(
    ("path", "fields", "added"),
    [
        (CHAT, {"messages": MESSAGES}, {"max_tokens": 64}),
        (CHAT, {"messages": MESSAGES, "n": 3}, {"max_tokens": 64}),
        (CHAT, {"messages": MESSAGES, "max_tokens": None}, {"max_tokens": 64}),
        (CHAT, {"messages": MESSAGES, "max_completion_tokens": 9}, {"max_tokens": 9}),
        (CHAT, {"messages": MESSAGES, "max_completion_tokens": 9, "max_tokens": 99}, {"max_tokens": 9}),
        ("/v1/completions", {"prompt": ["x", "y"], "best_of": 2}, {"max_tokens": 64}),
        ("/v1/responses", {"input": "x"}, {"max_output_tokens": 64}),
        ("/v1/embeddings", {"input": "x"}, {}),
    ],
)
async def test_the_service_is_held_to_the_reservation(
    single_store: str, service: ScriptedService, path: str, fields: dict[str, Any], added: dict[str, Any]
) -> None:
    api_key = api_key_on(single_store, output_reserve=64)
    sent = {"model": "m", **fields}
    async with gateway(single_store, service_at(service.base_url)) as node:
        assert (await post(node, api_key, json.dumps(sent).encode(), path=path))[0] == 200
        free = service_at(service.base_url, enforces_cap=False)
    (asked,) = service.asked
    assert asked.fields == {**sent, **added}
    async with gateway(single_store, free) as node:
        assert (await post(node, api_key, json.dumps(sent).encode(), path=path))[0] == 200
    has_cap = any(fields.get(name) for name in ("max_tokens", "max_completion_tokens"))
    assert service.asked[1].fields == ({**sent, **added} if has_cap else sent)


async def test_what_goes_beyond_the_reservation_is_charged(single_store: str, service: ScriptedService) -> None:
    service.script = says(http(completion({"prompt_tokens": 1, "completion_tokens": 5_000, "total_tokens": 5_001})))
    api_key = api_key_on(single_store, output_reserve=64)
    async with gateway(single_store, service_at(service.base_url, enforces_cap=False)) as node:
        await post(node, api_key, body())
        assert (await node.used(api_key)).output_tokens == 5_000


@pytest.mark.parametrize(
    ("usage", "charged_input", "charged"),
    [
        ({"prompt_tokens": 5, "completion_tokens": 40, "completion_tokens_details": {"reasoning_tokens": 30}}, 8, 40),
        ({"prompt_tokens": 5, "completion_tokens": 10, "total_tokens": 45}, 8, 40),
        ({"prompt_tokens": 99, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 90}}, 99, 2),
        ({"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}, 8, 2),
        (None, 8, 3),
        ({"completion_tokens": "5"}, 8, 3),
    ],
)
async def test_the_reservation_is_settled_to_the_services_usage(
    single_store: str, service: ScriptedService, usage: dict[str, Any] | None, charged_input: int, charged: int
) -> None:
    """Input that is told beyond what was counted is charged, cached or not; less of it is not given back."""
    service.script = says(http(completion(usage)))
    api_key = api_key_on(single_store, output_reserve=100)
    async with gateway(single_store, service_at(service.base_url)) as node:
        await post(node, api_key, body())
        assert await node.used(api_key) == Amounts(1, charged_input, charged)


@pytest.mark.parametrize("stream", [False, True])
async def test_what_is_told_beyond_what_was_admitted_is_charged_and_shown(
    single_store: str, service: ScriptedService, stream: bool
) -> None:
    """The service's own tools and searches bring input that nobody could count; it is paid off before anything else."""
    usage = {"prompt_tokens": 200_000, "completion_tokens": 150, "total_tokens": 200_150}
    script = (
        streams(chunk("Hi"), chunk(None, "stop"), chunk(usage=usage), DONE) if stream else says(http(completion(usage)))
    )
    service.script = script
    api_key = api_key_on(single_store, input_tpm=1_000, output_reserve=100)
    async with gateway(single_store, service_at(service.base_url)) as node:
        assert (await post(node, api_key, body(stream=stream)))[0] == 200
        assert await node.used(api_key) == Amounts(1, 200_000, 150)
        status, headers, _ = await post(node, api_key, body())
        assert (status, headers["x-limiter-exceeded"]) == (429, "input_tokens")
        async with node.session.get(f"{node.url}/metrics") as response:
            page = await response.text()
        assert 'limiter_overrun_tokens_total{kind="input"} 199992.0' in page
        assert 'limiter_overrun_tokens_total{kind="output"} 50.0' in page


WORDS = (chunk("Hello"), chunk(" there"), chunk(None, "stop"))
TOLD = chunk(usage={"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12})


@pytest.mark.parametrize(
    ("fields", "parts", "comes", "charged"),
    [
        ({}, (*WORDS, TOLD, DONE), (*WORDS, DONE), 7),
        ({"stream_options": {"include_usage": True}}, (*WORDS, TOLD, DONE), (*WORDS, TOLD, DONE), 7),
        ({"stream_options": {"include_usage": False, "x": 1}}, (*WORDS, TOLD, DONE), (*WORDS, DONE), 7),
        ({}, (*WORDS, DONE), (*WORDS, DONE), 2),
        ({}, (b": ping\n\n", *WORDS, DONE), (b": ping\n\n", *WORDS, DONE), 2),
        ({}, (b"".join(WORDS)[:60], b"".join((*WORDS, TOLD))[60:], DONE), (*WORDS, DONE), 7),
    ],
)
async def test_streams_pass_as_they_are(
    single_store: str,
    service: ScriptedService,
    fields: dict[str, Any],
    parts: tuple[bytes, ...],
    comes: tuple[bytes, ...],
    charged: int,
) -> None:
    service.script = streams(*parts)
    api_key = api_key_on(single_store)
    async with gateway(single_store, service_at(service.base_url)) as node:
        status, headers, answer = await post(node, api_key, body(stream=True, **fields))
        assert (status, headers.getall("content-type")) == (200, ["text/event-stream"])
        assert answer == b"".join(comes)
        assert (await node.used(api_key)).output_tokens == charged
    (asked,) = service.asked
    assert asked.fields["stream_options"] == {**fields.get("stream_options", {}), "include_usage": True}


async def test_each_piece_of_a_stream_passes_at_once(single_store: str, service: ScriptedService) -> None:
    """The service says the next thing only after the last one has arrived."""
    arrived = asyncio.Semaphore(0)

    async def script(_asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD)
        for part in (*WORDS, TOLD, DONE):
            writer.write(framed(part))
            if part is not TOLD:
                await arrived.acquire()
        writer.write(STREAM_END)

    service.script = script
    api_key = api_key_on(single_store)
    headers = {"Authorization": f"Bearer {api_key}"}
    async with (
        gateway(single_store, service_at(service.base_url)) as node,
        asyncio.timeout(10),
        node.session.post(node.url + CHAT, data=body(stream=True), headers=headers) as response,
    ):
        for part in (*WORDS, DONE):
            assert await response.content.readexactly(len(part)) == part
            arrived.release()
        assert await response.content.read() == b""


async def test_connections_are_used_again(single_store: str, service: ScriptedService) -> None:
    api_key = api_key_on(single_store)
    async with gateway(single_store, service_at(service.base_url)) as node:
        for _ in range(5):
            assert (await post(node, api_key, body()))[0] == 200
        service.script = streams(*WORDS, DONE)
        for _ in range(5):
            assert (await post(node, api_key, body(stream=True)))[0] == 200
    assert service.connections == 1


async def test_what_was_not_asked_as_a_stream_may_come_whole(single_store: str, service: ScriptedService) -> None:
    api_key = api_key_on(single_store)
    async with gateway(single_store, service_at(service.base_url)) as node:
        status, headers, answer = await post(node, api_key, body(stream=True))
        assert (status, headers["content-type"], answer) == (200, "application/json", completion())
        assert (await node.used(api_key)).output_tokens == 3


async def test_models_go_to_their_services_under_their_names_there(single_store: str) -> None:
    async with running_service() as one, running_service() as two:
        services = (
            service_at(one.base_url, name="one", models=("fast", "a/*"), rename=(("fast", "tiny"), ("a/*", "*"))),
            service_at(two.base_url, name="two", models=("b-*",), key="other"),
        )
        api_key = api_key_on(single_store)
        async with gateway(single_store, *services) as node:
            for model in ("fast", "a/big", "b-1"):
                assert (await post(node, api_key, body(model=model)))[0] == 200
            before = await node.used(api_key)
            status, _, answer = await post(node, api_key, body(model="http://169.254.169.254/"))
            assert (status, json.loads(answer)["error"]["code"]) == (404, "model_not_found")
            assert json.loads(answer)["error"]["param"] == "model"
            assert await node.used(api_key) == before, "what nobody serves counts for nothing"
            listed = says(http(json.dumps({"data": [{"id": "tiny"}, {"id": "big"}, {"id": "b-2"}]}).encode()))
            one.script = two.script = listed
            async with node.session.get(
                f"{node.url}/v1/models", headers={"Authorization": f"Bearer {api_key}"}
            ) as found:
                names = [each["id"] for each in (await found.json())["data"]]
    assert [each.fields["model"] for each in one.asked[:2]] == ["tiny", "big"]
    assert [each.fields["model"] for each in two.asked[:1]] == ["b-1"]
    assert two.asked[0].headers["authorization"] == "Bearer other"
    assert sorted(names) == ["a/b-2", "a/big", "a/tiny", "b-2", "fast"]


async def test_addresses_take_turns(single_store: str) -> None:
    async with running_service() as one, running_service() as two:
        api_key = api_key_on(single_store)
        async with gateway(single_store, service_at(one.base_url, two.base_url)) as node:
            for _ in range(6):
                assert (await post(node, api_key, body()))[0] == 200
    assert (len(one.asked), len(two.asked)) == (3, 3)


async def test_nothing_a_caller_says_chooses_where_a_request_goes(single_store: str, service: ScriptedService) -> None:
    api_key = api_key_on(single_store)
    fields = {"endpoint": "http://127.0.0.1:1/", "host": "127.0.0.1:1", "url": "x", "path": "/../admin"}
    async with gateway(single_store, service_at(service.base_url)) as node:
        sent = body(**fields)
        for path in (CHAT, CHAT + "?base_url=http://127.0.0.1:1/&x=/../y", "/v1//chat/completions", "/v1/../v1/x"):
            await post(node, api_key, sent, path=path, Host="169.254.169.254", **{"X-Original-URL": "/admin"})
    assert {each.path for each in service.asked} == {CHAT}
    assert {each.headers["host"] for each in service.asked} == {service.base_url.split("/")[2]}


async def test_redirects_are_not_followed(single_store: str, service: ScriptedService) -> None:
    service.script = says(http(b"", 307, Location="http://127.0.0.1:1/elsewhere"))
    api_key = api_key_on(single_store)
    async with gateway(single_store, service_at(service.base_url)) as node:
        status, headers, _ = await post(node, api_key, body())
        assert status == 502
        assert "location" not in headers
        assert await node.used(api_key) == Amounts(1, 0, 0)


@pytest.mark.parametrize(
    ("sent", "param"),
    [
        (body(n_predict=9), "n_predict"),
        (body(Max_Tokens=9, max_tokens=1), "Max_Tokens"),
        (body(best_of=4), "best_of"),
        (body(messages=[{"role": "user", "content": "x", "Content": "more"}]), "Content"),
    ],
)
async def test_what_a_service_may_read_otherwise_counts_for_nothing(
    single_store: str, service: ScriptedService, sent: bytes, param: str
) -> None:
    api_key = api_key_on(single_store)
    async with gateway(single_store, service_at(service.base_url)) as node:
        status, _, answer = await post(node, api_key, sent)
        assert (status, json.loads(answer)["error"]["param"]) == (400, param)
        assert await node.used(api_key) == Amounts(0, 0, 0)
    assert not service.asked


async def test_of_duplicate_fields_the_counted_one_is_sent(single_store: str, service: ScriptedService) -> None:
    sent = b'{"max_tokens":9000,"model":"m","messages":[{"role":"user","content":"Hi"}],"max_tokens":5}'
    api_key = api_key_on(single_store)
    async with gateway(single_store, service_at(service.base_url)) as node:
        _, headers, _ = await post(node, api_key, sent)
    assert headers["x-limiter-reserved-output"] == "5"
    assert service.asked[0].fields["max_tokens"] == 5


BROKEN = [b"NaN", b"-Infinity", b'"\\ud800"', b'"\xe6\x97"']


@pytest.mark.parametrize("broken", BROKEN, ids=["NaN", "-Infinity", "a lone surrogate", "a cut character"])
async def test_answers_pass_that_are_no_json_to_the_letter(
    single_store: str, service: ScriptedService, broken: bytes
) -> None:
    whole = b'{"vendor": %b, "choices": [{"message": {"content": "Hello there you"}}]}' % broken
    piece = b'data: {"vendor": %b, "choices": [{"delta": {"content": " a"}}]}\n\n' % broken
    parts = [piece, piece, DONE]
    api_key = api_key_on(single_store)
    async with gateway(single_store, service_at(service.base_url)) as node:
        service.script = says(http(whole))
        assert (await post(node, api_key, body()))[::2] == (200, whole)
        service.script = streams(*parts)
        assert (await post(node, api_key, body(stream=True)))[::2] == (200, b"".join(parts))
        assert (await node.used(api_key)).output_tokens == 3 + 2


@pytest.mark.parametrize("label", [b"text/plain", b"application/json", b""], ids=["text", "JSON", "none"])
@pytest.mark.parametrize("before", [b"", b"\xef\xbb\xbf", b": hi\n\n"], ids=["plain", "mark", "comment"])
async def test_a_stream_is_one_whatever_it_is_labelled(
    single_store: str, service: ScriptedService, label: bytes, before: bytes
) -> None:
    """Its pieces pass at once, here before the service goes on."""
    may_go_on = asyncio.Event()
    first, *others = (before + WORDS[0], *WORDS[1:], DONE)
    content_type = b"Content-Type: %b\r\n" % label if label else b""

    async def script(_asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n%bTransfer-Encoding: chunked\r\n\r\n" % content_type + framed(first))
        await may_go_on.wait()
        for part in others:
            writer.write(framed(part))
        writer.write(STREAM_END)

    service.script = script
    api_key = api_key_on(single_store)
    headers = {"Authorization": f"Bearer {api_key}"}
    async with (
        gateway(single_store, service_at(service.base_url)) as node,
        asyncio.timeout(10),
        node.session.post(node.url + CHAT, data=body(stream=True), headers=headers) as response,
    ):
        assert response.headers["content-type"].startswith("text/event-stream")
        assert await response.content.readexactly(len(first)) == first
        may_go_on.set()
        assert await response.content.read() == b"".join(others)
        assert (await node.used(api_key)).output_tokens == 2


async def test_headers_that_steer_browsers_stay_behind(single_store: str, service: ScriptedService) -> None:
    steering = {
        "Clear_Site_Data": '"*"',
        "Refresh": "0; url=https://a.example",
        "Location": "https://a.example",
        "Access_Control_Allow_Origin": "*",
        "Access_Control_Allow_Credentials": "true",
        "Content_Security_Policy": "default-src *",
        "Set_Cookie": "a=b",
        "Link": "<https://a.example>; rel=preload",
    }
    api_key = api_key_on(single_store)
    async with gateway(single_store, service_at(service.base_url)) as node:
        for status in (200, 400, 500):
            service.script = says(http(completion(), status, **steering))
            _, headers, _ = await post(node, api_key, body())
            assert not {name.replace("_", "-").lower() for name in steering} & {name.lower() for name in headers}


async def test_zeros_and_cached_input_are_no_output(single_store: str, service: ScriptedService) -> None:
    cached = {
        "prompt_tokens": 10,
        "completion_tokens": 3,
        "total_tokens": 5_013,
        "prompt_tokens_details": {"cached_tokens": 5_000},
    }
    zeros = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    api_key = api_key_on(single_store)
    async with gateway(single_store, service_at(service.base_url)) as node:
        for usage in (cached, zeros):
            before = (await node.used(api_key)).output_tokens
            service.script = says(http(completion(usage)))
            assert (await post(node, api_key, body()))[0] == 200
            service.script = streams(*WORDS, chunk(usage=usage), DONE)
            await post(node, api_key, body(stream=True))
            streamed = 3 if usage is cached else 2
            assert (await node.used(api_key)).output_tokens == before + 3 + streamed


async def test_what_stands_beside_a_usage_passes(single_store: str, service: ScriptedService) -> None:
    last = {"id": "chatcmpl-x", "choices": [], "citations": ["https://a.example"]}
    told = json.dumps({**last, "usage": {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}}).encode()
    service.script = streams(*WORDS, b"data: %b\n\n" % told, DONE)
    api_key = api_key_on(single_store)
    async with gateway(single_store, service_at(service.base_url)) as node:
        _, _, answer = await post(node, api_key, body(stream=True))
        *before, beside, done, _ = answer.split(b"\n\n")
        assert b"".join(each + b"\n\n" for each in before) == b"".join(WORDS)
        assert json.loads(beside.removeprefix(b"data: ")) == last
        assert done + b"\n\n" == DONE
        assert (await node.used(api_key)).output_tokens == 3


@pytest.mark.parametrize(("enforces_cap", "charged"), [(True, 3), (False, 6)])
async def test_what_is_counted_is_held_to_a_cap(
    single_store: str, service: ScriptedService, enforces_cap: bool, charged: int
) -> None:
    """A service that keeps to its cap by its own tokenizer and tells no usage."""
    words = [chunk(" word") for _ in range(6)]
    service.script = streams(*words, chunk(None, "length"), DONE)
    api_key = api_key_on(single_store, output_reserve=3)
    async with gateway(single_store, service_at(service.base_url, enforces_cap=enforces_cap)) as node:
        await post(node, api_key, body(stream=True))
        assert (await node.used(api_key)).output_tokens == charged
