"""The rate of one node on one core for long prompts, beside short ones: the cost of counting tokens.

Prompts are as long as in real conversations (`azure_sizes`) and of words that are a token each. Cold: no text has been
seen before. Growing: conversations are sent again with each turn added, so that all but the newest two messages have
been counted; a conversation ends at a size drawn from the same sizes, each of its turns adds an answer and a question.
The node has one core for all it does, the process that counts large prompts included.

    python -m benchmarks.long_prompts [--rounds N] [--seconds S] [--json FILE]
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from itertools import zip_longest
from pathlib import Path
from random import Random
from statistics import mean

from benchmarks.lib.azure_sizes import ANSWER_TOKENS, PROMPT_TOKENS, draw
from benchmarks.lib.loads import CONNECTIONS, Load, render, saturate, write_requests, write_short_requests
from benchmarks.lib.measuring import Row, interleaved, parser, ratios, row, show
from benchmarks.lib.prompt_texts import text_of
from benchmarks.lib.servers import running_node, unlimited_keys

SHORT, COLD, GROWING = "short prompts", "long prompts, cold", "growing conversations"
SEED = 1
COLD_PROMPTS = 2_000
CONVERSATIONS = 10 * CONNECTIONS
QUESTION_TOKENS = 60

Messages = list[dict[str, str]]


def cold_prompts(rng: Random) -> Iterator[Messages]:
    """Yield chats of one message."""
    for _ in range(COLD_PROMPTS):
        yield [{"role": "user", "content": text_of(draw(PROMPT_TOKENS, rng), rng)}]


def conversation(rng: Random) -> Iterator[Messages]:
    """Yield the requests of one conversation: each is the one before, its answer and the next question."""
    left = draw(PROMPT_TOKENS, rng)
    messages: Messages = []
    while left > 0 or not messages:
        if messages:
            answer = draw(ANSWER_TOKENS, rng)
            messages.append({"role": "assistant", "content": text_of(answer, rng)})
            left -= answer
        messages.append({"role": "user", "content": text_of(QUESTION_TOKENS, rng)})
        left -= QUESTION_TOKENS
        yield list(messages)


def growing_conversations(rng: Random) -> Iterator[Messages]:
    """Yield as many conversations at once as there are connections, a turn of each before the next turn of any."""
    for _ in range(0, CONVERSATIONS, CONNECTIONS):
        for turns in zip_longest(*(conversation(rng) for _ in range(CONNECTIONS))):
            yield from (turn for turn in turns if turn)


def measure(rounds: int, seconds: float) -> list[Row]:
    """Return all rows of this benchmark."""
    rng = Random(SEED)
    prompts = {COLD: list(cold_prompts(rng)), GROWING: list(growing_conversations(rng))}
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        keys = unlimited_keys(directory / "keys.toml")
        requests = {SHORT: write_short_requests(directory / SHORT, keys)}
        for name, chats in prompts.items():
            requests[name] = write_requests(
                directory / name, (render(keys[n % len(keys)], messages=chat) for n, chat in enumerate(chats))
            )
        with running_node(directory / "keys.toml") as node:
            loads = interleaved(rounds, [partial(saturate, node, path, seconds) for path in requests.values()])
    words = {
        name: mean(sum(len(m["content"].split()) for m in chat) for chat in chats) for name, chats in prompts.items()
    }
    return rows_of(dict(zip(requests, loads, strict=True)), words)


def rows_of(loads: dict[str, list[Load]], words: dict[str, float]) -> list[Row]:
    """Return rates beside those of short prompts, then each load's figures."""
    per_second = {name: [load.per_second for load in each] for name, each in loads.items()}
    rows = [
        row(f"{name} ÷ {SHORT}", "ratio", ratios(per_second[name], per_second[SHORT]), at_least=aim)
        for name, aim in ((COLD, 0.45), (GROWING, 0.8))
    ]
    for name, each in loads.items():
        rows += [
            row(f"{name}: requests/s", "1/s", per_second[name]),
            row("… CPU of the node per request, without its counting process", "µs", [load.server_us for load in each]),
        ]
        if name in words:
            rows.append(row("… words per prompt", "", [words[name]]))
    return rows


def main() -> None:
    """Measure with the options given, and print the rows."""
    options = parser(__doc__, rounds=5, seconds=3).parse_args()
    rows = measure(options.rounds, options.seconds)
    show("Long prompts on one node", rows, json_path=options.json)


if __name__ == "__main__":
    main()
