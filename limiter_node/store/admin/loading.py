"""Loads declarations into the store: accounts with their teams, then their keys, then the way from keys to accounts.

Everything here can be repeated, and changes nothing if nothing has changed. If it is interrupted, a key is found where
it was, or not at all until it is loaded again; never in two places. A key that leaves an account leaves its usage
behind.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from limiter_node.declarations import AccountKey, Declarations, to_account
from limiter_node.limits import WINDOW_MS, KeyLimits
from limiter_node.policy import KEY_SUBJECT, AccountPolicy, KeyPolicy, PolicyWindow, window_id
from limiter_node.policy_body import body_of, version_of
from limiter_node.store import keyspace
from limiter_node.store.admin.masters import Masters
from limiter_node.store.admin.merging import merge_account, merge_key
from limiter_node.store.admin.pointers import Pointer, Pointers
from limiter_node.store.admin.policies import Policies, StoredAccount
from limiter_node.store.admin.script_calls import ScriptCall, call_scripts
from limiter_node.store.scripts import load_script
from limiter_node.store.values import unpack_limits

_MINUTE_ID = window_id(KEY_SUBJECT, PolicyWindow(WINDOW_MS))


class Loader:
    """Load declarations into one store. Methods raise redis-py's errors, and ours."""

    def __init__(self, masters: Masters, policies: Policies, pointers: Pointers) -> None:
        self._masters, self._policies, self._pointers = masters, policies, pointers
        self._adopt = load_script("adopt")

    async def load(self, declared: Declarations) -> None:
        """Load all. Keys that aren't declared stay as they are."""
        await self._load_accounts(declared)
        await self._load_keys(declared.keys)
        await self._load_plain(declared.plain)

    async def _load_accounts(self, declared: Declarations) -> None:
        kids: dict[str, list[str]] = defaultdict(list)
        for kid, (account, _) in declared.keys.items():
            if account.key is None:
                kids[account.tag].append(kid)
        await self._declare({account.tag: account for account in declared.accounts.values()})
        for account in declared.accounts.values():

            def merged(kid: str, stored: StoredAccount) -> KeyPolicy:
                before = stored.keys.get(kid)
                return merge_key(before.policy if before is not None else None, declared.keys[kid].key, stored.time_ms)

            await self._policies.declare_keys(account.tag, kids[account.tag], merged)

    async def _declare(self, accounts: Mapping[str, AccountPolicy]) -> None:
        await self._policies.declare_accounts(
            accounts, lambda tag, stored: merge_account(stored.policy, accounts[tag], stored.time_ms)
        )

    async def _load_keys(self, keys: Mapping[str, AccountKey]) -> None:
        """Make the keys' pointers right, and load those that are accounts of their own."""
        found = await self._pointers.read(keys)
        for kid, pointer in found.items():
            if isinstance(pointer, str) and pointer != keys[kid].account.tag:
                await self._take_out(pointer, kid)
        own = {kid: account for kid, (account, _) in keys.items() if account.key is not None}
        await self._adopt_keys({kid: account for kid, account in own.items() if found[kid] != kid}, found)
        await self._declare(own)
        await self._pointers.point({kid: account.tag for kid, (account, _) in keys.items()})

    async def _take_out(self, tag: str, kid: str) -> None:
        """Take a key out of an account: from then on the account doesn't decide for it.

        Until it is written where it belongs, it is marked as deleted: else nodes would take it for lost.
        """
        await self._pointers.mark_deleted(kid)
        if tag == kid:
            await self._policies.delete_account(tag)
        else:
            await self._policies.delete_key(tag, kid)

    async def _adopt_keys(self, accounts: Mapping[str, AccountPolicy], found: Mapping[str, Pointer]) -> None:
        """Make keys accounts of their own, with what their plain windows hold.

        A key that another process has made one meanwhile stays as it is.
        """
        calls = {}
        for kid, stored in (await self._policies.read_all(accounts)).items():
            before, limits = stored.policy, found[kid]
            if isinstance(limits, bytes):
                # A plain window has counted all of the last minute.
                before = to_account(kid, unpack_limits(limits), since_ms=stored.time_ms - WINDOW_MS)
            body = body_of(merge_account(before, accounts[kid], stored.time_ms))
            keys = (
                *(keyspace.limits_key(kid), keyspace.window_key(kid), keyspace.past_key(kid)),
                *(keyspace.policy_key(kid), keyspace.shared_key(kid), keyspace.deleted_key(kid)),
                keyspace.declared_key(kid),
            )
            known = limits if isinstance(limits, bytes) else b""
            calls[kid] = ScriptCall(keys, (kid, version_of(body), body, _MINUTE_ID, 0, known))
        for client, kids in self._masters.by_owner(calls, keyspace.limits_key).items():
            await call_scripts(client, self._adopt, [calls[kid] for kid in kids])

    async def _load_plain(self, keys: Mapping[str, KeyLimits]) -> None:
        in_accounts = await self._pointers.put_plain(keys)
        for kid, pointer in (await self._pointers.read(in_accounts)).items():
            if pointer == kid:  # its windows go on counting, which the plain form can't hold
                await self._declare({kid: to_account(kid, keys[kid])})
                continue
            if isinstance(pointer, str):
                await self._take_out(pointer, kid)
            await self._pointers.make_plain(kid, keys[kid])
