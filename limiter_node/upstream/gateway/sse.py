"""The form of event streams: whether bytes are one, and the data of an event."""

from __future__ import annotations

from typing import Final

from limiter_node.upstream.gateway.lenient_json import BYTE_ORDER_MARK

EVENT_STREAM: Final = "text/event-stream"
"""The content type of event streams."""

_FIELDS: Final = (b"data:", b"event:", b"id:", b"retry:", b":", b"data\n", b"data\r")


def looks_like_stream(first: bytes) -> bool | None:
    """Return whether an answer that begins with `first` is an event stream; None if more bytes are needed.

    By its bytes, because not every service has the right Content-Type.
    """
    if BYTE_ORDER_MARK.startswith(first):
        return None
    line = first.removeprefix(BYTE_ORDER_MARK).lstrip(b"\r\n")
    if not line.strip():
        return None
    if line.startswith(_FIELDS):
        return True
    return None if any(name.startswith(line) for name in _FIELDS) else False


def first_data(stream: bytes) -> bytes:
    """Return the data of the first event in `stream` that has any; empty if none has."""
    lines: list[bytes] = []
    for line in stream.removeprefix(BYTE_ORDER_MARK).splitlines():
        if line.startswith(b"data:"):
            lines.append(line[5:].strip())
        elif not line and lines:
            break
    return b"\n".join(lines)
