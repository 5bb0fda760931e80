"""The API key in a request's headers: its digest, or the error that the caller gets.

``Authorization: Bearer KEY``, ``x-api-key: KEY`` and ``api-key: KEY`` mean the same. A request may give its key in
several of them, but not two different keys: another server on the way could choose the other one.
"""

from __future__ import annotations

from typing import Final

from aiohttp import hdrs
from multidict import CIMultiDictProxy, istr

from limiter_node.credentials import KEY_HEADERS, bearer_key, is_key, key_id
from limiter_node.http.responses.errors import INVALID_API_KEY, MISSING_API_KEY, ErrorResponse, ambiguous_key

_X_API_KEY, _API_KEY = _KEY_HEADERS = tuple(map(istr, KEY_HEADERS))
_SCHEMES: Final = ("", "bearer")


def caller_of(headers: CIMultiDictProxy[str]) -> str | ErrorResponse:
    """Return the `kid` of the one key that `headers` give, or a 401 or 400."""
    given = headers.getall(hdrs.AUTHORIZATION, [])
    if len(given) == 1 and _X_API_KEY not in headers and _API_KEY not in headers:
        key = bearer_key(given[0])
        return INVALID_API_KEY if key is None else key_id(key)
    return _caller_of_others(headers, given)


def _caller_of_others(headers: CIMultiDictProxy[str], given: list[str]) -> str | ErrorResponse:
    """Do the same as `caller_of` for requests with anything but exactly one ``Authorization``."""
    if len(given) > 1:
        return ambiguous_key(hdrs.AUTHORIZATION)
    # A client without a value for its key still sends the header, empty.
    keys = [bearer_key(value) for value in given if value.strip().lower() not in _SCHEMES]
    for name in _KEY_HEADERS:
        values = headers.getall(name, ())
        keys += [value if is_key(value) else None for value in values if value]
        if len(set(keys)) > 1:
            return ambiguous_key(name)
    if not keys:
        return INVALID_API_KEY if given else MISSING_API_KEY
    return INVALID_API_KEY if keys[0] is None else key_id(keys[0])
