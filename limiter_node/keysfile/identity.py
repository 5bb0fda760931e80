"""Who a key's section means: the key by its first credential, its name, and the name in messages.

The name of a section is the key's secret or its digest; beside a list of ``credentials`` it is a label, and names the
key if the section has no ``name``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from limiter_node.credentials import declared_key_id, key_id
from limiter_node.errors import ConfigError
from limiter_node.key_states import Credential
from limiter_node.keysfile.credential_fields import read_credentials
from limiter_node.keysfile.fields import Misdeclared, check_name
from limiter_node.keysfile.key_names import called, check_declared_key, is_digest

_SECRET_PREFIX = "sk-"
"""Begins the secrets that `making` makes, and most others."""


class Identity(NamedTuple):
    """A key. `stated`: the credentials that its section lists; empty if the section's name is the first one."""

    kid: str
    name: str
    stated: tuple[Credential, ...]
    has_secrets: bool
    """Whether a secret is written plain."""

    @property
    def digests(self) -> tuple[str, ...]:
        """The digests of all credentials of which the section knows."""
        return tuple(each.digest for each in self.stated) or (self.kid,)


def read_identity(declared: str, section: Mapping[str, object]) -> Identity:
    """Return the key of the section called `declared`. Raises Misdeclared; no message shows a secret."""
    stated, has_secrets = read_credentials(section)
    if not stated:
        kid, has_secrets = check_declared_key(declared), not is_digest(declared)
        name = _check_name(section.get("name", ""))
    else:
        kid = stated[0].digest
        if not _is_label(declared) or key_id(declared) in {each.digest for each in stated}:
            raise ConfigError(
                "beside credentials the section's name is a label, as [keys.ci], which messages show: "
                f"it must not be a secret ({_SECRET_PREFIX}…) or a digest"
            )
        name = _check_name(section["name"]) if "name" in section else _check_label(declared)
    identity = Identity(kid, name, stated, has_secrets)
    if name and key_id(name) in identity.digests:
        raise Misdeclared("name must not be the key itself: messages show it", "name")
    return identity


def _check_name(name: object) -> str:
    try:
        return check_name(name)
    except ConfigError as error:
        raise Misdeclared(str(error), "name") from None


def _check_label(label: str) -> str:
    try:
        return check_name(label)
    except ConfigError as error:
        raise ConfigError(f"without a name the section's name is the key's: {error}") from None


def called_in_section(declared: str, section: object) -> str:
    """Return the name in messages of a key whose section may be wrong: never a secret, as far as it can be known."""
    content: Mapping[str, Any] = section if type(section) is dict else {}
    name, digests = content.get("name", ""), {declared_key_id(declared)}
    if "credentials" in content:
        digests = {declared_key_id(each) for each in _texts_in(content["credentials"])}
        name = content.get("name", declared if _is_label(declared) else "")
    try:
        usable = check_name(name) and key_id(name) not in digests
    except ConfigError:
        usable = False
    return called(str(name) if usable else "", declared_key_id(declared))


def _is_label(declared: str) -> bool:
    """Whether a section's name can be a label: people add credentials to a section, and forget what it is called."""
    return bool(declared) and not is_digest(declared) and not declared.startswith(_SECRET_PREFIX)


def _texts_in(value: object) -> Iterator[str]:
    if type(value) is str:
        yield value
    elif isinstance(value, list | dict):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _texts_in(each)
