"""Reads one section of a keys file: its limits, and the fields that limit in ways that this client doesn't know.

The limiter has checked the file. A value that can't be read is a mistake all the same, named by section and field.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from bench_client.errors import BenchUsageError
from bench_client.load.declared_limits import AUDIT, ENFORCE, UNITS, DeclaredLimit

MINUTE_MS = 60_000
PER_MINUTE = {"rpm": "requests", "input_tpm": "input_tokens", "output_tpm": "output_tokens", "tpm": "tokens"}
"""The fields that are short for a limit per minute on all models, and their units."""

_KNOWN = {
    *("name", "account", "team", "weight", "expires", "credentials", "output_reserve", "max_wait", "show"),
    *("key_defaults", "teams", "limits", *PER_MINUTE),
}
"""Fields that are no limits, or are read by name; any other may be a limit of a later version."""
_KNOWN_IN_ENTRY = {*UNITS, "per", "models", "name", "mode"}
_PER = re.compile(r"([1-9][0-9]{0,7})([smhd])")
_LETTER_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}

Amounts = Mapping[str, int | None]
"""Amounts by field of ``PER_MINUTE``; None where ``"none"`` takes a default away."""


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """Hold the limits declared for one account, team or key."""

    limits: tuple[DeclaredLimit, ...]
    unknown: tuple[str, ...] = ()
    """Limits of a kind that this client doesn't know, in words."""


class Defaults(NamedTuple):
    """Hold the limits that a section has if it says nothing."""

    amounts: Amounts
    unknown: tuple[str, ...] = ()
    """Fields that may be limits of a kind that this client doesn't know."""


NO_DEFAULTS = Defaults({})


class Section:
    """Read the fields of one section. All methods raise BenchUsageError for a value that can't be read."""

    __slots__ = ("_place", "fields")

    def __init__(self, place: str, fields: object) -> None:
        """``place`` is its name in messages."""
        self._place = place
        if not isinstance(fields, dict):
            raise BenchUsageError(f"{place} must be a section of fields")
        self.fields: dict[str, Any] = fields

    def mistake(self, field: str, problem: str) -> BenchUsageError:
        return BenchUsageError(f"{self._place}: {field} {problem}")

    def text(self, field: str, default: str = "") -> str:
        value = self.fields.get(field, default)
        if not isinstance(value, str):
            raise self.mistake(field, "must be a text")
        return value

    def choice(self, field: str, *values: str) -> str:
        """Return the field's value, the first of ``values`` if it isn't set."""
        value = self.text(field, values[0])
        if value not in values:
            raise self.mistake(field, f"must be {' or '.join(map(repr, values))}")
        return value

    def defaults(self, built_in: Amounts | None = None) -> Defaults:
        """Return the section as the defaults of others."""
        return Defaults({**(built_in or {}), **self._minute_amounts()}, tuple(self._unknown_fields()))

    def subject(self, who: str, defaults: Defaults = NO_DEFAULTS) -> Subject:
        """Return the limits of the section's subject, called ``who``, in the file's order: those per minute first.

        A default counts for what the section says nothing of, neither in a field nor in an entry of ``limits``.
        """
        entries = self.fields.get("limits", [])
        if not isinstance(entries, list):
            raise self.mistake("limits", "must be a list")
        listed, unknown = list[DeclaredLimit](), dict.fromkeys((*self._unknown_fields(), *defaults.unknown))
        for number, fields in enumerate(entries, 1):
            entry = Section(f"{self._place}: limits, entry {number}", fields)
            if (strange := entry.unknown_limit()) is not None:
                unknown[strange] = None
            else:
                listed.append(entry.limit(who))
        said = {limit.unit for limit in listed if limit.per_ms == MINUTE_MS and not limit.models}
        amounts = {
            **{field: amount for field, amount in defaults.amounts.items() if PER_MINUTE[field] not in said},
            **self._minute_amounts(),
        }
        short = [
            DeclaredLimit(who, unit, MINUTE_MS, (), amount, ENFORCE, "")
            for field, unit in PER_MINUTE.items()
            if (amount := amounts.get(field)) is not None
        ]
        return Subject((*short, *listed), tuple(f"{who}: {words}" for words in unknown))

    def limit(self, who: str) -> DeclaredLimit:
        """Return the limit that an entry of ``limits`` is."""
        units = [unit for unit in UNITS if unit in self.fields]
        if len(units) != 1:
            raise BenchUsageError(f"{self._place} must have exactly one of {', '.join(UNITS)}")
        (unit,) = units
        match = _PER.fullmatch(self.text("per"))
        if match is None:
            raise self.mistake("per", 'must be a length such as "1m", in s, m, h or d')
        return DeclaredLimit(
            who,
            unit,
            int(match[1]) * _LETTER_MS[match[2]],
            self._models(),
            self._amount(unit),
            self.choice("mode", ENFORCE, AUDIT),
            self.text("name"),
        )

    def unknown_limit(self) -> str | None:
        """Return, in words, a limit that this client doesn't know; None if the entry is of a kind that it does."""
        fields = self.fields
        strange = [field for field in fields if field not in _KNOWN_IN_ENTRY]
        per = fields.get("per")
        is_calendar = isinstance(per, str) and per.isalpha()
        if not strange and not is_calendar:
            return None
        what = strange or [unit for unit in UNITS if unit in fields]
        return f"{', '.join(what)}{f' per {per}' if per is not None else ''}"

    def _minute_amounts(self) -> dict[str, int | None]:
        fields = self.fields
        return {
            field: None if fields[field] == "none" else self._amount(field) for field in PER_MINUTE if field in fields
        }

    def _unknown_fields(self) -> Iterator[str]:
        return (field for field in self.fields if field not in _KNOWN)

    def _amount(self, field: str) -> int:
        value = self.fields[field]
        if type(value) is not int or value < 0:
            raise self.mistake(field, "must be a whole number")
        return value

    def _models(self) -> tuple[str, ...]:
        patterns = self.fields.get("models", [])
        if not isinstance(patterns, list) or not all(isinstance(each, str) for each in patterns):
            raise self.mistake("models", "must be a list of patterns")
        return tuple(sorted({each.lower() for each in patterns}))
