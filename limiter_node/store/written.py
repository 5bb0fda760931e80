"""The replies of ``declare.lua`` and of what writes like it: whether a policy was written, and if not, the reason."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

ATTEMPTS: Final = 100
"""Of writes over what was read. Somebody else wrote in between each two of them, so as many others have succeeded."""


class Written(IntEnum):
    """The outcome of a write over what was read. Only with `DONE` anything was written."""

    OTHER_VERSION = 0
    """Somebody else has changed the item since it was read."""
    DONE = 1
    NAME_TAKEN = 2
    """Another key of the account has the name."""
    MOVED = 3
    """The key has moved to another account."""
    WAS_DELETED = 4
    """The item was deleted on purpose, and the writer took it for lost."""
