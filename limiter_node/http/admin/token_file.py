"""The token of the admin API: read from its file, compared in constant time.

The file is read at each check, so a new token counts at once and the old one no longer does.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import stat
from typing import Final

from limiter_node.credentials import MAX_KEY_CHARS, bearer_key, is_key
from limiter_node.errors import ConfigError

log = logging.getLogger(__name__)

_OPTION: Final = "--admin-token-file"
_MOST_BYTES: Final = MAX_KEY_CHARS + 2  # a token and its line's end
_FOR_ANYBODY: Final = stat.S_IROTH | stat.S_IWOTH


class TokenFile:
    """Check tokens against the one in a file. While the file can't be used, no token is right.

    A check opens and reads the file, which blocks the node for some 20 µs: keep it on a local disk.
    """

    def __init__(self, path: str) -> None:
        """Read the file. Raises ConfigError if it doesn't hold one token in one line."""
        self._path, self._warned_of = path, 0
        self._digest, self._problem = _digest(self._read()), ""

    def accepts(self, authorization: str) -> bool:
        """Return whether an ``Authorization`` header gives the token: ``Bearer TOKEN``."""
        expected = self._current()
        given = bearer_key(authorization)
        return expected is not None and given is not None and hmac.compare_digest(_digest(given), expected)

    def _current(self) -> bytes | None:
        """Return the digest of the token in the file; None while the file can't be used. Log each change once."""
        try:
            digest = _digest(self._read())
        except ConfigError as error:
            if self._problem != str(error):
                self._problem = str(error)
                event = {"event": "admin_token_unusable", "reason": self._problem}
                log.warning("the admin API accepts no token until this is mended: %s", error, extra=event)
            return None
        if digest != self._digest or self._problem:
            self._digest, self._problem = digest, ""
            log.info("the admin token was read again", extra={"event": "admin_token_renewed"})
        return digest

    def _read(self) -> str:
        token, mode = read_token(self._path)
        open_to = mode & _FOR_ANYBODY
        if open_to and open_to != self._warned_of:
            log.warning(
                "%s %s: any user of this machine may %s: chmod 600 it, and change the token",
                _OPTION,
                self._path,
                "change it" if open_to & stat.S_IWOTH else "read it",
                extra={"event": "admin_token_exposed"},
            )
        self._warned_of = open_to
        return token


def read_token(path: str) -> tuple[str, int]:
    """Return the token in a file, and the file's mode. Raises ConfigError if it isn't one token in one line."""
    try:
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{_OPTION} {path}: {error.strerror or 'cannot be read'}") from None
    token = content.decode("utf-8", "replace").removesuffix("\n").removesuffix("\r")
    if not token:
        raise ConfigError(f"{_OPTION} {path}: the file is empty; it must hold the token")
    if "\n" in token:
        raise ConfigError(f"{_OPTION} {path}: the file has several lines; it must hold the token alone")
    if not is_key(token):
        raise ConfigError(
            f"{_OPTION} {path}: a token has 1 to {MAX_KEY_CHARS} visible ASCII characters, without spaces"
        )
    return token, mode


def _digest(token: str) -> bytes:
    # Digests have one length, so that comparing them tells nothing of the token's.
    return hashlib.sha256(token.encode()).digest()
