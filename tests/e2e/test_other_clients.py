"""Clients beside openai-python, with keys of accounts: OpenAI's for Node.js, Vercel's AI SDK, LangChain, LiteLLM.

Each runs one script of `clients/` in a process of its own, which asks for everything and prints what it saw; the
scripts' results have one form, and one test judges them all.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.request import urlopen

import pytest
from accounts_in_store import put_account
from fleet import Fleet
from openai import OpenAI, RateLimitError
from other_clients import clients_python, node_package, node_program
from store_tools import new_api_key

from limiter_node.credentials import key_id
from limiter_node.policy import REQUESTS, TOKENS, AccountPolicy, KeyPolicy, Limit, PolicyWindow, Subject

SCRIPTS = Path(__file__).parent / "clients"
SECOND, MINUTE, DAY = 1_000, 60_000, 86_400_000
WINDOWS = {
    "roomy": (PolicyWindow(MINUTE, (), (Limit(REQUESTS, 100),)), PolicyWindow(DAY, (), (Limit(REQUESTS, 100),))),
    "second": (PolicyWindow(SECOND, (), (Limit(REQUESTS, 2),)), PolicyWindow(DAY, (), (Limit(REQUESTS, 100),))),
    "day": (PolicyWindow(DAY, (), (Limit(REQUESTS, 1),)),),
    "never": (PolicyWindow(DAY, (), (Limit(TOKENS, 1_000),)),),
}
"""An account for each purpose, with one key, alice."""
TEXT = "Before all always open round they answer. Also of right under then be, stop"
"""The beginning of all answers of the mock."""


class Client(NamedTuple):
    """A client and how it differs from the others. `command` skips the test if the client isn't installed."""

    command: Callable[[], Sequence[str]]
    error: str
    """The class of its error."""
    never_attempts: int = 1
    """How often it asks if it is told that a request can never fit, and may retry."""
    waits_a_day: bool = False
    """Whether it waits as long as it is told, however long that is."""
    has_code: bool = True
    """Whether its error has the error's code."""


def _node(script: str, package: str) -> Callable[[], Sequence[str]]:
    def command() -> Sequence[str]:
        modules = node_package(package).parents[package.count("/")]
        return node_program(), str(SCRIPTS / script), str(modules)

    return command


def _python(script: str, package: str) -> Callable[[], Sequence[str]]:
    return lambda: (str(clients_python(package)), str(SCRIPTS / script))


CLIENTS = {
    "openai-node": Client(_node("ask_openai.mjs", "openai"), "RateLimitError", waits_a_day=True),
    # It ignores x-should-retry, and is allowed one retry.
    "vercel": Client(_node("ask_ai_sdk.mjs", "@ai-sdk/openai"), "AI_APICallError", never_attempts=2),
    "langchain": Client(_python("ask_langchain.py", "langchain_openai"), "RateLimitError"),
    "litellm": Client(_python("ask_litellm.py", "litellm"), "RateLimitError", has_code=False),
}


def new_keys(fleet: Fleet) -> tuple[dict[str, str], dict[str, str]]:
    """The names of fresh accounts, and their keys, by purpose; the day of one is used up."""
    names, keys = {}, {}
    for purpose, windows in WINDOWS.items():
        keys[purpose] = new_api_key()
        names[purpose] = keys[purpose].removeprefix("sk-")
        key = KeyPolicy(key_id(keys[purpose]), "alice")
        put_account(fleet.store, AccountPolicy(names[purpose], (Subject("", windows),)), [key])
    with OpenAI(base_url=f"{fleet.nodes[0]}/v1", api_key=keys["day"], max_retries=0) as client:
        client.embeddings.create(model="text-embedding-3-small", input="x")
        with pytest.raises(RateLimitError):
            client.embeddings.create(model="text-embedding-3-small", input="x")
    return names, keys


def never_fits(fleet: Fleet) -> int:
    """How many requests the node has told that they can never fit."""
    with urlopen(f"{fleet.nodes[0]}/metrics", timeout=10) as response:
        text = response.read().decode()
    return sum(int(count) for count in re.findall(r'limiter_decisions_total\{.*"never_fits".*\} (\d+)', text))


def run(command: Sequence[str], fleet: Fleet, keys: Mapping[str, str]) -> dict[str, Any]:
    """What the client saw. Settings of the machine's own clients stay out, and nothing but the node is asked."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OPENAI_", "LANG", "LITELLM_", "AI_", "PYTHON")) and not name.lower().endswith("_proxy")
    }
    done = subprocess.run(
        [*command, f"{fleet.nodes[0]}/v1", json.dumps(keys)],
        env={**kept, "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("client", CLIENTS.values(), ids=list(CLIENTS))
def test_a_client_with_keys_of_accounts(fleet: Fleet, client: Client) -> None:
    command = client.command()
    names, keys = new_keys(fleet)
    before = never_fits(fleet)
    found = run(command, fleet, keys)

    assert found["chat"]["tokens"] == 5
    assert TEXT.startswith(found["chat"]["text"])
    assert found["stream"]["tokens"] == 7
    assert TEXT.startswith(found["stream"]["text"])
    assert found["stream"]["text"].startswith(found["chat"]["text"])
    assert found["stream"]["pieces"] >= 1
    assert found["responses"] == TEXT

    # The account has a limit of requests per minute, and none of tokens.
    about_limits = {name for name in found["headers"] if name.startswith(("x-ratelimit", "ratelimit"))}
    of_requests = {f"x-ratelimit-{what}-requests" for what in ("limit", "remaining", "reset")}
    assert about_limits == of_requests | {"ratelimit", "ratelimit-policy"}

    # Two requests a second, three asked for: it waits as long as it is told.
    assert 900 < found["waited_ms"] < 20_000

    for failure in (found["day"], found["day_streamed"]):
        assert (failure["name"], failure["status"], failure["type"]) == (client.error, 429, "requests")
        assert failure["limit"] == f"{names['day']} requests/1d"
        assert f"requests per 1d of {names['day']}: Limit 1, Used 1, Requested 1. Please try" in failure["message"]
        assert DAY - MINUTE < int(failure["retry_after_ms"]) <= DAY + DAY // 600
    if "day_retried" in found:
        assert (found["day_retried"] == "waits") is client.waits_a_day
    never = found["never"]
    assert (never["name"], never["status"], never["type"]) == (client.error, 429, "tokens")
    assert f"Request too large for {names['never']}/alice on tokens per 1d" in never["message"]
    assert never["retry_after_ms"] is None
    if client.has_code:
        assert {each["code"] for each in (found["day"], found["day_streamed"], never)} == {"rate_limit_exceeded"}
    assert never_fits(fleet) - before == client.never_attempts
