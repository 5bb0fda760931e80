"""The store's address: the ``--store`` URL, parsed once into a frozen object that never shows its password.

Owns the URL's grammar, the TLS options and how redis-py clients for administration are built from them. Decisions go
through `store.wire` instead, because these clients may retry.
"""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, quote, unquote

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff

from limiter_node.addresses import format_host
from limiter_node.errors import ConfigError

SCHEMES = {
    "redis": (False, False),
    "rediss": (False, True),
    "redis+cluster": (True, False),
    "rediss+cluster": (True, True),
}
"""Scheme → whether the store is a cluster, and whether it speaks TLS."""

DEFAULT_PORT = 6379
CONNECT_TIMEOUT_S = 2.0
COMMAND_TIMEOUT_S = 5.0
_CERT_REQS = {"required": ssl.CERT_REQUIRED, "optional": ssl.CERT_OPTIONAL, "none": ssl.CERT_NONE}
_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_TLS_OPTIONS = ("ssl_ca_certs", "ssl_cert_reqs", "ssl_check_hostname", "ssl_certfile", "ssl_keyfile")
_OPTIONS = (*_TLS_OPTIONS, "db")
_OPTION_LIKE = re.compile(r"[a-z]+(_[a-z]+)*")


@dataclass(frozen=True, slots=True)
class TlsOptions:
    """Hold how to check the store's certificate, and the client certificate to show; paths to PEM files."""

    ca_certs: str | None = None
    cert_reqs: str = "required"
    check_hostname: bool = True
    certfile: str | None = None
    keyfile: str | None = None


@dataclass(frozen=True, slots=True)
class StoreAddress:
    """A parsed store URL. `endpoints` has one entry for a single store, one or more to discover a cluster from.

    `password` is "" for a user without one (`nopass`), and None where there is no login.
    """

    cluster: bool
    endpoints: tuple[tuple[str, int], ...]
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    db: int = 0
    tls: TlsOptions | None = None

    def ssl_context(self) -> ssl.SSLContext | None:
        """Return a new context with the URL's options; None without TLS. Raises ConfigError for unreadable files."""
        if self.tls is None:
            return None
        try:
            context = ssl.create_default_context(cafile=self.tls.ca_certs)
        except OSError as error:
            raise ConfigError(f"--store: ssl_ca_certs {self.tls.ca_certs}: {_reason(error)}") from None
        # In this order: a context refuses CERT_NONE while it checks host names.
        context.check_hostname = self.tls.check_hostname and self.tls.cert_reqs != "none"
        context.verify_mode = _CERT_REQS[self.tls.cert_reqs]
        if self.tls.certfile is not None:
            try:
                context.load_cert_chain(self.tls.certfile, self.tls.keyfile)
            except OSError as error:
                raise ConfigError(f"--store: ssl_certfile {self.tls.certfile}: {_reason(error)}") from None
        return context

    def describe(self) -> str:
        """Return the URL without password and options, fit for messages and logs."""
        scheme = next(s for s, kind in SCHEMES.items() if kind == (self.cluster, self.tls is not None))
        # A user without a password may be a password that somebody wrote in the user's place.
        user = f"{quote(self.username, safe='')}@" if self.username and self.password else ""
        hosts = ",".join(f"{format_host(host)}:{port}" for host, port in self.endpoints)
        return f"{scheme}://{user}{hosts}{f'/{self.db}' if self.db else ''}"

    def node_client(self, host: str, port: int) -> Redis:
        """Return a redis-py client of one server of the store, with the store's login. Close it with ``aclose()``."""
        return Redis(host=host, port=port, db=self.db, **self._client_options())

    def _client_options(self) -> dict[str, Any]:
        tls = self.tls or TlsOptions()
        return {
            "username": self.username,
            "password": self.password,
            "protocol": 2,
            # No CLIENT SETINFO: Redis 7.0 doesn't know it, so no list of rights could name it (deploy/users.conf).
            "driver_info": None,
            "retry": _admin_retry(),
            "socket_connect_timeout": CONNECT_TIMEOUT_S,
            "socket_timeout": COMMAND_TIMEOUT_S,
            "ssl": self.tls is not None,
            "ssl_ca_certs": tls.ca_certs,
            "ssl_cert_reqs": tls.cert_reqs,
            "ssl_check_hostname": tls.check_hostname and tls.cert_reqs != "none",
            "ssl_certfile": tls.certfile,
            "ssl_keyfile": tls.keyfile,
        }


def _admin_retry() -> Retry:
    # Administration is idempotent, so retrying is safe; a store that is down should still be reported within seconds.
    return Retry(ExponentialWithJitterBackoff(base=0.05, cap=0.5), 3)


def _reason(error: OSError) -> str:
    return error.strerror or "not a readable PEM file"


def parse_store_url(url: str) -> StoreAddress:
    """Read a ``--store`` URL. Raises ConfigError with one line that never shows the password."""
    scheme, separator, rest = url.strip().partition("://")
    if not separator or scheme not in SCHEMES:
        known = ", ".join(f"{name}://" for name in SCHEMES)
        raise ConfigError(f"--store must be a URL that begins with one of {known}")
    cluster, secure = SCHEMES[scheme]
    if "#" in rest:
        raise ConfigError("--store: a # in the user name or password must be written %23")
    rest, _, query = rest.partition("?")
    authority, _, path = rest.partition("/")
    _check_login_end(path, query)
    userinfo, at, hosts = authority.rpartition("@")
    username, password = _userinfo(userinfo) if at else (None, None)
    endpoints = tuple(_endpoint(host) for host in hosts.split(","))
    if len(endpoints) > 1 and not cluster:
        raise ConfigError(f"--store: {scheme}:// takes one host:port; a cluster is redis+cluster://host:port,host:port")
    if len(set(endpoints)) < len(endpoints):
        raise ConfigError("--store names the same host:port twice")
    options = _options(query, secure)
    return StoreAddress(
        cluster, endpoints, username, password, _database(path, options, cluster), _tls(options) if secure else None
    )


def _check_login_end(path: str, query: str) -> None:
    """Raise ConfigError if a ``/`` or ``?`` within the login has ended it early: its ``@`` follows then.

    Options may have an @ in their values, for example in file names.
    """
    is_query_of_ours = all(option.partition("=")[0] in _OPTIONS for option in query.split("&"))
    if "@" in path or ("@" in query and not is_query_of_ours):
        raise ConfigError("--store: in user name and password, write / as %2F and ? as %3F")


def _userinfo(userinfo: str) -> tuple[str | None, str | None]:
    username, _, password = userinfo.partition(":")
    if any("@" in part or ":" in part for part in (username, password)):
        raise ConfigError("--store: in user name and password, write @ as %40 and : as %3A")
    if username:
        return unquote(username), unquote(password)  # an empty password is sent, too: a user may have `nopass`
    return None, unquote(password) or None


def _endpoint(text: str) -> tuple[str, int]:
    if text.startswith("["):
        host, bracket, port = text[1:].partition("]")
        if not bracket or (port and not port.startswith(":")) or ":" not in host:
            raise ConfigError("--store: an IPv6 address is written [address]:port")
        port = port[1:]
    else:
        host, _, port = text.partition(":")
        if ":" in port:
            raise ConfigError("--store: an IPv6 address is written [address]:port")
    if not host or any(c.isspace() or not c.isprintable() for c in host):
        raise ConfigError("--store: each endpoint needs a host, as host:port")
    if not port:
        return host, DEFAULT_PORT
    if not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
        raise ConfigError(f"--store: the port of {host} must be a number from 1 to 65535")
    return host, int(port)


def _options(query: str, secure: bool) -> dict[str, str]:
    options: dict[str, str] = {}
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError:
        raise ConfigError("--store: options are written ?name=value&name=value") from None
    for name, value in pairs:
        if name not in _OPTIONS:
            # Named only if it looks like an option: a URL with a typing error may have a password here.
            named = f" {name}" if _OPTION_LIKE.fullmatch(name) else ""
            raise ConfigError(f"--store: unknown option{named} after the ?; known are db, {', '.join(_TLS_OPTIONS)}")
        if name in options:
            raise ConfigError(f"--store: {name} is given twice")
        if name in _TLS_OPTIONS and not secure:
            raise ConfigError(f"--store: {name} needs TLS: rediss:// or rediss+cluster://")
        options[name] = value
    return options


def _database(path: str, options: dict[str, str], cluster: bool) -> int:
    if path and "db" in options:
        raise ConfigError("--store: the database is given twice, as /N and as db=N")
    text = path or options.get("db", "0")
    if not (text.isascii() and text.isdigit() and len(text) <= 4):
        raise ConfigError("--store: the database must be a number, as redis://host:port/0")
    if cluster and int(text):
        raise ConfigError("--store: a cluster has database 0 only")
    return int(text)


def _tls(options: dict[str, str]) -> TlsOptions:
    cert_reqs = options.get("ssl_cert_reqs", "required").lower()
    if cert_reqs not in _CERT_REQS:
        raise ConfigError("--store: ssl_cert_reqs must be required, optional or none")
    check_hostname = _BOOLEANS.get(options.get("ssl_check_hostname", "true").lower())
    if check_hostname is None:
        raise ConfigError("--store: ssl_check_hostname must be true or false")
    if "ssl_keyfile" in options and "ssl_certfile" not in options:
        raise ConfigError("--store: ssl_keyfile needs ssl_certfile")
    return TlsOptions(
        options.get("ssl_ca_certs"),
        cert_reqs,
        check_hostname,
        options.get("ssl_certfile"),
        options.get("ssl_keyfile"),
    )
