"""The errors a person may meet. Each message is one line that says what to do; ``cli`` maps them to exit codes."""

from __future__ import annotations


class BenchError(Exception):
    """Raised when a run or an audit cannot be done or has failed (exit code 1)."""


class BenchUsageError(BenchError):
    """Raised for wrong settings: options, keys files, trace files, target URLs (exit code 2)."""
