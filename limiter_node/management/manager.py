"""All operations on keys, accounts and teams, for commands and the admin API.

WHO names a key: first an exact name (``acme/alice``; a flat key's own name), then the beginning of a digest of at least
8 hex digits, with or without ``sha256:``, then a secret that proves an existing key.

FIELDS are those of `policy_fields` by name, such as ``{"rpm": 60, "input_tokens/1d": 1_000_000, "team": "research"}``;
`management.fields` says more. In a change, None takes a field away.

Each method raises ConfigError for wrong input, NotFound, Ambiguous, Conflict (`management.errors`), and
StoreUnavailable. None of their messages holds a secret.
"""

from __future__ import annotations

from collections.abc import Mapping

from limiter_node.changes import Change
from limiter_node.declarations import Declarations
from limiter_node.management.accounts import Accounts
from limiter_node.management.credentials import Credentials
from limiter_node.management.explaining import explanation
from limiter_node.management.finding import Finder, Found
from limiter_node.management.keys import Keys
from limiter_node.management.moving import Moves
from limiter_node.management.showing import Shower
from limiter_node.management.teams import Teams
from limiter_node.management.views import AccountView, Explanation, KeyList, KeyView, Made, TeamView
from limiter_node.store.admin.loading import Applied
from limiter_node.store.admin.store_admin import StoreAdmin

__all__ = ["LISTED", "Made", "Manager"]

LISTED = 1_000
"""The keys in a list unless more are asked for."""


class Manager:
    """Manage the keys, accounts and teams of one store. `takes_secrets`: whether WHO may be a secret."""

    def __init__(self, admin: StoreAdmin, *, takes_secrets: bool = True) -> None:
        self._admin, self._finder = admin, Finder(admin, takes_secrets=takes_secrets)
        self._keys, self._credentials = Keys(admin, self._finder), Credentials(admin, self._finder)
        self._accounts, self._teams = Accounts(admin), Teams(admin)
        self._moves = Moves(admin, self._finder)
        self._shower = Shower(admin, self._finder)

    async def find(self, who: str) -> Found:
        """Return the key that `who` names, and the credential if it was a digest or a secret."""
        return await self._finder.find(who)

    async def show_key(self, who: str) -> KeyView:
        """Return a key, and all limits on its path with their usage."""
        return await self._shower.key(who)

    async def list_keys(self, account: str | None = None, team: str | None = None, limit: int = LISTED) -> KeyList:
        """Return the first `limit` keys by name: of all, of an account, or of a team and those below it.

        Costs O(keys) of the store, or of the account; memory grows with `limit`.
        """
        return await self._shower.keys(account, team, limit)

    async def explain(self, who: str, model: str) -> Explanation:
        """Return which limits apply to a key's requests for `model`, and which of them would reject."""
        found = await self._finder.find(who)
        item = await self._finder.read(found)
        return explanation(found, item, await self._shower.usage(item), model)

    async def create_key(self, path: str, fields: Mapping[str, object], *, digest: str | None = None) -> Made:
        """Make a key: ``acme/alice`` in the account acme, ``ci`` without one. Return its secret, known to nobody else.

        `digest`: that of a secret that was made elsewhere (``sha256:`` and 64 hex digits); then none is returned.
        Raises Conflict if the name or the digest is taken.
        """
        return await self._keys.create(path, fields, digest)

    async def set_key(self, who: str, fields: Mapping[str, object]) -> Change:
        """Change fields of a key. Its usage stays, and so do fields that aren't named."""
        return await self._keys.set(who, fields)

    async def disable(self, who: str) -> Change:
        """Have all requests of a key refused until it is enabled."""
        return await self._keys.set_disabled(who, disabled=True)

    async def enable(self, who: str) -> Change:
        """Take back `disable`."""
        return await self._keys.set_disabled(who, disabled=False)

    async def expire(self, who: str, at_ms: int | None, *, in_ms: int | None = None) -> Change:
        """Have a key end at a time, by the store's clock in ms since the epoch, or `in_ms` from now; None: never."""
        return await self._keys.expire(who, at_ms, in_ms)

    async def delete_key(self, who: str) -> Change:
        """Delete a key with its usage. None of its secrets will ever be another key's."""
        return await self._keys.delete(who)

    async def move(self, who: str, account: str, team: str = "") -> Change:
        """Move a key to another account, or to another team of its account; no `account`: out of its account.

        The windows of its own go with it. What it has used of an account's or team's limits stays there.
        """
        return await self._moves.move(who, account, team)

    async def rotate(self, who: str, grace_ms: int = 0) -> Made:
        """Make a new secret for a key. Those that are valid end in `grace_ms`, or when they would have before."""
        return await self._credentials.rotate(who, grace_ms)

    async def revoke(self, who: str, credential: str | None = None, *, every: bool = False) -> Change:
        """Revoke a credential for ever: `credential` (the beginning of its digest), that which `who` is, or the only
        valid one. `every`: all of them. Raises Conflict if there are several valid ones, and lists them.
        """
        return await self._credentials.revoke(who, credential, every=every)

    async def apply(
        self, declared: Declarations, *, dry_run: bool = False, prune: bool = False, prune_keys: bool = False
    ) -> Applied:
        """Make keys and accounts as a file declares them; see `StoreAdmin.apply`."""
        return await self._admin.apply(declared, dry_run=dry_run, prune=prune, prune_keys=prune_keys)

    async def create_account(self, name: str, fields: Mapping[str, object]) -> Change:
        """Make an account; its teams may be among the fields. Raises Conflict if there is one of that name."""
        return await self._accounts.create(name, fields)

    async def set_account(self, name: str, fields: Mapping[str, object]) -> Change:
        """Change fields of an account."""
        return await self._accounts.set(name, fields)

    async def show_account(self, name: str) -> AccountView:
        """Return an account, its limits and their usage."""
        return await self._shower.account(name)

    async def list_accounts(self) -> list[AccountView]:
        """Return all accounts by name. Costs O(keys)."""
        return await self._shower.accounts()

    async def delete_account(self, name: str, *, recursive: bool = False) -> list[Change]:
        """Delete an account. Raises Conflict if it has teams or keys, unless `recursive`, which deletes them, too."""
        return await self._accounts.delete(name, recursive=recursive)

    async def create_team(self, path: str, fields: Mapping[str, object]) -> Change:
        """Make a team, ``acme/research/vision``, below a team that exists. Raises Conflict if the path is taken."""
        return await self._teams.create(path, fields)

    async def set_team(self, path: str, fields: Mapping[str, object]) -> Change:
        """Change fields of a team."""
        return await self._teams.set(path, fields)

    async def show_team(self, path: str) -> TeamView:
        """Return a team, its limits and their usage."""
        return await self._shower.team(path)

    async def list_teams(self, account: str) -> list[TeamView]:
        """Return all teams of an account by path."""
        return await self._shower.teams(account)

    async def delete_team(self, path: str, *, recursive: bool = False) -> list[Change]:
        """Delete a team. Raises Conflict if it has teams or keys, unless `recursive`, which deletes them, too."""
        return await self._teams.delete(path, recursive=recursive)
