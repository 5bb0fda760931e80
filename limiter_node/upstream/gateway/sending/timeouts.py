"""The time limits of a service, in seconds."""

from __future__ import annotations

from typing import NamedTuple


class UpstreamTimeouts(NamedTuple):
    """Hold the time limits of a service, in seconds."""

    connect_s: float = 5.0
    """The limit for making a connection, DNS and TLS included."""
    read_s: float = 300.0
    """The limit for silence: until the head of an answer, and between two parts. A whole answer may take any time."""
    keepalive_s: float = 4.0
    """The time to keep an idle connection, less than that of services, of which many close after 5 s."""
