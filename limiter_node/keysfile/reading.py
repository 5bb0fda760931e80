"""From a keys file to what it declares, or to one message that names the file, the line, the key and the field.

Neighbours: the commands read files here, `store.admin.store_admin` puts the result into the store.
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

from limiter_node.declarations import Declarations
from limiter_node.errors import ConfigError
from limiter_node.keysfile.accounts import read_accounts
from limiter_node.keysfile.fields import Misdeclared, unknown_section
from limiter_node.keysfile.keys import KeyReader, read_defaults
from limiter_node.tomllines import line_of

_SECTIONS = ("defaults", "accounts", "keys")
_BY_GROUP, _BY_OTHERS = stat.S_IRGRP | stat.S_IWGRP, stat.S_IROTH | stat.S_IWOTH


def read_keys(path: str | Path) -> Declarations:
    """Return what a file declares. Raises ConfigError naming file, line, key (by name or digest) and field."""
    try:
        with open(path, "rb") as file:
            is_exposed = _is_exposed(os.fstat(file.fileno()))
            content = file.read()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or 'cannot be read'}") from None
    declared, has_secrets = _read(content, str(path))
    return replace(declared, exposed_file=str(path)) if has_secrets and is_exposed else declared


def _is_exposed(found: os.stat_result) -> bool:
    """Whether others than the file's owner may read or change it.

    To a user who isn't the owner, as in a container whose secrets are mounted for its group, the group's right is the
    way to the file, not an oversight.
    """
    is_ours = os.geteuid() in (0, found.st_uid)
    return bool(found.st_mode & (_BY_OTHERS | _BY_GROUP if is_ours else _BY_OTHERS))


def read_keys_text(content: bytes, name: str) -> Declarations:
    """Return what the content of a keys file declares; messages call it `name`. Raises ConfigError as `read_keys`."""
    return _read(content, name)[0]


def _read(content: bytes, name: str) -> tuple[Declarations, bool]:
    """Return the declarations, and whether there is a secret in plain text among them."""
    try:
        text = content.decode("utf-8")
        document = tomllib.loads(text)
    except UnicodeDecodeError:
        raise ConfigError(f"{name}: not a TOML file: it is not UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        # Only the place: the parser's message on a key declared twice contains the key.
        place = re.search(r"\((at [^()]*)\)\Z", str(error))
        problem = (
            "something is declared twice" if "twice" in str(error) or "overwrite" in str(error) else "syntax error"
        )
        raise ConfigError(f"{name}: {problem}{f' {place.group(1)}' if place else ''}") from None
    except RecursionError:
        raise ConfigError(f"{name}: its values are nested too deeply") from None
    try:
        return _read_document(document)
    except Misdeclared as error:
        line = line_of(text, error.place)
        raise ConfigError(f"{name}{f', line {line}' if line else ''}: {error}") from None


def _read_document(document: dict[str, Any]) -> tuple[Declarations, bool]:
    for section in document:
        if section not in _SECTIONS:
            raise unknown_section(section, '[defaults], [accounts.NAME] and [keys."KEY"]')
    defaults = read_defaults(document.get("defaults", {}))
    accounts = read_accounts(document.get("accounts", {}), defaults.output_reserve if defaults.is_reserve_set else None)
    sections = document.get("keys", {})
    if type(sections) is not dict:
        raise Misdeclared('keys must be sections, as [keys."KEY"]', "keys")
    reader = KeyReader(defaults, accounts)
    for declared, section in sections.items():
        reader.read(declared, section)
    return reader.result, reader.has_secrets
