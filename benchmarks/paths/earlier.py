"""The code of an earlier commit of this repository, by git."""

from __future__ import annotations

import io
import subprocess
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPT = "lua/decide.lua"


class NoEarlierCode(Exception):
    """Raised when git, its repository or the commit isn't there."""


def _git(*arguments: str) -> bytes:
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, check=True)
    except FileNotFoundError:
        raise NoEarlierCode("git is not installed") from None
    except subprocess.CalledProcessError as error:
        raise NoEarlierCode(error.stderr.decode("utf-8", "replace").strip()) from None
    return done.stdout


def commit_before(ref: str | None) -> str:
    """Return the hash of `ref`; if it is None, of the newest commit before the last change to `SCRIPT`."""
    if ref is None:
        changed = _git("log", "-1", "--format=%H", "--", SCRIPT).decode().strip()
        if not changed:
            raise NoEarlierCode(f"the repository has no commit of {SCRIPT}")
        ref = f"{changed}^"
    return _git("rev-parse", "--verify", "--short", f"{ref}^{{commit}}").decode().strip()


def script_of(commit: str) -> bytes:
    """Return the script of plain keys as it was in that commit."""
    return _git("show", f"{commit}:{SCRIPT}")


@contextmanager
def code_of(commit: str) -> Iterator[Path]:
    """Write the whole commit into a directory, which exists as long as the context."""
    # An archive and not a work tree: nothing of it stays in the repository if we are killed.
    with (
        tempfile.TemporaryDirectory() as directory,
        zipfile.ZipFile(io.BytesIO(_git("archive", "--format=zip", commit))) as archive,
    ):
        archive.extractall(directory)
        yield Path(directory)
