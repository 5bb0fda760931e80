"""Counting that would hold up the node: in slices, other requests between them, or in a process of its own.

Counting holds the interpreter, so a thread would not help. A text is sliced where it can be cut exactly
(`limiter_node.token_slices`) and isn't very long. Nothing queues for that: what large requests do to the length of the
event loop's turns is what tells a node that it is overloaded (`limiter_node.http.overload`). To hand the same text to
another process costs as much as counting it, so that is for what can't be cut or would take many turns. That process is
started when it is first needed.

The node's side is `TokenCounting`; this module run as a program is the other side. Between them are two pipes: a frame
is four bytes of length and JSON, ``[encoding, [text, …]]`` one way and ``[count, …]`` the other, one at a time.

The process ends with its node, however that ends: its input is then at its end. Signals are left to the node. If it
dies it is started again, and what it was counting is counted again, once.

Weakness: there is one, so large requests wait for each other, and each node that meets one holds both vocabularies
twice (some 60 MB).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import struct
import sys
from collections.abc import Callable
from typing import BinaryIO

import orjson

from limiter_node import tokens
from limiter_node.model import Overloaded
from limiter_node.token_slices import slices
from limiter_node.tokens import TokenCounter

log = logging.getLogger(__name__)

INLINE_CHARS = 8_192
"""Up to here a request is counted where it is: 0.12 ms for prose, 1.4 ms for the worst text known."""
SLICED_CHARS = 65_536
"""Up to here a request is counted in slices of up to `INLINE_CHARS`."""
CHARS_PER_TURN = 16_384
"""Of slices: 0.25 ms for prose. More than one, because turns of the event loop are long where there is much to do."""

# What a text costs beside its characters.
_TEXT_CHARS = 32
_MAX_WAITING_CHARS = 32 * 1_048_576
# The worst text known takes 0.2 s per million characters, on a core of its own.
_TIMEOUT_S = 30.0
_CLOSE_S = 1.0
_LENGTH = struct.Struct("<I")


class TokenCounting:
    """Counts large requests without holding up the event loop, small ones at once. One per node."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()
        self._waiting_chars = 0
        self.counted_apart = 0

    async def count(self, model: str, total: Callable[[TokenCounter], int]) -> int:
        """What `total` makes of a counter: a sum of counts of texts and of anything that it adds by itself.

        ``await counting.count(model, lambda counter: tokens.sum_chat(messages, counter))``. `total` is called once,
        with a counter that answers from what is remembered, and 0 for the texts that are counted later.

        Raises:
            Overloaded: too much waits to be counted, or the process died of these texts twice.
        """
        encoding = tokens.encoding_name(model)
        cache = tokens.cache_of(encoding)
        missing: list[str] = []

        def known(text: str) -> int:
            found = cache.find(text)
            if found is None:
                missing.append(text)
                return 0
            return found

        sum_known = total(known)
        if not missing:
            return sum_known
        # A text that occurs twice in one request is counted once.
        texts = list(dict.fromkeys(missing))
        chars = sum(map(len, texts)) + _TEXT_CHARS * len(texts)
        if chars <= INLINE_CHARS:
            counts = [tokens.count_anew(text, encoding) for text in texts]
        elif chars <= SLICED_CHARS and (sliced := _slices(texts)) is not None:
            counts = await self._count_in_slices(encoding, sliced)
        else:
            counts = await self._count_apart(encoding, texts, chars)
        for text, count in zip(texts, counts, strict=True):
            cache.keep(text, count)
        if len(texts) == len(missing):
            return sum_known + sum(counts)
        return sum_known + sum(map(dict(zip(texts, counts, strict=True)).__getitem__, missing))

    async def close(self) -> None:
        """End the process. What waits for it fails; later counts would start another."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(_CLOSE_S):
                await process.wait()
        except TimeoutError:
            await _kill(process)

    @staticmethod
    async def _count_in_slices(encoding: str, texts: list[list[str]]) -> list[int]:
        counts, chars = [0] * len(texts), 0
        for number, sliced in enumerate(texts):
            for each in sliced:
                chars += len(each) + _TEXT_CHARS
                if chars > CHARS_PER_TURN:
                    chars = len(each) + _TEXT_CHARS
                    await asyncio.sleep(0)
                counts[number] += tokens.count_anew(each, encoding)
        return counts

    async def _count_apart(self, encoding: str, texts: list[str], chars: int) -> list[int]:
        # Whatever its size, one request always may.
        if self._waiting_chars and self._waiting_chars + chars > _MAX_WAITING_CHARS:
            raise Overloaded("too many large requests wait for their tokens to be counted")
        self._waiting_chars += chars
        try:
            async with self._turn:
                frame = _frame(encoding, texts)
                for is_last in (False, True):
                    try:
                        counts = await self._exchange(frame)
                    except (OSError, EOFError, TimeoutError) as error:
                        log.warning(
                            "the process that counts tokens has failed (%s)",
                            type(error).__name__,
                            extra={"event": "token_process_failed"},
                        )
                        if is_last:
                            raise Overloaded("the tokens of this request could not be counted") from None
                    else:
                        self.counted_apart += 1
                        return counts
        finally:
            self._waiting_chars -= chars
        raise AssertionError("unreachable")

    async def _exchange(self, frame: bytes) -> list[int]:
        process = self._process
        if process is None or process.returncode is not None:
            process = self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "limiter_node.token_process",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                process.stdin.write(frame)
                await process.stdin.drain()
                (length,) = _LENGTH.unpack(await process.stdout.readexactly(_LENGTH.size))
                counts: list[int] = orjson.loads(await process.stdout.readexactly(length))
                return counts
        except BaseException:
            # Also when cancelled half-way: the next answer would be to this question.
            if self._process is process:
                self._process = None
            await _kill(process)
            raise


async def _kill(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.wait()


def _slices(texts: list[str]) -> list[list[str]] | None:
    """Each text in slices that can be counted at once; None if one has none."""
    most_chars = INLINE_CHARS - _TEXT_CHARS
    sliced = [list(slices(text, most_chars)) for text in texts]
    return sliced if all(len(each[-1]) <= most_chars for each in sliced) else None


def _frame(encoding: str, texts: list[str]) -> bytes:
    try:
        body = orjson.dumps([encoding, texts])
    except orjson.JSONEncodeError:  # lone surrogates
        body = orjson.dumps([encoding, [tokens.well_formed(text) for text in texts]])
    return _LENGTH.pack(len(body)) + body


def _serve(requests: BinaryIO, answers: BinaryIO) -> None:
    while len(head := requests.read(_LENGTH.size)) == _LENGTH.size:
        (length,) = _LENGTH.unpack(head)
        body = requests.read(length)
        if len(body) < length:
            return
        encoding, texts = orjson.loads(body)
        counter = tokens.counter_of(encoding)
        answer = orjson.dumps([counter(text) for text in texts])
        answers.write(_LENGTH.pack(len(answer)) + answer)
        answers.flush()


def main() -> None:
    """Count what comes in until there is no more."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    # Requests that wait for nothing but the node come first.
    os.nice(10)
    with contextlib.suppress(BrokenPipeError):
        _serve(sys.stdin.buffer, sys.stdout.buffer)
    os._exit(0)  # nothing to clean up, and nobody left to write to


if __name__ == "__main__":
    main()
