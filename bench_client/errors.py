"""The errors that a user can see. Each message is one line that says what to do; ``cli`` maps them to exit codes."""

from __future__ import annotations

import errno
from pathlib import Path

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class BenchError(Exception):
    """Raised when a run or an audit cannot be done or has failed (exit code 1)."""


class BenchUsageError(BenchError):
    """Raised for wrong settings: options, keys files, trace files, target URLs (exit code 2)."""


def not_installed(library: str, extra: str) -> str:
    """Return the message for a library that only an extra of the package installs."""
    return (
        f"{library} is not installed; in the project's folder run `make setup-dev`, "
        f"or `pip install '.[{extra}]'` for an environment of your own"
    )


def cannot_write(path: Path | str, error: OSError) -> BenchError:
    """Return the error for a file that could not be written."""
    advice = "; free some space" if error.errno in _DISK_FULL else ""
    return BenchError(f"cannot write {path}: {error.strerror}{advice}")
