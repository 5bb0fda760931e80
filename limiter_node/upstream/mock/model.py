"""A source that answers with pseudo-prose of exact length: for trying the limiter out, sizing it and testing it.

Its weakness: it answers any model and never fails, and its prose is always the same, so it compresses and caches better
than a real service's answers.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Sequence

from limiter_node.errors import ConfigError
from limiter_node.lengths import parse_length
from limiter_node.upstream.mock.embedding import embedding
from limiter_node.upstream.mock.form import shaped
from limiter_node.upstream.mock.stream import paced
from limiter_node.upstream.mock.text import MockText
from limiter_node.upstream.requests import (
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    ResponsesApiRequest,
    TextRequest,
)
from limiter_node.upstream.source import Completion, Deltas, Embeddings

DEFAULT_MODELS = ("gpt-4o", "gpt-4o-mini", "gpt-4", "gpt-3.5-turbo")
_FINGERPRINT = "fp_mock"
_VECTORS_PER_TURN = 32
"""Vectors to make before other requests have their turn: some ms of work."""


class MockModel:
    """Make answers with lengths drawn from `length` by a generator seeded with `seed`.

    Whole answers come after `latency_ms`. Streams begin after `ttft_ms` and go on at `tokens_per_s` in each choice, or
    without any pause if that is 0. `length` is described at `parse_length`. `tool_rate`: the share, from 0 to 1, of
    requests that are answered with a call of one of the tools that they offer and don't force. Raises `ConfigError` for
    an invalid length, a time or rate below 0, or a share above 1.
    """

    system_fingerprint: str | None = _FINGERPRINT

    def __init__(
        self,
        *,
        latency_ms: float,
        length: str,
        seed: int,
        models: Sequence[str] = DEFAULT_MODELS,
        ttft_ms: float = 0.0,
        tokens_per_s: float = 0.0,
        tool_rate: float = 0.0,
    ) -> None:
        for what, value in (("latency", latency_ms), ("time to first token", ttft_ms)):
            if not 0 <= value < math.inf:
                raise ConfigError(f"the mock's {what} must be 0 ms or more, not {value}")
        if not 0 <= tokens_per_s < math.inf:
            raise ConfigError(f"the mock's tokens per second must be 0 or more, not {tokens_per_s}")
        if not 0 <= tool_rate <= 1:
            raise ConfigError(f"the mock's rate of tool calls must be from 0 to 1, not {tool_rate}")
        self._latency_s = latency_ms / 1_000
        self._ttft_s = ttft_ms / 1_000
        self._tokens_per_s = tokens_per_s
        self._draw = parse_length(length, random.Random(seed))
        self._tool_rate = tool_rate
        self._tool_draw = random.Random(seed).random  # a generator of its own, so that lengths are the same at any rate
        self._models = tuple(models)
        self._text = MockText()

    async def chat(self, request: ChatRequest, cap_per_choice: int, request_id: str) -> Completion:
        """Answer `request`. A drawn length above the cap is cut, with finish reason ``length``. Never fails."""
        return await self._whole(request, cap_per_choice)

    async def complete(self, request: CompletionRequest, cap_per_choice: int, request_id: str) -> Completion:
        """Answer as `chat`, with `request.n` choices."""
        return await self._whole(request, cap_per_choice)

    async def respond(self, request: ResponsesApiRequest, cap: int, request_id: str) -> Completion:
        """Answer as `chat`, with one choice."""
        return await self._whole(request, cap)

    async def _whole(self, request: TextRequest, cap_per_choice: int) -> Completion:
        # Lengths are drawn before the wait, so in the order of the requests, whatever the event loop does.
        completion = self._compose(request, cap_per_choice)
        # Without a latency nothing is awaited, so the caller goes on in the same turn of the event loop.
        if self._latency_s:
            await asyncio.sleep(self._latency_s)
        return completion

    async def embed(self, request: EmbeddingRequest, request_id: str) -> Embeddings:
        """Return vectors of length 1 that differ for different inputs and are always the same for the same one."""
        vectors = []
        for number, each in enumerate(request.inputs, 1):
            vectors.append(embedding(each, request.model, request.dimensions, base64=request.base64))
            if not number % _VECTORS_PER_TURN:
                await asyncio.sleep(0)
        if self._latency_s:
            await asyncio.sleep(self._latency_s)
        return Embeddings(tuple(vectors))

    def stream(self, request: TextRequest, cap_per_choice: int, request_id: str) -> Deltas:
        """Yield the answer piece by piece; a piece is a token, or several if there is no pause."""
        return paced(self._compose(request, cap_per_choice), self._ttft_s, self._tokens_per_s)

    async def models(self) -> tuple[str, ...]:
        """Return the given names; requests for other names are answered, too."""
        return self._models

    async def close(self) -> None:
        """Do nothing: the mock holds nothing."""

    def _compose(self, request: TextRequest, cap_per_choice: int) -> Completion:
        """Return the answer, to be sent whole or as a stream."""
        n, form = request.n, request.form
        if n == 1 and form is None:
            drawn = self._draw()
            tokens = drawn if drawn <= cap_per_choice else cap_per_choice
            return Completion(
                (self._text.prefix(tokens),), (_reason(drawn, cap_per_choice),), (tokens,), tokens, _FINGERPRINT
            )
        completion = self._choices([self._draw() for _ in range(n)], cap_per_choice)
        if form is not None and form.offered and self._tool_draw() < self._tool_rate:
            form = form._replace(tool=form.offered[int(self._tool_draw() * len(form.offered))])
        return completion if form is None else shaped(completion, form, request.model, cap_per_choice)

    def _choices(self, drawn: list[int], cap_per_choice: int) -> Completion:
        tokens = tuple(min(each, cap_per_choice) for each in drawn)
        return Completion(
            tuple(self._text.prefix(each) for each in tokens),
            tuple(_reason(each, cap_per_choice) for each in drawn),
            tokens,
            sum(tokens),
            _FINGERPRINT,
        )


def _reason(drawn: int, cap: int) -> str:
    return "length" if drawn > cap else "stop"
