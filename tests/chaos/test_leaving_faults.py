"""Row 43: callers who leave at every point of an answer, and at will, are never charged less than those who stay."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path

import pytest
from chaos_scene import Row, eventually
from edge_scene import TEXT_TOKENS, Edge, ask, ask_and_leave, assert_unharmed, chat, edge
from gateway.scripted_service import DONE, STREAM_END, STREAM_HEAD, Asked, Script, chunk, completion, framed, http

TOLD, RESERVED = 5_003, 6_000
"""Output tokens: what the service tells, reasoning that isn't shown included; and the callers' cap."""
USAGE = {
    "prompt_tokens": 8,
    "completion_tokens": TOLD,
    "total_tokens": TOLD + 8,
    "completion_tokens_details": {"reasoning_tokens": TOLD - TEXT_TOKENS},
}
PIECE_S = 0.03
"""Between two pieces of the service, so that callers leave between them."""
PIECES = (chunk("Hello"), chunk(" there"), chunk(" you"), chunk(finish="stop"), chunk(usage=USAGE), DONE)
EACH = 3
"""Callers that leave at each point."""


async def streams_slowly(_asked: Asked, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(PIECE_S)
    writer.write(STREAM_HEAD)
    for piece in PIECES:
        await asyncio.sleep(PIECE_S)
        writer.write(framed(piece))
    writer.write(STREAM_END)


async def tells_no_usage(asked: Asked, writer: asyncio.StreamWriter) -> None:
    """Tells a usage to those who say that they stay; to others nothing comes after the text, until they leave."""
    writer.write(STREAM_HEAD)
    stays = asked.fields["messages"][0]["content"] == "I stay."
    for piece in PIECES if stays else PIECES[:4]:
        writer.write(framed(piece))
    if not stays:
        await asked.left.wait()
    writer.write(STREAM_END)


def _event(**fields: object) -> bytes:
    return f"event: {fields['type']}\ndata: {json.dumps(fields)}\n\n".encode()


async def responds(_asked: Asked, writer: asyncio.StreamWriter) -> None:
    """As the Responses API streams: the usage comes with `response.completed`."""
    usage = {"input_tokens": 8, "output_tokens": TOLD, "total_tokens": TOLD + 8}
    response = {"id": "r", "object": "response", "status": "completed", "output": [], "usage": usage}
    where = {"item_id": "m", "output_index": 0, "content_index": 0}
    writer.write(STREAM_HEAD)
    for piece in (
        _event(type="response.created", response={**response, "status": "in_progress", "usage": None}),
        _event(type="response.output_text.delta", delta="Hello there", **where),
        _event(type="response.output_text.delta", delta=" you", **where),
        _event(type="response.output_text.done", text="Hello there you", **where),
        _event(type="response.completed", response=response),
    ):
        await asyncio.sleep(PIECE_S)
        writer.write(framed(piece))
    writer.write(STREAM_END)


def answers_after(seconds: float) -> Script:
    async def script(asked: Asked, writer: asyncio.StreamWriter) -> None:
        leaving = asyncio.ensure_future(asked.left.wait())
        await asyncio.wait({leaving}, timeout=seconds)
        leaving.cancel()
        if not asked.left.is_set():
            writer.write(http(completion(USAGE)))

    return script


async def _asked(at: Edge, model: str, count: int) -> None:
    """Wait until the service has been asked so often for that model."""

    async def is_asked() -> bool:
        return at.asked(model) >= count

    await eventually(is_asked)


STREAM_POINTS = {
    "when asked": b"",
    "at the head": b"\r\n\r\n",
    "at the first text": b"Hello",
    "in the text": b" there",
    "at the end of the text": b" you",
    "at the finish": b'"stop"',
    "at [DONE]": b"[DONE]",
}


@pytest.mark.chaos
async def test_43_callers_leave_at_every_point(directory: Path, binary: str | None, row: Row) -> None:
    scripts = {"slow": streams_slowly, "soon": answers_after(0.3), "late": answers_after(30)}
    async with edge(directory, binary, scripts) as at:
        names = [*STREAM_POINTS, "a whole answer that comes soon", "a whole answer that comes late", "at will", "stays"]
        keys, (*of_points, of_soon, of_late, of_will, of_stays) = await at.keys("leaving", len(names))
        body = chat("slow", max_tokens=RESERVED, stream=True, stream_options={"include_usage": True})
        draw = random.Random(43)

        async def leave_all() -> None:
            stayed = await ask(at.node, of_stays, body)
            assert stayed.status == 200
            assert stayed.body.count(b"data:") == len(PIECES)
            for key, seen in zip(of_points, STREAM_POINTS.values(), strict=True):
                for _ in range(EACH):
                    when = None if seen else _asked(at, "slow", at.asked("slow") + 1)
                    await ask_and_leave(at.node, key, body, seen=seen, when=when)
            for model, key in (("soon", of_soon), ("late", of_late)):
                for number in range(EACH):
                    when = _asked(at, model, number + 1)
                    await ask_and_leave(at.node, key, chat(model, max_tokens=RESERVED), when=when)
            for _ in range(20):
                await asyncio.gather(
                    *(
                        ask_and_leave(at.node, of_will, body, after=draw.randrange(1, len(stayed.body)))
                        for _ in range(5)
                    )
                )

        outcome = await at.beside_load(leave_all, 12)
        row("43", "callers leave at every point of an answer, and at will", outcome)
        expected = [EACH * TOLD] * len(STREAM_POINTS) + [EACH * TOLD, EACH * RESERVED, 100 * TOLD, TOLD]
        await at.settles_at(keys, expected, names)
        assert_unharmed(outcome)


@pytest.mark.chaos
async def test_43_the_usage_of_a_model_that_reasons_unseen_never_comes(
    directory: Path, binary: str | None, row: Row
) -> None:
    """Its reservation stands: what it reasoned is not known."""
    async with edge(directory, binary, {"reasons": tells_no_usage}) as at:
        keys, (stays, leaves) = await at.keys("reasoning", 2)

        async def leave_all() -> None:
            fields: dict[str, object] = {"max_tokens": RESERVED, "stream": True}
            assert (await ask(at.node, stays, chat("reasons", "I stay.", **fields))).status == 200
            for _ in range(EACH):
                await ask_and_leave(at.node, leaves, chat("reasons", "I leave.", **fields), seen=b'"stop"')

        outcome = await at.beside_load(leave_all)
        row("43", "callers leave a model that reasons unseen; its usage never comes", outcome)
        await at.settles_at(keys, [TOLD, EACH * RESERVED], ["stays", "leaves"])
        assert_unharmed(outcome)


@pytest.mark.chaos
async def test_43_a_stream_goes_on_after_its_caller_has_left(directory: Path, binary: str | None, row: Row) -> None:
    """The service is left within some seconds, and what it had written until then is charged."""
    written: list[int] = []

    async def never_ends(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD)
        pieces = 0
        while not asked.left.is_set():
            writer.write(framed(chunk(" time")))
            pieces += 1
            await asyncio.sleep(PIECE_S)
        written.append(pieces)

    async with edge(directory, binary, {"endless": never_ends}) as at:
        keys, (leaves,) = await at.keys("endless", 1)

        async def leave_all() -> None:
            body = chat("endless", max_tokens=RESERVED, stream=True)
            await asyncio.gather(*(ask_and_leave(at.node, leaves, body, seen=b" time") for _ in range(EACH)))

        outcome = await at.beside_load(leave_all)
        row("43", "callers leave streams that don't end", outcome)

        async def is_left() -> bool:
            return len(written) == EACH

        await eventually(is_left)

        async def is_settled() -> bool:
            return sum(await at.output_of(keys)) < EACH * RESERVED

        await eventually(is_settled)
        (charged,) = await at.output_of(keys)
        # What was still on its way when the node closed the connection, it hadn't seen.
        assert sum(written) - 2 * EACH <= charged <= sum(written), written
        assert_unharmed(outcome)


@pytest.mark.chaos
async def test_43_callers_leave_a_stream_of_the_responses_api(directory: Path, binary: str | None, row: Row) -> None:
    points = (b"response.created", b"Hello there", b"response.output_text.done", b"response.completed")
    async with edge(directory, binary, {"responds": responds}) as at:
        keys, of_points = await at.keys("responding", len(points))
        body = json.dumps(
            {"model": "responds", "input": "Hello", "max_output_tokens": RESERVED, "stream": True}
        ).encode()

        async def leave_all() -> None:
            for key, seen in zip(of_points, points, strict=True):
                for _ in range(EACH):
                    await ask_and_leave(at.node, key, body, seen=seen, path="/v1/responses")

        outcome = await at.beside_load(leave_all)
        row("43", "callers leave streams of the Responses API", outcome)
        await at.settles_at(keys, [EACH * TOLD] * len(points), [point.decode() for point in points])
        assert_unharmed(outcome)
