"""What an upstream is asked, what it gives back, and how it fails.

The request type lives here, below `limiter_node.http` that makes it and beside the upstreams that read it, so that
imports point downward only.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any, NamedTuple, Protocol

from limiter_node.model import LimiterError


class ChatRequest(NamedTuple):
    """One valid chat completion request. A tuple because one is made per request."""

    model: str
    n: int
    """Choices asked for, 1 to 128."""
    cap: int | None
    """The caller's cap on the tokens of each choice; None where it set none."""
    stream: bool
    include_usage: bool
    input_tokens: int
    body: dict[str, Any]
    """The request as it was sent, unknown fields included. Duplicate fields: the last one."""

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The conversation, checked."""
        messages: list[dict[str, Any]] = self.body["messages"]
        return messages


class Completion(NamedTuple):
    """A whole answer: one content, finish reason and token count per choice, and the sum of the counts."""

    contents: tuple[str, ...]
    finish_reasons: tuple[str, ...]
    """``stop``, or ``length`` where the cap cut it."""
    choice_tokens: tuple[int, ...]
    completion_tokens: int
    """What the reservation is settled to. Exact: tokenizing the contents gives it."""
    system_fingerprint: str


class Delta(NamedTuple):
    """The next piece of one choice of an answer that comes as a stream."""

    choice: int
    """Which choice, from 0 on."""
    text: str
    """May be empty, where only the finish reason is new."""
    tokens: int
    """What this piece adds to the output. The tokens of all pieces of all choices are what the answer is charged."""
    finish_reason: str | None
    """Set with the last piece of a choice, and only there."""


Deltas = AsyncGenerator[Sequence[Delta], None]
"""An answer as it comes: each item holds the pieces that came together, so that they can be passed on in one write."""


class UpstreamError(LimiterError):
    """Raised when an upstream fails. `produced_tokens` were produced, and are to be paid for, before it did."""

    def __init__(self, message: str, *, status: int = 502, produced_tokens: int = 0) -> None:
        super().__init__(message)
        self.status = status
        """The HTTP status that says best what happened."""
        self.produced_tokens = produced_tokens


class Upstream(Protocol):
    """A service that completes chats."""

    system_fingerprint: str | None
    """What streams tell about the model's configuration, in their first piece already."""

    async def chat(self, request: ChatRequest, cap_per_choice: int) -> Completion:
        """Answer `request`; no choice may exceed `cap_per_choice` tokens. Raises `UpstreamError`."""
        ...

    def stream(self, request: ChatRequest, cap_per_choice: int) -> Deltas:
        """Answer `request` piece by piece; the pieces of a choice, joined, are what `chat` would have answered.

        The iteration raises `UpstreamError`. Whoever stops iterating before the end closes the generator, which stops
        the work behind it. The upstream is not asked for more while the caller doesn't take what came.
        """
        ...

    async def models(self) -> tuple[str, ...]:
        """The names of the models served. Raises `UpstreamError`."""
        ...

    async def close(self) -> None:
        """Let go of connections. Idempotent."""
        ...
