"""A run through nodes in front of a service that fails in every way, and what it must have led to: by the audit, by the
nodes' metrics and by the store's counters."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import ClientSession

from bench_client.records.record import failed_upstream
from bench_client.records.run_directory import open_records, read_info

if TYPE_CHECKING:
    from chaos.chaos_scene import Outcome, Scene
    from gateway.flaky_upstream import FlakyUpstream

NODE_OPTIONS = ("--upstream-read-timeout", "0.5")
"""A slow head comes before, or after."""
DOWN_S = 0.7
LEAVERS = 40
LEAVER_INPUT = 9
"""Tokens of `LEAVER_BODY`."""
LEAVER_BODY = b'{"model":"flaky-1","max_tokens":50,"messages":[{"role":"user","content":"Wait."}]}'
OUT_OF_REACH = 10_000_000


def write_tight_keys(path: Path, requests: int) -> Path:
    """Six keys, two for each limit, which so many requests of each reach, if a third of them succeed.

    One has 25 tokens of input, and on average 10 of output.
    """
    limits = {
        "rpm": f"rpm = {requests}",
        "input": f"rpm = {OUT_OF_REACH}\ninput_tpm = {requests * 25 // 3}",
        "output": f"rpm = {OUT_OF_REACH}\noutput_tpm = {requests * 10 // 3}",
    }
    defaults = f"[defaults]\ninput_tpm = {OUT_OF_REACH}\noutput_tpm = {OUT_OF_REACH}\n"
    sections = [
        f'[keys."sk-{name}-{number}"]\nname = "{name}-{number}"\n{limit}\n'
        for name, limit in limits.items()
        for number in range(2)
    ]
    path.write_text(defaults + "".join(sections))
    return path


async def run_and_judge(on: Scene, upstream: FlakyUpstream, *, requests: int, qps: int, seconds: float) -> Outcome:
    """Load above all limits while the service misbehaves, clients leave, and the service is killed and comes back."""
    keys = write_tight_keys(on.directory / "tight.toml", requests)
    leaving = on.directory / "leaving.toml"
    leaving.write_text(f'[keys."sk-leaving"]\nrpm = {OUT_OF_REACH}\n')
    for each in (keys, leaving):
        await on.declare(each)
    out = on.directory / "faults"
    async with on.load(keys, out, qps, seconds, "--output-tokens", "fixed:20"):
        await asyncio.sleep(seconds * 0.3)
        await leave(on)
        met = await asyncio.to_thread(upstream.counts)
        await asyncio.to_thread(upstream.kill)
        await asyncio.sleep(DOWN_S)
        await asyncio.to_thread(upstream.start)
    await asyncio.sleep(1)
    met += await asyncio.to_thread(upstream.counts)
    outcome = await on.judged(out)
    await _check(on, out, keys, leaving, outcome, met)
    return outcome


async def leave(on: Scene) -> None:
    """Clients that go while the service still thinks."""
    lines = ["POST /v1/chat/completions HTTP/1.1", "Host: n", "Authorization: Bearer sk-leaving"]
    head = "\r\n".join([*lines, f"Content-Length: {len(LEAVER_BODY)}", "", ""]).encode()

    async def leave_one(number: int) -> None:
        host, _, port = on.fleet.nodes[number % len(on.fleet.nodes)].removeprefix("http://").rpartition(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(head + LEAVER_BODY)
        await asyncio.sleep(0.1 + 0.002 * number)
        writer.transport.abort()

    await asyncio.gather(*(leave_one(number) for number in range(LEAVERS)))
    await asyncio.sleep(0.8)  # most of their answers come


async def _check(on: Scene, out: Path, keys: Path, leaving: Path, outcome: Outcome, met: Counter[str]) -> None:
    from gateway.flaky_upstream import KINDS, UNCOUNTED_INPUT

    info = read_info(out)
    records = list(open_records(out, info))
    report = json.loads((out / "audit.json").read_text())
    assert outcome.proved, outcome.audit
    assert not any(record.error for record in records), outcome
    assert report["unknown_outcomes"] == 0, outcome.audit

    # It really was that bad, and all three limits were reached.
    assert all(met[kind] > 0 for kind in KINDS), met
    failed = [record for record in records if failed_upstream(record)]
    seen = Counter((record.status, record.upstream_status) for record in failed)
    assert set(seen) == {(429, 429), (502, 500), (503, 503), (502, None), (504, None)}, seen
    assert f"{report['failed_upstream']:,} admitted requests failed at the upstream" in outcome.audit
    rejected = Counter(record.exceeded for record in records if record.exceeded)
    assert set(rejected) == {"requests", "input_tokens", "output_tokens"}, rejected
    assert outcome.admitted + len(failed) + rejected.total() == len(records)

    # The nodes gave back what failed, and nothing else: also of those who had left, whose answers were read on.
    failed_of_leavers = await _refunded(on) - len(failed)
    assert 0 <= failed_of_leavers < LEAVERS

    # What is in the windows is what succeeded, and a request for each that failed.
    for usage in await on.usages(keys):
        ours = [record for record in records if info.key_names[record.key] == usage.name]
        good = [record for record in ours if record.status == 200]
        inputs = sum(max(r.prompt_tokens or 0, r.told_input or 0) for r in good)
        tokens = (inputs, sum(r.completion_tokens or 0 for r in good))
        assert tuple(usage.used) == (len(good) + sum(map(failed_upstream, ours)), *tokens), usage.name
    (left,) = await on.usages(leaving)
    requests, input_tokens, output_tokens = left.used
    answered = LEAVERS - failed_of_leavers
    assert (requests, input_tokens) == (LEAVERS, answered * (LEAVER_INPUT + UNCOUNTED_INPUT))
    assert output_tokens >= answered, "what the service told for them"


async def _refunded(on: Scene) -> int:
    total = 0.0
    async with ClientSession() as session:
        for node in on.fleet.nodes:
            async with session.get(f"{node}/metrics") as response:
                for line in (await response.text()).splitlines():
                    if line.startswith('limiter_settles_total{kind="refunded"}'):
                        total += float(line.split()[-1])
    return round(total)
