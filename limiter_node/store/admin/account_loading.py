"""Loads declared accounts with their teams: each is written over what was read, else read and merged again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from limiter_node.changes import Action, Change, change_between
from limiter_node.declaration_merging import account_to_store, apply_account_fields, merge_account_fields
from limiter_node.declaration_records import declaration_of, was_applied
from limiter_node.errors import StoreUnavailable
from limiter_node.policy import AccountPolicy, account_tag
from limiter_node.policy_fields import Fields, fields_of_account, split_team_field, teams_in
from limiter_node.store.admin.key_plans import Unchanged
from limiter_node.store.admin.policies import Policies, StoredAccount, Write
from limiter_node.store.written import ATTEMPTS, Written

Merge = Callable[[AccountPolicy, StoredAccount], AccountPolicy | Unchanged]


@dataclass
class AccountResults:
    """The outcomes for declared accounts, by name. `stored`: as they are now; None for one that isn't there."""

    changes: dict[str, list[Change]] = field(default_factory=dict)
    unchanged: dict[str, Unchanged] = field(default_factory=dict)
    stored: dict[str, AccountPolicy | None] = field(default_factory=dict)


def account_by_file(declared: AccountPolicy, stored: StoredAccount) -> AccountPolicy | Unchanged:
    """Return what a node's start makes of an account."""
    wanted, policy = fields_of_account(declared), stored.policy
    if policy is None:
        if stored.tombstone is not None:
            return Unchanged.DELETED
        return account_to_store(declared.name, wanted, wanted, None, stored.time_ms)
    text = declaration_of(wanted)
    if was_applied(policy.declared, text):
        return Unchanged.OLDER
    if text == policy.declared.last:
        return Unchanged.SAME
    fields = merge_account_fields(policy.declared, wanted, fields_of_account(policy))
    return account_to_store(declared.name, fields, wanted, policy, stored.time_ms)


def account_by_word(declared: AccountPolicy, stored: StoredAccount) -> AccountPolicy:
    """Return what a person's word makes of an account; teams that aren't declared stay."""
    wanted, policy = fields_of_account(declared), stored.policy
    fields = apply_account_fields(wanted, {} if policy is None else fields_of_account(policy))
    return account_to_store(declared.name, fields, wanted, policy, stored.time_ms, stored.tombstone)


def account_pruned(declared: AccountPolicy, stored: StoredAccount) -> AccountPolicy | Unchanged:
    """Return an account without the teams that aren't declared."""
    if stored.policy is None:
        return Unchanged.NO_ACCOUNT
    teams = set(teams_in(fields_of_account(declared)))
    found = fields_of_account(stored.policy).items()
    kept = {name: value for name, value in found if (team := split_team_field(name)[0]) in teams or not team}
    return account_to_store(declared.name, kept, None, stored.policy, stored.time_ms)


class AccountLoader:
    """Load accounts into one store. Methods raise redis-py's errors, and ours."""

    def __init__(self, policies: Policies) -> None:
        self._policies = policies

    async def load(
        self, accounts: Mapping[str, AccountPolicy], merge: Merge, *, dry_run: bool = False
    ) -> AccountResults:
        """Make of each account, by name, what `merge` says."""
        results, left = AccountResults(), list(accounts)
        for _ in range(ATTEMPTS):
            writes = {}
            stored = await self._policies.read_all(account_tag(name) for name in left)
            for name in left:
                found = stored[account_tag(name)]
                merged = merge(accounts[name], found)
                results.changes.pop(name, None)
                if isinstance(merged, Unchanged):
                    results.unchanged[name], results.stored[name] = merged, found.policy
                    continue
                results.stored[name] = merged
                results.changes[name] = account_changes(name, found.policy, merged)
                if merged is not found.policy:
                    writes[name] = Write(account_tag(name), "", found.version, merged)
            replies = [Written.DONE] * len(writes) if dry_run else await self._policies.write(list(writes.values()))
            left = [name for name, reply in zip(writes, replies, strict=True) if reply is not Written.DONE]
            if not left:
                return results
        raise StoreUnavailable(f"the policy of account {left[0]} keeps being changed by others: try again")


def account_changes(name: str, before: AccountPolicy | None, after: AccountPolicy | None) -> list[Change]:
    """Return the changes of an account and of its teams, from one policy to another; None: it isn't there."""
    was, now = (_by_team({} if each is None else fields_of_account(each)) for each in (before, after))
    changes = []
    for team in dict.fromkeys(("", *sorted({*was, *now}))):
        is_new = team not in was if team else before is None
        is_gone = team not in now if team else after is None
        old, new = was.get(team, {}), now.get(team, {})
        if is_new or is_gone or old != new:
            action: Action = "created" if is_new else "deleted" if is_gone else "changed"
            who = f"{name}/{team}" if team else name
            changes.append(change_between("team" if team else "account", who, action, old, new))
    return changes


def _by_team(fields: Fields) -> dict[str, Fields]:
    found: dict[str, Fields] = {}
    for field_name, value in fields.items():
        team, inner = split_team_field(field_name)
        found.setdefault(team, {})
        if inner:
            found[team][inner] = value
    return found
