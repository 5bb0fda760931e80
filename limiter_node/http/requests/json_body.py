"""A request's body as JSON: parsed, and bounded in how many values it has and how deeply they are nested.

JSON leaves some outcomes open. Here, the last of duplicate fields counts; a byte order mark, bad UTF-8, a lone
surrogate (as bytes or escaped), NaN, numbers beyond a double and nesting deeper than 1,024 are malformed.

The number of values is bounded before the body is parsed, since each value costs up to 200 bytes as a Python object.
The bound counts the bytes ``[ { , :``, of which there is at least one for each value but one. Bytes within texts count
as well: a text of a million commas is no prompt.
"""

from __future__ import annotations

from typing import Any, Final

import orjson

from limiter_node.http.requests.fields import InvalidRequest

MAX_VALUES: Final = 1_000_000
"""This many parsed values take at most 120 MB (as objects of one field) while they are checked and counted."""

_OTHERS: Final = bytes(set(range(256)) - set(b"[{,:"))


def parse_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object that `body` is. Raises `InvalidRequest`."""
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        # orjson's message gives the position and never quotes the body.
        raise InvalidRequest(f"The JSON body of your request could not be parsed: {error}.", None, None) from None
    if type(fields) is not dict:
        raise InvalidRequest("The JSON body of your request could not be used: expected an object.", None, None)
    return fields


def count_values(body: bytes) -> int:
    """Return at least as many JSON values as `body` has, less one. O(length), 1 ns a byte."""
    return len(body.translate(None, _OTHERS))


def check_values(body: bytes) -> None:
    """Raise `InvalidRequest` for a body that may have more than `MAX_VALUES` values."""
    if count_values(body) > MAX_VALUES:
        raise InvalidRequest(
            f"Your request has too many JSON values. Expected {MAX_VALUES:,} or fewer.", None, "too_many_values"
        )


def to_json(value: Any, param: str) -> bytes:
    """Return `value` as compact JSON.

    Raises `InvalidRequest` for values nested too deeply to write: orjson reads 1,024 levels and writes 254.
    """
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:
        raise InvalidRequest(f"Invalid '{param}': nested too deeply.", param, "invalid_value") from None


def check_depth(value: Any, param: str) -> None:
    """Raise `InvalidRequest` for a value that `to_json` could not write."""
    to_json(value, param)
