"""The official openai SDK with a key of an account: its errors, its retries, and what it lists."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from accounts_in_store import put_account
from fleet import Fleet
from openai import AsyncOpenAI, OpenAI
from store_tools import new_api_key

from limiter_node.credentials import key_id
from limiter_node.policy import (
    OUTPUT_TOKENS,
    REQUESTS,
    TOKENS,
    AccountPolicy,
    KeyPolicy,
    Limit,
    PolicyWindow,
    Subject,
)

MESSAGES: Any = [{"role": "user", "content": "hello world"}]
SECOND, MINUTE, DAY = 1_000, 60_000, 86_400_000


def new_account(fleet: Fleet, *windows: PolicyWindow) -> tuple[str, str]:
    """An account with these windows and one key, alice; its name and the key."""
    api_key = new_api_key()
    name = api_key.removeprefix("sk-")
    put_account(fleet.store, AccountPolicy(name, (Subject("", windows),)), [KeyPolicy(key_id(api_key), "alice")])
    return name, api_key


def client_of(fleet: Fleet, api_key: str, **options: Any) -> OpenAI:
    options = {"max_retries": 0, "_strict_response_validation": True, **options}
    return OpenAI(base_url=f"{fleet.nodes[0]}/v1", api_key=api_key, **options)


@pytest.fixture
def no_retry(fleet: Fleet) -> Iterator[tuple[str, OpenAI]]:
    """An account with a limit on some models, one for a day, and one that no request of a thousand tokens fits."""
    name, api_key = new_account(
        fleet,
        PolicyWindow(MINUTE, ("gpt-4o*",), (Limit(REQUESTS, 1),)),
        PolicyWindow(DAY, (), (Limit(REQUESTS, 2), Limit(TOKENS, 1_000))),
    )
    with client_of(fleet, api_key) as client:
        yield name, client


def test_rate_limit_errors_name_the_limit(no_retry: tuple[str, OpenAI]) -> None:
    name, client = no_retry
    assert client.chat.completions.create(model="gpt-4o", messages=MESSAGES, max_tokens=5).usage
    with pytest.raises(openai.RateLimitError) as caught:
        client.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES, max_tokens=5)
    error = caught.value
    assert (error.code, error.type) == ("rate_limit_exceeded", "requests")
    assert f"{name}/alice on requests per min (RPM) for gpt-4o* of {name}: Limit 1, Used 1, Requested 1." in str(error)
    assert error.response.headers["x-limiter-limit"] == f"{name} requests/1m"
    assert 0 < int(error.response.headers["retry-after"]) <= 60

    assert client.chat.completions.create(model="gpt-4", messages=MESSAGES, max_tokens=5).usage
    with pytest.raises(openai.RateLimitError) as caught:
        client.chat.completions.create(model="gpt-4", messages=MESSAGES, max_tokens=5, stream=True)
    error = caught.value
    assert f"requests per 1d of {name}: Limit 2, Used 2, Requested 1. Please try again in 2" in str(error)
    assert DAY - 10 * MINUTE < int(error.response.headers["retry-after-ms"]) <= DAY + DAY // 600

    with pytest.raises(openai.RateLimitError, match=r"Request too large for .* on tokens per 1d") as caught:
        client.chat.completions.create(model="gpt-4", messages=MESSAGES, max_tokens=1_000)
    assert caught.value.type == "tokens"
    assert caught.value.response.headers["x-should-retry"] == "false"


def test_models_are_listed_and_cost_nothing(no_retry: tuple[str, OpenAI]) -> None:
    _, client = no_retry
    for _ in range(5):
        assert "gpt-4o" in {each.id for each in client.models.list()}
    assert client.models.retrieve("gpt-4o").id == "gpt-4o"
    assert client.chat.completions.create(model="gpt-4o", messages=MESSAGES, max_tokens=5).usage


@pytest.mark.parametrize(
    ("limit", "exceeded"),
    [(Limit(REQUESTS, 2), "requests"), (Limit(OUTPUT_TOKENS, 40), "output_tokens"), (Limit(TOKENS, 58), "tokens")],
)
def test_the_sdk_waits_as_long_as_it_is_told_and_succeeds(fleet: Fleet, limit: Limit, exceeded: str) -> None:
    _, api_key = new_account(fleet, PolicyWindow(SECOND, (), (limit,)), PolicyWindow(DAY, (), (Limit(REQUESTS, 100),)))
    with client_of(fleet, api_key, max_retries=2) as client:
        seen: list[Any] = []
        client._client.event_hooks["response"] = [seen.append]
        started = time.monotonic()
        for _ in range(4):
            client.chat.completions.create(model="gpt-4o", messages=MESSAGES, max_tokens=20)
        assert time.monotonic() - started > 0.9
    rejected = [each for each in seen if each.status_code == 429]
    assert rejected
    assert {each.headers["x-limiter-exceeded"] for each in rejected} == {exceeded}
    assert len(seen) == 4 + len(rejected)


class Conversation:
    """Turns of an agent, each longer than the one before, streamed; `total` is what the answers said they cost."""

    def __init__(self) -> None:
        self.messages, self.total = list(MESSAGES), 0

    async def go_on(self, client: AsyncOpenAI) -> None:
        """Take turns until an error."""
        while True:
            stream = await client.chat.completions.create(
                model="gpt-4o",
                messages=self.messages,
                max_tokens=30,
                stream=True,
                stream_options={"include_usage": True},
            )
            text = ""
            async for chunk in stream:
                text += chunk.choices[0].delta.content or "" if chunk.choices else ""
                if chunk.usage is not None:
                    self.total += chunk.usage.total_tokens
            self.messages += [{"role": "assistant", "content": text}, {"role": "user", "content": "go on"}]


async def test_an_agent_goes_on_until_its_accounts_day_is_used_up(fleet: Fleet) -> None:
    name, api_key = new_account(fleet, PolicyWindow(DAY, (), (Limit(TOKENS, 400),)))
    conversation = Conversation()
    async with AsyncOpenAI(base_url=f"{fleet.nodes[1]}/v1", api_key=api_key, max_retries=0) as client:
        with pytest.raises(openai.RateLimitError) as caught:
            await conversation.go_on(client)
    assert 300 < conversation.total <= 400
    assert len(conversation.messages) > 5
    assert f"tokens per 1d of {name}: Limit 400, Used {conversation.total}, Requested " in str(caught.value)
