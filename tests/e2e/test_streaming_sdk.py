"""Streams as the official client reads them, from real nodes."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from typing import Any

import openai
import pytest
from fleet import Fleet, chat, many_connections, rate_limits
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletionChunk, ChatCompletionMessageParam

from limiter_node.tokens.vocabulary import count

MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hello"}]


def options(fleet: Fleet, api_key: str, node: int = 0) -> dict[str, Any]:
    """How either client is pointed at a node. Strict: a response that doesn't fit the types is an error."""
    return {"base_url": f"{fleet.nodes[node]}/v1", "api_key": api_key, "_strict_response_validation": True}


def contents(chunks: list[ChatCompletionChunk]) -> dict[int, str]:
    """What each choice says."""
    said: dict[int, str] = defaultdict(str)
    for chunk in chunks:
        for choice in chunk.choices:
            said[choice.index] += choice.delta.content or ""
    return said


@pytest.mark.parametrize("include_usage", [True, False])
def test_a_stream(fleet: Fleet, include_usage: bool) -> None:
    with OpenAI(**options(fleet, fleet.new_key())) as client:
        chunks = list(
            client.chat.completions.create(
                model="gpt-4o",
                messages=MESSAGES,
                max_tokens=300,
                stream=True,
                stream_options={"include_usage": include_usage},
            )
        )
    usage = chunks.pop() if include_usage else None
    assert {(each.id, each.created, each.model, each.object, each.system_fingerprint) for each in chunks} == {
        (chunks[0].id, chunks[0].created, "gpt-4o", "chat.completion.chunk", "fp_mock")
    }
    assert chunks[0].id.startswith("chatcmpl-")
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [each.choices[0].finish_reason for each in chunks] == [None] * (len(chunks) - 1) + ["length"]
    assert chunks[-1].choices[0].delta.content is None
    assert all(each.usage is None for each in chunks)
    assert count(contents(chunks)[0], "gpt-4o") == 300
    if usage is not None:
        assert usage.choices == []
        assert usage.usage is not None
        assert usage.usage.completion_tokens == 300
        assert usage.usage.total_tokens == 300 + usage.usage.prompt_tokens


async def test_choices_are_interleaved_and_each_ends_once(fleet: Fleet) -> None:
    api_key = fleet.new_key()
    async with AsyncOpenAI(**options(fleet, api_key, node=1)) as client:
        stream = await client.chat.completions.create(
            model="gpt-4o", messages=MESSAGES, max_tokens=40, n=3, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
    usage = chunks.pop().usage
    assert usage is not None
    assert usage.completion_tokens == 120
    said = contents(chunks)
    assert set(said) == {0, 1, 2}
    assert all(count(each, "gpt-4o") == 40 for each in said.values())
    ends = [choice.index for chunk in chunks for choice in chunk.choices if choice.finish_reason]
    assert sorted(ends) == [0, 1, 2]


async def test_the_clients_own_accumulation(fleet: Fleet) -> None:
    async with (
        AsyncOpenAI(**options(fleet, fleet.new_key())) as client,
        client.chat.completions.stream(model="gpt-4o", messages=MESSAGES, max_tokens=50) as stream,
    ):
        deltas = [event.delta async for event in stream if event.type == "content.delta"]
        # The whole is not asked for: the client refuses to parse what a cap has cut.
        snapshot = stream.current_completion_snapshot
    assert snapshot.choices[0].message.content == "".join(deltas)
    assert count("".join(deltas), "gpt-4o") == 50


async def test_a_stream_says_what_an_answer_says_and_costs_the_same(fleet: Fleet) -> None:
    whole_key, streamed_key = fleet.new_key(), fleet.new_key()
    async with many_connections() as session:
        _, body = await chat(session, fleet.nodes[0], whole_key, max_tokens=200)
    whole: Any = body
    async with AsyncOpenAI(**options(fleet, streamed_key)) as client:
        raw = await client.chat.completions.with_raw_response.create(
            model="gpt-4o", messages=MESSAGES, max_tokens=200, stream=True
        )
        assert raw.headers["content-type"] == "text/event-stream"
        assert raw.headers["cache-control"] == "no-cache"
        assert raw.headers["x-limiter-reserved-output"] == "200"
        assert raw.headers["x-ratelimit-remaining-requests"]
        assert raw.headers["x-request-id"]
        streamed = contents([chunk async for chunk in raw.parse()])[0]
    assert streamed == whole["choices"][0]["message"]["content"]
    async with many_connections() as session, asyncio.timeout(10):
        expected = (await rate_limits(session, fleet.nodes[0], whole_key))["used"]
        while (await rate_limits(session, fleet.nodes[1], streamed_key))["used"] != expected:
            pass


def test_a_stream_that_is_not_admitted_raises(fleet: Fleet) -> None:
    api_key = fleet.new_key(output_tpm=10)
    with OpenAI(**options(fleet, api_key), max_retries=0) as client:
        with pytest.raises(openai.RateLimitError) as error:
            client.chat.completions.create(model="gpt-4o", messages=MESSAGES, max_tokens=20, stream=True)
        assert error.value.response.headers["content-type"] == "application/json"
        with pytest.raises(openai.AuthenticationError):
            client.with_options(api_key="sk-nobody").chat.completions.create(
                model="gpt-4o", messages=MESSAGES, stream=True
            )


TOOL: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather somewhere",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def test_a_streamed_tool_call(fleet: Fleet) -> None:
    choice: Any = {"type": "function", "function": {"name": "get_weather"}}
    with OpenAI(**options(fleet, fleet.new_key())) as client:
        chunks = list(
            client.chat.completions.create(
                model="gpt-4o", messages=MESSAGES, tools=[TOOL], tool_choice=choice, stream=True
            )
        )
    calls = [call for each in chunks for call in each.choices[0].delta.tool_calls or ()]
    assert [(call.index, call.type, call.function and call.function.name) for call in calls] == [
        (0, "function", "get_weather")
    ]
    assert calls[0].function is not None
    assert set(json.loads(calls[0].function.arguments or "")) == {"city"}
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    assert contents(chunks)[0] == ""


@pytest.mark.parametrize("echo", [True, False])
def test_a_streamed_text_completion(fleet: Fleet, echo: bool) -> None:
    prompts = ["Once upon a time", "In the beginning"]
    # Not strict: the client's type knows no null as a chunk's finish reason, which the real service sends.
    with OpenAI(**{**options(fleet, fleet.new_key()), "_strict_response_validation": False}) as client:
        chunks = list(
            client.completions.create(
                model="gpt-3.5-turbo-instruct",
                prompt=prompts,
                max_tokens=50,
                echo=echo,
                stream=True,
                stream_options={"include_usage": True},
            )
        )
    usage = chunks.pop().usage
    assert usage is not None
    assert usage.completion_tokens == 100
    said: dict[int, str] = defaultdict(str)
    for chunk in chunks:
        for choice in chunk.choices:
            said[choice.index] += choice.text
    assert len(said) == 2
    for index, prompt in enumerate(prompts):
        assert said[index].startswith(prompt) is echo
        assert count(said[index].removeprefix(prompt), "gpt-3.5-turbo-instruct") == 50


def test_a_streamed_response(fleet: Fleet) -> None:
    with OpenAI(**options(fleet, fleet.new_key())) as client:
        events = list(client.responses.create(model="gpt-4o", input="Hello", max_output_tokens=60, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [events[0].type, events[1].type] == ["response.created", "response.in_progress"]
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert count(text, "gpt-4o") == 60
    last = events[-1]
    assert last.type == "response.incomplete"
    assert last.response.output_text == text
    assert last.response.usage is not None
    assert last.response.usage.output_tokens == 60


def test_the_clients_own_accumulation_of_a_response(fleet: Fleet) -> None:
    with (
        OpenAI(**options(fleet, fleet.new_key())) as client,
        client.responses.stream(model="gpt-4o", input="Hello", max_output_tokens=5_000) as stream,
    ):
        final = stream.get_final_response()
    assert final.status == "completed"
    assert count(final.output_text, "gpt-4o") == 1_000


def test_a_tool_call_in_a_streamed_response(fleet: Fleet) -> None:
    tool: Any = {"type": "function", **TOOL["function"], "strict": True}
    with OpenAI(**options(fleet, fleet.new_key())) as client:
        events = list(
            client.responses.create(model="gpt-4o", input="Hello", tools=[tool], tool_choice="required", stream=True)
        )
    done = [event for event in events if event.type == "response.function_call_arguments.done"]
    assert len(done) == 1
    assert set(json.loads(done[0].arguments)) == {"city"}
    last = events[-1]
    assert last.type == "response.completed"
    assert [(item.type, getattr(item, "name", None)) for item in last.response.output] == [
        ("function_call", "get_weather")
    ]
