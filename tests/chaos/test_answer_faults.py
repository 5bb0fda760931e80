"""Rows 44 and 45: usages that lie, and answers of every kind that public bug reports show, from the service behind
the nodes. tests/gateway has a longer list; these go through real nodes, under load, and into the store's windows."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from chaos_scene import Row
from edge_scene import TEXT_TOKENS, Answer, ask, assert_unharmed, chat, edge
from gateway.scripted_service import (
    DONE,
    STREAM_END,
    Asked,
    Script,
    chunk,
    completion,
    framed,
    http,
    says,
    streams,
)

CAP = 50

# A usage; the output that is charged. The texts are of three tokens.
USAGES: dict[str, tuple[Any, int]] = {
    "none": (None, TEXT_TOKENS),
    "empty": ({}, TEXT_TOKENS),
    "a list": ([1, 2], TEXT_TOKENS),
    "a text": ("many", TEXT_TOKENS),
    "zeros": ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, TEXT_TOKENS),
    "negative": ({"prompt_tokens": 8, "completion_tokens": -5, "total_tokens": 3}, TEXT_TOKENS),
    "texts": ({"prompt_tokens": "8", "completion_tokens": "7"}, TEXT_TOKENS),
    "true": ({"prompt_tokens": True, "completion_tokens": True}, TEXT_TOKENS),
    "honest": ({"prompt_tokens": 8, "completion_tokens": 7, "total_tokens": 15}, 7),
    "cached input within": (
        {
            "prompt_tokens": 10,
            "completion_tokens": 3,
            "total_tokens": 13,
            "prompt_tokens_details": {"cached_tokens": 5},
        },
        3,
    ),
    "cached input in the total only": (
        {
            "prompt_tokens": 10,
            "completion_tokens": 3,
            "total_tokens": 5_013,
            "prompt_tokens_details": {"cached_tokens": 5_000},
        },
        3,
    ),
    "cache reads in the total only": (
        {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 5_013, "cache_read_input_tokens": 5_000},
        3,
    ),
    "cache creation in the total only": (
        {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 5_013, "cache_creation_input_tokens": 5_000},
        3,
    ),
    "reasoning in the total only": ({"prompt_tokens": 8, "completion_tokens": 3, "total_tokens": 41}, 33),
    "reasoning": (
        {
            "prompt_tokens": 8,
            "completion_tokens": 33,
            "total_tokens": 41,
            "completion_tokens_details": {"reasoning_tokens": 30},
        },
        33,
    ),
}
AT_LEAST: dict[str, Any] = {
    "huge": {"prompt_tokens": 8, "completion_tokens": 10**30, "total_tokens": 10**30},
    "infinite": {"prompt_tokens": 8, "completion_tokens": float("inf"), "total_tokens": float("nan")},
    "a fraction": {"prompt_tokens": 8, "completion_tokens": 2.5, "total_tokens": 10.5},
}
"""Nobody can say what is right here; what was seen is the least."""


def in_every_chunk(*tokens: int) -> Script:
    """A usage beside each text, and one by itself."""
    told = [{"prompt_tokens": 8, "completion_tokens": each, "total_tokens": each + 8} for each in tokens]
    texts = ("Hello", " there", " you")
    pieces = [chunk(text, usage=usage) for text, usage in zip(texts, told, strict=False)]
    return streams(*pieces, chunk(finish="stop", usage=told[-1]), chunk(usage=told[-1]), DONE)


def as_stream(usage: Any) -> Script:
    pieces = [chunk("Hello"), chunk(" there"), chunk(" you"), chunk(finish="stop")]
    if usage is not None:
        fields = {"id": "x", "object": "chat.completion.chunk", "choices": [], "usage": usage}
        pieces.append(b"data: %b\n\n" % json.dumps(fields).encode())
    return streams(*pieces, DONE)


@pytest.mark.chaos
async def test_44_usages_lie(directory: Path, binary: str | None, row: Row) -> None:
    scripts: dict[str, Script] = {}
    expected: dict[str, int] = {}
    for name, (usage, tokens) in USAGES.items():
        scripts[f"{name}, whole"], scripts[f"{name}, streamed"] = says(http(completion(usage))), as_stream(usage)
        expected |= {f"{name}, whole": tokens, f"{name}, streamed": tokens}
    scripts |= {"growing": in_every_chunk(1, 2, 3), "zeros, then all": in_every_chunk(0, 0, 7)}
    expected |= {"growing": 3, "zeros, then all": 7}
    for name, usage in AT_LEAST.items():
        scripts[f"{name}, whole"], scripts[f"{name}, streamed"] = says(http(completion(usage))), as_stream(usage)
    scripts["shrinking"] = in_every_chunk(9, 2, 1)
    async with edge(directory, binary, scripts) as at:
        file, keys = await at.keys("lying", len(scripts))
        answers: dict[str, Answer] = {}

        async def ask_all() -> None:
            for name, key in zip(scripts, keys, strict=True):
                is_stream = "whole" not in name
                answers[name] = await ask(at.node, key, chat(name, max_tokens=CAP, stream=is_stream))

        outcome = await at.beside_load(ask_all)
        row("44", f"{len(scripts)} usages that lie", outcome)
        wrong = {name: answer for name, answer in answers.items() if answer.status != 200 or b"error" in answer.body}
        assert not wrong
        charged = dict(zip(scripts, await at.output_of(file), strict=True))
        assert {name: charged[name] for name in expected} == expected
        assert all(charged[name] >= TEXT_TOKENS for name in scripts), charged
        assert_unharmed(outcome)


def stream_of(*pieces: bytes, content_type: str = "text/event-stream", status: int = 200) -> Script:
    """A stream with another label."""

    async def script(_asked: Asked, writer: asyncio.StreamWriter) -> None:
        label = f"Content-Type: {content_type}\r\n" if content_type else ""
        writer.write(f"HTTP/1.1 {status} Whatever\r\n{label}Transfer-Encoding: chunked\r\n\r\n".encode())
        for piece in pieces:
            writer.write(framed(piece))
            await writer.drain()
        writer.write(STREAM_END)

    return script


def says_error(**fields: object) -> Script:
    """An error as a whole answer, with status 200."""
    return says(http(json.dumps(fields).encode()))


def event(**fields: object) -> bytes:
    return b"data: %b\n\n" % json.dumps(fields).encode()


WHOLE_STREAM = (chunk("Hello"), chunk(" there"), chunk(" you"), chunk(finish="stop"), DONE)
SAID = "Your prompt is too long."
BROKEN = completion(None).replace(b"Hello there you", b"Hello there you \\ud800")
CUT = completion(None).replace(b"Hello there you", b"Hello there you \xe6\xbc")
NAN = completion(None).replace(b"1.5", b"NaN, -Infinity, 1.5")

# The service's script; the status that is right; whether it is a stream that is asked for.
ODD: dict[str, tuple[Script, int, bool]] = {
    "an error first in a stream": (stream_of(event(error={"message": SAID, "code": 400}), DONE), 400, True),
    "a limit first in a stream": (stream_of(event(error={"message": SAID, "code": 429}), DONE), 429, True),
    "an error in a whole answer": (
        says_error(error={"message": SAID, "code": 400}),
        400,
        False,
    ),
    "an error's code as a text": (
        says_error(error={"message": SAID, "code": "400"}),
        400,
        False,
    ),
    "an error beside choices": (
        says_error(choices=[], error={"message": SAID, "code": 400}),
        400,
        False,
    ),
    "an error beside null": (
        says_error(choices=None, error={"message": SAID, "code": 400}),
        400,
        False,
    ),
    "an error as an object": (
        says_error(object="error", message=SAID, code=400),
        400,
        False,
    ),
    "a 400 as a stream": (stream_of(event(error={"message": SAID, "code": 400}), status=400), 400, True),
    "a stream labelled text/plain": (stream_of(*WHOLE_STREAM, content_type="text/plain"), 200, True),
    "a stream labelled application/json": (stream_of(*WHOLE_STREAM, content_type="application/json"), 200, True),
    "a stream without a label": (stream_of(*WHOLE_STREAM, content_type=""), 200, True),
    "a stream with a byte order mark": (stream_of(b"\xef\xbb\xbf" + WHOLE_STREAM[0], *WHOLE_STREAM[1:]), 200, True),
    "a header of 9,000 bytes": (says(http(completion(None), X_Long="a" * 9_000)), 200, False),
    "200 headers": (says(http(completion(None), **{f"X_{number}": "a" for number in range(200)})), 200, False),
    "a lone surrogate": (says(http(BROKEN)), 200, False),
    "a cut character": (says(http(CUT)), 200, False),
    "NaN": (says(http(NAN)), 200, False),
    "a lone surrogate in a stream": (
        stream_of(*(piece.replace(b" you", b" you \\ud800") for piece in WHOLE_STREAM)),
        200,
        True,
    ),
    "text in parts": (
        stream_of(
            event(choices=[{"index": 0, "delta": {"content": [{"type": "text", "text": "Hello there you"}]}}]),
            *WHOLE_STREAM[3:],
        ),
        200,
        True,
    ),
    "a message in place of a delta": (
        stream_of(event(choices=[{"index": 0, "message": {"content": "Hello there you"}}]), *WHOLE_STREAM[3:]),
        200,
        True,
    ),
    "no end of a finished stream": (stream_of(*WHOLE_STREAM[:-1]), 200, True),
}


@pytest.mark.chaos
async def test_45_answers_are_odd(directory: Path, binary: str | None, row: Row) -> None:
    """Right status, counted; and what was the caller's own fault puts no address aside: others are served on."""
    async with edge(directory, binary, {name: script for name, (script, _, _) in ODD.items()}) as at:
        file, keys = await at.keys("odd", len(ODD))
        answers: dict[str, list[Answer]] = {}

        async def ask_all() -> None:
            for (name, (_, _, is_stream)), key in zip(ODD.items(), keys, strict=True):
                body = chat(name, max_tokens=CAP, stream=is_stream)
                answers[name] = [await ask(at.node, key, body) for _ in range(4)]

        outcome = await at.beside_load(ask_all)
        row("45", f"{len(ODD)} answers that are odd", outcome)
        got = {name: {answer.status for answer in each} for name, each in answers.items()}
        assert got == {name: {status} for name, (_, status, _) in ODD.items()}
        for name, (_, status, _) in ODD.items():
            if status == 400:
                assert all(SAID in answer.error["message"] for answer in answers[name]), name
            elif status == 200:
                assert all(b'"error"' not in answer.body for answer in answers[name]), name
        charged = dict(zip(ODD, await at.output_of(file), strict=True))
        for name, (_, status, _) in ODD.items():
            least = 4 * TEXT_TOKENS if status == 200 else 0
            assert least <= charged[name] <= least * 10, (name, charged[name])
        metrics = await ask(at.node, None, path="/metrics", method="GET")
        ejected = [
            line for line in metrics.body.decode().splitlines() if line.startswith("limiter_upstream_target_ejected{")
        ]
        assert all(line.endswith(" 0.0") for line in ejected), ejected
        assert_unharmed(outcome)
