"""The mock's streams: a whole completion, cut into pieces that come in a real service's rhythm.

Time is kept from the start, not from piece to piece, so a stream holds its rate over its length: a wake-up that comes
late brings all that is due by then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from limiter_node.upstream.mock.text import pieces
from limiter_node.upstream.source import Completion, Delta, Deltas, ToolCall

_AT_ONCE = 16
"""Tokens in a piece if there is no pause: one event per token would cost a multiple and show nothing."""
_MAX_BATCH = 64
"""The most pieces handed over together: bounds the bytes between two checks of the reader's buffer to some 20 KB."""
_GRAIN_S = 0.001
"""The event loop's timers come in whole milliseconds: a piece that is due within the next one is due now."""


async def paced(completion: Completion, ttft_s: float, tokens_per_s: float) -> Deltas:
    """Yield the deltas of `completion`, choices interleaved, after `ttft_s` at `tokens_per_s` each; 0: all at once."""
    steps = _steps(completion, 1 if tokens_per_s else _AT_ONCE)
    choices = len(completion.contents)
    if not tokens_per_s:
        if ttft_s:
            await asyncio.sleep(ttft_s)
        batch: list[Delta] = []
        for step in steps:
            if batch and len(batch) + choices > _MAX_BATCH:
                yield batch
                batch = []
                await asyncio.sleep(0)  # a long answer to a fast reader must not hold up others
            batch += step
        yield batch
        return
    clock = asyncio.get_running_loop().time
    begin = clock() + ttft_s
    done = 0
    at_most = max(1, _MAX_BATCH // choices)
    for step in steps:
        if (wait_s := begin + done / tokens_per_s - clock()) > _GRAIN_S:
            await asyncio.sleep(wait_s)
        batch = step
        done += 1
        for _ in range(min(at_most - 1, int((clock() + _GRAIN_S - begin) * tokens_per_s) + 1 - done)):
            following = next(steps, None)
            if following is None:
                break
            batch += following
            done += 1
        yield batch


def _steps(completion: Completion, at_once: int) -> Iterator[list[Delta]]:
    """Yield steps, each with the next piece of every choice that has one."""
    calls = completion.tool_calls or ((),) * len(completion.contents)
    choices = [
        _pieces(index, content, tokens, reason, made, at_once)
        for index, (content, tokens, reason, made) in enumerate(
            zip(completion.contents, completion.choice_tokens, completion.finish_reasons, calls, strict=True)
        )
    ]
    while choices:
        step = []
        for choice in tuple(choices):
            delta = next(choice)
            step.append(delta)
            if delta.finish_reason is not None:
                choices.remove(choice)
        yield step


def _pieces(
    index: int, content: str, tokens: int, reason: str, calls: tuple[ToolCall, ...], at_once: int
) -> Iterator[Delta]:
    """Yield the pieces of one choice. The last one has the rest of `tokens`, so the sum is right for any content."""
    left_chars, left_tokens = len(content), tokens
    for piece in pieces(content, at_once):
        left_chars -= len(piece)
        if not left_chars:
            break
        share = min(at_once, left_tokens)
        yield Delta(index, piece, share, None)
        left_tokens -= share
    else:
        piece = ""
    yield Delta(index, piece, left_tokens, reason, calls)
