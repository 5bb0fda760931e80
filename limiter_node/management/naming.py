"""The names that keys may have: those that nobody else has where the key is."""

from __future__ import annotations

from typing import Final

from limiter_node.credentials import is_key, key_id
from limiter_node.errors import ConfigError
from limiter_node.keysfile.accounts import NAME_RULE
from limiter_node.keysfile.fields import check_name, is_path_name
from limiter_node.management.errors import Conflict
from limiter_node.policy import account_tag
from limiter_node.policy_fields import fields_of_account, teams_in
from limiter_node.store.admin.key_items import KeyItem
from limiter_node.store.admin.store_admin import StoreAdmin

STANDARD_INPUT: Final = "-"
"""Is typed instead of a secret that comes from standard input."""


class Names:
    """Check names of keys of one store."""

    def __init__(self, admin: StoreAdmin) -> None:
        self._admin = admin

    async def check(self, item: KeyItem, name: str) -> None:
        """Raise ConfigError unless the key can be called so where it is, and Conflict if the name is taken.

        For a key without an account this costs a walk through all keys.
        """
        if key_id(name) in {item.kid, *(each.digest for each in item.policy.all_credentials)}:
            raise ConfigError("name must not be the key itself: messages show it")
        if is_key(name) and await self._admin.run(lambda: self._admin.search.way(key_id(name))) is not None:
            raise ConfigError("name must not be a key's secret: messages show it")
        if item.account is not None and not item.is_flat:
            await self._check_in_account(item, item.account.name, name)
            return
        check_name(name)
        if name == STANDARD_INPUT:
            raise ConfigError("a key can't be called '-', which stands for a secret on standard input")
        if is_path_name(name):
            stored = await self._admin.run(lambda: self._admin.policies.read(account_tag(name)))
            if stored.policy is not None:
                raise Conflict("a key without an account can't be called like an account")
        kids, _ = await self._admin.run(lambda: self._admin.search.matches(name, ""))
        if set(kids) - {item.kid}:
            raise Conflict(f"there is a key '{name}' without an account already")

    async def _check_in_account(self, item: KeyItem, account: str, name: str) -> None:
        if not is_path_name(name):
            raise ConfigError(f"the name of a key of an account is {NAME_RULE}")
        if item.account is not None and name in teams_in(fields_of_account(item.account)):
            raise Conflict(f"account '{account}' has a team '{name}': a key can't have the same name")
        if await self._admin.run(lambda: self._admin.search.named(account, name)) not in (None, item.kid):
            raise Conflict(f"account '{account}' has a key '{name}' already")
