"""Removes the keys that a file no longer has, for `apply --prune` and `--prune-keys`."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from contextlib import suppress

from limiter_node.changes import Change, change_between
from limiter_node.plans import key_name
from limiter_node.policy import account_tag
from limiter_node.policy_fields import Fields, fields_of_key, fields_of_plain
from limiter_node.store.admin.deleting import Deleter
from limiter_node.store.admin.masters import Masters
from limiter_node.store.admin.pointers import limits_of
from limiter_node.store.admin.policies import Policies
from limiter_node.store.admin.script_calls import CHUNK
from limiter_node.store.admin.search import KeySearch, scan_pointers
from limiter_node.store.values import unpack_limits


class Pruner:
    """Remove keys of one store that aren't among those to keep. Methods raise redis-py's errors."""

    def __init__(self, masters: Masters, policies: Policies, deleter: Deleter) -> None:
        self._masters, self._policies, self._deleter = masters, policies, deleter
        self._search = KeySearch(masters, policies)

    async def prune_accounts(self, accounts: Iterable[str], kept: Collection[str], *, dry_run: bool) -> list[Change]:
        """Remove the keys of these accounts, by name, but for those in `kept`. Return the changes."""
        return [
            await self._prune(kid, name, fields, dry_run=dry_run)
            for account in accounts
            for kid, name, fields in await self._members(account, kept)
        ]

    async def prune_flat(self, kept: Collection[str], *, dry_run: bool) -> list[Change]:
        """Remove all flat keys but those in `kept`. Return the changes."""
        found = {}
        for client in self._masters.all():
            async for kids in scan_pointers(client):
                own = []
                for kid, value in zip(kids, await limits_of(client, kids), strict=True):
                    if kid in kept:
                        continue
                    if value == kid:
                        own.append(kid)
                    elif isinstance(value, bytes):
                        with suppress(ValueError):
                            found[kid] = fields_of_plain(unpack_limits(value))
                for kid, stored in (await self._policies.read_all(own)).items():
                    if stored.policy is not None and stored.policy.key is not None:
                        found[kid] = fields_of_key(stored.policy.key)
        named = sorted((key_name(fields.get("name", ""), kid), kid) for kid, fields in found.items())
        shared = {name for name, count in Counter(name for name, _ in named).items() if count > 1}
        # Several keys without an account may have one name, and a name may look like that of a key in an account.
        named = [(f"{name} (sha256:{kid[:12]})" if name in shared or "/" in name else name, kid) for name, kid in named]
        return [await self._prune(kid, name, found[kid], dry_run=dry_run) for name, kid in named]

    async def _members(self, account: str, kept: Collection[str]) -> list[tuple[str, str, Fields]]:
        """Return ``kid``, name and fields of the keys of an account that aren't in `kept`, by name."""
        found = []
        async for kids in self._gone(account, kept):
            stored = await self._policies.read(account_tag(account), kids)
            for kid, key in stored.keys.items():
                name = f"{account}/{key_name(key.policy.name, kid)}"
                found.append((kid, name, {**fields_of_key(key.policy), "account": account}))
        return sorted(found, key=lambda each: (each[1], each[0]))

    async def _gone(self, account: str, kept: Collection[str]) -> AsyncIterator[Sequence[str]]:
        async for kids in self._search.members(account):
            gone = [kid for kid in kids if kid not in kept]
            for start in range(0, len(gone), CHUNK):
                yield gone[start : start + CHUNK]

    async def _prune(self, kid: str, who: str, fields: Fields, *, dry_run: bool) -> Change:
        if not dry_run:
            await self._deleter.delete(kid)
        return change_between("key", who, "deleted", fields, {})
