"""Keys moved to another account with what their own windows hold, to another team, or out of their account."""

from __future__ import annotations

from dataclasses import replace

from limiter_node.changes import Change, change_between, log_change
from limiter_node.errors import ConfigError, StoreUnavailable
from limiter_node.keysfile.fields import is_path_name
from limiter_node.management.accounts import Accounts, existing, no_account
from limiter_node.management.changing import KeyChanger
from limiter_node.management.errors import Conflict, NotFound
from limiter_node.management.finding import Finder, Found
from limiter_node.management.naming import Names
from limiter_node.management.teams import check_exists
from limiter_node.policy import account_tag
from limiter_node.policy_fields import Fields
from limiter_node.store.admin.key_items import PLAIN, KeyItem
from limiter_node.store.admin.store_admin import StoreAdmin
from limiter_node.store.written import ATTEMPTS


class Moves:
    """Move keys of one store."""

    def __init__(self, admin: StoreAdmin, finder: Finder) -> None:
        self._admin, self._finder = admin, finder
        self._accounts, self._changer, self._names = Accounts(admin), KeyChanger(admin, finder), Names(admin)

    async def move(self, who: str, account: str, team: str) -> Change:
        """Move a key; see `Manager.move`. Interrupted, it is finished by being done again, or by the next node."""
        if not account and team:
            raise ConfigError("a team is one of an account: give the account, too")
        before: KeyItem | None = None
        for _ in range(ATTEMPTS):
            item = await self._finder.read(await self._finder.find(who if before is None else before.kid))
            if item.account_name == account:
                if before is not None:  # it was moved, although the store's reply was lost
                    return _moved(before, account, team)
                return await self._within(item, account, team)
            before = await self._adopted(item)
            if before is not None and await self._to(before, account, team):
                return _moved(before, account, team)
            before = before or item
        raise StoreUnavailable("the key keeps being changed by others: try again")

    async def _within(self, item: KeyItem, account: str, team: str) -> Change:
        """Move a key to another team of its account, at once. Its past stays in the windows of the former one."""

        async def fields_of(_: Found, now: KeyItem) -> Fields:
            if now.account_name != account:
                raise Conflict(f"the key has just been moved to account '{now.account_name}'")
            if team and now.account is not None:
                check_exists(now.account, team)
            fields = {name: value for name, value in now.fields.items() if name != "team"}
            return {**fields, "team": team} if team else fields

        change, _ = await self._changer.change(item.kid, "moved", fields_of)
        return change

    async def _adopted(self, item: KeyItem) -> KeyItem | None:
        """Return a key as one with a policy, which a plain key gets first. None if it was changed meanwhile."""
        if item.tag != PLAIN:
            return item
        own = self._admin.keys.adopted(item)
        await self._changer.write(item, own)
        now = await self._finder.read(Found(item.kid))
        return now if now.version == own.version else None

    async def _to(self, item: KeyItem, account: str, team: str) -> bool:
        """Move a key to another account. Return whether it was moved; else it has changed since it was read."""
        name, tag = item.policy.name, account_tag(account) if account else item.kid
        if account:
            stored = await self._accounts.read(account)
            if stored.policy is None:
                raise NotFound(no_account(account))
            if team:
                check_exists(existing(account, stored), team)
            if name and not is_path_name(name):
                raise ConfigError("the key's name can't be one in an account: give it another one first")
            target = KeyItem(item.kid, tag, stored.time_ms, account=stored.policy)
        else:
            target = KeyItem(item.kid, PLAIN, item.time_ms)
        if name:
            await self._names.check(target, name)
        policy = replace(item.policy, team=team)
        return await self._admin.run(
            lambda: self._admin.mover.move(item.kid, item.tag, tag, policy=policy, expected=item.version)
        )


def _moved(before: KeyItem, account: str, team: str) -> Change:
    after = {name: value for name, value in before.fields.items() if name != "team"}
    after |= {name: value for name, value in (("account", account), ("team", team)) if value}
    former = {**before.fields, "account": before.account_name} if before.account_name else before.fields
    change = change_between("key", before.who, "moved", former, after)
    log_change(change)
    return change
