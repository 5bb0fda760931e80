"""The answers of upstreams: bytes in OpenAI's format, whole or still to come, and their cost.

`rendered` and `gateway` make them; the HTTP layer sends them to callers, and settles reservations to their cost.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol


class Cost(NamedTuple):
    """Hold the cost of an answer, in tokens."""

    output_tokens: int
    input_tokens: int = 0
    """The input as the upstream tells it; 0 where it tells nothing."""


class WholeAnswer(NamedTuple):
    """Hold all of an answer that isn't streamed."""

    body: bytes
    cost: Cost
    """The tokens that the reservation is settled to."""
    headers: str = ""
    """Header lines beyond those of every decided response, each with its CRLF: checked, and safe to send."""


class Sink(Protocol):
    """The place where an upstream writes the parts of an answer; HTTP passes them on to the caller."""

    @property
    def is_full(self) -> bool:
        """Whether more should wait until it has `drained`."""
        ...

    def write(self, data: bytes, *, is_last: bool = False) -> bool:
        """Pass on the next part of the answer at once. Return False if nobody takes it any more.

        The first call decides for the answer: until then an error can take its place. `is_last`: nothing follows.
        """
        ...

    async def drained(self) -> None:
        """Return when there is room again."""
        ...


class AnswerStream(Protocol):
    """Deliver an answer that is still to come. Whoever has it closes it, begun or not, whole or not."""

    @property
    def headers(self) -> str:
        """Header lines as `WholeAnswer.headers`, the content type not among them."""
        ...

    @property
    def content_type(self) -> str:
        """The value of the `Content-Type` header."""
        ...

    @property
    def length(self) -> int | None:
        """The length of its body in bytes; None where that isn't known before it ends."""
        ...

    @property
    def cost(self) -> Cost:
        """The cost of the answer if it ends here."""
        ...

    @property
    def is_uncertain(self) -> bool:
        """Whether the upstream may have produced more by now than anybody can tell: the reservation stands then."""
        ...

    async def deliver(self, sink: Sink) -> None:
        """Give all of the answer to `sink` as it comes; to be called once. Nothing more is asked for while it is full.

        Raises `UpstreamError` where it breaks off.
        """
        ...

    async def read_on(self, seconds: float) -> None:
        """Read on without the caller, who has left: until the cost is known, or so many seconds have passed."""
        ...

    def error_event(self, error: bytes) -> bytes:
        """Return the event that tells a reader why this stream ends here. `error`: OpenAI's error object.

        Empty where the form of the answer has no room for it.
        """
        ...

    async def close(self) -> None:
        """Stop the work behind the answer at once. Idempotent."""
        ...
