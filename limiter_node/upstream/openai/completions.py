"""The body of the response of ``POST /v1/completions``, complete in shape, as bytes."""

from __future__ import annotations

import orjson

from limiter_node.upstream.openai.chat import chat_usage
from limiter_node.upstream.requests import CompletionRequest
from limiter_node.upstream.source import Completion


def text_completion(request: CompletionRequest, completion: Completion, request_id: str, created: int) -> bytes:
    """Return a `text_completion`; prompts asked for by `echo` stand before the answers and count as input only."""
    texts = completion.contents
    if request.echoes:
        per_prompt = request.n // len(request.echoes)
        texts = tuple([request.echoes[index // per_prompt] + text for index, text in enumerate(texts)])
    choices = [
        {"text": text, "index": index, "logprobs": None, "finish_reason": reason}
        for index, (text, reason) in enumerate(zip(texts, completion.finish_reasons, strict=True))
    ]
    return orjson.dumps(
        {
            "id": "cmpl-" + request_id.removeprefix("req_"),
            "object": "text_completion",
            "created": created,
            "model": request.model,
            "choices": choices,
            "usage": orjson.Fragment(chat_usage(request.input_tokens, completion.completion_tokens)),
            "system_fingerprint": completion.system_fingerprint,
        }
    )
