"""Large requests are counted exactly, apart from the event loop, whatever happens to the process that does it."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from collections.abc import AsyncIterator
from functools import cache

import pytest

from limiter_node import second_process as worker_process
from limiter_node.errors import Overloaded
from limiter_node.second_process import SecondProcess
from limiter_node.tokens import vocabulary
from limiter_node.tokens.process import CHARS_PER_TURN, INLINE_CHARS, SLICED_CHARS, TokenCounting

MODELS = ("gpt-4o", "gpt-4")


def noise(length: int, seed: int) -> str:
    """The text that takes the longest known to count, among ASCII; without spaces, so that it can't be sliced."""
    return "".join(map(chr, random.Random(seed).choices(range(33, 127), k=length)))


@cache
def prose(length: int, seed: int) -> str:
    """A text that can be sliced."""
    rng = random.Random(seed)
    words = " ".join(
        "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randrange(2, 9))) for _ in range(length // 4)
    )
    return words[:length]


def exact(text: str, model: str) -> int:
    return vocabulary.counter_of(vocabulary.encoding_name(model))(vocabulary.well_formed(text))


async def count(counting: TokenCounting, *texts: str, model: str = "gpt-4o") -> int:
    return await counting.count(model, lambda counter: sum(map(counter, texts)))


@pytest.fixture
async def counting() -> AsyncIterator[TokenCounting]:
    running = TokenCounting(SecondProcess("limiter_node.http.requests.reader_process"))
    yield running
    await running._worker.close()


def process_of(counting: TokenCounting) -> asyncio.subprocess.Process:
    process = counting._worker._process
    assert process is not None
    return process


@pytest.mark.parametrize("model", MODELS)
async def test_counts_are_exact_in_both_vocabularies(counting: TokenCounting, model: str) -> None:
    texts = [
        noise(20_000, 1),
        "日本語のテキスト" * 3_000,
        "<|endoftext|>" * 2_000,
        "a" * 50_000,
        "\ud800x" * 10_000,
        "short",
        "",
        "short",
    ]
    assert await count(counting, *texts, model=model) == sum(exact(text, model) for text in texts)
    assert counting._worker.answered == 1


async def test_a_small_request_needs_no_process(counting: TokenCounting) -> None:
    text = noise(INLINE_CHARS - 100, 2)
    assert await count(counting, text) == exact(text, "gpt-4o")
    assert counting._worker._process is None


class Turns:
    """Counts the turns of the event loop while something else goes on."""

    def __init__(self) -> None:
        self.count, self._going = 0, True

    def __enter__(self) -> Turns:
        asyncio.get_running_loop().call_soon(self._turn)
        return self

    def __exit__(self, *_: object) -> None:
        self._going = False

    def _turn(self) -> None:
        if self._going:
            self.count += 1
            asyncio.get_running_loop().call_soon(self._turn)


async def test_many_small_texts_are_a_large_request(counting: TokenCounting) -> None:
    texts = [str(i) for i in range(1_000)]
    with Turns() as turns:
        assert await count(counting, *texts) == sum(exact(text, "gpt-4o") for text in texts)
    assert turns.count >= 1_000 * 32 // CHARS_PER_TURN, "the cost of a text beside its characters is counted, too"
    assert counting._worker._process is None


@pytest.mark.parametrize("model", MODELS)
async def test_prose_is_counted_in_slices(counting: TokenCounting, model: str) -> None:
    texts = [prose(30_000, 3), prose(20_000, 4) + "\ud800", "short"]
    with Turns() as turns:
        assert await count(counting, *texts, model=model) == sum(exact(text, model) for text in texts)
    assert turns.count >= 50_000 // CHARS_PER_TURN
    assert counting._worker._process is None
    with Turns() as turns:
        assert await count(counting, *texts, model=model) == sum(exact(text, model) for text in texts)
    assert turns.count == 0, "it is remembered"


async def test_very_long_prose_is_counted_apart(counting: TokenCounting) -> None:
    text = prose(SLICED_CHARS + 1, 9)
    assert await count(counting, text) == exact(text, "gpt-4o")
    assert counting._worker.answered == 1


async def test_what_was_counted_is_remembered(counting: TokenCounting) -> None:
    history = [noise(30_000, seed) for seed in range(10, 14)]
    first = await count(counting, *history)
    assert await count(counting, *history, "And now?") == first + exact("And now?", "gpt-4o")
    assert counting._worker.answered == 1


async def test_the_loop_turns_while_a_text_is_counted_apart(counting: TokenCounting) -> None:
    """By turns, not by time: where the machine is slow, counting and the loop are slow together."""
    await count(counting, noise(INLINE_CHARS, 31))  # the process runs: what follows is counting only
    with Turns() as turns:
        assert await count(counting, noise(1_000_000, 30)) > 400_000
    assert turns.count >= 10


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
async def test_a_process_that_dies_is_started_again(counting: TokenCounting, number: int) -> None:
    await count(counting, noise(INLINE_CHARS, 400 + number))
    process_of(counting).send_signal(number)
    text = noise(20_000, 41 + number)
    assert await count(counting, text) == exact(text, "gpt-4o")
    assert counting._worker.answered == 2


async def test_a_process_that_dies_at_work_is_asked_again(counting: TokenCounting) -> None:
    await count(counting, noise(INLINE_CHARS, 50))
    first = process_of(counting)
    os.kill(first.pid, signal.SIGSTOP)  # it won't answer
    text = noise(20_000, 51)
    waiting = asyncio.create_task(count(counting, text))
    await asyncio.sleep(0)
    first.kill()
    assert await waiting == exact(text, "gpt-4o")
    assert process_of(counting) is not first


async def test_a_process_that_hangs_is_replaced_and_then_given_up(
    counting: TokenCounting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_process, "_TIMEOUT_S", 0.0)
    with pytest.raises(Overloaded):
        await count(counting, noise(20_000, 60))
    monkeypatch.undo()
    text = noise(20_000, 61)
    assert await count(counting, text) == exact(text, "gpt-4o")


async def test_a_count_that_is_cancelled_leaves_no_answer_for_the_next(counting: TokenCounting) -> None:
    waiting = asyncio.create_task(count(counting, noise(100_000, 70)))
    while counting._worker._process is None:
        await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    text = noise(20_000, 71)
    assert await count(counting, text) == exact(text, "gpt-4o")


async def test_what_waits_is_bounded(counting: TokenCounting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_process, "_MAX_WAITING_BYTES", 100_000)
    texts = [noise(45_000, seed) for seed in range(80, 84)]
    results = await asyncio.gather(*(count(counting, text) for text in texts), return_exceptions=True)
    assert [isinstance(result, Overloaded) for result in results] == [False, False, True, True]
    large = noise(150_000, 84)
    assert await count(counting, large) == exact(large, "gpt-4o"), "one request may be of any size"


async def test_the_process_leaves_signals_to_the_node_and_ends_with_it(counting: TokenCounting) -> None:
    await count(counting, noise(INLINE_CHARS, 90))
    process = process_of(counting)
    process.send_signal(signal.SIGINT)
    process.terminate()
    text = noise(20_000, 91)
    assert await count(counting, text) == exact(text, "gpt-4o")
    assert process_of(counting) is process
    await counting._worker.close()
    assert process.returncode == 0
    await counting._worker.close()


A_NODE = """
import asyncio
from limiter_node.tokens.process import INLINE_CHARS, TokenCounting
from limiter_node.second_process import SecondProcess

async def main():
    counting = TokenCounting(SecondProcess("limiter_node.http.requests.reader_process"))
    await counting.count("gpt-4o", lambda counter: counter("x" * 2 * INLINE_CHARS))
    print("counted", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_the_process_ends_with_a_node_that_is_killed() -> None:
    node = await asyncio.create_subprocess_exec(
        sys.executable, "-c", A_NODE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    assert node.stdout is not None
    assert node.stderr is not None
    assert await node.stdout.readline() == b"counted\n"
    node.kill()
    # Both write there: it ends when the last of them has.
    assert await node.stderr.read() == b""
    await node.wait()
