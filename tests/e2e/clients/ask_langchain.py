"""LangChain's client of OpenAI. See `tests/e2e/test_other_clients.py`."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import openai
from langchain_openai import ChatOpenAI

base_url, keys = sys.argv[1], json.loads(sys.argv[2])
PROMPT = "hello world"


def model(key: str, max_tokens: int, max_retries: int = 0, **options: Any) -> ChatOpenAI:
    return ChatOpenAI(
        model="gpt-4o",
        base_url=base_url,
        api_key=keys[key],
        max_tokens=max_tokens,
        max_retries=max_retries,
        **options,
    )


def failure(key: str, max_tokens: int, max_retries: int = 0, *, is_streamed: bool = False) -> dict[str, Any] | None:
    asked = model(key, max_tokens, max_retries)
    try:
        if is_streamed:
            list(asked.stream(PROMPT))
        else:
            asked.invoke(PROMPT)
    except openai.APIStatusError as error:
        return {
            "name": next(each.__name__ for each in type(error).__mro__ if each.__module__.startswith("openai")),
            "status": error.status_code,
            "code": error.code,
            "type": error.type,
            "message": str(error),
            "limit": error.response.headers.get("x-limiter-limit"),
            "retry_after_ms": error.response.headers.get("retry-after-ms"),
        }
    return None


answer = model("roomy", 5, include_response_headers=True).invoke(PROMPT)
chunks = list(model("roomy", 7, stream_usage=True).stream(PROMPT))
started = time.monotonic()
for _ in range(3):
    model("second", 1, 2).invoke(PROMPT)
waited_ms = (time.monotonic() - started) * 1_000
print(
    json.dumps(
        {
            "chat": {"text": answer.content, "tokens": answer.usage_metadata["output_tokens"]},
            "headers": list(answer.response_metadata["headers"]),
            "stream": {
                "text": "".join(each.content for each in chunks),
                "pieces": len(chunks),
                "tokens": sum(each.usage_metadata["output_tokens"] for each in chunks if each.usage_metadata),
            },
            "responses": model("roomy", 16, use_responses_api=True).invoke(PROMPT).text,
            "waited_ms": waited_ms,
            "day": failure("day", 1),
            "day_streamed": failure("day", 1, is_streamed=True),
            "never": failure("never", 2_000, 2),
            "day_retried": failure("day", 1, 2),
        }
    )
)
