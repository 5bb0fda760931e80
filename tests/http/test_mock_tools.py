"""The mock's free choices: which tools a request offers, how often one is called, and some object for `json_object`."""

from __future__ import annotations

import json
from typing import Any

import pytest

from limiter_node.errors import ConfigError
from limiter_node.http.requests.chat import parse_chat
from limiter_node.http.requests.responses_api import parse_responses_api
from limiter_node.tokens.vocabulary import count
from limiter_node.upstream.mock.form import OBJECT_TOKENS
from limiter_node.upstream.mock.model import MockModel
from limiter_node.upstream.openai.offered_tools import with_offered_tools
from limiter_node.upstream.requests import CallableTool, ChatRequest, EmbeddingRequest, ResponsesApiRequest, TextRequest

CITY: Any = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
DEFINITION: Any = {"name": "weather", "parameters": CITY}
FUNCTION, CUSTOM = CallableTool("function", "weather", CITY), CallableTool("custom", "run", None)
CHAT_TOOLS: Any = [
    {"type": "function", "function": DEFINITION},
    {"type": "custom", "custom": {"name": "run"}},
]
RESPONSE_TOOLS: Any = [
    {"type": "web_search"},
    {"type": "function", **DEFINITION},
    {"type": "custom", "name": "run"},
]
USER: Any = {"role": "user", "content": "hi"}
CALL: Any = {
    "role": "assistant",
    "tool_calls": [{"id": "c", "type": "function", "function": {"name": "weather", "arguments": "{}"}}],
}
RESULT: Any = {"role": "tool", "tool_call_id": "c", "content": "rain"}


def chat(**fields: Any) -> ChatRequest:
    body = {"model": "gpt-4o", "messages": [USER], "tools": CHAT_TOOLS, **fields}
    request = with_offered_tools(parse_chat(json.dumps(body).encode()))
    assert isinstance(request, ChatRequest)
    return request


def response(**fields: Any) -> ResponsesApiRequest:
    body = {"model": "gpt-4o", "input": "hi", "tools": RESPONSE_TOOLS, **fields}
    request = with_offered_tools(parse_responses_api(json.dumps(body).encode()))
    assert isinstance(request, ResponsesApiRequest)
    return request


def offered(request: TextRequest) -> tuple[CallableTool, ...]:
    return request.form.offered if request.form else ()


def allowed(mode: str, *, nested: bool) -> Any:
    custom = {"type": "custom", "custom": {"name": "run"}} if nested else {"type": "custom", "name": "run"}
    named = {"mode": mode, "tools": [custom]}
    return {"type": "allowed_tools", "allowed_tools": named} if nested else {"type": "allowed_tools", **named}


@pytest.mark.parametrize(
    ("choice", "tools"),
    [
        ({}, (FUNCTION, CUSTOM)),
        ({"tool_choice": None}, (FUNCTION, CUSTOM)),
        ({"tool_choice": "auto"}, (FUNCTION, CUSTOM)),
        ({"tool_choice": "none"}, ()),
        ({"tool_choice": "required"}, ()),
        ({"tools": []}, ()),
        ({"tools": None}, ()),
    ],
)
def test_tools_are_offered_where_the_choice_is_free(choice: dict[str, Any], tools: tuple[CallableTool, ...]) -> None:
    assert offered(chat(**choice)) == offered(response(**choice)) == tools


def test_of_allowed_tools_the_allowed_ones_are_offered() -> None:
    assert offered(chat(tool_choice=allowed("auto", nested=True))) == (CUSTOM,)
    assert offered(response(tool_choice=allowed("auto", nested=False))) == (CUSTOM,)
    assert offered(chat(tool_choice=allowed("required", nested=True))) == ()
    assert offered(response(tool_choice=allowed("required", nested=False))) == ()
    assert offered(chat(tool_choice={"type": "function", "function": {"name": "weather"}})) == ()
    assert offered(response(tool_choice={"type": "web_search"})) == ()


def test_a_tools_result_is_answered_by_text() -> None:
    assert offered(chat(messages=[USER, CALL, RESULT])) == ()
    assert offered(chat(messages=[USER, CALL, RESULT, USER])) == (FUNCTION, CUSTOM)
    call = {"type": "function_call", "call_id": "c", "name": "weather", "arguments": "{}"}
    result = {"type": "function_call_output", "call_id": "c", "output": "rain"}
    assert offered(response(input=[USER, call, result])) == ()
    assert offered(response(input=[USER, call, result, USER])) == (FUNCTION, CUSTOM)


def test_requests_that_offer_nothing_stay_as_they_are() -> None:
    plain = parse_chat(b'{"model":"m","messages":[{"role":"user","content":"hi"}]}')
    assert with_offered_tools(plain) is plain
    embedding = EmbeddingRequest("m", ["hi"], None, False, 1, {"tools": CHAT_TOOLS})
    assert with_offered_tools(embedding) is embedding


def mock(tool_rate: float, **options: Any) -> MockModel:
    return MockModel(**{"latency_ms": 0, "length": "uniform:1:40", "seed": 5, "tool_rate": tool_rate, **options})


async def test_tools_are_called_at_the_rate_and_lengths_stay_the_same() -> None:
    """By the seed: the same calls again, and between them the answers that there are without calls."""
    request = chat()
    plain, calling, again = mock(0.0), mock(0.3), mock(0.3)
    called = []
    for _ in range(400):
        without, answer = await plain.chat(request, 100, "req_1"), await calling.chat(request, 100, "req_1")
        assert answer == await again.chat(request, 100, "req_1")
        assert without.tool_calls == ()
        if answer.tool_calls:
            ((call,),) = answer.tool_calls
            called.append(call.name)
            assert answer.finish_reasons == ("tool_calls",)
            assert answer.contents == ("",)
            assert answer.completion_tokens == count(call.name, "gpt-4o") + count(call.payload, "gpt-4o")
        else:
            assert answer == without
    assert 90 < len(called) < 150
    assert set(called) == {"weather", "run"}


async def test_a_rate_of_one_always_calls_and_one_of_nothing_never() -> None:
    for request in (chat(), chat(n=3), chat(stop="x"), chat(response_format={"type": "json_object"})):
        assert (await mock(1.0).chat(request, 100, "req_1")).finish_reasons == ("tool_calls",) * request.n
        assert (await mock(0.0).chat(request, 100, "req_1")).tool_calls == ()
    assert (await mock(1.0).respond(response(), 100, "req_1")).finish_reasons == ("tool_calls",)
    assert (await mock(1.0).chat(chat(messages=[USER, CALL, RESULT]), 100, "req_1")).tool_calls == ()
    assert (await mock(1.0).chat(chat(tool_choice="none"), 100, "req_1")).tool_calls == ()
    assert [delta.tool_calls async for batch in mock(1.0).stream(chat(), 100, "req_1") for delta in batch] != [()]


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_a_share_beyond_one_is_refused(rate: float) -> None:
    with pytest.raises(ConfigError, match="must be from 0 to 1"):
        mock(rate)


@pytest.mark.parametrize("model", ["gpt-4o", "gpt-4"])
async def test_some_object_has_about_the_length_drawn(model: str) -> None:
    asked = chat(model=model, n=2, tools=[], response_format={"type": "json_object"})
    source, plain = mock(0.0, length="uniform:0:60"), mock(0.0, length="uniform:0:60")
    for _ in range(100):
        answer, prose = await source.chat(asked, 50, "req_1"), await plain.chat(chat(n=2, tools=[]), 50, "req_1")
        for content, tokens, drawn in zip(answer.contents, answer.choice_tokens, prose.choice_tokens, strict=True):
            assert list(json.loads(content)) == ["answer"]
            assert tokens == count(content, model)
            assert drawn - 3 <= tokens <= max(drawn, OBJECT_TOKENS)
        assert answer.finish_reasons == ("stop", "stop"), "also where the cap is lower than the length drawn"
    cut = await source.chat(asked, 2, "req_1")
    assert cut.finish_reasons == ("length", "length")
    assert max(cut.choice_tokens) <= 2


async def test_some_object_is_never_long() -> None:
    request = chat(tools=[], response_format={"type": "json_object"})
    answer = await mock(0.0, length="fixed:1000000").chat(request, 1_000_000, "req_1")
    assert answer.completion_tokens < 5_000
    assert json.loads(answer.contents[0])
