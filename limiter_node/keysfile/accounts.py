"""The sections of accounts and their teams: ``[accounts.NAME]`` and ``[accounts.NAME.teams."TEAM"]``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from limiter_node.errors import ConfigError
from limiter_node.keysfile.fields import (
    MAX_TEAM_DEPTH,
    Misdeclared,
    check_fields,
    check_output_reserve,
    choice,
    is_path_name,
    is_team_name,
    section_of,
    within,
)
from limiter_node.keysfile.limit_fields import LIMIT_FIELDS, minute_amounts, read_windows
from limiter_node.limit_names import PER_MINUTE
from limiter_node.policy import AccountPolicy, Subject

NAME_RULE: Final = "1 to 64 of the characters A-Z a-z 0-9 . _ -"

_TEAM_FIELDS = (*LIMIT_FIELDS, "output_reserve")
_ACCOUNT_FIELDS = (*_TEAM_FIELDS, "show", "key_defaults", "teams")
_DOTTED_ACCOUNT = 'an account with a dot must be in quotes, as [accounts."a.b"]'
_NESTED_TEAM = 'a team below a team must be in quotes, as [accounts.NAME.teams."a/b"]'
_check_show = choice("path", "own")


def read_accounts(value: object, output_reserve: int | None) -> dict[str, AccountPolicy]:
    """Return the accounts by name. `output_reserve`: that of accounts that set none. Raises Misdeclared."""
    if type(value) is not dict:
        raise Misdeclared("accounts must be sections, as [accounts.NAME]", "accounts")
    accounts = {}
    for name, section in value.items():
        if not is_path_name(name):
            raise Misdeclared(f"the name of an account is {NAME_RULE}", "accounts", name)
        try:
            accounts[name] = _account(name, section_of(section), output_reserve)
        except ConfigError as error:
            raise within(f"account '{name}'", error, "accounts", name) from None
    return accounts


def _account(name: str, section: Mapping[str, Any], output_reserve: int | None) -> AccountPolicy:
    check_fields(section, _ACCOUNT_FIELDS, _DOTTED_ACCOUNT)
    key_defaults = _key_defaults(section.get("key_defaults", {}))
    show = _check_show("show", section.get("show", "path"))
    account = _subject("", section)
    if account.output_reserve is None:
        account = account._replace(output_reserve=output_reserve)
    return AccountPolicy(name, (account, *_teams(section.get("teams", {}))), show, key_defaults)


def _subject(name: str, section: Mapping[str, Any]) -> Subject:
    return Subject(name, read_windows(section, {}), check_output_reserve(section))


def _key_defaults(value: object) -> tuple[tuple[str, int], ...]:
    try:
        section = section_of(value)
        check_fields(section, tuple(PER_MINUTE), "a table of single values")
        amounts = minute_amounts(section)
    except ConfigError as error:
        raise within("key_defaults", error, "key_defaults") from None
    return tuple((field, amount) for field, amount in amounts.items() if amount is not None)


def _teams(value: object) -> list[Subject]:
    if type(value) is not dict:
        raise Misdeclared("teams must be sections, as [accounts.NAME.teams.TEAM]", "teams")
    teams = []
    for name, section in value.items():
        if not is_team_name(name):
            raise Misdeclared(
                f"a team is up to {MAX_TEAM_DEPTH} names with a / between, each {NAME_RULE}", "teams", name
            )
        try:
            parent = name.rpartition("/")[0]
            if parent and parent not in value:
                raise Misdeclared(f"its parent '{parent}' must be declared, too")
            content = section_of(section)
            check_fields(content, _TEAM_FIELDS, _NESTED_TEAM)
            teams.append(_subject(name, content))
        except ConfigError as error:
            raise within(f"team '{name}'", error, "teams", name) from None
    return teams
