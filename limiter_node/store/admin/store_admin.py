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
from limiter_node.store import keyspace
from limiter_node.store.admin.deleting import Deleter
from limiter_node.store.admin.key_reader import KeyReader, Listing
from limiter_node.store.admin.loading import Loader
from limiter_node.store.admin.masters import Masters
from limiter_node.store.admin.moving import Mover
from limiter_node.store.admin.older_nodes import older_nodes
from limiter_node.store.admin.pointers import Pointers
from limiter_node.store.admin.policies import Policies
from limiter_node.store.admin.script_calls import ScriptCall, call_script
from limiter_node.store.admin.server_check import check_server
from limiter_node.store.errors import translated
from limiter_node.store.fleet import OLDEST_MS
from limiter_node.store.scripts import load_script
from limiter_node.store.url import StoreAddress

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
    """Administer one store; `administering` makes it. ``kid`` is as in `limiter_node.store.keyspace`."""

    def __init__(self, address: StoreAddress, masters: Masters) -> None:
        self._address = address
        self._masters = masters
        self._announce = load_script("announce")
        policies, self._pointers = Policies(masters), Pointers(masters)
        self._loader = Loader(masters, policies, self._pointers)
        self._reader = KeyReader(address, masters, policies)
        self._mover = Mover(masters, policies)
        self._deleter = Deleter(masters, policies, self._pointers, self._mover)

    async def put_limits(self, kid: str, limits: KeyLimits) -> None:
        """Replace a plain key's limits, all at once; they count from the next decision of every node.

        Raises:
            ConfigError: the key is in an account, whose limits can't be held by `limits`.
        """

        async def put() -> None:
            for other, pointer in (await self._pointers.read(await self._pointers.put_plain({kid: limits}))).items():
                if isinstance(pointer, str):
                    raise ConfigError("the key's limits are in an account: change them in the keys file and load it")
                await self._pointers.make_plain(other, limits)

        await self._with_fresh_owners(put)

    async def load(self, declared: Declarations) -> list[str]:
        """Load keys and accounts. Return warnings. Loading twice changes nothing.

        What isn't declared stays as it is.
        """

        async def load() -> list[str]:
            await self._loader.load(declared)
            if not declared.keys:
                return []
            return await older_nodes(self._masters.owner(keyspace.NODES_KEY))

        return await self._with_fresh_owners(load)

    async def load_limits(self, keys: Mapping[str, KeyLimits]) -> None:
        """Replace the limits of many plain keys. Keys that are not named stay as they are."""
        await self.load(Declarations(plain=keys))

    async def get(self, kid: str) -> KeyLimits | AccountKey | None:
        """Return a plain key's limits, or the policies of a key of an account; None if there is no such key."""
        return await self._with_fresh_owners(lambda: self._reader.get(kid))

    async def delete(self, kid: str) -> bool:
        """Delete a key and its usage. Return whether it existed. Nodes refuse the key from the next decision on.

        Two things stay for a while: a mark of the deletion, so that nodes don't declare the key again, and the nodes'
        records, without which they would take the usage for lost and count it again if the key came back. Usage in
        windows of an account and its teams stays, too.
        """
        return await self._with_fresh_owners(lambda: self._deleter.delete(kid))

    async def list_keys(self, limit: int = 1_000) -> Listing:
        """Return the first `limit` keys by name; memory grows with `limit`, and a few bytes for each further key."""
        with translated(self._address):
            return await self._reader.list_keys(limit)

    async def peek(self, kid: str, window_buckets: int = WINDOW_BUCKETS) -> Usage | None:
        """Return a key's limits and usage now, without counting anything; None if there is no such key."""
        return await self._with_fresh_owners(lambda: self._reader.peek(kid, window_buckets))

    async def check_format(self) -> None:
        """Raise OtherFormat if live nodes use another storage format than this version.

        A login without the right to ask passes: nodes find out when they announce themselves.
        """
        keys = (keyspace.NODES_KEY, keyspace.FORMAT_KEY)
        arguments = ("", 2, OLDEST_MS, keyspace.STORAGE_FORMAT)

        async def ask() -> Any:
            with suppress(NoPermissionError):
                return await call_script(self._masters.owner(keys[0]), self._announce, ScriptCall(keys, arguments))

        reply = await self._with_fresh_owners(ask)
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

    async def _with_fresh_owners(self, action: Callable[[], Awaitable[_T]]) -> _T:
        with translated(self._address):
            try:
                return await action()
            except AuthenticationError:  # to redis-py a ConnectionError
                raise
            except (AskError, ClusterDownError, ReadOnlyError, RedisConnectionError, StoreUnavailable):
                # A slot has moved (MOVED is an AskError to redis-py) or a master was replaced. Actions are idempotent.
                await self._masters.discover()
                return await action()
