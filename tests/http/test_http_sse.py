"""The events of streams, byte for byte and by the official client's types."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types import Completion as TextCompletion
from openai.types.chat import ChatCompletionChunk
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from limiter_node.http.responses.errors import INTERNAL
from limiter_node.upstream.openai.chunks import ChatChunks, CompletionChunks
from limiter_node.upstream.openai.responses_api_events import ResponsesApiEvents
from limiter_node.upstream.openai.stream_events import StreamEvents
from limiter_node.upstream.source import Delta

AWKWARD = 'say "hi"\n\ndata: [DONE]\r\n\\ \u2028 é 🙂 \x00'
DELTAS = [Delta(0, "Hello", 1, None), Delta(0, AWKWARD, 9, None), Delta(0, " end", 1, "stop")]
RESPONSE: dict[str, Any] = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1_700_000_000,
    "error": None,
    "instructions": None,
    "metadata": {},
    "model": "gpt-4o",
    "parallel_tool_calls": True,
    "temperature": 1.0,
    "tool_choice": "auto",
    "tools": [],
    "top_p": 1.0,
}


def chat(n: int = 1, *, include_usage: bool = True) -> ChatChunks:
    return ChatChunks(
        request_id="req_12ab",
        created=1_700_000_000,
        model="gpt-4o",
        n=n,
        input_tokens=8,
        include_usage=include_usage,
        system_fingerprint="fp_mock",
    )


def text(*, include_usage: bool = True) -> CompletionChunks:
    return CompletionChunks(
        request_id="req_12ab",
        created=1_700_000_000,
        model="gpt-3.5-turbo-instruct",
        input_tokens=8,
        include_usage=include_usage,
        system_fingerprint=None,
    )


def responses() -> ResponsesApiEvents:
    return ResponsesApiEvents(RESPONSE, message_id="msg_1", input_tokens=8)


def rendered(events: StreamEvents, deltas: list[Delta]) -> bytes:
    body = events.start() + b"".join(map(events.delta, deltas))
    return body + events.finish(sum(each.tokens for each in deltas))


def parsed(body: bytes) -> list[tuple[str | None, Any]]:
    """Names and data of the events, the data as JSON, but for the last one of the older routes."""
    assert body.endswith(b"\n\n")
    found: list[tuple[str | None, Any]] = []
    for event in body.removesuffix(b"\n\n").split(b"\n\n"):
        fields = dict(line.split(b": ", 1) for line in event.split(b"\n"))
        name, data = fields.pop(b"event", None), fields.pop(b"data")
        assert not fields
        found.append((name and name.decode(), "[DONE]" if data == b"[DONE]" else json.loads(data)))
    return found


def test_a_chat_byte_for_byte() -> None:
    head = (
        b'data: {"id":"chatcmpl-12ab","object":"chat.completion.chunk","created":1700000000,"model":"gpt-4o",'
        b'"service_tier":"default","system_fingerprint":"fp_mock","choices":['
    )
    null = b'],"usage":null}\n\n'
    assert rendered(chat(), [Delta(0, "Hi", 1, None), Delta(0, " \u00e9\n", 2, "length")]) == b"".join(
        (
            head,
            b'{"index":0,"delta":{"role":"assistant","content":"","refusal":null},"logprobs":null,"finish_reason":null}',
            null,
            head,
            b'{"index":0,"delta":{"content":"Hi"},"logprobs":null,"finish_reason":null}',
            null,
            head,
            b'{"index":0,"delta":{"content":" \xc3\xa9\\n"},"logprobs":null,"finish_reason":null}',
            null,
            head,
            b'{"index":0,"delta":{},"logprobs":null,"finish_reason":"length"}',
            null,
            head,
            b'],"usage":{"prompt_tokens":8,"completion_tokens":3,"total_tokens":11,'
            b'"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},'
            b'"completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":0,'
            b'"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}}\n\n',
            b"data: [DONE]\n\n",
        )
    )


def test_without_usage_nothing_is_said_of_it() -> None:
    for events in (chat(include_usage=False), text(include_usage=False)):
        assert b"usage" not in rendered(events, DELTAS)


def test_chat_chunks_fit_the_clients_type() -> None:
    events = parsed(rendered(chat(2), [*DELTAS, Delta(1, "", 0, "stop")]))
    assert events.pop() == (None, "[DONE]")
    chunks = [ChatCompletionChunk.model_validate(data, strict=True) for _, data in events]
    said = [choice for chunk in chunks for choice in chunk.choices]
    assert "".join(each.delta.content or "" for each in said if each.index == 0) == f"Hello{AWKWARD} end"
    assert [each.index for each in said if each.delta.role] == [0, 1]
    assert [each.index for each in said if each.finish_reason] == [0, 1]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 11


def test_text_chunks_fit_the_clients_type() -> None:
    events = parsed(rendered(text(), DELTAS))
    assert events.pop() == (None, "[DONE]")
    assert [data["choices"][0]["finish_reason"] for _, data in events[:-1]] == [None, None, None, "stop"]
    # The client's type has no null there, the real service sends it all the same.
    for _, data in events[:-2]:
        data["choices"][0]["finish_reason"] = "stop"
    chunks = [TextCompletion.model_validate(data, strict=True) for _, data in events]
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == f"Hello{AWKWARD} end"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 19


@pytest.mark.parametrize(("reason", "status"), [("stop", "completed"), ("length", "incomplete")])
def test_response_events_fit_the_clients_types(reason: str, status: str) -> None:
    events = parsed(rendered(responses(), [*DELTAS[:2], Delta(0, " end", 1, reason)]))
    assert [name for name, _ in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        f"response.{status}",
    ]
    assert [data["sequence_number"] for _, data in events] == list(range(11))
    adapter: TypeAdapter[ResponseStreamEvent] = TypeAdapter(ResponseStreamEvent)
    state: ResponseStreamState[Any] = ResponseStreamState(input_tools=openai.omit, text_format=openai.omit)
    for name, data in events:
        event = adapter.validate_json(json.dumps(data), strict=True)
        assert event.type == name
        state.handle_event(event)
    response = events[-1][1]["response"]
    assert response["status"] == status
    assert response["output"][0]["content"][0]["text"] == f"Hello{AWKWARD} end"
    assert response["usage"]["output_tokens"] == 11
    assert response["usage"]["total_tokens"] == 19
    assert response["id"] == "resp_1"


@pytest.mark.parametrize("events", [chat(), text()])
def test_an_error_has_openais_shape(events: StreamEvents) -> None:
    ((name, data),) = parsed(events.error(INTERNAL.body))
    assert name is None
    assert data["error"]["code"] == "internal_error"


def test_an_error_in_a_response_is_an_event_of_its_own() -> None:
    events = responses()
    events.start()
    ((name, data),) = parsed(events.error(INTERNAL.body))
    assert name == data["type"] == "error"
    assert (data["code"], data["sequence_number"]) == ("internal_error", 2)
