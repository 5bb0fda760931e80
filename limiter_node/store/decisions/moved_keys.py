"""Keys that are not where the node looked for them: they are found anew, and their requests are asked again.

A plain key becomes an account's, a key moves to another account or is deleted, or the store has lost it: the node
learns it by a batch that the store doesn't decide. Nobody else in that batch waits for this.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress

from limiter_node.decisions import UNKNOWN_KEY
from limiter_node.errors import Overloaded, StoreUnavailable
from limiter_node.store.accounts.queue import Member
from limiter_node.store.batch import Admit, Batch
from limiter_node.store.codec import settled_amounts
from limiter_node.store.decisions.key_exists import KeyExistence
from limiter_node.store.decisions.queues import KeyQueues
from limiter_node.store.decisions.receipts import Receipts
from limiter_node.store.decisions.schedule import Schedule
from limiter_node.store.key_queue import KeyBatch, KeyQueue
from limiter_node.store.outage.outage import Outage
from limiter_node.telemetry import Telemetry


class MovedKeys:
    """Look for the keys of one node anew."""

    def __init__(
        self,
        queues: KeyQueues,
        receipts: Receipts,
        schedule: Schedule,
        outage: Outage,
        finder: Callable[[], KeyExistence],
        telemetry: Telemetry,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._queues, self._receipts, self._schedule = queues, receipts, schedule
        self._outage, self._finder, self._decisions = outage, finder, telemetry.decisions
        self._looking: set[asyncio.Task[None]] = set()

    def check_form(
        self, batch: Batch, is_moved: Callable[[Callable[[Batch], None]], None], otherwise: Callable[[], None]
    ) -> None:
        """Find out whether the key of a batch that has not run is an account's now, and end the batch.

        If it is, by `is_moved`, with a function that lets its requests ask again; if not, by `otherwise`.
        """
        self._begin(self._check(batch, is_moved, otherwise))

    async def _check(
        self, batch: Batch, is_moved: Callable[[Callable[[Batch], None]], None], otherwise: Callable[[], None]
    ) -> None:
        kid = batch.queue.kid
        with suppress(StoreUnavailable):
            await self._finder().find(kid)
        if isinstance(self._queues.get(kid), Member):
            is_moved(self._ask_elsewhere)
        else:
            otherwise()

    def _ask_elsewhere(self, batch: Batch) -> None:
        queue = batch.queue
        assert isinstance(queue, KeyQueue)
        assert isinstance(batch, KeyBatch)
        admits = [*batch.admits, *queue.take_unsent()]
        settles, queue.settles = [*batch.settles, *queue.settles], []
        for charge, _ in batch.charges:
            charge.drop()
        self._ask(queue.kid, admits, settles)

    def look_up_again(self, admits: Sequence[Admit]) -> None:
        """Find the keys of these requests anew, and ask again; requests of keys that are gone are of unknown keys."""
        by_kid: dict[str, list[Admit]] = {}
        for admit in admits:
            if not admit.future.done():
                by_kid.setdefault(admit.queue.kid, []).append(admit)
        for kid, waiting in by_kid.items():
            self._begin(self._ask_again(kid, waiting))

    def close(self) -> None:
        """Stop looking."""
        for task in self._looking:
            task.cancel()

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(work)
        self._looking.add(task)
        task.add_done_callback(self._looking.discard)

    async def _ask_again(self, kid: str, admits: Sequence[Admit]) -> None:
        try:
            is_found = await self._finder().find(kid, is_missed=True)
        except StoreUnavailable as error:  # the node knows the key, so a policy can decide
            for admit in admits:
                self._outage.decide_pending(admit, str(error), is_sent=False)
            return
        if is_found:
            self._ask(kid, admits, ())
            return
        for admit in admits:
            if not admit.future.done():
                admit.future.set_result(UNKNOWN_KEY)
                self._decisions.count(UNKNOWN_KEY.outcome)

    def _ask(self, kid: str, admits: Sequence[Admit], settles: Sequence[bytes]) -> None:
        """Ask again for a key that was found, and give back what its plain form had counted."""
        for settle in settles:
            bucket, input_tokens, output_tokens, _ = settled_amounts(settle)
            self._receipts.give_back(kid, bucket, input_tokens, output_tokens)
        queue = self._queues[kid]
        for admit in admits:
            if admit.future.done():
                continue
            admit.queue = queue
            try:
                queue.add(admit)
            except Overloaded as error:
                admit.future.set_exception(error)
        sender = queue.sender
        if sender.has_admits and sender.in_flight is None and not sender.is_scheduled:
            self._schedule.add(sender)
