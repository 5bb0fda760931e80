"""The answers of upstreams: bytes in OpenAI's format, whole or still to come, and their cost.

`rendered` and `gateway` make them; the HTTP layer sends them to callers, and settles reservations to their cost.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol


class Cost(NamedTuple):
    """Hold the cost of an answer, in tokens."""

    output_tokens: int
    input_tokens: int = 0
    """The input as the upstream reports it; 0 if it reports none."""


class WholeAnswer(NamedTuple):
    """Hold all of an answer that isn't streamed."""

    body: bytes
    cost: Cost
    """The tokens that the reservation is settled to."""
    headers: str = ""
    """Header lines beyond those of every decided response, each with its CRLF; checked, and safe to send."""


class Sink(Protocol):
    """The place where an upstream writes the parts of an answer; HTTP passes them on to the caller."""

    @property
    def is_full(self) -> bool:
        """Whether further data should wait for `drained`."""
        ...

    def write(self, data: bytes, *, is_last: bool = False) -> bool:
        """Pass on the next part of the answer at once. Return False if the caller has left.

        The first call decides for the answer: until then an error can take its place. `is_last`: nothing follows.
        """
        ...

    async def drained(self) -> None:
        """Return when there is room again."""
        ...


class AnswerStream(Protocol):
    """Deliver an answer that is still to come. Its holder closes it, begun or not, whole or not."""

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
        """The length of the body in bytes; None if it isn't known before the end."""
        ...

    @property
    def cost(self) -> Cost:
        """The cost of the answer if it ends here."""
        ...

    @property
    def is_uncertain(self) -> bool:
        """Whether the upstream may have produced more than is known: the reservation then stands."""
        ...

    async def deliver(self, sink: Sink) -> None:
        """Give all of the answer to `sink` as it comes; to be called once. Reading pauses while the sink is full.

        Raises `UpstreamError` if the answer breaks off.
        """
        ...

    async def read_on(self, seconds: float) -> None:
        """Read on without the caller, who has left, until the cost is known, for at most `seconds`."""
        ...

    def error_event(self, error: bytes) -> bytes:
        """Return the event that ends this stream with `error`, OpenAI's error object.

        Empty if the form of the answer has no room for it.
        """
        ...

    async def close(self) -> None:
        """Stop the work behind the answer at once. Idempotent."""
        ...
