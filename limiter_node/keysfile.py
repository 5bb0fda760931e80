"""The keys file (``keys.toml``): read and validated, or made with random keys.

Owns its format and its one rule: no message ever shows a key. Messages name a key by its name, else by the first eight
hex digits of its digest. Neighbours: the commands read and write files here, `store.admin.store_admin` puts the result
into the store.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import threading
import time
import tomllib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from limiter_node.credentials import MAX_KEY_CHARS, declared_key_id, is_key
from limiter_node.errors import ConfigError, LimiterError
from limiter_node.limits import MAX_LIMIT, KeyLimits
from limiter_node.tomllines import line_of

MAX_NAME_LENGTH = 128
MAX_OUTPUT_RESERVE = 1_000_000
MAX_GENERATED = 1_000_000

LIMIT_RANGES = {
    "rpm": (0, MAX_LIMIT),
    "input_tpm": (0, MAX_LIMIT),
    "output_tpm": (0, MAX_LIMIT),
    "output_reserve": (1, MAX_OUTPUT_RESERVE),
}
"""Each number of `KeyLimits`: its smallest and largest value."""

_FIELDS = (*LIMIT_RANGES, "name")
assert set(_FIELDS) == {each.name for each in fields(KeyLimits)}
# An unknown section or field that a message may quote: a mistyped known one, never a word that could be a key.
_HARMLESS = re.compile(r"[a-z_]{1,20}\Z")


class _Misdeclared(ConfigError):
    """Raised for a mistake at a place in a keys file: `place` names it, from the outermost table inwards."""

    def __init__(self, message: str, *place: str) -> None:
        super().__init__(message)
        self.place = place


def key_digest_name(kid: str) -> str:
    """Return the name in messages of a key that has none."""
    return f"key {kid[:8]}…"


def check_declared_key(declared: str) -> str:
    """Return the ``kid`` of a key that is written plain or as a digest. Raises ConfigError, which doesn't show it."""
    if declared.startswith("sha256:"):
        if not re.fullmatch(r"[0-9a-fA-F]{64}", declared[7:]):
            raise ConfigError("a digest is sha256: and 64 hex digits")
    elif not declared:
        raise ConfigError("a key must not be empty")
    elif len(declared) > MAX_KEY_CHARS:
        raise ConfigError(f"a key must not be longer than {MAX_KEY_CHARS} characters")
    elif any(c.isspace() or not c.isprintable() for c in declared):
        raise ConfigError("a key must not contain white space or control characters")
    elif not is_key(declared):
        raise ConfigError("a key must have ASCII characters only: clients can't send others in a header")
    return declared_key_id(declared)


def check_limit(field: str, value: object) -> int:
    """Return `value` if it is a valid limit. Raises ConfigError unless it is an integer in the field's range."""
    low, high = LIMIT_RANGES[field]
    if type(value) is not int or not low <= value <= high:
        raise ConfigError(f"{field} must be an integer from {low} to {high}")
    return value


def check_name(value: object) -> str:
    """Return `value` if it is a valid name, fit for messages and headers. Raises ConfigError if it isn't."""
    if type(value) is not str or not value.isprintable() or len(value) > MAX_NAME_LENGTH:
        raise ConfigError(f"name must be a text of at most {MAX_NAME_LENGTH} printable characters")
    return value


def read_keys(path: str | Path) -> dict[str, KeyLimits]:
    """Return the limits by ``kid``. Raises ConfigError naming file, key (by name or digest) and field."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or 'cannot be read'}") from None
    try:
        text = content.decode("utf-8")
        document = tomllib.loads(text)
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not a TOML file: it is not UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        # Only the place: the parser's message on a key declared twice contains the key.
        place = re.search(r"\((at [^()]*)\)\Z", str(error))
        problem = (
            "something is declared twice" if "twice" in str(error) or "overwrite" in str(error) else "syntax error"
        )
        raise ConfigError(f"{path}: {problem}{f' {place.group(1)}' if place else ''}") from None
    try:
        return _read_document(document)
    except _Misdeclared as error:
        line = line_of(text, error.place)
        raise ConfigError(f"{path}{f', line {line}' if line else ''}: {error}") from None


_AT_REST_S = 0.1


class KeysFile:
    """Read a keys file again when it has changed; a `store.decisions.redeclare.DeclaredKeys`.

    A file counts as unchanged while its size and times are the same. Several threads may read it.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._lock = threading.Lock()
        self._signature: tuple[int, ...] = ()
        self._keys: dict[str, KeyLimits] = {}
        self._known: set[str] = set()
        self._first_s = 0.0
        self._changed_s: dict[str, float] = {}

    def read(self) -> Mapping[str, KeyLimits]:
        """Return the keys by `kid`: the same object as before if the file hasn't changed.

        Waits up to a second for a file that is being written: half a file must not count as a change.

        Raises:
            ConfigError: the file can't be read; the earlier keys are kept for the next call.
        """
        with self._lock:
            return self._read()

    def _read(self) -> Mapping[str, KeyLimits]:
        for _ in range(10):
            found = self._stat()
            signature = (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
            if signature == self._signature:
                return self._keys
            age_s = time.time() - found.st_ctime
            if self._signature and 0 <= age_s < _AT_REST_S:
                time.sleep(_AT_REST_S - age_s)
                continue
            keys = read_keys(self._path)
            if self._stat().st_ctime_ns != found.st_ctime_ns:
                continue
            changed_s = time.monotonic() - max(age_s, 0.0)
            if not self._signature:
                self._first_s = changed_s
            changed = [kid for kid, limits in keys.items() if self._keys.get(kid) != limits]
            self._changed_s.update(dict.fromkeys(changed if self._signature else (), changed_s))
            self._known.update(keys)
            self._keys, self._signature = keys, signature
            return keys
        raise ConfigError(f"{self._path}: the file keeps changing while it is read")

    def _stat(self) -> os.stat_result:
        try:
            return self._path.stat()
        except OSError as error:
            raise ConfigError(f"{self._path}: {error.strerror or 'cannot be read'}") from None

    def changed_s_ago(self, kid: str) -> float:
        """Return the seconds since the file last changed its entry of `kid`, which it must have."""
        return time.monotonic() - self._changed_s.get(kid, self._first_s)

    def was_declared(self, kid: str) -> bool:
        """Whether any reading of the file so far had this key."""
        return kid in self._known


def _read_document(document: dict[str, Any]) -> dict[str, KeyLimits]:
    """Return the limits by ``kid``. Raises _Misdeclared."""
    for section in document:
        if section not in ("defaults", "keys"):
            raise _Misdeclared(f'unknown section{_shown(section)}: there are [defaults] and [keys."KEY"]', section)
    defaults = document.get("defaults", {})
    try:
        base = _read_limits(defaults, {}, ("name",))
    except _Misdeclared as error:
        raise _Misdeclared(f"[defaults]: {error}", "defaults", *error.place) from None
    sections = document.get("keys", {})
    if type(sections) is not dict:
        raise _Misdeclared('keys must be sections, as [keys."KEY"]', "keys")
    keys: dict[str, KeyLimits] = {}
    for declared, section in sections.items():
        who = _who(declared, section)
        place = ("keys", declared)
        try:
            kid = check_declared_key(declared)
            limits = KeyLimits(**_read_limits(section, base, ()))
            if limits.name and limits.name == declared:
                raise _Misdeclared("name must not be the key itself: messages show it", "name")
        except ConfigError as error:
            within = error.place if isinstance(error, _Misdeclared) else ()
            raise _Misdeclared(f"{who}: {error}", *place, *within) from None
        if kid in keys:
            raise _Misdeclared(f"{who} and {_called(keys[kid].name, kid)} are the same key", *place)
        keys[kid] = limits
    return keys


def _read_limits(section: object, base: dict[str, Any], forbidden: tuple[str, ...]) -> dict[str, Any]:
    """Return the fields of a section over those of `base`. Raises _Misdeclared with the place in the section."""
    if type(section) is not dict:
        raise _Misdeclared("must be a section of fields")
    values = dict(base)
    for field, value in section.items():
        if field not in _FIELDS or field in forbidden:
            if type(value) is dict:
                raise _Misdeclared('unknown sub-section: a key with a dot must be in quotes, as [keys."a.b"]', field)
            known = ", ".join(each for each in _FIELDS if each not in forbidden)
            raise _Misdeclared(f"unknown field{_shown(field)}: there are {known}", field)
        try:
            values[field] = check_name(value) if field == "name" else check_limit(field, value)
        except ConfigError as error:
            raise _Misdeclared(str(error), field) from None
    return values


def _who(declared: str, section: object) -> str:
    name = section.get("name") if type(section) is dict else None
    try:
        usable = check_name(name) and name != declared
    except ConfigError:
        usable = False
    return _called(str(name) if usable else "", declared_key_id(declared))


def _called(name: str, kid: str) -> str:
    return f"key '{name}'" if name else key_digest_name(kid)


def _shown(word: str) -> str:
    return f" '{word}'" if _HARMLESS.match(word) else ""


def generate_keys(count: int, limits: KeyLimits) -> str:
    """Return the text of a keys file with `count` random keys named key-0001 and on, all with the same limits."""
    if not 1 <= count <= MAX_GENERATED:
        raise ConfigError(f"--count must be from 1 to {MAX_GENERATED}")
    lines = ["[defaults]", *(f"{field} = {check_limit(field, getattr(limits, field))}" for field in LIMIT_RANGES)]
    for number in range(1, count + 1):
        # 24 random bytes: as hard to guess as a 192-bit secret, and every character stands in a URL or header as it is.
        lines += ["", f"[keys.{json.dumps(new_key())}]", f'name = "key-{number:04}"']
    return "\n".join(lines) + "\n"


def new_key(prefix: str = "sk-") -> str:
    """Return a random API key."""
    return prefix + secrets.token_urlsafe(24)


def write_private(path: str | Path, text: str, *, overwrite: bool = False) -> None:
    """Write a file that only its owner can read, whole or not at all.

    Raises ConfigError if it exists and `overwrite` is not set, LimiterError if it cannot be written.
    """
    target = Path(path)
    # To overwrite is to replace: the new file is private even if the old one wasn't.
    written = target.with_name(f".{target.name}.{secrets.token_hex(8)}") if overwrite else target
    try:
        descriptor = os.open(written, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
            if overwrite:
                written.replace(target)
        except BaseException:
            written.unlink(missing_ok=True)
            raise
    except FileExistsError:
        raise ConfigError(f"{path} exists: choose another --out, or overwrite it with --force") from None
    except OSError as error:
        raise LimiterError(f"{path}: {error.strerror or 'cannot be written'}") from None
