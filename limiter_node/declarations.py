"""The keys and accounts that an operator declares, ready to be stored.

Neighbours: `keysfile` reads them from a file, `store.admin` puts them into the store.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from limiter_node.limits import WINDOW_MS, KeyLimits
from limiter_node.policy import (
    ACCOUNT_MARK,
    INPUT_TOKENS,
    OUTPUT_TOKENS,
    REQUESTS,
    AccountPolicy,
    KeyPolicy,
    Limit,
    PolicyWindow,
)

MAX_WINDOWS: Final = 32
"""The most windows of an account, a team or a key: a path of six subjects must fit into one call of the script."""


class AccountKey(NamedTuple):
    """A key with its account. If the key is an account of its own, `account` holds it, too."""

    account: AccountPolicy
    key: KeyPolicy


@dataclass(frozen=True, slots=True)
class Declarations:
    """All that is declared. Its windows have no times yet: the store's clock says since when they count.

    `plain`: the limits of plain keys by ``kid``. `accounts`: the named accounts with their teams, by name. `keys`: the
    keys of accounts, and those that are accounts of their own, by ``kid``. `exposed_file`: the file with the
    declarations if it holds secrets and others than its owner may read or change it; else empty.
    """

    plain: Mapping[str, KeyLimits] = field(default_factory=dict)
    accounts: Mapping[str, AccountPolicy] = field(default_factory=dict)
    keys: Mapping[str, AccountKey] = field(default_factory=dict)
    exposed_file: str = field(default="", compare=False)
    listed: frozenset[str] = frozenset()
    """The plain keys whose one credential is listed, so that any other one of theirs is revoked."""

    def __bool__(self) -> bool:
        return bool(self.plain or self.accounts or self.keys)

    @property
    def key_count(self) -> int:
        """The number of keys of all kinds."""
        return len(self.plain) + len(self.keys)

    @property
    def has_lists(self) -> bool:
        """Whether a key's credentials are listed, so that those that aren't are revoked by a person's word."""
        return bool(self.listed) or any(each.key.credentials for each in self.keys.values())

    def entry(self, name: str) -> object:
        """Return what is declared under a key's ``kid`` or an account's hash tag, to be compared; None if nothing is.

        A named account counts apart from its keys: a change of it is none of theirs.
        """
        if (plain := self.plain.get(name)) is not None:
            return plain
        if (found := self.keys.get(name)) is not None:
            return found.account.tag, found.key
        return self.accounts.get(name.removeprefix(ACCOUNT_MARK)) if name.startswith(ACCOUNT_MARK) else None

    def names(self) -> Iterator[str]:
        """Yield the names of all entries."""
        yield from self.plain
        yield from self.keys
        yield from (each.tag for each in self.accounts.values())


def to_account(kid: str, limits: KeyLimits, *, since_ms: int = 0) -> AccountPolicy:
    """Return a plain key as an account of its own, whose one window counts since `since_ms`."""
    amounts = ((REQUESTS, limits.rpm), (INPUT_TOKENS, limits.input_tpm), (OUTPUT_TOKENS, limits.output_tpm))
    window = PolicyWindow(WINDOW_MS, limits=tuple(Limit(unit, amount) for unit, amount in amounts), since_ms=since_ms)
    return AccountPolicy(key=KeyPolicy(kid, limits.name, windows=(window,), output_reserve=limits.output_reserve))
