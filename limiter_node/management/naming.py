"""The names that keys may have: those that nobody else has where the key is."""

from __future__ import annotations

from limiter_node.credentials import key_id
from limiter_node.errors import ConfigError
from limiter_node.keysfile.accounts import NAME_RULE
from limiter_node.keysfile.fields import check_name, is_path_name
from limiter_node.management.errors import Conflict
from limiter_node.policy import account_tag
from limiter_node.policy_fields import fields_of_account, teams_in
from limiter_node.store.admin.key_items import KeyItem
from limiter_node.store.admin.store_admin import StoreAdmin


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
        if item.account is not None and not item.is_flat:
            await self._check_in_account(item, item.account.name, name)
            return
        check_name(name)
        if is_path_name(name):
            stored = await self._admin.run(lambda: self._admin.policies.read(account_tag(name)))
            if stored.policy is not None:
                raise Conflict("a key without an account can't be called like an account")
        kids, _ = await self._admin.run(lambda: self._admin.search.matches(name, ""))
        if set(kids) - {item.kid}:
            raise Conflict(f"another key without an account is called '{name}', too")

    async def _check_in_account(self, item: KeyItem, account: str, name: str) -> None:
        if not is_path_name(name):
            raise ConfigError(f"the name of a key of an account is {NAME_RULE}")
        if item.account is not None and name in teams_in(fields_of_account(item.account)):
            raise Conflict(f"a team of account '{account}' is called '{name}', too")
        if await self._admin.run(lambda: self._admin.search.named(account, name)) not in (None, item.kid):
            raise Conflict(f"another key of account '{account}' is called '{name}', too")
