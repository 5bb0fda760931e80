"""Reads ``keys.toml``, the file that also declares the keys to the limiter, and names keys in records.

A key leaves this client only in the ``Authorization`` header: records hold its id, the first 12 hex digits of its
SHA-256.
"""

from __future__ import annotations

import hashlib
import tomllib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench_client.errors import BenchUsageError
from bench_client.load.declared_paths import DeclaredPath, PathReader

KEY_ID_DIGITS = 12
DIGEST_PREFIX = "sha256:"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """Hold one usable key: the secret (kept out of ``repr``), its id in records and the name a person gave it."""

    secret: str = field(repr=False)
    key_id: str
    name: str
    path: DeclaredPath | None = field(default=None, repr=False)
    """None for a plain key: without an account, and with the usual three limits only."""


@dataclass(frozen=True, slots=True)
class KeyRing:
    """Hold the usable keys of one file, in its order, and the number of others: digests only, or none valid now."""

    keys: tuple[ApiKey, ...]
    skipped: int


def key_id(secret: str) -> str:
    """Return the name of a key in records: the first 12 hex digits of its SHA-256."""
    return hashlib.sha256(secret.encode()).hexdigest()[:KEY_ID_DIGITS]


def read_keys(path: Path) -> KeyRing:
    """Return the keys declared in the file ``path``.

    Raises BenchUsageError when the file can't be read, isn't a keys file, has limits that can't be read, or no key that
    a client can send.
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
    paths = PathReader(document, path)
    usable: list[ApiKey] = []
    for label, entry in table.items():
        secret = _plain_secret(label, entry)
        if secret is None:
            continue
        if not secret.isascii() or not secret.isprintable() or " " in secret or not secret:
            raise BenchUsageError(f"{path}: key number {len(usable) + 1} has characters that no HTTP header can carry")
        identity = key_id(secret)
        name = str(entry.get("name", label if "credentials" in entry else ""))
        place = f"key {name!r}" if name else f"key number {len(usable) + 1}"
        usable.append(
            ApiKey(secret, identity, name or identity, paths.path_of(place, name or _first_id(label, entry), entry))
        )
    if not usable:
        raise BenchUsageError(
            f"{path} has no key in plain text that is valid: declare one, because a client cannot send sha256:… keys"
        )
    return KeyRing(tuple(usable), len(table) - len(usable))


def _first_id(label: str, entry: dict[str, Any]) -> str:
    """Return the first digits of the digest of a section's first credential: the limiter's name for a nameless key."""
    listed = entry.get("credentials")
    first = listed[0] if isinstance(listed, list) and listed else label
    declared = str(first.get("secret") if isinstance(first, dict) else first)
    digest = declared.removeprefix(DIGEST_PREFIX).lower()
    return digest[:KEY_ID_DIGITS] if declared.startswith(DIGEST_PREFIX) else key_id(declared)


def _plain_secret(label: str, entry: dict[str, Any]) -> str | None:
    """Return the first secret of a section that is written plain and hasn't ended; None if there is none."""
    if _has_ended(entry):
        return None
    listed = entry.get("credentials", [label])
    for credential in listed if isinstance(listed, list) else ():
        section = credential if isinstance(credential, dict) else {"secret": credential}
        secret = section.get("secret")
        if isinstance(secret, str) and not secret.startswith(DIGEST_PREFIX) and not _has_ended(section):
            return secret
    return None


def _has_ended(section: dict[str, Any]) -> bool:
    ends = section.get("expires")
    return isinstance(ends, datetime) and ends.tzinfo is not None and ends <= datetime.now(UTC)
