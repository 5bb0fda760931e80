"""New keys, and files with them that only their owner can read."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path

from limiter_node.errors import ConfigError, LimiterError
from limiter_node.keysfile.fields import LIMIT_RANGES, check_limit
from limiter_node.limits import KeyLimits

MAX_GENERATED = 1_000_000


def generate_keys(count: int, limits: KeyLimits) -> str:
    """Return the text of a keys file with `count` random keys named key-0001 and on, all with the same limits."""
    if not 1 <= count <= MAX_GENERATED:
        raise ConfigError(f"--count must be from 1 to {MAX_GENERATED}")
    lines = ["[defaults]", *(f"{field} = {check_limit(field, getattr(limits, field))}" for field in LIMIT_RANGES)]
    for number in range(1, count + 1):
        # 24 random bytes: as hard to guess as a 192-bit secret, and every character stands in a URL or header as it is.
        lines += ["", f"[keys.{json.dumps(new_key())}]", f'name = "key-{number:04}"']
    return "\n".join(lines) + "\n"


def new_key(prefix: str = "sk-") -> str:
    """Return a random API key."""
    return prefix + secrets.token_urlsafe(24)


def write_private(path: str | Path, text: str, *, overwrite: bool = False) -> None:
    """Write a file that only its owner can read, whole or not at all.

    Raises ConfigError if it exists and `overwrite` is not set, LimiterError if it cannot be written.
    """
    target = Path(path)
    # To overwrite is to replace: the new file is private even if the old one wasn't.
    written = target.with_name(f".{target.name}.{secrets.token_hex(8)}") if overwrite else target
    try:
        descriptor = os.open(written, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
            if overwrite:
                written.replace(target)
        except BaseException:
            written.unlink(missing_ok=True)
            raise
    except FileExistsError:
        raise ConfigError(f"{path} exists: choose another --out, or overwrite it with --force") from None
    except OSError as error:
        raise LimiterError(f"{path}: {error.strerror or 'cannot be written'}") from None
