"""The names of keys in the store (the glossary is in lua/README.md), the slots they fall into, and the number of the
format in which they are stored.
"""

from __future__ import annotations

from binascii import crc_hqx

SLOTS = 16384
"""The hash slots of a cluster."""

NODES_TAG = "nodes"
NODES_KEY = f"rl:{{{NODES_TAG}}}"
"""The hash of the live nodes."""

FORMAT_KEY = f"{NODES_KEY}:format"
"""The storage format of the live nodes."""

STORAGE_FORMAT = 1
"""The number of the storage format that this version reads and writes.

It rises with each change of stored data that nodes of the version before would read or write wrongly. The scripts
have no number: each node brings its own and calls them by their digest.
"""


def slot_of(tag: str) -> int:
    """Return the cluster slot of all names with the hash tag `tag`, for example an API key's `kid`."""
    return crc_hqx(tag.encode(), 0) % SLOTS


def limits_key(kid: str) -> str:
    """Return the name of the key's limits, packed. The braces make all keys of one API key share a slot."""
    return f"rl:{{{kid}}}:limits"


def window_key(kid: str) -> str:
    """Return the name of the hash of the key's sums, its newest bucket and each node's last batch of it."""
    return f"rl:{{{kid}}}:window"


META_FIELD = "m"
"""The field of the window's hash that isn't a node's record."""


def past_key(kid: str) -> str:
    """Return the name of the hash of the key's older buckets."""
    return f"rl:{{{kid}}}:past"


def decision_keys(kid: str) -> tuple[bytes, bytes, bytes]:
    """Return the keys of ``decide.lua`` and ``peek.lua``: limits, window, past."""
    return limits_key(kid).encode(), window_key(kid).encode(), past_key(kid).encode()


def deleted_key(kid: str) -> str:
    """Return the name of the mark that a key was deleted on purpose, so that no node declares it again."""
    return f"rl:{{{kid}}}:deleted"


def declared_key(kid: str) -> str:
    """Return the name of the record of what keys files declared of a plain key."""
    return f"rl:{{{kid}}}:declared"


def policy_key(tag: str) -> str:
    """Return the name of the hash of an account's policies: its own, and those of its keys."""
    return f"rl:{{{tag}}}:policy"


def shared_key(tag: str) -> str:
    """Return the name of the hash of an account's clock, its nodes' last batches, and the windows its keys share."""
    return f"rl:{{{tag}}}:shared"


CLOCK_FIELD = "c"
"""The field of the hash of an account's windows that holds its clock."""


def member_key(tag: str, kid: str) -> str:
    """Return the name of the hash of the windows of one key of an account."""
    return f"rl:{{{tag}}}:key:{kid}"


ACCOUNT_FIELD = "account"
"""The field of ``rl:{kid}:limits`` that leads from a key to its account's hash tag, where it is no plain key."""

WAY_FIELDS = ("tag", "kid")
"""The fields of ``rl:{cid}:limits`` of a further credential: the hash tag of the account of its key, and the key.

Earlier versions find no `ACCOUNT_FIELD` there, can't read the value, and answer 503 instead of a lasting 401.
"""
