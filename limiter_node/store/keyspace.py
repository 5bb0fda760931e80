"""The names of things in the store (the glossary is in lua/README.md), how an API key becomes one, and the number of
the format in which they are stored.
"""

from __future__ import annotations

import hashlib
import re

NODES_TAG = "nodes"
NODES_KEY = f"rl:{{{NODES_TAG}}}"
"""The hash of the nodes that are there."""
FORMAT_KEY = f"{NODES_KEY}:format"
"""The storage format of the nodes that are there."""
STORAGE_FORMAT = 1
"""The number of the storage format that this version reads and writes.

It rises with each change of what is stored that nodes of the version before would read or write wrongly. The scripts
have no number: each node brings its own and calls them by their digest.
"""

_DECLARED_DIGEST = re.compile(r"sha256:([0-9a-fA-F]{64})\Z")


def key_id(api_key: str) -> str:
    """The ``kid`` of an API key: the first 32 hex digits of its SHA-256. The key itself is never stored or logged."""
    return hashlib.sha256(api_key.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def declared_key_id(declared: str) -> str:
    """The ``kid`` of a key as operators write it: plain, or ``sha256:`` and the 64 hex digits of its digest."""
    digest = _DECLARED_DIGEST.match(declared)
    return digest.group(1).lower()[:32] if digest else key_id(declared)


def limits_key(kid: str) -> str:
    """The key's limits, packed. The braces make all keys of one API key share a slot."""
    return f"rl:{{{kid}}}:limits"


def window_key(kid: str) -> str:
    """The hash of the key's sums, its newest bucket and the last batch of each node that decides for it."""
    return f"rl:{{{kid}}}:window"


META_FIELD = "m"
"""The field of that hash that isn't a node's record."""


def past_key(kid: str) -> str:
    """The hash of the key's older buckets."""
    return f"rl:{{{kid}}}:past"


def deleted_key(kid: str) -> str:
    """A mark that the key was deleted on purpose, for nodes that would declare it again."""
    return f"rl:{{{kid}}}:deleted"
