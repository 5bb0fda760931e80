"""Response bodies: complete shapes, exact usage, anything escaped."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from limiter_node.http.requests.chat import parse_chat
from limiter_node.http.responses.json_bodies import models_list
from limiter_node.tokens.vocabulary import count
from limiter_node.upstream.mock.model import MockModel
from limiter_node.upstream.openai.chat import chat_completion
from limiter_node.upstream.requests import ChatRequest
from limiter_node.upstream.source import Completion


def request(model: str = "gpt-4o", n: int = 1, input_tokens: int = 9) -> ChatRequest:
    return ChatRequest(model, n, None, False, False, input_tokens, {})


def choice(index: int, content: str, finish_reason: str) -> dict[str, Any]:
    return {
        "index": index,
        "message": {"role": "assistant", "content": content, "refusal": None, "annotations": []},
        "logprobs": None,
        "finish_reason": finish_reason,
    }


def test_chat_completion_literal() -> None:
    completion = Completion(("hello world",), ("stop",), (2,), 2, "fp_mock")
    assert chat_completion(request(), completion, "req_0a", 1_763_916_000) == (
        b'{"id":"chatcmpl-0a","object":"chat.completion","created":1763916000,"model":"gpt-4o",'
        b'"choices":[{"index":0,"message":{"role":"assistant","content":"hello world","refusal":null,"annotations":[]},'
        b'"logprobs":null,"finish_reason":"stop"}],'
        b'"usage":{"prompt_tokens":9,"completion_tokens":2,"total_tokens":11,'
        b'"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},'
        b'"completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":0,'
        b'"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}},'
        b'"service_tier":"default","system_fingerprint":"fp_mock"}'
    )


def test_several_choices() -> None:
    completion = Completion(("a b", "c"), ("length", "stop"), (2, 1), 3, "fp_mock")
    content = orjson.loads(chat_completion(request(n=2), completion, "req_0a", 1))
    assert content["choices"] == [choice(0, "a b", "length"), choice(1, "c", "stop")]
    assert content["usage"]["completion_tokens"] == 3
    assert content["usage"]["total_tokens"] == 12


@given(st.text(), st.text(), st.text())
def test_whatever_comes_from_outside_is_escaped(model: str, text: str, fingerprint: str) -> None:
    completion = Completion((text, ""), ("stop", "stop"), (1, 0), 1, fingerprint)
    content = orjson.loads(chat_completion(request(model), completion, "req_0a", 1))
    assert (content["model"], content["system_fingerprint"]) == (model, fingerprint)
    assert content["choices"] == [choice(0, text, "stop"), choice(1, "", "stop")]


@pytest.mark.parametrize("model", ["gpt-4o", "gpt-4"])
@pytest.mark.parametrize("length", ["fixed:1", "fixed:300", "uniform:1:500", "lognormal:200:0.6"])
@pytest.mark.parametrize("n", [1, 4])
async def test_usage_is_exact(model: str, length: str, n: int) -> None:
    upstream = MockModel(latency_ms=0, length=length, seed=1)
    chat = parse_chat(orjson.dumps({"model": model, "messages": [{"role": "user", "content": "hello world"}], "n": n}))
    for cap in (1, 100, 10_000):
        completion = await upstream.chat(chat, cap, "req_1")
        content = orjson.loads(chat_completion(chat, completion, "req_1", 1))
        usage = content["usage"]
        counts = [count(each["message"]["content"], model) for each in content["choices"]]
        assert usage["completion_tokens"] == sum(counts)
        assert max(counts) <= cap
        assert usage["prompt_tokens"] == 3 + 3 + 1 + count("hello world", model)
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_models_list() -> None:
    assert orjson.loads(models_list(["a", "b"], 5)) == {
        "object": "list",
        "data": [
            {"id": "a", "object": "model", "created": 5, "owned_by": "limiter-node"},
            {"id": "b", "object": "model", "created": 5, "owned_by": "limiter-node"},
        ],
    }
