"""Addresses as people write them in options: hosts, base URLs of services, origins of pages."""

from __future__ import annotations

import re
from collections.abc import Collection
from urllib.parse import urlsplit

from yarl import URL

from limiter_node.errors import ConfigError

_UNREADABLE = "an upstream's URL cannot be read: use https://HOST/v1"


def base_url(text: str) -> URL:
    """Return the base URL of a service. Raises `ConfigError`, which never quotes a credential in the URL."""
    try:
        parts = urlsplit(text)
        port_is_valid = parts.port is None or parts.port > 0
    except ValueError:
        raise ConfigError(_UNREADABLE) from None
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_is_valid:
        raise ConfigError("an upstream's URL must be http://… or https://… with a host, as https://HOST/v1")
    if parts.username is not None or parts.password is not None:
        raise ConfigError("an upstream's URL must not hold a user or a password: give its key by file or environment")
    if parts.fragment or any(c.isspace() or not c.isprintable() for c in text):
        raise ConfigError("an upstream's URL must have no fragment and no spaces")
    try:
        url = URL(text)
        is_readable = bool(url.host)  # parsed late: an encoded host name may be invalid
    except ValueError:
        is_readable = False
    if not is_readable:
        raise ConfigError(_UNREADABLE)
    return url.with_path(url.raw_path.rstrip("/") or "/", encoded=True, keep_query=True)


# An origin as a browser sends it: in lower case, without a path. Apps have schemes of their own: tauri://localhost.
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[a-z0-9._:\[\]-]+\Z")
_USUAL_PORT = re.compile(r"(http://.*:80|https://.*:443)\Z")


def check_origins(origins: Collection[str]) -> None:
    """Raise `ConfigError` unless `origins` are ``*`` alone, or origins as browsers send them."""
    for origin in origins:
        if origin == "*":
            if len(origins) > 1:
                raise ConfigError("--cors-origins: * stands for all origins, so it must be the only one")
        elif not _ORIGIN.match(origin) or _USUAL_PORT.match(origin):
            raise ConfigError(
                "--cors-origins must be origins as browsers send them, separated by commas: https://app.example.com, "
                "lower case, no path, no default port; or *"
            )


def format_host(host: str) -> str:
    """Return the host in a URL's form: IPv6 addresses in brackets."""
    return f"[{host}]" if ":" in host else host
