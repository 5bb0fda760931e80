"""How long a service may take, in seconds."""

from __future__ import annotations

from typing import NamedTuple


class UpstreamTimeouts(NamedTuple):
    """Hold how long a service may take, in seconds."""

    connect_s: float = 5.0
    """For making a connection, DNS and TLS included."""
    read_s: float = 300.0
    """Without a byte: until the head of its answer, and between two parts of it. A whole answer may take any time."""
    keepalive_s: float = 4.0
    """For keeping an idle connection: less than services do, of which many close after 5."""
