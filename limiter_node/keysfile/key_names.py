"""Keys as operators write them, and their names in messages, which never show a key."""

from __future__ import annotations

import re

from limiter_node.credentials import MAX_KEY_CHARS, declared_key_id, is_key
from limiter_node.errors import ConfigError


def key_digest_name(kid: str) -> str:
    """Return the name in messages of a key that has none."""
    return f"key {kid[:8]}…"


def called(name: str, kid: str) -> str:
    """Return the name of a key in messages: its own, else by its digest."""
    return f"key '{name}'" if name else key_digest_name(kid)


def check_declared_key(declared: str, what: str = "a key") -> str:
    """Return the ``kid`` of a key that is written plain or as a digest. Raises ConfigError, which doesn't show it."""
    if is_digest(declared):
        if not re.fullmatch(r"[0-9a-fA-F]{64}", declared[7:]):
            raise ConfigError("a digest is sha256: and 64 hex digits")
    elif not declared:
        raise ConfigError(f"{what} must not be empty")
    elif len(declared) > MAX_KEY_CHARS:
        raise ConfigError(f"{what} must not be longer than {MAX_KEY_CHARS} characters")
    elif any(c.isspace() or not c.isprintable() for c in declared):
        raise ConfigError(f"{what} must not contain white space or control characters")
    elif not is_key(declared):
        raise ConfigError(f"{what} must have ASCII characters only: clients can't send others in a header")
    return declared_key_id(declared)


def is_digest(declared: str) -> bool:
    """Whether a key is written as a digest, right or wrong, and not as the secret itself."""
    return declared.startswith("sha256:")
