"""The errors of this package that a caller or an operator may meet. Each message says what to do."""

from __future__ import annotations


class LimiterError(Exception):
    """Base of all errors of this package that a caller or an operator may meet. The message says what to do."""


class StoreUnavailable(LimiterError):
    """Raised when the store doesn't decide or reply in time, or can't be reached."""


class KeyIsMoving(StoreUnavailable):
    """Raised when a key is sealed for a move to another account for too long to wait: nobody may decide for it."""


class OtherFormat(LimiterError):
    """Raised when nodes of storage format `theirs` use the store, and this process reads and writes `ours`."""

    def __init__(self, theirs: bytes, ours: int) -> None:
        super().__init__(
            f"nodes of storage format {theirs.decode(errors='replace')} use this store, but this node uses "
            f"format {ours}: stop those nodes first, or give this node another store"
        )


class Overloaded(LimiterError):
    """Raised when a node has as much undecided work as it may hold."""


class ConfigError(LimiterError):
    """Raised for wrong settings, keys files or URLs, which a person has to correct (exit code 2)."""


class DamagedValue(ConfigError):
    """Raised when a stored value can't be read. The message names it."""


class StoreMisconfigured(ConfigError):
    """Raised when the store refuses a node or command: its URL, its login or the server has to be corrected."""
