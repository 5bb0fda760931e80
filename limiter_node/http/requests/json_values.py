"""Bounds on the JSON of a body: how many values it has, and how deeply they are nested.

The number is bounded before the body is parsed, since a value costs up to 200 bytes once it is an object. What is
counted is the bytes ``[ { , :``, of which there is at least one for each value but one. Those within texts count, too:
a text of a million commas is no prompt.
"""

from __future__ import annotations

from typing import Any, Final

import orjson

from limiter_node.http.requests.fields import InvalidRequest

MAX_VALUES: Final = 1_000_000
"""Parsed, that many are 120 MB at most (objects of one field), for as long as they are checked and counted."""

_OTHERS: Final = bytes(set(range(256)) - set(b"[{,:"))


def count_values(body: bytes) -> int:
    """At least as many JSON values as `body` has, less one. O(length), 1 ns a byte."""
    return len(body.translate(None, _OTHERS))


def check_values(body: bytes) -> None:
    """Raise `InvalidRequest` for a body that may have more than `MAX_VALUES` values."""
    if count_values(body) > MAX_VALUES:
        raise InvalidRequest(
            f"Your request has too many JSON values. Expected {MAX_VALUES:,} or fewer.", None, "too_many_values"
        )


def check_depth(value: Any, param: str) -> None:
    """Raise `InvalidRequest` for JSON that can be read but not written: orjson reads 1,024 levels and writes 254."""
    try:
        orjson.dumps(value)
    except orjson.JSONEncodeError:
        raise InvalidRequest(f"Invalid '{param}': nested too deeply.", param, "invalid_value") from None
