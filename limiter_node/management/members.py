"""The keys of an account, or of one of its teams and the teams below it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from limiter_node.changes import Change, change_between, log_change
from limiter_node.plans import key_name
from limiter_node.policy import AccountPolicy, KeyPolicy, account_tag
from limiter_node.policy_fields import fields_of_key
from limiter_node.store.admin.policies import StoredAccount
from limiter_node.store.admin.script_calls import CHUNK
from limiter_node.store.admin.store_admin import StoreAdmin


class Members:
    """Read and delete the keys of accounts of one store. All of it costs O(keys of the account)."""

    def __init__(self, admin: StoreAdmin) -> None:
        self._admin = admin

    async def of(self, account: str, team: str = "") -> list[KeyPolicy]:
        """Return the keys of an account, in no order."""

        async def read() -> list[KeyPolicy]:
            return [key async for key in self.walk(account, team)]

        return await self._admin.run(read)

    async def count(self, account: str) -> int:
        """Return how many keys an account has. Raises redis-py's errors, as what is called by `StoreAdmin.run` may."""
        return sum([len(kids) async for kids in self._admin.search.members(account)])

    async def delete(self, account: str, keys: Sequence[KeyPolicy]) -> list[Change]:
        """Delete keys of an account one by one. Return the changes, which are logged."""
        changes = []
        for key in keys:
            kid = key.kid
            await self._admin.run(lambda kid=kid: self._admin.deleter.delete(kid, account_tag(account)))  # type: ignore[misc]
            change = change_between("key", f"{account}/{key_name(key.name, kid)}", "deleted", fields_of_key(key), {})
            log_change(change)
            changes.append(change)
        return changes

    async def put_if_none(self, account: str, stored: StoredAccount, after: AccountPolicy | None, team: str) -> bool:
        """Write an account over what was read, or delete it (None), if it has no keys in `team`. Return whether it was.

        No key can get into the team at the same time: a key is written only into the account that it was made for.
        """

        async def has_none() -> bool:
            async for _ in self.walk(account, team):
                return False
            return True

        put = self._admin.policies.put_if_unchanged
        return await self._admin.run(lambda: put(account_tag(account), stored.version, after, has_none))

    async def walk(self, account: str, team: str = "") -> AsyncIterator[KeyPolicy]:
        """Yield the keys of an account. Raises redis-py's errors, as what is called by `StoreAdmin.run` may."""
        async for kids in self._admin.search.members(account):
            for start in range(0, len(kids), CHUNK):
                stored = await self._admin.policies.read(account_tag(account), kids[start : start + CHUNK])
                for found in stored.keys.values():
                    if is_within(found.policy.team, team):
                        yield found.policy


def is_within(team: str, above: str) -> bool:
    """Whether a team is `above` or below it; every team, and none, is within an account (an empty name)."""
    return not above or team == above or team.startswith(f"{above}/")
