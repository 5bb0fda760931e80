"""The CPU of each stage of a request in a node, in µs: the stages alone, in one process, without sockets.

A short chat request goes through the node's own functions, one stage at a time. The minimum over many repetitions is
the figure that counts, since what disturbs a measurement only ever makes it longer. What a node's CPU per request has
beyond their sum is aiohttp, the event loop and the system's calls: see `benchmarks.node_ratios`.

    python -m benchmarks.stages [--rounds N] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import timeit
from collections.abc import Callable, Coroutine
from typing import Any

from redis import Redis

from benchmarks.lib.measuring import Row, show
from limiter_node.credentials import bearer_key, key_id
from limiter_node.decisions import Decision, Outcome
from limiter_node.http.requests.chat import need_of_chat, parse_chat
from limiter_node.http.responses.headers import RequestIds, ResponseHeaders
from limiter_node.http.responses.whole_response import WholeResponse
from limiter_node.limits import WINDOW_BUCKETS, Amounts, KeyLimits
from limiter_node.store import codec
from limiter_node.store.embedded.stores import EmbeddedStore
from limiter_node.store.scripts import load_script
from limiter_node.store.values import pack_limits
from limiter_node.tokens import vocabulary
from limiter_node.upstream.mock.model import MockModel
from limiter_node.upstream.openai.chat import chat_completion

NUMBER = 2_000

PROMPT = "Write a short story about number 17 and a friendly dog, please, in the style of a poet."
BODY = json.dumps({"model": "gpt-4o", "max_tokens": 128, "messages": [{"role": "user", "content": PROMPT}]}).encode()
DECISION = Decision(
    Outcome.ADMITTED,
    -1,
    0,
    Amounts(600, 100_000, 50_000),
    Amounts(13, 28_039, 4_711),
    Amounts(60_050, 60_050, 60_050),
    Amounts(1, 25, 128),
    1_763_916_000_123,
    "",
)


def _finished(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Return the result of a coroutine that waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise RuntimeError("it waits")


def stages(reply: bytes) -> dict[str, Callable[[], object]]:
    """Return the stages in the order of a request. `reply` is a store's answer to a batch of one admit."""
    headers, ids = ResponseHeaders("node-1"), RequestIds()
    upstream = MockModel(latency_ms=0, length="lognormal:128:0.7", seed=0)
    request = parse_chat(BODY)
    need = need_of_chat(request)
    completion = _finished(upstream.chat(request, 128, "req_1"))
    request_id = ids.next()
    block, body = headers.decided(DECISION, request_id), chat_completion(request, completion, request_id, 1)
    return {
        "the key: read and digested": lambda: key_id(bearer_key("Bearer sk-0123456789abcdef0123456789abcdef") or ""),
        "the body: parsed, checked, tokens counted": lambda: need_of_chat(parse_chat(BODY)),
        "the batch: packed": lambda: codec.pack_batch(1, [codec.pack_admit(*need[:3])], resent=False),
        "the verdict: unpacked": lambda: codec.unpack_decisions(reply, 1, [need], WINDOW_BUCKETS),
        "the mock's answer": lambda: _finished(upstream.chat(request, 128, "req_1")),
        "the answer's body": lambda: chat_completion(request, completion, request_id, 1),
        "the answer's headers": lambda: headers.decided(DECISION, ids.next()),
        "the answer: made": lambda: WholeResponse(body, block),
    }


async def _a_reply() -> bytes:
    """Return what the script answers, from a store of its own."""
    async with EmbeddedStore("single") as store:
        client = Redis(port=store.servers[0].port)
        client.set("l", pack_limits(KeyLimits(600, 100_000, 50_000)))
        for number in (1, 2):  # to the first batch of a node the store says what the key is called, too
            batch = codec.pack_batch(number, [codec.pack_admit(25, 128, 0)], resent=False)
            reply: bytes = client.eval(load_script("decide").source.decode(), 3, "l", "w", "n", "node", batch)
        client.close()
    return reply


def measure(rounds: int) -> list[Row]:
    """Return a row per stage, and one for their sum."""
    vocabulary.warm()
    rows = []
    for name, stage in stages(asyncio.run(_a_reply())).items():
        times = [each / NUMBER * 1e6 for each in timeit.repeat(stage, number=NUMBER, repeat=rounds)]
        rows.append(Row(name, "µs", statistics.median(times), min(times), max(times), rounds=times))
    total = [sum(each.rounds[i] for each in rows) for i in range(rounds)]
    return [
        *rows,
        Row("together", "µs", statistics.median(total), sum(each.low for each in rows), max(total), rounds=total),
    ]


def main() -> None:
    """Measure with the options given, and print the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40, help=f"of {NUMBER} calls of each stage (%(default)s)")
    parser.add_argument("--json", help="file to write the rows to as well")
    options = parser.parse_args()
    show("The stages of a request", measure(options.rounds), json_path=options.json)


if __name__ == "__main__":
    main()
