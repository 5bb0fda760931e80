"""Clients with a wrong key and 10 MB to send: they read that the key is wrong, and not that a connection was reset."""

from __future__ import annotations

import asyncio
import json
from asyncio.subprocess import PIPE
from pathlib import Path

import openai
import pytest
from fleet import Fleet
from openai import AsyncOpenAI, OpenAI
from other_clients import node_package, node_program

CHARS = 10_000_000
_SCRIPT = """
const OpenAI = require(process.argv[1]);
const client = new OpenAI({baseURL: process.argv[2], apiKey: "sk-wrong", maxRetries: 0});
const content = "x".repeat(Number(process.argv[3]));
client.chat.completions.create({model: "gpt-4o", messages: [{role: "user", content}]}).then(
  () => console.log(JSON.stringify("answered")),
  (error) => console.log(JSON.stringify([error.constructor.name, error.status ?? null, error.code ?? null])),
);
"""


@pytest.mark.parametrize("chars", [10, 100_000, CHARS])
def test_openai_python(fleet: Fleet, chars: int) -> None:
    with (
        OpenAI(base_url=f"{fleet.nodes[0]}/v1", api_key="sk-wrong", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError) as error,
    ):
        client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "x" * chars}])
    assert error.value.code == "invalid_api_key"


async def test_openai_python_without_threads(fleet: Fleet) -> None:
    async def ask(client: AsyncOpenAI) -> str | None:
        with pytest.raises(openai.AuthenticationError) as error:
            await client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "x" * CHARS}])
        return error.value.code

    async with AsyncOpenAI(base_url=f"{fleet.nodes[0]}/v1", api_key="sk-wrong", max_retries=0) as client:
        assert await asyncio.gather(*(ask(client) for _ in range(3))) == ["invalid_api_key"] * 3


@pytest.mark.parametrize("chars", [10, 100_000, CHARS])
async def test_openai_node(fleet: Fleet, chars: int) -> None:
    package: Path = node_package("openai")
    program, arguments = node_program(), ("-e", _SCRIPT, str(package), f"{fleet.nodes[0]}/v1", str(chars))
    process = await asyncio.create_subprocess_exec(program, *arguments, stdout=PIPE, stderr=PIPE)
    try:
        async with asyncio.timeout(60):
            output, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert output, errors.decode()
    assert json.loads(output) == ["AuthenticationError", 401, "invalid_api_key"]
