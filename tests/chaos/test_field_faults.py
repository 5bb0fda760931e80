"""Row 46: fields of a request that cost or steer at some service are counted, or refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from chaos_scene import Row
from edge_scene import CHAT, Answer, ask, assert_unharmed, edge
from gateway.scripted_service import completion, http, says

TEXT = "The quick brown fox jumps over the lazy dog. " * 200
TEXT_TOKENS = 1_500
"""Fewer than `TEXT` has by any tokenizer."""
PLAIN: dict[str, Any] = {"model": "any", "max_tokens": 10, "messages": [{"role": "user", "content": "Hello"}]}

COUNTED: dict[str, dict[str, Any]] = {
    "previous_input_messages": {"previous_input_messages": [{"role": "user", "content": TEXT}]},
    "guideline": {"guideline": TEXT},
    "tool_prompt": {"tool_prompt": TEXT},
    "an unknown object": {"some_new_field": {"deep": [{"er": TEXT}]}},
    "reasoning_details": {"messages": [{"role": "assistant", "content": "a", "reasoning_details": [{"text": TEXT}]}]},
    "thinking_blocks": {"messages": [{"role": "assistant", "content": "a", "thinking_blocks": [{"thinking": TEXT}]}]},
    "a message's tools": {"messages": [{"role": "user", "content": "a", "tools": [{"description": TEXT}]}]},
    "encrypted_content": {"messages": [{"role": "assistant", "content": "a", "encrypted_content": TEXT}]},
}
STEERING: dict[str, Any] = {
    "models": ["a", "b"],
    "fallbacks": [{"model": "b"}],
    "kv_transfer_params": {"do_remote_decode": True},
    "lora_path": "/tmp/lora",
    "custom_logit_processor": "code",
    "cached_content": "cachedContents/1",
    "data_sources": [{"type": "azure_search"}],
    "prompt_id": "p-1",
}
FREE: dict[str, Any] = {
    "metadata": {"a": TEXT[:500]},
    "user": "u" * 60,
    "store": False,
    "prompt_cache_key": "k" * 60,
    "seed": 7,
    "temperature": 0.5,
    "some_new_number": 3,
    "some_new_flag": True,
}


@pytest.mark.chaos
async def test_46_fields_that_cost_or_steer(directory: Path, binary: str | None, row: Row) -> None:
    async with edge(directory, binary, {"any": says(http(completion(None)))}) as at:
        file, (key,) = await at.keys("fields", 1)
        answers: dict[str, Answer] = {}

        async def ask_all() -> None:
            answers["plain"] = await ask(at.node, key, json.dumps(PLAIN).encode())
            for name, fields in COUNTED.items():
                answers[name] = await ask(at.node, key, json.dumps({**PLAIN, **fields}).encode())
            for field, value in (STEERING | FREE).items():
                answers[field] = await ask(at.node, key, json.dumps({**PLAIN, field: value}).encode())
            body = {"model": "any", "input": "a", "instruction": TEXT}
            answers["instruction"] = await ask(at.node, key, json.dumps(body).encode(), path="/v1/embeddings")

        outcome = await at.beside_load(ask_all)
        row("46", f"{len(COUNTED) + 1} fields that cost, {len(STEERING)} that steer", outcome)

        def told(name: str) -> int:
            return int(answers[name].headers.get("x-limiter-input-tokens", -1))

        assert {name: told(name) for name in (*COUNTED, "instruction") if told(name) < TEXT_TOKENS} == {}
        assert {name: told(name) for name in FREE if told(name) != told("plain")} == {}
        refused = {name: answers[name].error["param"] for name in STEERING if answers[name].status == 400}
        assert refused == {name: name for name in STEERING}
        # Nothing of what was refused has reached the service, or counts.
        asked = [request for request in at.service.asked if request.path == CHAT and b'"any"' in request.body]
        assert len(asked) == 1 + len(COUNTED) + len(FREE)
        (usage,) = await at.on.usages(file)
        assert usage.used.requests == 2 + len(COUNTED) + len(FREE)
        assert_unharmed(outcome)
