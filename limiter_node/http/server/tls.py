"""The certificate that a node shows on its callers' port: checked at the start, read again when it is renewed.

Nothing here listens; `limiter_node.http.server.handshakes` uses the context.
"""

from __future__ import annotations

import logging
import os
import ssl

from limiter_node.errors import ConfigError

log = logging.getLogger(__name__)


def server_context(cert_file: str, key_file: str) -> ssl.SSLContext:
    """Return a server's context, TLS 1.2 or later, with this certificate chain and key (PEM files).

    Raises:
        ConfigError: a file can't be read, or the key isn't the certificate's or is encrypted.
    """
    for option, file in (("--tls-cert", cert_file), ("--tls-key", key_file)):
        try:
            with open(file, "rb"):
                pass
        except OSError as error:
            raise ConfigError(f"{option} {file}: {error.strerror or 'cannot be read'}") from None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A client of TLS 1.2 could make the node do one handshake after the other on one connection.
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    try:
        # With a password that is wrong, an encrypted key is an error; without one OpenSSL would ask the terminal.
        context.load_cert_chain(cert_file, key_file, password=lambda: "-")
    except (ssl.SSLError, OSError) as error:
        if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
            raise ConfigError(f"--tls-key {key_file} is not the key of --tls-cert {cert_file}") from None
        raise ConfigError(
            f"--tls-cert {cert_file}, --tls-key {key_file}: they must be PEM files of a certificate chain, the node's "
            "own certificate first, and of its key, not encrypted"
        ) from None
    return context


class Certificate:
    """A certificate and its key on disk. `context` is for the next handshake: the latest pair that could be read."""

    def __init__(self, cert_file: str, key_file: str) -> None:
        """Raises ConfigError as `server_context` does."""
        self._files = cert_file, key_file
        self._signature = self._look()
        self.context = server_context(cert_file, key_file)
        self._failed = False

    def refresh(self) -> None:
        """Read the files again if they have changed. To be called now and then; costs two calls of `stat`.

        Certificate and key are replaced one after the other, so a pair that doesn't fit is tried again; one warning
        tells of it where it still doesn't fit at the next call.
        """
        signature = self._look()
        if signature == self._signature:
            return
        try:
            self.context = server_context(*self._files)
        except ConfigError as error:
            if self._failed:
                self._signature = signature
                event = {"event": "certificate_unusable", "reason": str(error)}
                log.warning("the renewed certificate can't be used, the old one stays: %s", error, extra=event)
            self._failed = not self._failed
            return
        self._signature, self._failed = signature, False
        log.info("the certificate was renewed", extra={"event": "certificate_renewed"})

    def _look(self) -> tuple[tuple[int, int, int], ...]:
        found = []
        for file in self._files:
            try:
                status = os.stat(file)
            except OSError:
                found.append((0, 0, 0))
            else:
                found.append((status.st_ino, status.st_size, status.st_mtime_ns))
        return tuple(found)
