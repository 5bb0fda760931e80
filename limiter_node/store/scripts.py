"""The sources of the Lua scripts that run in the store."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from typing import NamedTuple


class Script(NamedTuple):
    """A Lua source and the SHA-1 under which the server caches it."""

    source: bytes
    sha: bytes


def load_script(name: str) -> Script:
    """Read ``lua/NAME.lua``: the file itself is what runs in the store."""
    source = (files("lua") / f"{name}.lua").read_bytes()
    return Script(source, hashlib.sha1(source, usedforsecurity=False).hexdigest().encode())
