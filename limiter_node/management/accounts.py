"""Accounts made, changed, deleted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from limiter_node.changes import Change, change_between, log_change
from limiter_node.errors import ConfigError, StoreUnavailable
from limiter_node.keysfile.accounts import NAME_RULE
from limiter_node.keysfile.fields import is_path_name
from limiter_node.management.errors import Conflict, NotFound
from limiter_node.management.fields import changed_account
from limiter_node.management.members import Members
from limiter_node.policy import AccountPolicy, account_tag
from limiter_node.policy_body import body_of, version_of
from limiter_node.policy_fields import Fields, account_from, fields_of_account, split_team_field, teams_in
from limiter_node.store.admin.policies import StoredAccount, Write
from limiter_node.store.admin.store_admin import StoreAdmin
from limiter_node.store.written import ATTEMPTS, Written


class Accounts:
    """Make and change accounts of one store."""

    def __init__(self, admin: StoreAdmin) -> None:
        self._admin, self._members = admin, Members(admin)

    async def create(self, name: str, patch: Mapping[str, object]) -> Change:
        """Make an account; see `Manager.create_account`."""
        if not is_path_name(name):
            raise ConfigError(f"the name of an account is {NAME_RULE}")

        def fields_of(stored: StoredAccount) -> Fields:
            if stored.policy is not None:
                raise Conflict(f"there is an account '{name}' already")
            return changed_account({}, patch)

        kids, _ = await self._admin.run(lambda: self._admin.search.matches(name, ""))
        if kids:
            raise Conflict(f"a key without an account is called '{name}': keys and accounts can't share a name")
        before, after = await self.change(name, fields_of)
        return logged(change_between("account", name, "created", before, after))

    async def set(self, name: str, patch: Mapping[str, object]) -> Change:
        """Change fields; see `Manager.set_account`."""

        def fields_of(stored: StoredAccount) -> Fields:
            return changed_account(fields_of_account(existing(name, stored)), patch)

        before, after = await self.change(name, fields_of)
        change = change_between("account", name, "changed", before, after)
        return logged(change) if before != after else change

    async def delete(self, name: str, *, recursive: bool) -> list[Change]:
        """Delete an account; see `Manager.delete_account`. Interrupted, it is whole or has lost some of its keys."""
        changes: list[Change] = []
        was_tried = False
        for _ in range(ATTEMPTS):
            stored = await self.read(name)
            if stored.policy is None and was_tried:  # the store's reply was lost, or somebody else was faster
                break
            account = existing(name, stored)
            keys = await self._members.of(name)
            teams = list(teams_in(fields_of_account(account)))
            if not recursive and (keys or teams):
                raise Conflict(f"account '{name}' has {counted(len(teams), 'team')} and {counted(len(keys), 'key')}")
            changes += await self._members.delete(name, keys)
            was_tried = True
            if await self._members.put_if_none(name, stored, None, ""):
                break
        else:
            raise contended(name)
        await self._admin.run(lambda: self._admin.deleter.forget_windows(account_tag(name)))
        for each in reversed(teams):
            changes.append(logged(change_between("team", f"{name}/{each}", "deleted", team_fields(account, each), {})))
        own = {field: value for field, value in fields_of_account(account).items() if not split_team_field(field)[0]}
        return [*changes, logged(change_between("account", name, "deleted", own, {}))]

    async def read(self, name: str) -> StoredAccount:
        """Return an account as stored."""
        return await self._admin.run(lambda: self._admin.policies.read(account_tag(name)))

    async def change(self, name: str, fields_of: Callable[[StoredAccount], Fields]) -> tuple[Fields, Fields]:
        """Give an account the fields that `fields_of` makes of it. Return those before and after.

        It is written over what was read, or made again on what somebody else has written meanwhile.
        """
        tried: dict[bytes, tuple[Fields, Fields]] = {}
        for _ in range(ATTEMPTS):
            stored = await self.read(name)
            if stored.version in tried:  # written, although the store's reply was lost
                return tried[stored.version]
            before = {} if stored.policy is None else fields_of_account(stored.policy)
            after = fields_of(stored)
            account = account_from(name, after, stored.policy, stored.time_ms)
            if stored.policy is None and (gone := stored.tombstone) is not None:
                account = replace(account, revision=gone.revision + 1, declared=gone.declared)
            if account is stored.policy:
                return before, before
            version = version_of(body_of(account))
            tried[version] = before, fields_of_account(account)
            if await self._put(stored, account, sorted(set(teams_in(after)) - set(teams_in(before)))):
                return tried[version]
        raise contended(name)

    async def _put(self, stored: StoredAccount, account: AccountPolicy, new_teams: Sequence[str]) -> bool:
        """Write an account over what was read. Return whether it was. Raises Conflict if a key has a team's name."""
        policies = self._admin.policies

        async def has_no_such_key() -> bool:
            for team in new_teams:
                if "/" not in team and await self._admin.search.named(account.name, team) is not None:
                    raise Conflict(f"account '{account.name}' has a key '{team}': a team can't have the same name")
            return True

        if stored.policy is None or not new_teams:
            write = Write(account.tag, "", stored.version, account)
            return await self._admin.run(lambda: policies.write([write])) == [Written.DONE]
        return await self._admin.run(
            lambda: policies.put_if_unchanged(account.tag, stored.version, account, has_no_such_key)
        )


def existing(name: str, stored: StoredAccount) -> AccountPolicy:
    """Return the account. Raises NotFound if there is none."""
    if stored.policy is None:
        raise NotFound(no_account(name))
    return stored.policy


def team_fields(account: AccountPolicy, team: str) -> Fields:
    """Return the fields of one team by their names in the team."""
    found = ((split_team_field(name), value) for name, value in fields_of_account(account).items())
    return {inner: value for (name, inner), value in found if name == team and inner}


def contended(name: str) -> StoreUnavailable:
    """Return the error for an account that others change all the time."""
    return StoreUnavailable(f"account '{name}' keeps being changed by others: try again")


def no_account(name: str) -> str:
    """Return the message that there is no such account."""
    return f"there is no account '{name}': create it first" if is_path_name(name) else "there is no such account"


def logged(change: Change) -> Change:
    """Log a change that was made, and return it."""
    log_change(change)
    return change


def counted(count: int, what: str) -> str:
    """Return a number of things in words."""
    return f"{count or 'no'} {what}{'' if count == 1 else 's'}"
