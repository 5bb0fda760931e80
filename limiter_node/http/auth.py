"""The API key in an `Authorization` header."""

from __future__ import annotations

MAX_KEY_CHARS = 512
_SCHEME = "bearer "


def bearer_key(header: str | None) -> str | None:
    """The key of ``Bearer KEY``, the scheme in any case; None for anything else, which is then a 401.

    A key is 1 to 512 visible ASCII characters; whatever else is sent can't be a declared one. It reaches the store as a
    digest only, so that its characters (braces, say) have no say in the slot.
    """
    if header is None or header[:7].lower() != _SCHEME:
        return None
    key = header[7:]
    # `isprintable` admits 0x20 to 0x7e among ASCII, so the space is left to refuse.
    if 0 < len(key) <= MAX_KEY_CHARS and key.isascii() and key.isprintable() and " " not in key:
        return key
    return None
