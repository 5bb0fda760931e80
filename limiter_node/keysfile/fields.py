"""The values of single fields of the keys file, and the error that knows the place of a mistake."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

from limiter_node.errors import ConfigError
from limiter_node.limits import MAX_LIMIT
from limiter_node.policy import MAX_AMOUNT

MAX_NAME_LENGTH: Final = 128
MAX_OUTPUT_RESERVE: Final = 1_000_000
MAX_TEAM_DEPTH: Final = 4
"""The most names in a team's name, from the team below the account down to the team itself."""

LIMIT_RANGES: Final = {
    "rpm": (0, MAX_LIMIT),
    "input_tpm": (0, MAX_LIMIT),
    "output_tpm": (0, MAX_LIMIT),
    "output_reserve": (1, MAX_OUTPUT_RESERVE),
}
"""Each number of `KeyLimits`: its smallest and largest value."""

NONE: Final = "none"
"""The value of a limit per minute that takes a default away."""

_LATER: Final = frozenset(("in_flight", "max_wait", "cost", "tz", "prices"))
# An unknown section or field that a message may quote: a mistyped known one, never a word that could be a key.
_HARMLESS = re.compile(r"[a-z_]{1,20}\Z")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")


class Misdeclared(ConfigError):
    """Raised for a mistake at a place in a keys file.

    `place`: the names of the tables from the outermost inwards, and the field; the position of an entry in a list.
    """

    def __init__(self, message: str, *place: str | int) -> None:
        super().__init__(message)
        self.place = place


def within(who: str, error: ConfigError, *place: str | int) -> Misdeclared:
    """Return `error` with the name and the place of the section in which it was found."""
    inner = error.place if isinstance(error, Misdeclared) else ()
    return Misdeclared(f"{who}: {error}", *place, *inner)


def shown(word: str) -> str:
    """Return an unknown word for a message; nothing if it could be a key."""
    return f" '{word}'" if _HARMLESS.match(word) else ""


def unsupported(field: str) -> Misdeclared:
    """Return the error for a field that only later versions have."""
    return Misdeclared(f"{field} is not supported by this version: take it out", field)


def section_of(value: object) -> dict[str, Any]:
    """Return `value` if it is a table. Raises Misdeclared."""
    if type(value) is not dict:
        raise Misdeclared("must be a section of fields")
    return value


def check_fields(section: Mapping[str, object], known: Collection[str], sub_section: str) -> None:
    """Raise Misdeclared for a field that isn't `known`; `sub_section` is the advice if it is a table."""
    for field, value in section.items():
        if field in known:
            continue
        if field in _LATER:
            raise unsupported(field)
        if type(value) is dict:
            raise Misdeclared(f"unknown sub-section: {sub_section}", field)
        raise Misdeclared(f"unknown field{shown(field)}: there are {', '.join(known)}", field)


def unknown_section(section: str, known: str) -> Misdeclared:
    """Return the error for a section that the file can't have."""
    if section in _LATER:
        return unsupported(section)
    return Misdeclared(f"unknown section{shown(section)}: there are {known}", section)


def check_limit(field: str, value: object) -> int:
    """Return `value` if it is a valid limit. Raises ConfigError unless it is an integer in the field's range."""
    low, high = LIMIT_RANGES[field]
    if type(value) is not int or not low <= value <= high:
        raise ConfigError(f"{field} must be an integer from {low} to {high:,}")
    return value


def check_amount(field: str, value: object, or_else: str = "") -> int:
    """Return `value` if it is an amount of a limit. Raises Misdeclared; `or_else` says what else would be right."""
    if type(value) is not int or not 0 <= value <= MAX_AMOUNT:
        raise Misdeclared(f"{field} must be an integer from 0 to {MAX_AMOUNT:,}{or_else}", field)
    return value


def check_name(value: object) -> str:
    """Return `value` if it is a valid name, fit for messages and headers. Raises ConfigError if it isn't."""
    if type(value) is not str or not value.isprintable() or len(value) > MAX_NAME_LENGTH:
        raise ConfigError(f"name must be a text of at most {MAX_NAME_LENGTH} printable characters")
    return value


def is_path_name(value: object) -> bool:
    """Whether `value` can name an account, a team or a key of an account."""
    return type(value) is str and _NAME.match(value) is not None


def is_team_name(value: object) -> bool:
    """Whether `value` can name a team: names of the teams from the top, with a ``/`` between."""
    if type(value) is not str:
        return False
    parts = value.split("/")
    return len(parts) <= MAX_TEAM_DEPTH and all(is_path_name(part) for part in parts)


def choice(*values: str) -> Callable[[str, object], str]:
    """Return a check that a field has one of `values`."""

    def check(field: str, value: object) -> str:
        if type(value) is not str or value not in values:
            raise Misdeclared(f"{field} must be {' or '.join(repr(each) for each in values)}", field)
        return value

    return check


def check_output_reserve(section: Mapping[str, object]) -> int | None:
    """Return the section's `output_reserve`, None if it has none. Raises Misdeclared."""
    if "output_reserve" not in section:
        return None
    try:
        return check_limit("output_reserve", section["output_reserve"])
    except ConfigError as error:
        raise Misdeclared(str(error), "output_reserve") from None
