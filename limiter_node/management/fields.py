"""Fields as people write them, checked by the readers of the keys file, with their messages.

A field of a limit is called as in `limit_names`: ``rpm``, ``input_tokens/1d``, ``output_tokens/1m for o3*,gpt-5*``. Its
value is an amount, ``"none"`` or None (there is no such limit), or a table of ``amount``, ``mode`` and ``name``.

``limits`` is a list of limits as in the keys file, ``[{"requests": 1000, "per": "1d"}]``: exactly these are there then
beside ``rpm``, ``input_tpm``, ``output_tpm`` and ``tpm``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

from limiter_node.declarations import MAX_WINDOWS
from limiter_node.errors import ConfigError
from limiter_node.keysfile.fields import (
    NONE,
    check_amount,
    check_limit,
    check_name,
    choice,
    is_team_name,
    section_of,
    shown,
)
from limiter_node.keysfile.keys import check_weight
from limiter_node.keysfile.limit_fields import LIMIT_FIELDS, read_limit
from limiter_node.limit_names import PER_MINUTE, limit_name, limits_to_fields, parse_limit_name, windows_from_fields
from limiter_node.plans import per_text
from limiter_node.policy import UNITS
from limiter_node.policy_fields import Fields, split_team_field, team_field, time_ms, time_text

KEY_FIELDS: Final = ("name", "team", "weight", "output_reserve", "expires", "disabled")
TEAM_FIELDS: Final = ("output_reserve",)
ACCOUNT_FIELDS: Final = ("output_reserve", "show", *(f"key_defaults.{each}" for each in PER_MINUTE))

_LIMITS, _KEY_DEFAULTS, _TEAM = "limits", "key_defaults", "team "
_check_show = choice("path", "own")


def changed(stored: Mapping[str, Any], patch: Mapping[str, object], known: Collection[str]) -> Fields:
    """Return `stored` with a person's changes. `known`: the fields that there are beside those of limits.

    Raises ConfigError.
    """
    fields = dict(stored)
    if _LIMITS in patch:
        for name in [each for each in fields if parse_limit_name(each) is not None and each not in PER_MINUTE]:
            del fields[name]
    for name, value in {**_entries(patch.get(_LIMITS)), **_flattened(patch)}.items():
        name, checked = _checked(name, value, known)
        if checked is None:
            fields.pop(name, None)
        else:
            fields[name] = checked
    if (count := len(windows_from_fields(fields))) > MAX_WINDOWS:
        raise ConfigError(f"limits lie on {count} windows: at most {MAX_WINDOWS} are possible")
    return fields


def changed_account(stored: Mapping[str, Any], patch: Mapping[str, object]) -> Fields:
    """Return the fields of an account with a person's changes, which may name its teams' fields. Raises ConfigError."""
    patches: dict[str, dict[str, object]] = {"": {}}
    for name, value in patch.items():
        team, inner = split_team_field(name) if name.startswith(_TEAM) else ("", name)
        patches.setdefault(team, {})[inner] = value
    fields = changed(stored, patches.pop(""), ACCOUNT_FIELDS)
    for team in sorted(patches):
        try:
            fields = changed_team(fields, team, patches[team])
        except ConfigError as error:
            raise ConfigError(f"team '{team}': {error}" if is_team_name(team) else str(error)) from None
    return fields


def changed_team(stored: Mapping[str, Any], team: str, patch: Mapping[str, object]) -> Fields:
    """Return the fields of an account with a person's changes of one of its teams, which is made if it isn't there.

    In `patch` the empty name stands for the team itself. Raises ConfigError.
    """
    check_team(stored, team)
    if patch.get("", True) is not True:
        raise ConfigError("a team is deleted by a command of its own; its own field is true")
    inner = {split_team_field(name)[1]: value for name, value in stored.items() if split_team_field(name)[0] == team}
    inner.pop("", None)
    after = changed(inner, {name: value for name, value in patch.items() if name}, TEAM_FIELDS)
    others = {name: value for name, value in stored.items() if split_team_field(name)[0] != team}
    return {**others, team_field(team): True, **{team_field(team, name): value for name, value in after.items()}}


def check_team(stored: Mapping[str, Any], team: str) -> None:
    """Raise ConfigError unless a team can be called so; its parent must be there."""
    if not is_team_name(team):
        raise ConfigError("a team is up to 4 names with a / between, each 1 to 64 of the characters A-Z a-z 0-9 . _ -")
    parent = team.rpartition("/")[0]
    if parent and team_field(parent) not in stored:
        raise ConfigError(f"there is no team '{parent}' above it: create that first")


def without_team(stored: Mapping[str, Any], team: str) -> Fields:
    """Return the fields of an account without a team, and those below it."""
    return {
        name: value
        for name, value in stored.items()
        if (found := split_team_field(name)[0]) != team and not found.startswith(f"{team}/")
    }


def limit_field(entry: object) -> tuple[str, Any]:
    """Return the name and the value of a limit written as in the keys file, ``{"requests": 1000, "per": "1d"}``.

    Raises ConfigError.
    """
    limit, window = read_limit(section_of(entry))
    [(name, value)] = limits_to_fields([window._replace(limits=(limit,))]).items()
    return name, value


def _flattened(patch: Mapping[str, object]) -> dict[str, object]:
    """Return the changes without ``limits``; with ``key_defaults``, if it is a table, as single fields."""
    found = {name: value for name, value in patch.items() if name not in (_LIMITS, _KEY_DEFAULTS)}
    if _KEY_DEFAULTS in patch:
        table = patch[_KEY_DEFAULTS]
        named = {} if table is None else section_of(table)
        found |= {f"{_KEY_DEFAULTS}.{name}": None for name in PER_MINUTE}
        found |= {f"{_KEY_DEFAULTS}.{name}": value for name, value in named.items()}
    return found


def _entries(value: object) -> dict[str, object]:
    if value is None:
        return {}
    if type(value) is not list:
        raise ConfigError('limits must be a list, as [{"requests": 1000, "per": "1d"}]')
    found: dict[str, object] = {}
    for number, entry in enumerate(value, 1):
        try:
            name, limit = limit_field(entry)
            if name in found:
                raise ConfigError(f"two limits of {name}: same length, same models")
        except ConfigError as error:
            raise ConfigError(f"limits, entry {number}: {error}") from None
        found[name] = limit
    return found


def _checked(name: str, value: object, known: Collection[str]) -> tuple[str, Any]:
    """Return the proper name of a field and its value, None if the field goes. Raises ConfigError."""
    if name in known:
        if value is None:
            return name, False if name == "disabled" else None  # absent, it would stay as it is
        return name, _CHECKS[name](name, value)
    parsed = parse_limit_name(name)
    if parsed is None:
        if "/" in name:
            raise ConfigError('a limit is called as "input_tokens/1d" or "output_tokens/1m for o3*,gpt-5*"')
        raise ConfigError(f"unknown field{shown(name)}: there are {', '.join((*LIMIT_FIELDS, *known))}")
    unit, window = parsed
    if value is None or value == NONE:
        return limit_name(unit, window), None
    table = value if isinstance(value, Mapping) else {"amount": value}
    if others := table.keys() - {"amount", "mode", "name"}:
        raise ConfigError(f"{name}: unknown field{shown(str(sorted(others)[0]))}: there are amount, mode, name")
    entry: dict[str, object] = {UNITS[unit]: check_amount(name, table.get("amount"), f', or "{NONE}"')}
    entry["per"] = per_text(window.per_ms)
    entry |= {each: table[each] for each in ("mode", "name") if table.get(each) is not None}
    if window.models:
        entry["models"] = list(window.models)
    try:
        return limit_field(entry)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None


def _key_default(field: str, value: object) -> int | None:
    return None if value == NONE else check_amount(field, value, f', or "{NONE}"')


def _flag(field: str, value: object) -> bool:
    if type(value) is not bool:
        raise ConfigError(f"{field} must be true or false")
    return value


def _time(field: str, value: object) -> str:
    try:
        at_ms = time_ms(value) if type(value) is str else 0
    except (ValueError, OverflowError):
        at_ms = 0
    if at_ms <= 0:
        raise ConfigError(f"{field} must be a date and time with its offset, as 2027-06-30T00:00:00Z")
    return time_text(at_ms)


def _team(field: str, value: object) -> str | None:
    if value == "":
        return None
    if not is_team_name(value):
        raise ConfigError(f"{field} must be a team of the key's account, as research/vision")
    return str(value)


_CHECKS: Final[Mapping[str, Callable[[str, object], Any]]] = {
    "name": lambda _, value: check_name(value) or None,
    "team": _team,
    "weight": lambda _, value: check_weight(value),
    "output_reserve": check_limit,
    "expires": _time,
    "disabled": _flag,
    "show": _check_show,
    **{f"{_KEY_DEFAULTS}.{each}": _key_default for each in PER_MINUTE},
}
