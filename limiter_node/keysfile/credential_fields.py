"""The credentials of one key's section, and the times at which a key or a credential ends.

A section named by a secret or its digest says nothing of credentials: its name identifies the key. One with a list of
``credentials`` states all of them; its name is a label. No message shows a secret or a label that could be one.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, NamedTuple

from limiter_node.errors import ConfigError
from limiter_node.key_states import MAX_CREDENTIALS, Credential
from limiter_node.keysfile.fields import Misdeclared, check_fields
from limiter_node.keysfile.key_names import check_declared_key, is_digest

_ENTRY_FIELDS = ("secret", "expires")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
_EXAMPLE = "2027-06-30T00:00:00Z"


class StatedCredentials(NamedTuple):
    """The credentials that a section states. `has_secrets`: whether one of them is written plain."""

    stated: tuple[Credential, ...]
    has_secrets: bool


def read_expires(section: Mapping[str, object]) -> int:
    """Return the `expires` of a section in ms since 1970; 0 if it has none. Raises Misdeclared."""
    if "expires" not in section:
        return 0
    try:
        return check_time(section["expires"])
    except ConfigError as error:
        raise Misdeclared(f"expires {error}", "expires") from None


def check_time(value: object) -> int:
    """Return a date and time with an offset in ms since 1970, rounded down. Raises ConfigError for any other value."""
    if isinstance(value, datetime) and value.tzinfo is not None:
        since = value - _EPOCH
        if not timedelta(milliseconds=1) <= since <= _LAST - _EPOCH:
            raise ConfigError("must be a time from 1970 to 9999")
        return since // timedelta(milliseconds=1)
    if isinstance(value, date | time):
        raise ConfigError(f"must be a date and time with its offset, as {_EXAMPLE} or 2027-06-30T02:00:00+02:00")
    raise ConfigError(f"must be a date and time without quotes, as {_EXAMPLE}")


def read_credentials(section: Mapping[str, object]) -> StatedCredentials:
    """Return the `credentials` of a section; none if it has no such field. Raises Misdeclared."""
    if "credentials" not in section:
        return StatedCredentials((), False)
    entries = section["credentials"]
    if type(entries) is not list or not 0 < len(entries) <= MAX_CREDENTIALS:
        raise Misdeclared(
            f'credentials must be a list of 1 to {MAX_CREDENTIALS} secrets or digests, as ["sha256:…"]', "credentials"
        )
    found: dict[str, Credential] = {}
    has_secrets = False
    for number, entry in enumerate(entries, 1):
        try:
            credential, is_plain = _read_entry(entry)
            if credential.digest in found:
                raise ConfigError("is in the list already")
        except ConfigError as error:
            raise Misdeclared(f"credentials, entry {number}: {error}", "credentials", number) from None
        found[credential.digest] = credential
        has_secrets |= is_plain
    return StatedCredentials(tuple(found.values()), has_secrets)


def _read_entry(entry: Any) -> tuple[Credential, bool]:
    """Return a credential, and whether its secret is written plain."""
    section = {"secret": entry} if type(entry) is str else entry
    if type(section) is not dict:
        raise ConfigError("must be a secret, a digest, or { secret = …, expires = … }")
    check_fields(section, _ENTRY_FIELDS, "an entry of credentials is a table of single values")
    secret = section.get("secret")
    if type(secret) is not str:
        raise ConfigError("secret must be a text: a secret, or sha256: and the 64 hex digits of its digest")
    return Credential(check_declared_key(secret, "a secret"), read_expires(section)), not is_digest(secret)
