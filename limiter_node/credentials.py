"""The API key that a request's headers give, in each of the forms in which clients send one.

Used by `http`, which decides by it, and by `upstream`, which may pass it on.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Final

MAX_KEY_CHARS: Final = 512
KEY_HEADERS: Final = ("x-api-key", "api-key")
"""Headers whose value is a key, as clients of Anthropic and of Azure send it."""

_SCHEME = "bearer "


def bearer_key(header: str | None) -> str | None:
    """Return the key of ``Bearer KEY``, the scheme in any case, with any number of spaces; None for anything else.

    A key that `is_key` refuses can't be a declared one, and is None as well.
    """
    if header is None or header[:7].lower() != _SCHEME:
        return None
    key = header[7:].lstrip(" ")
    return key if is_key(key) else None


def is_key(text: str) -> bool:
    """Whether `text` can be an API key: 1 to 512 visible ASCII characters.

    A key reaches the store as a digest only, so that its characters (braces, say) have no say in the slot.
    """
    # `isprintable` admits 0x20 to 0x7e among ASCII, so the space is left to refuse.
    return 0 < len(text) <= MAX_KEY_CHARS and text.isascii() and text.isprintable() and " " not in text


def given_key(headers: Mapping[str, str]) -> str | None:
    """Return the key in `headers`, whatever its form, of a request that gives one at most; None if there is none."""
    key = bearer_key(headers.get("Authorization"))
    if key is not None:
        return key
    return next((value for name in KEY_HEADERS if (value := headers.get(name)) and is_key(value)), None)


_DECLARED_DIGEST = re.compile(r"sha256:([0-9a-fA-F]{64})\Z")


def key_id(api_key: str) -> str:
    """Return the ``kid`` of an API key: the first 32 hex digits of its SHA-256. The key is never stored or logged."""
    return hashlib.sha256(api_key.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def declared_key_id(declared: str) -> str:
    """Return the ``kid`` of a key as operators write it: plain, or ``sha256:`` and the 64 hex digits of its digest."""
    digest = _DECLARED_DIGEST.match(declared)
    return digest.group(1).lower()[:32] if digest else key_id(declared)
