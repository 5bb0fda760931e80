"""Reads ``keys.toml``, the file that also declares the keys to the limiter, and names keys in records.

A key leaves this client only in the ``Authorization`` header: records hold its id, the first 12 hex digits of its
SHA-256.
"""

from __future__ import annotations

import hashlib
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from bench_client.errors import BenchUsageError

KEY_ID_DIGITS = 12
DIGEST_PREFIX = "sha256:"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """Hold one usable key: the secret (kept out of ``repr``), its id in records and the name a person gave it."""

    secret: str = field(repr=False)
    key_id: str
    name: str


@dataclass(frozen=True, slots=True)
class KeyRing:
    """Hold the usable keys of one file, in its order, and the number of digests in it, which can't be sent."""

    keys: tuple[ApiKey, ...]
    skipped: int


def key_id(secret: str) -> str:
    """Return the name of a key in records: the first 12 hex digits of its SHA-256."""
    return hashlib.sha256(secret.encode()).hexdigest()[:KEY_ID_DIGITS]


def read_keys(path: Path) -> KeyRing:
    """Return the keys declared in the file ``path``.

    Raises BenchUsageError when the file can't be read, isn't a keys file, or has no key that a client can send.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BenchUsageError(f"cannot read the keys file {path}: {error.strerror}; pass one with --keys") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BenchUsageError(f"{path} is not a valid keys file: {error}") from None
    table = document.get("keys")
    if not isinstance(table, dict) or not all(isinstance(entry, dict) for entry in table.values()):
        raise BenchUsageError(f'{path} declares no keys; each needs a table like [keys."sk-alice"]')
    usable: list[ApiKey] = []
    for secret, entry in table.items():
        if secret.startswith(DIGEST_PREFIX):
            continue
        if not secret.isascii() or not secret.isprintable() or " " in secret or not secret:
            raise BenchUsageError(f"{path}: key number {len(usable) + 1} has characters that no HTTP header can carry")
        identity = key_id(secret)
        usable.append(ApiKey(secret, identity, str(entry.get("name", "")) or identity))
    if not usable:
        raise BenchUsageError(
            f"{path} has no key in plain text: declare one, because a client cannot send sha256:… keys"
        )
    return KeyRing(tuple(usable), len(table) - len(usable))
