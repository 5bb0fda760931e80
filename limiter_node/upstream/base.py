"""What an upstream is asked, what it gives back, and how it fails.

The request type lives here, below `limiter_node.http` that makes it and beside the upstreams that read it, so that
imports point downward only.
"""

from __future__ import annotations

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


class UpstreamError(LimiterError):
    """Raised when an upstream fails. `produced_tokens` were produced, and are to be paid for, before it did."""

    def __init__(self, message: str, *, status: int = 502, produced_tokens: int = 0) -> None:
        super().__init__(message)
        self.status = status
        """The HTTP status that says best what happened."""
        self.produced_tokens = produced_tokens


class Upstream(Protocol):
    """A service that completes chats."""

    async def chat(self, request: ChatRequest, cap_per_choice: int) -> Completion:
        """Answer `request`; no choice may exceed `cap_per_choice` tokens. Raises `UpstreamError`."""
        ...

    async def models(self) -> tuple[str, ...]:
        """The names of the models served. Raises `UpstreamError`."""
        ...

    async def close(self) -> None:
        """Let go of connections. Idempotent."""
        ...
