"""The sections of keys, ``[keys."KEY"]``, and the defaults of keys without an account.

A key without an account is plain if its limits are the three per minute that `KeyLimits` can hold, and it has one
credential and no end. Any other is a key of its account, or, without one, an account of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from limiter_node.declarations import AccountKey, Declarations
from limiter_node.errors import ConfigError
from limiter_node.key_states import Credential
from limiter_node.keysfile.accounts import NAME_RULE
from limiter_node.keysfile.credential_fields import read_expires
from limiter_node.keysfile.fields import (
    Misdeclared,
    check_fields,
    check_output_reserve,
    is_path_name,
    is_team_name,
    section_of,
    within,
)
from limiter_node.keysfile.identity import Identity, called_in_section, read_identity
from limiter_node.keysfile.key_names import called
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
_KEY_FIELDS = (*LIMIT_FIELDS, "output_reserve", "name", "account", "team", "weight", "expires", "credentials")
BUILT_IN: MinuteAmounts = {"rpm": DEFAULT_RPM, "input_tpm": DEFAULT_INPUT_TPM, "output_tpm": DEFAULT_OUTPUT_TPM}
"""The limits of keys without an account where nothing else is said."""
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
        amounts = {**BUILT_IN, **minute_amounts(section)}
        reserve = check_output_reserve(section)
        return KeyDefaults(amounts, reserve or DEFAULT_OUTPUT_RESERVE, reserve is not None)
    except ConfigError as error:
        raise within("[defaults]", error, "defaults") from None


def check_weight(value: object) -> int:
    """Return `value` if it is a weight. Raises Misdeclared."""
    if type(value) is not int or not 1 <= value <= _MAX_WEIGHT:
        raise Misdeclared(f"weight must be an integer from 1 to {_MAX_WEIGHT}", "weight")
    return value


class KeyReader:
    """Read the sections of keys, one after the other; `result` is what they have declared."""

    def __init__(self, defaults: KeyDefaults, accounts: Mapping[str, AccountPolicy]) -> None:
        self._defaults, self._accounts = defaults, accounts
        self._plain: dict[str, KeyLimits] = {}
        self._keys: dict[str, AccountKey] = {}
        self._key_defaults = {name: dict(account.key_defaults) for name, account in accounts.items()}
        self._teams = {name: {each.name for each in account.subjects} for name, account in accounts.items()}
        self._taken: dict[tuple[str, str], str] = {}
        self._further: dict[str, str] = {}
        """The kid of the key to which a further credential belongs."""
        self._has_secrets = False
        self._listed: set[str] = set()

    @property
    def result(self) -> Declarations:
        """All accounts, and the keys read so far."""
        return Declarations(self._plain, self._accounts, self._keys, listed=frozenset(self._listed))

    @property
    def has_secrets(self) -> bool:
        """Whether a section read so far has a secret in plain text."""
        return self._has_secrets

    def read(self, declared: str, value: object) -> None:
        """Read one section. Raises Misdeclared."""
        place = ("keys", declared)
        try:
            section = section_of(value)
            check_fields(section, _KEY_FIELDS, _DOTTED_KEY)
            key = read_identity(declared, section)
            other = next((kid for each in key.digests if (kid := self._owner_of(each)) is not None), None)
            if other is None:
                self._read(key, section)
        except ConfigError as error:
            raise within(called_in_section(declared, value), error, *place) from None
        if other is not None:
            names = f"{called(key.name, key.kid)} and {called(self._name_of(other), other)}"
            problem = "are the same key" if other == key.kid else "have a credential in common"
            raise Misdeclared(f"{names} {problem}", *place)
        self._further.update((each, key.kid) for each in key.digests if each != key.kid)
        self._has_secrets |= key.has_secrets

    def _owner_of(self, digest: str) -> str | None:
        is_first = digest in self._plain or digest in self._keys
        return digest if is_first else self._further.get(digest)

    def _name_of(self, kid: str) -> str:
        return self._plain[kid].name if kid in self._plain else self._keys[kid].key.name

    def _read(self, identity: Identity, section: Mapping[str, Any]) -> None:
        kid, name, stated, _ = identity
        expires_ms = read_expires(section)
        if "account" in section:
            key = self._key_of_account(kid, name, section)
            self._keys[kid] = key._replace(key=replace(key.key, credentials=stated, expires_ms=expires_ms))
            return
        for field in ("team", "weight"):
            if field in section:
                raise Misdeclared(f"{field} is for keys of an account: set account, too", field)
        if name in self._accounts:
            raise Misdeclared("a key without an account can't be called like an account", "name")
        limits = self._plain_limits(name, section)
        if limits is not None and not expires_ms and stated in ((), (Credential(kid),)):
            self._plain[kid] = limits
            self._listed.update(each.digest for each in stated)
            return
        reserve = check_output_reserve(section) or self._defaults.output_reserve
        windows = read_windows(section, self._defaults.amounts)
        flat = KeyPolicy(kid, name, windows=windows, output_reserve=reserve, credentials=stated, expires_ms=expires_ms)
        self._keys[kid] = AccountKey(AccountPolicy(key=flat), flat)

    def _plain_limits(self, name: str, section: Mapping[str, Any]) -> KeyLimits | None:
        """Return the limits of a key for which the plain form is enough, None for any other."""
        amounts = {**self._defaults.amounts, **minute_amounts(section)}
        rpm, input_tpm, output_tpm = (amounts[field] for field in BUILT_IN)
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
        weight = check_weight(section.get("weight", 1))
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
