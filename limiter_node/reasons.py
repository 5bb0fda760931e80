"""The reason why something could not be reached, in the system's few words; for tables and single lines.

Libraries wrap the system's errors in sentences of their own, addresses and all.
"""

from __future__ import annotations

import os
import socket
import ssl


def system_reason(error: BaseException) -> str:
    """Return the system's words for `error`, as "connection refused"; "" if no system error is behind it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):  # its number isn't the system's
            return (
                f"TLS: {getattr(cause, 'verify_message', '') or (cause.reason or str(cause)).replace('_', ' ').lower()}"
            )
        if isinstance(cause, socket.gaierror):
            return (cause.strerror or "name not known").lower()
        if isinstance(cause, OSError) and cause.errno and cause.errno > 0:
            return os.strerror(cause.errno).lower()
        cause = getattr(cause, "os_error", None) or cause.__cause__ or cause.__context__
    return ""
