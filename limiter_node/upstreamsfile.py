"""The services that a node's settings name: ``--upstream URL``, or a file with several (``upstreams.toml``).

Owns the file's format and where keys come from: the environment or a file, never an option, which ``ps`` would show. No
message ever shows a key. Neighbours: `upstream.gateway.service` defines the result; `app` and `commands.up` call this.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from limiter_node.addresses import base_url
from limiter_node.errors import ConfigError
from limiter_node.settings import NodeSettings
from limiter_node.upstream.gateway.asking.disguise import COUNTING_FIELDS
from limiter_node.upstream.gateway.service import CAP_FIELDS, UNNAMED, Service, cap_field_of

KEY_VARIABLE = "LIMITER_UPSTREAM_KEY"
"""The variable that holds the key for ``--upstream``."""

_FIELDS = frozenset(
    (
        "name", "url", "urls", "models", "rename", "key_env", "key_file", "forward_key", "enforce_cap", "cap_field",
        "ask_usage", "extra_fields",
    )
)  # fmt: skip
_MAX_KEY_CHARS = 8_000


def services_of(settings: NodeSettings, environ: Mapping[str, str]) -> Sequence[Service]:
    """Return the services to ask, in order; none if the mock answers. Raises `ConfigError` in one line."""
    if settings.upstreams:
        return read_upstreams(settings.upstreams, environ)
    if not settings.upstream:
        return ()
    url = base_url(settings.upstream)
    if settings.upstream_key_file:
        key = _key_from_file(settings.upstream_key_file)
    else:
        key = _checked_key(environ.get(KEY_VARIABLE, ""), KEY_VARIABLE)
    if key and settings.upstream_forward_key:
        raise ConfigError("--upstream-forward-key and a key for --upstream: give one of them")
    return (
        Service(
            name=UNNAMED,
            urls=(url,),
            key=key,
            forwards_key=settings.upstream_forward_key,
            enforces_cap=settings.upstream_cap,
            cap_field=cap_field_of((url,)),
        ),
    )


def read_upstreams(path: str, environ: Mapping[str, str]) -> Sequence[Service]:
    """Return the services of a file. Raises `ConfigError` naming the file, the service and the field."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or 'cannot be read'}") from None
    try:
        document = tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from None
    entries = document.pop("upstreams", None)
    if document or type(entries) is not list or not entries or not all(type(each) is dict for each in entries):
        raise ConfigError(f"{path}: write one [[upstreams]] table for each service, and nothing else")
    services: list[Service] = []
    for number, entry in enumerate(entries, 1):
        try:
            services.append(_service(entry, environ, Path(path).parent))
        except ConfigError as error:
            raise ConfigError(f"{path}: upstream {number}: {error}") from None
    names = [service.name for service in services]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{path}: two upstreams are called {name!r}: give each a name of its own")
    return services


def _service(entry: Mapping[str, Any], environ: Mapping[str, str], folder: Path) -> Service:
    for name in entry:
        if name not in _FIELDS:
            raise ConfigError(f"unknown field {name[:32]!r}: known are {', '.join(sorted(_FIELDS))}")
    if ("url" in entry) == ("urls" in entry):
        raise ConfigError("give either url, or urls for several addresses of one service")
    urls = tuple(base_url(url) for url in _texts(entry, "urls", [_text(entry, "url")] if "url" in entry else []))
    if len({str(url) for url in urls}) < len(urls):
        raise ConfigError("urls has the same URL twice")
    rename = entry.get("rename", {})
    if type(rename) is not dict or not all(type(name) is str and name for name in rename.values()):
        raise ConfigError('rename must be a table of names, as { fast = "llama-3.1-8b" }')
    for pattern, name in rename.items():
        if pattern.count("*") > 1 or name.count("*") > pattern.count("*"):
            raise ConfigError("rename: a name may have one *, which the text matched by its pattern's * replaces")
    models = _texts(entry, "models", ["*"])
    if any(pattern.count("*") > 4 for pattern in models):
        raise ConfigError("models: a pattern may have at most four *")
    key, forwards_key = _key(entry, environ, folder), _flag(entry, "forward_key", default=False)
    if key and forwards_key:
        raise ConfigError("forward_key sends the caller's key: leave key_env and key_file out")
    cap_field = entry.get("cap_field", cap_field_of(urls))
    if cap_field not in CAP_FIELDS:
        raise ConfigError(f"cap_field must be one of {', '.join(CAP_FIELDS)}")
    name = _text(entry, "name") if "name" in entry else f"{urls[0].host}:{urls[0].port}"
    if len(name) > 64:
        raise ConfigError("name must be at most 64 printable characters")
    return Service(
        name=name,
        urls=urls,
        models=tuple(models),
        rename=tuple(rename.items()),
        key=key,
        forwards_key=forwards_key,
        enforces_cap=_flag(entry, "enforce_cap", default=True),
        cap_field=cap_field,
        asks_usage=_flag(entry, "ask_usage", default=True),
        extra_fields=_extra_fields(entry),
    )


def _extra_fields(entry: Mapping[str, Any]) -> frozenset[str]:
    if "extra_fields" not in entry:
        return frozenset()
    names = _texts(entry, "extra_fields", [])
    for name in names:
        if name in COUNTING_FIELDS:
            raise ConfigError(f"extra_fields: {name!r} decides what a request costs, and can't pass uncounted")
    return frozenset(names)


def _key(entry: Mapping[str, Any], environ: Mapping[str, str], folder: Path) -> str:
    if "key_env" in entry and "key_file" in entry:
        raise ConfigError("key_env and key_file: give one of them")
    if "key_file" in entry:
        return _key_from_file(str(folder / _text(entry, "key_file")))
    if "key_env" in entry:
        variable = _text(entry, "key_env")
        if not environ.get(variable):
            raise ConfigError(f"key_env: {variable[:64]} is not set in the environment")
        return _checked_key(environ[variable], variable)
    return ""


def _key_from_file(path: str) -> str:
    try:
        key = Path(path).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {getattr(error, 'strerror', None) or 'cannot be read'}") from None
    if not key:
        raise ConfigError(f"{path}: the file holds no key")
    return _checked_key(key, path)


def _checked_key(key: str, where: str) -> str:
    if not key.isascii() or any(c.isspace() or not c.isprintable() for c in key) or len(key) > _MAX_KEY_CHARS:
        raise ConfigError(f"{where}: a key is printable ASCII without spaces, at most {_MAX_KEY_CHARS:,} characters")
    return key


def _text(entry: Mapping[str, Any], name: str) -> str:
    value = entry[name]
    if type(value) is not str or not value or not value.isprintable():
        raise ConfigError(f"{name} must be a non-empty string of printable characters")
    return value


def _texts(entry: Mapping[str, Any], name: str, default: list[str]) -> list[str]:
    values = entry.get(name, default)
    if type(values) is not list or not values or not all(type(each) is str and each for each in values):
        raise ConfigError(f"{name} must be a non-empty list of non-empty strings")
    return values


def _flag(entry: Mapping[str, Any], name: str, *, default: bool) -> bool:
    value = entry.get(name, default)
    if type(value) is not bool:
        raise ConfigError(f"{name} must be true or false")
    return value
