"""The interface of renderers, which turn answers into server-sent events.

A renderer is made per response and turns an upstream's deltas into bytes; it knows no connection. The renderers are
`limiter_node.upstream.openai.chunks` and `limiter_node.upstream.openai.responses_api_events`.
"""

from __future__ import annotations

from typing import Protocol

from limiter_node.upstream.source import Delta


class StreamEvents(Protocol):
    """Render one streamed answer. Calls come in this order: `start`, `delta` …, then `finish` or `error`."""

    def start(self) -> bytes:
        """Return the bytes before the first delta."""
        ...

    def delta(self, delta: Delta) -> bytes:
        """Return the events of one piece, and of the end of its choice if it is the last one."""
        ...

    def finish(self, output_tokens: int) -> bytes:
        """Return the end of a complete answer of `output_tokens`."""
        ...

    def error(self, body: bytes) -> bytes:
        """Return the end of an answer that broke off; `body` is OpenAI's error object."""
        ...


def error_event(body: bytes) -> bytes:
    """Return the event of an error in a stream that has begun, when the status has been sent."""
    return b"data: %b\n\n" % body
