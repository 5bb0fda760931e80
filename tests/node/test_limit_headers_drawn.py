"""The headers about limits of trees drawn at random, over HTTP: always what ``GET /v1/rate_limits`` tells."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
from in_process import Node, serving
from limit_headers import assert_told
from own_commands import output_of

from limiter_node.upstream.source import Delta

UNITS = ("requests", "input_tokens", "output_tokens", "tokens")
FLAT_UNITS = ("requests", "output_tokens", "tokens")
"""Without the unit that every flat key has a limit of, so that no two are on one window."""
LENGTHS = ("60s", "1m", "90s", "1h", "1d", "31d")
"""None of which passes while a test runs."""
AMOUNTS = (0, 1, 2, 5, 9, 20, 60, 200, 10**6, 999_999_999_999_999)
PATTERNS = (None, None, '["o3*"]', '["O3-mini", "gpt*"]')
NAMES = ("a, b", 'ü"x"', " y ", "%41", "same", "same")
KEYS, REQUESTS = 24, 5


def drawn_limits(draw: Random, units: Sequence[str] = UNITS) -> str:
    """A line with up to six limits, of which no two have unit and window in common."""
    found: dict[tuple[str, str, str | None], str] = {}
    for _ in range(draw.randint(0, 6)):
        unit, per, models = draw.choice(units), draw.choice(LENGTHS), draw.choice(PATTERNS)
        fields = [f'{unit} = {draw.choice(AMOUNTS)}, per = "{per}"']
        fields += [f"models = {models}"] if models else []
        fields += ['mode = "audit"'] if draw.random() < 0.3 else []
        fields += [f"name = '{draw.choice(NAMES)}'"] if draw.random() < 0.3 else []
        found[unit, per.replace("60s", "1m"), models] = f"{{ {', '.join(fields)} }}"
    return f"limits = [{', '.join(found.values())}]\n"


def drawn_file(draw: Random, seed: int) -> tuple[str, list[tuple[str, bool]]]:
    """A keys file, and its secrets; whether each is of a flat key."""
    text = '[defaults]\nrpm = "none"\ninput_tpm = "none"\noutput_tpm = "none"\n'
    secrets = []
    for number in range(KEYS // 2):
        account, team = f"drawn{seed}-{number}", draw.choice(("t", "t/u"))
        show = 'show = "own"\n' if draw.random() < 0.3 else ""
        text += f"[accounts.{account}]\n{show}{drawn_limits(draw)}"
        text += f"[accounts.{account}.teams.t]\n{drawn_limits(draw)}"
        text += f'[accounts.{account}.teams."t/u"]\n{drawn_limits(draw)}'
        text += f'[keys.sk-{account}]\nname = "k"\naccount = "{account}"\nteam = "{team}"\n{drawn_limits(draw)}'
        name = f"{draw.choice(NAMES)}{seed}/{number}"
        text += f"[keys.sk-flat-{account}]\nname = '{name}'\ninput_tpm = {draw.choice((3, 50, 100))}\n"
        text += drawn_limits(draw, FLAT_UNITS)
        secrets += [(f"sk-{account}", False), (f"sk-flat-{account}", True)]
    return text, secrets


async def one_token() -> AsyncGenerator[Sequence[Delta], None]:
    yield [Delta(0, "Hello", 1, "length")]


async def ask_and_compare(node: Node, draw: Random, secret: str, *, is_flat: bool) -> int:
    """Ask once, with a cap that the answer reaches unless it is rejected; the status."""
    model, authorization = draw.choice(("o3-mini", "gpt-4o", "other")), {"Authorization": f"Bearer {secret}"}
    chat: dict[str, Any] = {"model": model, "max_tokens": 1, "messages": [{"role": "user", "content": "Hi"}]}
    chat["stream"] = draw.random() < 0.5
    url = f"{node.url}/v1/chat/completions"
    async with node.session.post(url, json=chat, headers=authorization) as response:
        await response.read()
        status, headers = response.status, response.headers
    assert await node.dispatcher.drain(20)
    async with node.session.get(f"{node.url}/v1/rate_limits?model={model}", headers=authorization) as response:
        told = await response.json()
    is_plain = is_flat and all(each["counting_since"] is None for each in told["limits_on_path"])
    need = {"requests": 1, "input_tokens": int(headers["x-limiter-input-tokens"]), "output_tokens": 1}
    need["tokens"] = need["input_tokens"] + need["output_tokens"]
    assert_told(headers, told, need=need, is_flat=is_flat, is_plain=is_plain)
    return status


@pytest.mark.parametrize("seed", range(3))
async def test_headers_and_rate_limits_tell_the_same(embedded_single: str, tmp_path: Path, seed: int) -> None:
    draw, file = Random(seed), tmp_path / "keys.toml"
    text, secrets = drawn_file(draw, seed)
    file.write_text(text)
    await asyncio.to_thread(output_of, "limiter-node", "keys", "load", str(file), "--store", embedded_single)
    async with serving(embedded_single) as node:
        node.upstream.deltas = one_token
        statuses = [
            await ask_and_compare(node, draw, secret, is_flat=is_flat)
            for secret, is_flat in secrets
            for _ in range(REQUESTS)
        ]
    assert set(statuses) == {200, 429}
