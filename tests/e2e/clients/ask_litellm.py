"""LiteLLM as a library. See `tests/e2e/test_other_clients.py`."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import litellm

base_url, keys = sys.argv[1], json.loads(sys.argv[2])
MESSAGES = [{"role": "user", "content": "hello world"}]


def ask(key: str, max_tokens: int, max_retries: int = 0, **options: Any) -> Any:
    return litellm.completion(
        model="openai/gpt-4o",
        messages=MESSAGES,
        api_base=base_url,
        api_key=keys[key],
        max_tokens=max_tokens,
        max_retries=max_retries,
        **options,
    )


def failure(key: str, max_tokens: int, max_retries: int = 0, **options: Any) -> dict[str, Any] | None:
    try:
        answer = ask(key, max_tokens, max_retries, **options)
        if options:
            list(answer)
    except litellm.APIError as error:
        raise AssertionError("not told as a rate limit") from error
    except litellm.RateLimitError as error:
        body = error.body or {}
        return {
            "name": type(error).__name__,
            "status": error.status_code,
            "code": error.code,
            "type": body.get("type", error.type),
            "message": str(error),
            "limit": error.response.headers.get("x-limiter-limit"),
            "retry_after_ms": error.response.headers.get("retry-after-ms"),
        }
    return None


answer = ask("roomy", 5)
chunks = list(ask("roomy", 7, stream=True, stream_options={"include_usage": True}))
started = time.monotonic()
for _ in range(3):
    ask("second", 1, 2)
waited_ms = (time.monotonic() - started) * 1_000
responses = litellm.responses(
    model="openai/gpt-4o", input="hello world", api_base=base_url, api_key=keys["roomy"], max_output_tokens=16
)
print(
    json.dumps(
        {
            "chat": {"text": answer.choices[0].message.content, "tokens": answer.usage.completion_tokens},
            "headers": [each.removeprefix("llm_provider-") for each in answer._hidden_params["additional_headers"]],
            "stream": {
                "text": "".join(each.choices[0].delta.content or "" for each in chunks if each.choices),
                "pieces": len(chunks),
                "tokens": sum(each.usage.completion_tokens for each in chunks if getattr(each, "usage", None)),
            },
            "responses": "".join(part.text for each in responses.output for part in each.content),
            "waited_ms": waited_ms,
            "day": failure("day", 1),
            "day_streamed": failure("day", 1, stream=True),
            "never": failure("never", 2_000, 2),
            "day_retried": failure("day", 1, 2),
        }
    )
)
