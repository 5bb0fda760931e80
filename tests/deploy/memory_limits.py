"""What nodes and stores need, held against the limits that the files of deploy/ set."""

from __future__ import annotations

import re

from balancers import DEPLOY

_UNITS = {"k": 10, "m": 20, "g": 30}
_HELD = 256 * 2**20
"""The default of ``--max-held-bytes``."""
_PROCESSES = 2
"""A node is its own process, and the one that reads its large requests."""
_OF_A_PROCESS = 256 * 2**20
"""The interpreter, two vocabularies, what is cached of counts; measured 150 to 200 MB."""
_OF_A_REQUEST = 512 * 2**20
"""The largest one while it is read: its values in memory are many times as large as its text."""


def in_bytes(text: str) -> int:
    """As systemd, compose and Kubernetes write sizes, with units of 1,024."""
    match = re.fullmatch(r"(\d+)([kmg])i?", text.lower())
    assert match is not None, text
    return int(match[1]) << _UNITS[match[2]]


MEMORY_OF_A_NODE = _HELD + _PROCESSES * _OF_A_PROCESS + _OF_A_REQUEST
MAXMEMORY = in_bytes(re.findall(r"(?m)^maxmemory (\d+g)b$", (DEPLOY / "valkey.conf").read_text())[0])
