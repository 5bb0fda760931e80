"""Keys as operators write them, and their names in messages, which never show a key."""

from __future__ import annotations

import re

from limiter_node.credentials import MAX_KEY_CHARS, declared_key_id, is_key
from limiter_node.errors import ConfigError
from limiter_node.keysfile.fields import check_name


def key_digest_name(kid: str) -> str:
    """Return the name in messages of a key that has none."""
    return f"key {kid[:8]}…"


def called(name: str, kid: str) -> str:
    """Return the name of a key in messages: its own, else by its digest."""
    return f"key '{name}'" if name else key_digest_name(kid)


def called_in_section(declared: str, section: object) -> str:
    """Return the name in messages of a key whose section may be wrong."""
    name = section.get("name") if type(section) is dict else None
    try:
        usable = check_name(name) and name != declared
    except ConfigError:
        usable = False
    return called(str(name) if usable else "", declared_key_id(declared))


def check_declared_key(declared: str) -> str:
    """Return the ``kid`` of a key that is written plain or as a digest. Raises ConfigError, which doesn't show it."""
    if declared.startswith("sha256:"):
        if not re.fullmatch(r"[0-9a-fA-F]{64}", declared[7:]):
            raise ConfigError("a digest is sha256: and 64 hex digits")
    elif not declared:
        raise ConfigError("a key must not be empty")
    elif len(declared) > MAX_KEY_CHARS:
        raise ConfigError(f"a key must not be longer than {MAX_KEY_CHARS} characters")
    elif any(c.isspace() or not c.isprintable() for c in declared):
        raise ConfigError("a key must not contain white space or control characters")
    elif not is_key(declared):
        raise ConfigError("a key must have ASCII characters only: clients can't send others in a header")
    return declared_key_id(declared)
