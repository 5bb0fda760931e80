"""The body of the response of ``POST /v1/chat/completions``, as bytes; its pieces serve streams, too.

Fixed shapes are joined from rendered pieces instead of being serialized from a dict; orjson escapes the data from
outside (model, content).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import orjson

from limiter_node.upstream.requests import ChatRequest
from limiter_node.upstream.source import Completion, ToolCall

# Model names come from callers, so the cache of their pieces is bounded.
_MAX_CACHED_MODELS = 256


def chat_completion(request: ChatRequest, completion: Completion, request_id: str, created: int) -> bytes:
    """Return a `chat.completion`; its id is the request's with another prefix. `created`: seconds since the epoch."""
    if completion.tool_calls:
        choices = b",".join(
            [_calling_choice(index, completion, request_id) for index in range(len(completion.contents))]
        )
    elif len(completion.contents) == 1:
        choices = _choice(0, completion)
    else:
        choices = b",".join([_choice(index, completion) for index in range(len(completion.contents))])
    return b'{"id":"chatcmpl-%b","object":"chat.completion","created":%d%b,"choices":[%b],"usage":%b%b' % (
        request_id.removeprefix("req_").encode(),
        created,
        model_piece(request.model),
        choices,
        chat_usage(request.input_tokens, completion.completion_tokens),
        _tail_piece(completion.system_fingerprint),
    )


def tool_calls(calls: Sequence[ToolCall], choice: int, request_id: str) -> list[dict[str, Any]]:
    """Return the `tool_calls` of a choice; their ids are the request's with the choice's and the call's number."""
    prefix = f"call_{request_id.removeprefix('req_')}{choice:02d}"
    return [
        {
            "id": f"{prefix}{number}",
            "type": call.kind,
            call.kind: {"name": call.name, "arguments" if call.kind == "function" else "input": call.payload},
        }
        for number, call in enumerate(calls)
    ]


def _calling_choice(index: int, completion: Completion, request_id: str) -> bytes:
    """Return a choice that calls tools. Rare, so it is serialized from a dict."""
    calls = tool_calls(completion.tool_calls[index], index, request_id)
    message: dict[str, Any] = {"role": "assistant", "content": None, "refusal": None, "annotations": []}
    if calls:
        message["tool_calls"] = calls
    reason = completion.finish_reasons[index]
    return orjson.dumps({"index": index, "message": message, "logprobs": None, "finish_reason": reason})


def _choice(index: int, completion: Completion) -> bytes:
    return (
        b'{"index":%d,"message":{"role":"assistant","content":%b,"refusal":null,"annotations":[]},'
        b'"logprobs":null,"finish_reason":"%b"}'
        % (index, orjson.dumps(completion.contents[index]), completion.finish_reasons[index].encode())
    )


def chat_usage(prompt_tokens: int, completion_tokens: int) -> bytes:
    """Return the usage as chat and text completions write it."""
    return (
        b'{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d,'
        b'"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},'
        b'"completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":0,'
        b'"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}'
        % (prompt_tokens, completion_tokens, prompt_tokens + completion_tokens)
    )


@lru_cache(_MAX_CACHED_MODELS)
def model_piece(model: str) -> bytes:
    """Return the `model` member, with the comma before it."""
    return b',"model":' + orjson.dumps(model)


@lru_cache(_MAX_CACHED_MODELS)
def _tail_piece(system_fingerprint: str) -> bytes:
    return b',"service_tier":"default","system_fingerprint":' + orjson.dumps(system_fingerprint) + b"}"
