"""Target URLs: what is parsed from them, and the wait before a run until each can be reached and is ready."""

from __future__ import annotations

import http.client
import ssl
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from urllib.parse import urlsplit

import orjson

from bench_client.errors import BenchError, BenchUsageError

CHECK_TIMEOUT_S = 5.0
POLL_EVERY_S = 0.2
LIMITED_ROUTE = "/v1/chat/completions"
FALLBACK_MODEL = "gpt-4o-mini"


@dataclass(frozen=True, slots=True)
class LoadTarget:
    """Describe one server under load."""

    url: str
    host: str
    port: int
    tls: bool
    path: str
    """The path before the routes; empty or ``/like/this``."""
    ca_file: Path | None = None
    """Certificates to trust beside the system's, PEM; only with TLS."""

    @classmethod
    def parse(cls, url: str, ca_file: Path | None = None) -> LoadTarget:
        """Parse ``http[s]://host[:port][/path]``.

        Raises BenchUsageError when ``url`` isn't of that form, or ``ca_file`` can't be read.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            parts, port = urlsplit(""), None
        plain = (
            not (parts.query or parts.fragment or parts.username)
            and url.isascii()
            and url.isprintable()
            and " " not in url
        )
        if parts.scheme not in ("http", "https") or not parts.hostname or not plain:
            raise BenchUsageError(f"{url!r} is not a target: use http://HOST:PORT")
        tls = parts.scheme == "https"
        target = cls(
            url, parts.hostname, port or (443 if tls else 80), tls, parts.path.rstrip("/"), ca_file if tls else None
        )
        try:
            target.tls_context()
        except OSError as error:  # ssl.SSLError is one
            reason = "it has no certificate in PEM" if isinstance(error, ssl.SSLError) else error.strerror
            raise BenchUsageError(f"cannot use --ca-file {ca_file}: {reason}") from None
        return target

    def tls_context(self) -> ssl.SSLContext | None:
        """Return the context to connect with; None without TLS. Raises OSError when the certificates can't be read."""
        if not self.tls:
            return None
        context = ssl.create_default_context()
        if self.ca_file is not None:
            context.load_verify_locations(self.ca_file)
        return context

    @property
    def authority(self) -> str:
        """Return the value of the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"

    @property
    def request_head(self) -> bytes:
        """Return the request line and the Host header of a limited request."""
        return f"POST {self.path}{LIMITED_ROUTE} HTTP/1.1\r\nHost: {self.authority}\r\n".encode()


def await_targets(targets: tuple[LoadTarget, ...], wait_s: float, option: str = "--target") -> None:
    """Return as soon as each target was ready once; ask those that weren't again and again for ``wait_s`` seconds.

    Raises BenchError naming, in one line, each target that can't be reached or says that it isn't ready when it is
    asked last. A server without ``/readyz`` passes by answering at all. ``option`` is where the targets come from.
    """
    deadline = monotonic() + wait_s
    problems = dict.fromkeys(targets, "")
    while True:
        # Looked at before asking, so that a target is asked at the deadline, too, and once in any case.
        left_s = deadline - monotonic()
        problems = {target: problem for target in problems if (problem := _problem(target))}
        if not problems:
            return
        if left_s <= 0:
            waited = f"; waited {wait_s:g} s" if wait_s else ""
            raise BenchError("; ".join(problems.values()) + f"{waited}; start it or correct {option}")
        sleep(min(POLL_EVERY_S, left_s))


def _problem(target: LoadTarget) -> str:
    """Return why the target can't be sent to; empty if it can."""
    try:
        status, body = _get(target, "/readyz")
    except (OSError, UnicodeError, http.client.HTTPException) as error:
        return f"{target.url} is not reachable ({_reason(error)})"
    return f"{target.url} is not ready ({_ready_reason(body)})" if status == 503 else ""


def served_model(target: LoadTarget, secret: str) -> str:
    """Return the first model that the target lists, or a common name if it lists none."""
    try:
        status, body = _get(target, "/v1/models", {"Authorization": f"Bearer {secret}"})
        model = orjson.loads(body)["data"][0]["id"] if status == 200 else FALLBACK_MODEL
    except (OSError, http.client.HTTPException, orjson.JSONDecodeError, LookupError, TypeError):
        return FALLBACK_MODEL
    return model if isinstance(model, str) else FALLBACK_MODEL


def _get(target: LoadTarget, path: str, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
    connection: http.client.HTTPConnection
    if target.tls:
        connection = http.client.HTTPSConnection(
            target.host, target.port, timeout=CHECK_TIMEOUT_S, context=target.tls_context()
        )
    else:
        connection = http.client.HTTPConnection(target.host, target.port, timeout=CHECK_TIMEOUT_S)
    try:
        connection.request("GET", target.path + path, headers=headers or {})
        response = connection.getresponse()
        return response.status, response.read(65_536)
    finally:
        connection.close()


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted, {error.verify_message}: pass its authority's certificate as --ca-file"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    strerror = getattr(error, "strerror", None)
    return str(strerror or error or type(error).__name__).lower().splitlines()[0]


def _ready_reason(body: bytes) -> str:
    text = " ".join(body.decode("utf-8", "replace").split())
    return text[:120] or "503"
