"""The credentials of a key, and whether one of them is good now.

A key is who asks; a credential is a secret that proves it. The store and the nodes know a credential by its digest
only, in the same form as a key: a ``kid`` is the digest of the key's first credential, and stays when that one ends.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NamedTuple

MAX_CREDENTIALS: Final = 100
"""The most credentials of a key: a node looks through them for each request with a new secret."""


class CredentialState(IntEnum):
    """Whether requests with a credential are decided, and if not, the reason."""

    VALID = 0
    UNKNOWN = 1
    REVOKED = 2
    EXPIRED = 3
    """The credential, or its key, has ended."""
    DISABLED = 4
    """The key is disabled."""


class Credential(NamedTuple):
    """One credential of a key. `digest`: 32 hex digits of its SHA-256. `ends_ms`: by the store's clock; 0 = never."""

    digest: str
    ends_ms: int = 0
    is_revoked: bool = False
