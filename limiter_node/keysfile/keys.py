"""The sections of keys, ``[keys."KEY"]``, and the defaults of keys without an account.

A key without an account whose limits are the three per minute that `KeyLimits` can hold is plain. Any other is a key of
its account, or, without one, an account of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from limiter_node.declarations import AccountKey, Declarations
from limiter_node.errors import ConfigError
from limiter_node.keysfile.accounts import NAME_RULE
from limiter_node.keysfile.fields import (
    Misdeclared,
    check_fields,
    check_name,
    check_output_reserve,
    is_path_name,
    is_team_name,
    section_of,
    within,
)
from limiter_node.keysfile.key_names import called, called_in_section, check_declared_key
from limiter_node.keysfile.limit_fields import (
    LIMIT_FIELDS,
    MinuteAmounts,
    minute_amounts,
    read_windows,
)
from limiter_node.limit_names import PER_MINUTE
from limiter_node.limits import (
    DEFAULT_INPUT_TPM,
    DEFAULT_OUTPUT_RESERVE,
    DEFAULT_OUTPUT_TPM,
    DEFAULT_RPM,
    MAX_LIMIT,
    KeyLimits,
)
from limiter_node.policy import AccountPolicy, KeyPolicy

_DEFAULTS_FIELDS = (*PER_MINUTE, "output_reserve")
_KEY_FIELDS = (*LIMIT_FIELDS, "output_reserve", "name", "account", "team", "weight")
_BUILT_IN: MinuteAmounts = {"rpm": DEFAULT_RPM, "input_tpm": DEFAULT_INPUT_TPM, "output_tpm": DEFAULT_OUTPUT_TPM}
_DOTTED_KEY = 'a key with a dot must be in quotes, as [keys."a.b"]'
_MAX_WEIGHT = 1_000


@dataclass(frozen=True, slots=True)
class KeyDefaults:
    """The values of keys without an account that say nothing themselves."""

    amounts: MinuteAmounts
    output_reserve: int
    is_reserve_set: bool
    """Whether the file sets `output_reserve`; then it counts for accounts that set none, too."""


def read_defaults(value: object) -> KeyDefaults:
    """Return the defaults of a section over the built-in ones. Raises Misdeclared."""
    try:
        section = section_of(value)
        check_fields(section, _DEFAULTS_FIELDS, _DOTTED_KEY)
        amounts = {**_BUILT_IN, **minute_amounts(section)}
        reserve = check_output_reserve(section)
        return KeyDefaults(amounts, reserve or DEFAULT_OUTPUT_RESERVE, reserve is not None)
    except ConfigError as error:
        raise within("[defaults]", error, "defaults") from None


class KeyReader:
    """Read the sections of keys, one after the other; `result` is what they have declared."""

    def __init__(self, defaults: KeyDefaults, accounts: Mapping[str, AccountPolicy]) -> None:
        self._defaults, self._accounts = defaults, accounts
        self._plain: dict[str, KeyLimits] = {}
        self._keys: dict[str, AccountKey] = {}
        self._key_defaults = {name: dict(account.key_defaults) for name, account in accounts.items()}
        self._teams = {name: {each.name for each in account.subjects} for name, account in accounts.items()}
        self._taken: dict[tuple[str, str], str] = {}

    @property
    def result(self) -> Declarations:
        """All accounts, and the keys read so far."""
        return Declarations(self._plain, self._accounts, self._keys)

    def read(self, declared: str, value: object) -> None:
        """Read one section. Raises Misdeclared."""
        place = ("keys", declared)
        who = called_in_section(declared, value)
        try:
            kid = check_declared_key(declared)
            section = section_of(value)
            check_fields(section, _KEY_FIELDS, _DOTTED_KEY)
            try:
                name = check_name(section.get("name", ""))
            except ConfigError as error:
                raise Misdeclared(str(error), "name") from None
            if name and name == declared:
                raise Misdeclared("name must not be the key itself: messages show it", "name")
            other = self._name_of(kid)
            if other is None:
                self._read(kid, name, section)
        except ConfigError as error:
            raise within(who, error, *place) from None
        if other is not None:
            raise Misdeclared(f"{who} and {called(other, kid)} are the same key", *place)

    def _name_of(self, kid: str) -> str | None:
        if kid in self._plain:
            return self._plain[kid].name
        return self._keys[kid].key.name if kid in self._keys else None

    def _read(self, kid: str, name: str, section: Mapping[str, Any]) -> None:
        if "account" in section:
            self._keys[kid] = self._key_of_account(kid, name, section)
            return
        for field in ("team", "weight"):
            if field in section:
                raise Misdeclared(f"{field} is for keys of an account: set account, too", field)
        if name in self._accounts:
            raise Misdeclared("a key without an account can't be called like an account", "name")
        limits = self._plain_limits(name, section)
        if limits is not None:
            self._plain[kid] = limits
            return
        reserve = check_output_reserve(section) or self._defaults.output_reserve
        windows = read_windows(section, self._defaults.amounts)
        key = KeyPolicy(kid, name, windows=windows, output_reserve=reserve)
        self._keys[kid] = AccountKey(AccountPolicy(key=key), key)

    def _plain_limits(self, name: str, section: Mapping[str, Any]) -> KeyLimits | None:
        """Return the limits of a key for which the plain form is enough, None for any other."""
        amounts = {**self._defaults.amounts, **minute_amounts(section)}
        rpm, input_tpm, output_tpm = (amounts[field] for field in _BUILT_IN)
        if "limits" in section or amounts.get("tpm") is not None:
            return None
        if rpm is None or input_tpm is None or output_tpm is None or max(rpm, input_tpm, output_tpm) > MAX_LIMIT:
            return None
        reserve = check_output_reserve(section) or self._defaults.output_reserve
        return KeyLimits(rpm, input_tpm, output_tpm, reserve, name)

    def _key_of_account(self, kid: str, name: str, section: Mapping[str, Any]) -> AccountKey:
        account = section["account"]
        if type(account) is not str or account not in self._accounts:
            named = f" '{account}'" if is_path_name(account) else ""
            raise Misdeclared(f"account{named} is not declared: there must be an [accounts.NAME] for it", "account")
        team = section.get("team", "")
        if type(team) is not str or team not in self._teams[account] or ("team" in section and not team):
            named = f" '{team}'" if is_team_name(team) else ""
            raise Misdeclared(f"team{named} is not declared: account '{account}' must have a section for it", "team")
        if name:
            self._take_path(account, name, kid)
        weight = section.get("weight", 1)
        if type(weight) is not int or not 1 <= weight <= _MAX_WEIGHT:
            raise Misdeclared(f"weight must be an integer from 1 to {_MAX_WEIGHT}", "weight")
        windows = read_windows(section, self._key_defaults[account])
        key = KeyPolicy(kid, name, team, windows, check_output_reserve(section), weight)
        return AccountKey(self._accounts[account], key)

    def _take_path(self, account: str, name: str, kid: str) -> None:
        if not is_path_name(name):
            raise Misdeclared(f"the name of a key of an account is {NAME_RULE}", "name")
        if name in self._teams[account]:
            raise Misdeclared(f"a team of account '{account}' is called '{name}', too", "name")
        if self._taken.setdefault((account, name), kid) != kid:
            raise Misdeclared(f"another key of account '{account}' is called '{name}', too", "name")
