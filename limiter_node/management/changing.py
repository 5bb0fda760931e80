"""A change of one key, written over exactly what was read, or made again on what somebody else has written meanwhile.

So of two changes of different fields at the same time none is lost; of the same field, the later one counts.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from limiter_node.changes import Action, Change, change_between, log_change
from limiter_node.errors import StoreUnavailable
from limiter_node.management.errors import Conflict
from limiter_node.management.finding import Finder, Found
from limiter_node.policy import ACCOUNT_MARK
from limiter_node.store.admin.key_items import KeyItem
from limiter_node.store.admin.store_admin import StoreAdmin
from limiter_node.store.written import ATTEMPTS, Written


class KeyChanger:
    """Change single keys of one store."""

    def __init__(self, admin: StoreAdmin, finder: Finder) -> None:
        self._admin, self._finder = admin, finder

    async def change(
        self,
        who: str,
        action: Action,
        fields_of: Callable[[Found, KeyItem], Awaitable[Mapping[str, Any]]],
    ) -> tuple[Change, KeyItem]:
        """Give the key that `who` names the fields that `fields_of` makes of it. Return the change, and the key after.

        Nothing is written and logged if the fields are the same.
        """
        tried: dict[bytes, KeyItem] = {}
        for _ in range(ATTEMPTS):
            found = await self._finder.find(who)
            before = await self._finder.read(found)
            if before.version in tried:  # written, although the store's reply was lost
                return self._done(action, tried[before.version], before)
            after = self._admin.keys.changed(before, await fields_of(found, before))
            if after.version == before.version:
                return change_between("key", after.who, action, {}, {}), after
            tried[after.version] = before
            written = await self.write(before, after)
            if written is Written.DONE:
                return self._done(action, before, after)
            if written is Written.NAME_TAKEN:
                raise name_taken(after)
        raise StoreUnavailable("the key keeps being changed by others: try again")

    async def write(self, before: KeyItem, after: KeyItem) -> Written:
        """Write a key over what was read."""
        return await self._admin.run(lambda: self._admin.keys.write(before, after))

    def _done(self, action: Action, before: KeyItem, after: KeyItem) -> tuple[Change, KeyItem]:
        change = change_between("key", after.who, action, before.fields, after.fields)
        log_change(change)
        return change, after


def name_taken(item: KeyItem) -> Conflict:
    """Return the error for a key whose name another one of its account has."""
    return Conflict(f"account '{item.tag.removeprefix(ACCOUNT_MARK)}' has a key '{item.policy.name}' already")
