"""Administration of the store: puts, loads, reads, lists and deletes keys, reads usage, and checks the store itself.

Everything here is idempotent and off the hot path. A plain key's limits are one value, and so is a policy, so the next
decision sees either the old limits or the new ones, and the windows' history stays. Neighbours: `masters` finds a key's
owner, `loading`, `key_reader` and `deleting` do what is asked, `server_check` checks each server; the commands and the
node's start call this.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

from redis.exceptions import AskError, AuthenticationError, ClusterDownError, NoPermissionError, ReadOnlyError
from redis.exceptions import ConnectionError as RedisConnectionError

from limiter_node.decisions import Usage
from limiter_node.declarations import AccountKey, Declarations
from limiter_node.errors import ConfigError, OtherFormat, StoreUnavailable
from limiter_node.limits import WINDOW_BUCKETS, KeyLimits
from limiter_node.policy import AccountPolicy
from limiter_node.store import keyspace
from limiter_node.store.admin.adopting import Adopter
from limiter_node.store.admin.deleting import Deleter
from limiter_node.store.admin.key_items import KeyItem, KeyItems
from limiter_node.store.admin.key_reader import KeyReader, Listing
from limiter_node.store.admin.loading import Applied, Loader
from limiter_node.store.admin.masters import Masters
from limiter_node.store.admin.moving import Mover
from limiter_node.store.admin.older_nodes import older_nodes
from limiter_node.store.admin.path_usage import read_path_usage, read_team_usage
from limiter_node.store.admin.plain_keys import ANY, PlainKeys, PlainWrite, PlainWritten
from limiter_node.store.admin.pointers import Pointers
from limiter_node.store.admin.policies import Policies, time_ms_of
from limiter_node.store.admin.script_calls import ScriptCall, call_script
from limiter_node.store.admin.search import KeySearch
from limiter_node.store.admin.server_check import check_server
from limiter_node.store.errors import translated
from limiter_node.store.fleet import OLDEST_MS
from limiter_node.store.scripts import load_script
from limiter_node.store.url import StoreAddress
from limiter_node.store.values import pack_limits

_T = TypeVar("_T")


@asynccontextmanager
async def administering(address: StoreAddress) -> AsyncIterator[StoreAdmin]:
    """Connect to a store for administration. Raises ConfigError or StoreUnavailable, as all methods do."""
    address.ssl_context()  # reports unreadable files before redis-py stumbles over them
    masters = Masters(address)
    try:
        with translated(address):
            await masters.discover()
        yield StoreAdmin(address, masters)
    finally:
        await masters.close()


class StoreAdmin:
    """Administer one store; `administering` makes it. ``kid`` is as in `limiter_node.store.keyspace`.

    `policies`, `pointers`, `search`, `keys` and `deleter` are for `limiter_node.management`, which calls them by `run`.
    """

    def __init__(self, address: StoreAddress, masters: Masters) -> None:
        self._address = address
        self._masters = masters
        self._announce = load_script("announce")
        self.policies, self.pointers, self._plain = Policies(masters), Pointers(masters), PlainKeys(masters)
        self.search = KeySearch(masters, self.policies)
        self.keys = KeyItems(masters, self.policies, self.pointers, self._plain, Adopter(masters))
        self.mover = Mover(masters, self.policies)
        self.deleter = Deleter(masters, self.policies, self.pointers, self.mover)
        self._loader = Loader(masters, self.policies, self.pointers, self._plain, self.deleter, self.mover)
        self._reader = KeyReader(address, masters, self.policies)

    async def put_limits(self, kid: str, limits: KeyLimits) -> None:
        """Replace a plain key's limits, all at once; they count from the next decision of every node.

        Raises:
            ConfigError: the key is in an account, whose limits can't be held by `limits`.
        """

        async def put() -> None:
            written = await self._plain.write({kid: PlainWrite(ANY, pack_limits(limits), is_back=True)})
            if written[kid] is not PlainWritten.DONE:
                raise ConfigError("the key's limits are in an account: change them in the keys file and load it")

        await self.run(put)

    async def declare(self, declared: Declarations) -> list[str]:
        """Declare keys and accounts by a file, at a node's start. Return warnings.

        Only what was never declared before counts, and of it the fields that differ from the last declaration. Nothing
        that was deleted comes back. What isn't declared stays as it is.
        """

        async def declare() -> list[str]:
            return [*await self._loader.declare(declared), *await self._older_nodes(declared)]

        return await self.run(declare)

    async def apply(
        self, declared: Declarations, *, dry_run: bool = False, prune: bool = False, prune_keys: bool = False
    ) -> Applied:
        """Make keys and accounts as they are declared, by a person's word. Doing it twice changes nothing.

        `dry_run`: change nothing, and return what would be changed. `prune`: remove keys and teams that aren't declared
        from the declared accounts; `prune_keys`: remove flat keys that aren't. Else what isn't declared stays.
        """

        async def apply() -> Applied:
            applied = await self._loader.apply(declared, dry_run=dry_run, prune=prune, prune_keys=prune_keys)
            applied.warnings.extend(await self._older_nodes(declared))
            return applied

        return await self.run(apply)

    async def load_limits(self, keys: Mapping[str, KeyLimits]) -> None:
        """Replace the limits of many plain keys. Keys that are not named stay as they are."""
        await self.apply(Declarations(plain=keys))

    async def _older_nodes(self, declared: Declarations) -> list[str]:
        return await older_nodes(self._masters.owner(keyspace.NODES_KEY)) if declared.keys else []

    async def get(self, kid: str) -> KeyLimits | AccountKey | None:
        """Return a plain key's limits, or the policies of a key of an account; None if there is no such key."""
        return await self.run(lambda: self._reader.get(kid))

    async def delete(self, kid: str) -> bool:
        """Delete a key and its usage. Return whether it existed. Nodes refuse the key from the next decision on.

        A mark of the deletion stays, so that nodes don't declare the key again. The nodes' records stay for a while,
        without which they would take the usage for lost and count it again if the key came back. Usage in windows of an
        account and its teams stays, too.
        """
        return await self.run(lambda: self.deleter.delete(kid))

    async def finish_move(self, kid: str, tag: str) -> None:
        """Finish the move of a key away from the account with that hash tag, if one is unfinished."""
        await self.run(lambda: self.mover.finish(kid, tag))

    async def list_keys(self, limit: int = 1_000) -> Listing:
        """Return the first `limit` keys by name; memory grows with `limit`, and a few bytes for each further key."""
        with translated(self._address):
            return await self._reader.list_keys(limit)

    async def peek(self, kid: str, window_buckets: int = WINDOW_BUCKETS) -> Usage | None:
        """Return a key's limits and usage now, without counting anything; None if there is no such key."""
        return await self.run(lambda: self._reader.peek(kid, window_buckets))

    async def check_format(self) -> None:
        """Raise OtherFormat if live nodes use another storage format than this version.

        A login without the right to ask passes: nodes find out when they announce themselves.
        """
        keys = (keyspace.NODES_KEY, keyspace.FORMAT_KEY)
        arguments = ("", 2, OLDEST_MS, keyspace.STORAGE_FORMAT)

        async def ask() -> Any:
            with suppress(NoPermissionError):
                return await call_script(self._masters.owner(keys[0]), self._announce, ScriptCall(keys, arguments))

        reply = await self.run(ask)
        if isinstance(reply, bytes):
            raise OtherFormat(reply, keyspace.STORAGE_FORMAT)

    async def check_store(self) -> list[str]:
        """Check that the store can be trusted with counters; return warnings for what could not be found out.

        Raises:
            ConfigError: the store is too old, a replica, a cluster although its URL says single (or the reverse), or
                may evict keys: eviction drops counters, so that more than the limit would be admitted silently.
            StoreUnavailable: a part of the store is down, or a failover is under way.
            OtherFormat: live nodes use another storage format.
        """
        if uncovered := self._masters.uncovered_slots:
            raise StoreUnavailable(
                f"{self._address.describe()}: {uncovered} of its slots have no server: look at CLUSTER SLOTS there"
            )
        with translated(self._address):
            found = await asyncio.gather(*(check_server(self._address, client) for client in self._masters.all()))
        await self.check_format()
        return list(dict.fromkeys(warning for warnings in found for warning in warnings))

    async def usage(self, item: KeyItem) -> Usage | None:
        """Return the usage of a key that was read; None if it has gone since. To be called by `run`."""
        if item.account is None or item.key is None:
            return await self._reader.peek(item.kid, WINDOW_BUCKETS)
        return await read_path_usage(self._masters, AccountKey(item.account, item.key), item.time_ms)

    async def team_usage(self, account: AccountPolicy, team: str, now_ms: int) -> Usage | None:
        """Return the usage of an account, a team and those above it; None if it has gone. To be called by `run`."""
        return await read_team_usage(self._masters, account, team, now_ms)

    async def time_ms(self) -> int:
        """Return the clock of a server of the store, in ms since the epoch. To be called by `run`."""
        return await time_ms_of(self._masters.all()[0])

    async def run(self, action: Callable[[], Awaitable[_T]]) -> _T:
        """Return what an action with the parts of this object returns, which by themselves raise redis-py's errors.

        It is done again if the store's servers turn out to have other slots now, so it must be idempotent.
        """
        with translated(self._address):
            try:
                return await action()
            except AuthenticationError:  # to redis-py a ConnectionError
                raise
            except (AskError, ClusterDownError, ReadOnlyError, RedisConnectionError, StoreUnavailable):
                # A slot has moved (MOVED is an AskError to redis-py) or a master was replaced. Actions are idempotent.
                await self._masters.discover()
                return await action()
