"""Reads JSON as services write it: strictly if it is JSON, and leniently if a part of it isn't.

Python's own servers write ``NaN``, ``Infinity`` and lone surrogates, and text that was cut between two bytes of a
character. Callers can use such an answer, so its text has to be counted.
"""

from __future__ import annotations

import json
from typing import Any, Final

import orjson

from limiter_node.held import SMALL_BYTES

BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"

MAX_LENIENT_BYTES: Final = 256 * 1024
"""The second reader is ten times slower and holds the event loop: 256 KiB take some 5 ms."""

_MAX_VALUES = 200_000
"""JSON of nothing but ``[]`` takes thirty times its size in memory; this many values take some 15 MB."""

_DECODER = json.JSONDecoder(strict=False)


def read_json(data: bytes) -> Any:
    """Return the value of `data`; strings may hold lone surrogates.

    Raises `ValueError` for data that can't be read, or would take much memory.
    """
    if len(data) > SMALL_BYTES and data.count(b",") + data.count(b"[") + data.count(b"{") > _MAX_VALUES:
        raise ValueError("too many values")
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        if len(data) > MAX_LENIENT_BYTES:
            raise
    try:
        return _DECODER.decode(to_text(data))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def object_at(text: str, start: int) -> Any:
    """Return the JSON value at `text[start]`, whatever follows it. Raises `ValueError` if there is none."""
    try:
        return _DECODER.raw_decode(text, start)[0]
    except RecursionError:
        raise ValueError("nested too deeply") from None


def write_json(fields: Any) -> bytes:
    """Return `fields`, which `read_json` has read, as JSON. Raises `ValueError` if they are nested too deeply."""
    try:
        return orjson.dumps(fields)
    except TypeError:  # a lone surrogate, a huge number, or too deep for orjson
        pass
    try:
        return json.dumps(fields, separators=(",", ":")).encode()
    except RecursionError:
        raise ValueError("nested too deeply") from None


def to_text(data: bytes) -> str:
    """Return `data` as text: lone surrogates stay, other bytes that aren't UTF-8 are replaced."""
    text = data.removeprefix(BYTE_ORDER_MARK)
    try:
        return text.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return text.decode("utf-8", "replace")
