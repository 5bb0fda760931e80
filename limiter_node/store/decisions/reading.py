"""Reads that count nothing: a key's usage, and whether the store decides.

If the store can't be asked, a policy returns the usage that the node knows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from limiter_node.decisions import Usage
from limiter_node.errors import StoreUnavailable
from limiter_node.key_states import CredentialState
from limiter_node.store.accounts.accounts import Accounts
from limiter_node.store.accounts.member import FurtherCredential, Member
from limiter_node.store.batch import SendQueue
from limiter_node.store.decisions.first import FirstDecisions
from limiter_node.store.decisions.forwarding import Forwarding
from limiter_node.store.decisions.key_exists import KeyExistence
from limiter_node.store.decisions.queues import KeyQueues
from limiter_node.store.key_queue import WRONG_TYPE, KeyQueue, Peek
from limiter_node.store.keyspace import decision_keys, slot_of
from limiter_node.store.outage.outage import Outage
from limiter_node.store.scripts import load_script
from limiter_node.store.wire.routing_and_retries import Router
from limiter_node.store.wire.script_target import ScriptTarget
from limiter_node.store.wire.topology import Topology

_MOST_TRIES = 3
_Queue = KeyQueue | Member | FurtherCredential


class _Elsewhere(Exception):
    """Raised when a key is not where the node knew it: a plain key is an account's now, or an account lacks its key."""


class StoreReader:
    """Read the store for one node.

    `finder` looks for keys that the node hasn't met, or that are not where it knows them. `flush` sends what waits of a
    key, so that a read follows it on its connection; `forwarding` has what is on its way to where the key is now.
    """

    def __init__(
        self,
        topology: Topology,
        router: Router,
        queues: KeyQueues,
        outage: Outage,
        accounts: Accounts,
        *,
        finder: KeyExistence,
        forwarding: Forwarding,
        flush: Callable[[SendQueue], None],
        timeout_s: float,
        window_buckets: int,
    ) -> None:
        self._topology, self._router, self._queues = topology, router, queues
        self._outage, self._accounts = outage, accounts
        self._finder, self._forwarding, self._flush = finder, forwarding, flush
        self._timeout_s, self._window_buckets = timeout_s, window_buckets
        self._script = load_script("peek")
        self._first = FirstDecisions(topology, load_script("decide"), timeout_s)

    async def peek(self, kid: str, models: tuple[str, ...] | None = None) -> Usage | CredentialState:
        """See `Decider.peek`."""
        for _ in range(_MOST_TRIES):
            known = self._queues.find(kid)
            try:
                return await self._peek_now(kid, models)
            except _Elsewhere:
                if known is not None and self._queues.get(kid) is known:
                    del self._queues[kid]
        raise StoreUnavailable("the key is being moved")

    async def _peek_now(self, kid: str, models: tuple[str, ...] | None) -> Usage | CredentialState:
        queue = self._queues.find(kid)
        try:
            if queue is None:
                if (state := await self._finder.find(kid)) is not CredentialState.VALID:
                    return state
                queue = self._queues.find(kid)
            if queue is not None:
                if self._outage.is_on and self._outage.cuts_off(queue.sender):
                    raise StoreUnavailable("the key's shard is cut off")
                await self._send_all_of(queue)
            async with asyncio.timeout(self._timeout_s):
                usage = await self._peek_at(kid, queue, models)
                return usage if usage is not None else await self._peek_missed(kid, models)
        except TimeoutError:
            return self._known_usage(queue, models, StoreUnavailable("the store did not reply in time"))
        except StoreUnavailable as error:
            if str(error).startswith(WRONG_TYPE) and isinstance(queue, KeyQueue):
                raise _Elsewhere from None
            return self._known_usage(queue, models, error)

    async def _send_all_of(self, queue: _Queue) -> None:
        await self._forwarding.sent(queue.kid)
        self._flush(queue.sender)

    def _known_usage(
        self, queue: _Queue | None, models: tuple[str, ...] | None, error: StoreUnavailable
    ) -> Usage | CredentialState:
        """Return the policy's usage of a key, or why its credential isn't good. Raises `error` if nothing is known."""
        if isinstance(queue, Member | FurtherCredential) and (state := queue.known_refusal()) is not None:
            return state
        usage = None if queue is None else self._outage.usage(queue, models)
        if usage is None:
            raise error
        return usage

    async def _peek_missed(self, kid: str, models: tuple[str, ...] | None) -> Usage | CredentialState:
        """Read a key that isn't where the node knows it: it is elsewhere, or the store has lost it."""
        if (state := await self._finder.find(kid, is_missed=True)) is not CredentialState.VALID:
            return state
        queue = self._queues.find(kid)
        if queue is not None:
            await self._send_all_of(queue)
        usage = await self._peek_at(kid, queue, models)
        return CredentialState.UNKNOWN if usage is None else usage

    async def _peek_at(
        self, kid: str, queue: _Queue | None, models: tuple[str, ...] | None
    ) -> Usage | CredentialState | None:
        """Read a key where it is; None if it isn't there."""
        if isinstance(queue, Member | FurtherCredential):
            return await self._accounts.peek(queue, models)
        return await self._peek_store(kid)

    async def _peek_store(self, kid: str) -> Usage | None:
        target = ScriptTarget(
            self._script,
            slot_of(kid),
            decision_keys(kid),
            (),
            2,
        )
        call = Peek(self._router, target, self._window_buckets, self._router.loop.create_future())
        self._router.send([call])
        return await call.future

    def decides_alone(self) -> bool:
        """See `Decider.decides_alone`."""
        return self._outage.has_policy and self._queues.knows_any()

    async def require_decisions(self) -> None:
        """See `Decider.require_decisions`."""
        self._require_connections()
        await self._first.require()

    async def check(self) -> None:
        """See `Decider.check`."""
        self._require_connections()
        try:
            async with asyncio.timeout(self._timeout_s):
                await asyncio.gather(*(connection.ping() for connection in self._topology.masters()))
        except TimeoutError:
            raise StoreUnavailable("a shard of the store does not reply") from None

    def _require_connections(self) -> None:
        self._topology.require_known()
        if shards := self._outage.shards:
            raise StoreUnavailable(f"store {', '.join(shards.open_addresses())} does not decide")
        for connection in self._topology.masters():
            if not connection.is_open:
                connection.connect()
                raise StoreUnavailable(f"store {connection.address}: {connection.last_error}")
