"""An agent on the mock, by the official SDK: it is given calls of its tools, answers them, and comes to an end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from fleet import Fleet, running_fleet
from openai import OpenAI

from limiter_node.tokens.vocabulary import count

WEATHER: Any = {
    "name": "get_weather",
    "description": "The weather somewhere",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
QUESTION: Any = {"role": "user", "content": "How is the weather?"}


@pytest.fixture(scope="module")
def calling_fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A node whose mock calls whatever tool it is offered."""
    options = ("--mock-tool-rate", "1", "--mock-length", "fixed:12", "--store", "single")
    directory = tmp_path_factory.mktemp("calling")
    with running_fleet(directory, *options, "--decision-timeout-ms", "20000", nodes=1) as running:
        yield running


@pytest.fixture
def client(calling_fleet: Fleet) -> Iterator[OpenAI]:
    with OpenAI(
        base_url=f"{calling_fleet.nodes[0]}/v1",
        api_key=calling_fleet.new_key(),
        max_retries=0,
        _strict_response_validation=True,
    ) as opened:
        yield opened


def tokens(name: str, arguments: str) -> int:
    assert set(json.loads(arguments)) == {"city"}
    return count(name, "gpt-4o") + count(arguments, "gpt-4o")


def test_an_agent_by_chat_completions(client: OpenAI) -> None:
    messages, calls = [QUESTION], 0
    while True:
        tools: Any = [{"type": "function", "function": WEATHER}]
        answer = client.chat.completions.create(model="gpt-4o", messages=messages, tools=tools)
        (choice,) = answer.choices
        assert answer.usage is not None
        if choice.finish_reason != "tool_calls":
            break
        (call,) = choice.message.tool_calls or []
        assert call.type == "function"
        assert answer.usage.completion_tokens == tokens(call.function.name, call.function.arguments)
        messages += [
            choice.message.model_dump(exclude_none=True),
            {"role": "tool", "tool_call_id": call.id, "content": "rain"},
        ]
        calls += 1
    assert calls == 1, "a tool's result is answered by text"
    assert (choice.finish_reason, answer.usage.completion_tokens) == ("stop", 12)
    assert count(choice.message.content or "", "gpt-4o") == 12


def test_a_streamed_call_that_nobody_forced(client: OpenAI) -> None:
    tools: Any = [{"type": "function", "function": WEATHER}]
    stream = client.chat.completions.create(
        model="gpt-4o",
        messages=[QUESTION],
        tools=tools,
        tool_choice="auto",
        stream=True,
        stream_options={"include_usage": True},
    )
    *chunks, last = list(stream)
    (call,) = [call for each in chunks for call in each.choices[0].delta.tool_calls or ()]
    assert call.function is not None
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    assert last.usage is not None
    assert last.usage.completion_tokens == tokens(call.function.name or "", call.function.arguments or "")


@pytest.mark.parametrize("stream", [False, True])
def test_an_agent_by_the_responses_api(client: OpenAI, stream: bool) -> None:
    items: Any = [QUESTION]
    tool: Any = {"type": "function", **WEATHER, "strict": False}
    calls = 0
    while True:
        if stream:
            with client.responses.stream(model="gpt-4o", input=items, tools=[tool]) as events:
                answer: Any = events.get_final_response()
        else:
            answer = client.responses.create(model="gpt-4o", input=items, tools=[tool])
        (item,) = answer.output
        if item.type != "function_call":
            break
        assert answer.usage.output_tokens == tokens(item.name, item.arguments)
        call = {"type": "function_call", "call_id": item.call_id, "name": item.name, "arguments": item.arguments}
        items += [call, {"type": "function_call_output", "call_id": item.call_id, "output": "rain"}]
        calls += 1
    assert calls == 1, "a tool's result is answered by text"
    assert answer.usage.output_tokens == count(answer.output_text, "gpt-4o") == 12


def test_a_choice_of_none_is_answered_by_text(client: OpenAI) -> None:
    tools: Any = [{"type": "function", "function": WEATHER}]
    answer = client.chat.completions.create(model="gpt-4o", messages=[QUESTION], tools=tools, tool_choice="none")
    assert answer.choices[0].finish_reason == "stop"
