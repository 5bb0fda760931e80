"""The keys file of a running node: read again when it has changed."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

from limiter_node.declarations import Declarations
from limiter_node.errors import ConfigError
from limiter_node.keysfile.reading import read_keys

_AT_REST_S = 0.1


class KeysFile:
    """Read a keys file again when it has changed; a `store.decisions.declared_file.DeclaredKeys`.

    A file counts as unchanged while its size and times are the same. Several threads may read it.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._lock = threading.Lock()
        self._signature: tuple[int, ...] = ()
        self._declared = Declarations()
        self._known: set[str] = set()
        self._changed_s: dict[str, float] = {}

    def declarations(self) -> Declarations:
        """Return all that the file declares: the same object as before if the file hasn't changed.

        Waits up to a second for a file that is being written: half a file must not count as a change.

        Raises:
            ConfigError: the file can't be read; the earlier keys are kept for the next call.
        """
        with self._lock:
            return self._read()

    def _read(self) -> Declarations:
        for _ in range(10):
            found = self._stat()
            signature = (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
            if signature == self._signature:
                return self._declared
            age_s = time.time() - found.st_ctime
            if self._signature and 0 <= age_s < _AT_REST_S:
                time.sleep(_AT_REST_S - age_s)
                continue
            declared = read_keys(self._path)
            if self._stat().st_ctime_ns != found.st_ctime_ns:
                continue
            if self._signature:
                changed_s, before = time.monotonic() - max(age_s, 0.0), self._declared
                changed = [name for name in declared.names() if before.entry(name) != declared.entry(name)]
                self._changed_s.update(dict.fromkeys(changed, changed_s))
            self._known.update(declared.names())
            self._declared, self._signature = declared, signature
            return declared
        raise ConfigError(f"{self._path}: the file keeps changing while it is read")

    def _stat(self) -> os.stat_result:
        try:
            return self._path.stat()
        except OSError as error:
            raise ConfigError(f"{self._path}: {error.strerror or 'cannot be read'}") from None

    def changed_s_ago(self, name: str) -> float:
        """Return the seconds since the file changed an entry, a `kid` or an account's tag; infinity if it never did.

        The first reading is no change: a node loads it into the store before it decides anything, so that all replies
        are later.
        """
        return time.monotonic() - self._changed_s.get(name, float("-inf"))

    def was_declared(self, name: str) -> bool:
        """Whether any reading of the file so far had this entry."""
        return name in self._known
