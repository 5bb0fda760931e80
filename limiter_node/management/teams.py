"""Teams of accounts made, changed, deleted. They are part of their account, so each change is one of the account."""

from __future__ import annotations

from collections.abc import Mapping

from limiter_node.changes import Change, change_between
from limiter_node.errors import ConfigError
from limiter_node.keysfile.fields import is_path_name
from limiter_node.management.accounts import Accounts, contended, counted, existing, logged, team_fields
from limiter_node.management.errors import Conflict, NotFound
from limiter_node.management.fields import changed_team, check_team, without_team
from limiter_node.management.members import Members, is_within
from limiter_node.policy import AccountPolicy
from limiter_node.policy_fields import Fields, account_from, fields_of_account, split_team_field, team_field, teams_in
from limiter_node.store.admin.policies import StoredAccount
from limiter_node.store.admin.store_admin import StoreAdmin
from limiter_node.store.written import ATTEMPTS


class Teams:
    """Make and change the teams of accounts of one store."""

    def __init__(self, admin: StoreAdmin) -> None:
        self._admin, self._members, self._accounts = admin, Members(admin), Accounts(admin)

    async def create(self, path: str, patch: Mapping[str, object]) -> Change:
        """Make a team; see `Manager.create_team`."""
        name, team = split_path(path)

        def fields_of(stored: StoredAccount) -> Fields:
            fields = fields_of_account(existing(name, stored))
            check_team(fields, team)
            if team_field(team) in fields:
                raise Conflict(f"there is a team {path} already")
            return changed_team(fields, team, patch)

        before, after = await self._accounts.change(name, fields_of)
        return logged(change_between("team", path, "created", _of_team(before, team), _of_team(after, team)))

    async def set(self, path: str, patch: Mapping[str, object]) -> Change:
        """Change fields; see `Manager.set_team`."""
        name, team = split_path(path)

        def fields_of(stored: StoredAccount) -> Fields:
            account = existing(name, stored)
            check_exists(account, team)
            return changed_team(fields_of_account(account), team, patch)

        before, after = await self._accounts.change(name, fields_of)
        change = change_between("team", path, "changed", _of_team(before, team), _of_team(after, team))
        return logged(change) if before != after else change

    async def delete(self, path: str, *, recursive: bool) -> list[Change]:
        """Delete a team; see `Manager.delete_team`. Interrupted, it is whole or has lost some of its keys."""
        name, team = split_path(path)
        changes: list[Change] = []
        was_tried = False
        for _ in range(ATTEMPTS):
            stored = await self._accounts.read(name)
            fields = {} if stored.policy is None else fields_of_account(stored.policy)
            if team_field(team) not in fields and was_tried:  # the store's reply was lost, or somebody else was faster
                break
            account = existing(name, stored)
            check_exists(account, team)
            keys = await self._members.of(name, team)
            teams = sorted(each for each in teams_in(fields) if is_within(each, team))
            if not recursive and (keys or len(teams) > 1):
                raise Conflict(
                    f"team {path} has {counted(len(teams) - 1, 'team')} below it and {counted(len(keys), 'key')}"
                )
            changes += await self._members.delete(name, keys)
            after = account_from(name, without_team(fields, team), account, stored.time_ms)
            was_tried = True
            if await self._members.put_if_none(name, stored, after, team):
                break
        else:
            raise contended(name)
        return [
            *changes,
            *(
                logged(change_between("team", f"{name}/{each}", "deleted", team_fields(account, each), {}))
                for each in reversed(teams)
            ),
        ]


def split_path(path: str) -> tuple[str, str]:
    """Return the account and the team of a path such as ``acme/research/vision``. Raises ConfigError."""
    account, _, team = path.partition("/")
    if not is_path_name(account) or not team:
        raise ConfigError("a team is called ACCOUNT/TEAM, such as acme/research or acme/research/vision")
    return account, team


def check_exists(account: AccountPolicy, team: str) -> None:
    """Raise NotFound unless the account has the team."""
    if not any(each.name == team for each in account.subjects if each.name):
        raise NotFound(f"there is no team {account.name}/{team}")


def _of_team(fields: Fields, team: str) -> Fields:
    found = ((split_team_field(name), value) for name, value in fields.items())
    return {inner: value for (name, inner), value in found if name == team and inner}
