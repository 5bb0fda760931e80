"""Loads declarations into the store: by a file, at a node's start, or by a person's word, with ``limiter-node apply``.

`declaration_merging` has the rules: who wins, field by field. Accounts with their teams come first, then keys.
Everything here can be repeated, and changes nothing if nothing has changed, not a byte.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from limiter_node.changes import Change, PartlyApplied, log_changes
from limiter_node.declarations import Declarations
from limiter_node.store.admin.account_loading import (
    AccountLoader,
    AccountResults,
    account_by_file,
    account_by_word,
    account_pruned,
)
from limiter_node.store.admin.deleting import Deleter
from limiter_node.store.admin.key_loading import KeyLoader, KeyResults
from limiter_node.store.admin.key_plans import Unchanged, plan_by_file, plan_by_word, wanted_keys
from limiter_node.store.admin.masters import Masters
from limiter_node.store.admin.moving import Mover
from limiter_node.store.admin.plain_keys import PlainKeys
from limiter_node.store.admin.pointers import Pointers
from limiter_node.store.admin.policies import Policies
from limiter_node.store.admin.pruning import Pruner

log = logging.getLogger(__name__)

_MOST_NAMED = 10
"""The most items that one line of the log names."""


@dataclass(frozen=True, slots=True)
class Applied:
    """The changes that a person's word has made, or would make, and warnings for that person."""

    changes: list[Change] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


class Loader:
    """Load declarations into one store. Methods raise redis-py's errors, and ours."""

    def __init__(
        self,
        masters: Masters,
        policies: Policies,
        pointers: Pointers,
        plain: PlainKeys,
        deleter: Deleter,
        mover: Mover,
    ) -> None:
        self._accounts = AccountLoader(policies)
        self._keys = KeyLoader(masters, policies, pointers, plain, mover)
        self._policies, self._pruner = policies, Pruner(masters, policies, deleter)

    async def declare(self, declared: Declarations) -> list[str]:
        """Declare by a file. Return warnings.

        Only what was never declared before counts, nothing that was deleted comes back, and what isn't declared stays.
        """
        accounts = await self._accounts.load(declared.accounts, account_by_file)
        wanted = wanted_keys(declared)
        stored = accounts.stored
        keys = await self._keys.load(wanted, lambda key, place: plan_by_file(key, place, stored))
        log_changes(_changes(accounts, keys))
        _log_unchanged(accounts.unchanged, {name: each.who for name, each in wanted.items()}, keys.unchanged)
        return [*(each for warnings in keys.warnings.values() for each in warnings), *keys.problems]

    async def apply(
        self, declared: Declarations, *, dry_run: bool = False, prune: bool = False, prune_keys: bool = False
    ) -> Applied:
        """Make everything as it is declared. `dry_run`: change nothing, and return what would be changed.

        `prune`: remove keys and teams that aren't declared from the declared accounts; `prune_keys`: remove flat keys.

        Raises:
            PartlyApplied: some keys can't be as they are declared; all else is.
        """
        accounts = await self._accounts.load(declared.accounts, account_by_word, dry_run=dry_run)
        keys = await self._keys.load(wanted_keys(declared), plan_by_word, by_word=True, dry_run=dry_run)
        changes = _changes(accounts, keys)
        kept = keys.kids.keys() | declared.plain.keys() | declared.keys.keys()
        if prune:
            changes += await self._pruner.prune_accounts(declared.accounts, kept, dry_run=dry_run)
            pruned = await self._accounts.load(declared.accounts, account_pruned, dry_run=dry_run)
            changes += [each for found in pruned.changes.values() for each in found if each.action == "deleted"]
        if prune_keys:
            changes += await self._pruner.prune_flat(kept, dry_run=dry_run)
        if not dry_run:
            log_changes(changes)
        warnings = [each for found in keys.warnings.values() for each in found]
        if keys.problems:
            raise PartlyApplied("; ".join(keys.problems), changes, warnings)
        return Applied(changes, warnings)


def _changes(accounts: AccountResults, keys: KeyResults) -> list[Change]:
    """Return all changes: the accounts', then the keys' by name."""
    by_account = [each for found in accounts.changes.values() for each in found]
    return [*by_account, *sorted(keys.changes.values(), key=lambda each: each.who)]


def _log_unchanged(accounts: Mapping[str, Unchanged], names: Mapping[str, str], keys: Mapping[str, Unchanged]) -> None:
    """Log which declarations count for nothing, in one line for each reason."""

    def items(reason: Unchanged) -> list[str]:
        return [
            *(f"account {name}" for name, found in accounts.items() if found is reason),
            *(f"key {names[name]}" for name, found in keys.items() if found is reason),
        ]

    for reason, event, words in (
        (Unchanged.OLDER, "declaration_is_older", "declared as it was before a later declaration, so nothing changes"),
        (Unchanged.DELETED, "declaration_is_deleted", "declared, but deleted on purpose, and stay so"),
        (Unchanged.NO_ACCOUNT, "declaration_without_account", "declared in accounts or teams that were deleted"),
    ):
        if found := items(reason):
            log.warning(
                "%d declared items are %s: %s; `limiter-node apply` would make them as the file says",
                *(len(found), words, _named(found)),
                extra={"event": event, "items": found[:_MOST_NAMED], "count": len(found)},
            )


def _named(items: Sequence[str]) -> str:
    more = len(items) - _MOST_NAMED
    return ", ".join(items[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
