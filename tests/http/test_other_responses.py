"""The bodies of the routes beside chat: complete, escaped, as asked; the mock's embeddings."""

from __future__ import annotations

import base64
import math
import struct
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from limiter_node.http.requests.completions import parse_completion
from limiter_node.http.requests.embeddings import parse_embedding
from limiter_node.http.requests.responses_api import parse_responses_api
from limiter_node.http.responses.json_bodies import model_object
from limiter_node.upstream.mock.embedding import embedding
from limiter_node.upstream.openai.chat import chat_completion
from limiter_node.upstream.openai.completions import text_completion
from limiter_node.upstream.openai.embeddings import embedding_list
from limiter_node.upstream.openai.responses_api import responses_api_body, responses_api_object
from limiter_node.upstream.requests import ChatRequest
from limiter_node.upstream.source import Completion, Embeddings, ToolCall


def test_text_completion_literal() -> None:
    request = parse_completion(orjson.dumps({"model": "m", "prompt": ["a", "b"], "echo": True}))
    completion = Completion(("x", "y"), ("stop", "length"), (1, 1), 2, "fp_mock")
    assert orjson.loads(text_completion(request, completion, "req_0a", 5)) == {
        "id": "cmpl-0a",
        "object": "text_completion",
        "created": 5,
        "model": "m",
        "choices": [
            {"text": "ax", "index": 0, "logprobs": None, "finish_reason": "stop"},
            {"text": "by", "index": 1, "logprobs": None, "finish_reason": "length"},
        ],
        "usage": {
            "prompt_tokens": 2,
            "completion_tokens": 2,
            "total_tokens": 4,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 0,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        },
        "system_fingerprint": "fp_mock",
    }


def test_a_response_repeats_what_was_asked() -> None:
    request = parse_responses_api(
        orjson.dumps(
            {
                "model": "m",
                "input": "x",
                "temperature": 0.2,
                "text": {"format": {"type": "json_object"}, "x": 1},
                "tools": [{"type": "function", "name": "f"}],
                "user": None,
            }
        )
    )
    completion = Completion(("{}",), ("stop",), (1,), 1, "fp_mock")
    body = orjson.loads(responses_api_body(request, completion, "req_0a", 5))
    assert (body["id"], body["status"], body["completed_at"], body["incomplete_details"]) == (
        "resp_0a",
        "completed",
        5,
        None,
    )
    assert (body["temperature"], body["top_p"], body["user"]) == (0.2, 1.0, None)
    assert body["text"] == {"format": {"type": "json_object"}, "verbosity": "medium"}
    assert body["tools"] == [{"type": "function", "name": "f", "description": None, "parameters": None, "strict": True}]
    assert body["output"] == [
        {
            "id": "msg_0a",
            "type": "message",
            "status": "completed",
            "role": "assistant",
            "content": [{"type": "output_text", "annotations": [], "logprobs": [], "text": "{}"}],
        }
    ]
    begun = responses_api_object(request, None, "req_0a", 5)
    assert (begun["status"], begun["output"], begun["usage"], begun["completed_at"]) == ("in_progress", [], None, None)
    assert set(begun) == set(body)


def test_a_response_with_calls() -> None:
    request = parse_responses_api(orjson.dumps({"model": "m", "input": "x"}))
    calls = ((ToolCall("function", "f", "{}"), ToolCall("custom", "g", "x")),)
    completion = Completion(("",), ("tool_calls",), (4,), 4, "fp_mock", calls)
    first, second = orjson.loads(responses_api_body(request, completion, "req_0a", 5))["output"]
    assert (first["type"], first["name"], first["arguments"]) == ("function_call", "f", "{}")
    assert (second["type"], second["name"], second["input"]) == ("custom_tool_call", "g", "x")
    assert len({first["id"], second["id"], first["call_id"], second["call_id"]}) == 4


def test_a_chat_with_calls() -> None:
    calls = ((ToolCall("function", "f", "{}"),), (ToolCall("custom", "g", "x"),))
    completion = Completion(("", ""), ("tool_calls", "length"), (2, 2), 4, "fp_mock", calls)
    request = ChatRequest("m", 2, None, False, False, 9, {})
    first, second = orjson.loads(chat_completion(request, completion, "req_0a", 5))["choices"]
    assert first["message"]["tool_calls"] == [
        {"id": "call_0a000", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    ]
    assert second["message"]["tool_calls"][0]["custom"] == {"name": "g", "input": "x"}
    assert (first["message"]["content"], second["finish_reason"]) == (None, "length")


def test_embedding_list_literal() -> None:
    request = parse_embedding(orjson.dumps({"model": 'a "model"', "input": ["hello world", "hello"]}))
    assert embedding_list(request, Embeddings((b"[1.0]", b"[0.5]"))) == (
        b'{"object":"list","data":[{"object":"embedding","index":0,"embedding":[1.0]},'
        b'{"object":"embedding","index":1,"embedding":[0.5]}],"model":"a \\"model\\"",'
        b'"usage":{"prompt_tokens":3,"total_tokens":3}}'
    )


def test_model_object() -> None:
    assert orjson.loads(model_object("m", 5)) == {
        "id": "m",
        "object": "model",
        "created": 5,
        "owned_by": "limiter-node",
    }


def vector(text: Any, dimensions: int | None = None, model: str = "m") -> list[float]:
    floats: list[float] = orjson.loads(embedding(text, model, dimensions, base64=False))
    return floats


@pytest.mark.parametrize("dimensions", [1, 7, 8, 9, 256, 1_536, 3_072])
def test_embeddings_have_length_one_in_either_encoding(dimensions: int) -> None:
    floats = vector("hello", dimensions)
    assert len(floats) == dimensions
    assert math.isclose(math.hypot(*floats), 1, abs_tol=1e-6)
    packed = base64.b64decode(orjson.loads(embedding("hello", "m", dimensions, base64=True)))
    assert packed == struct.pack(f"<{dimensions}f", *floats)


@given(st.text(st.characters()), st.text(st.characters()))
def test_embeddings_are_those_of_their_input(one: str, other: str) -> None:
    assert vector(one) == vector(one)
    assert (vector(one) == vector(other)) == (one == other)
    if one != other:
        assert abs(sum(a * b for a, b in zip(vector(one), vector(other), strict=True))) < 0.25


def test_shorter_embeddings_begin_longer_ones() -> None:
    short, long = vector("x", 256), vector("x", 1_536)
    scale = math.hypot(*long[:256])
    assert all(math.isclose(a, b / scale, abs_tol=1e-6) for a, b in zip(short, long, strict=False))


def test_embeddings_are_as_long_as_the_models() -> None:
    assert len(vector([1, 2])) == len(vector("x", model="text-embedding-3-small")) == 1_536
    assert len(vector("x", model="text-embedding-3-large")) == 3_072
