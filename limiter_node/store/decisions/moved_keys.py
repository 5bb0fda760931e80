"""Keys that are not where the node looked for them: they are found anew, and their requests are asked again.

A plain key becomes an account's, a key moves to another account or is deleted: the node learns it by a batch that the
store doesn't decide. Nobody else in that batch waits for this.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from limiter_node.decisions import UNKNOWN_KEY
from limiter_node.errors import LimiterError, Overloaded, StoreUnavailable
from limiter_node.store.batch import Admit, Batch
from limiter_node.store.codec import settled_amounts
from limiter_node.store.decisions.key_exists import KeyExistence
from limiter_node.store.decisions.queues import KeyQueues
from limiter_node.store.decisions.receipts import Receipts
from limiter_node.store.decisions.schedule import Schedule
from limiter_node.store.key_queue import KeyBatch, KeyQueue
from limiter_node.telemetry import Telemetry


class MovedKeys:
    """Look for the keys of one node anew."""

    def __init__(
        self,
        queues: KeyQueues,
        receipts: Receipts,
        schedule: Schedule,
        finder: Callable[[], KeyExistence],
        telemetry: Telemetry,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._queues, self._receipts, self._schedule = queues, receipts, schedule
        self._finder, self._decisions = finder, telemetry.decisions
        self._looking: set[asyncio.Task[None]] = set()

    def on_other_form(self, batch: Batch) -> None:
        """Take a batch of a key that was a plain one, and is an account's now. It has not run."""
        queue = batch.queue
        assert isinstance(queue, KeyQueue)
        assert isinstance(batch, KeyBatch)
        admits = [*batch.admits, *queue.take_unsent()]
        settles, queue.settles = [*batch.settles, *queue.settles], []
        for charge, _ in batch.charges:
            charge.drop()
        self._queues.pop(queue.kid, None)
        self.look_up_again(admits, settles)

    def look_up_again(self, admits: Sequence[Admit], settles: Sequence[bytes] = ()) -> None:
        """Find the keys of these requests anew, and ask again; requests of keys that are gone are of unknown keys."""
        by_kid: dict[str, list[Admit]] = {}
        for admit in admits:
            if not admit.future.done():
                by_kid.setdefault(admit.queue.kid, []).append(admit)
        for kid, waiting in by_kid.items():
            self._queues.pop(kid, None)
            task = self._loop.create_task(self._ask_again(kid, waiting, settles))
            self._looking.add(task)
            task.add_done_callback(self._looking.discard)

    def close(self) -> None:
        """Stop looking."""
        for task in self._looking:
            task.cancel()

    async def _ask_again(self, kid: str, admits: Sequence[Admit], settles: Sequence[bytes]) -> None:
        error: LimiterError | None = None
        try:
            is_found = await self._finder().find(kid)
        except StoreUnavailable as caught:
            is_found, error = False, caught
        for settle in settles if is_found else ():
            bucket, input_tokens, output_tokens, _ = settled_amounts(settle)
            self._receipts.give_back(kid, bucket, input_tokens, output_tokens)
        for admit in admits:
            if admit.future.done():
                continue
            if error is not None:
                admit.future.set_exception(error)
            elif not is_found:
                admit.future.set_result(UNKNOWN_KEY)
                self._decisions.count(UNKNOWN_KEY.outcome)
            else:
                admit.queue = self._queues[kid]
                try:
                    admit.queue.add(admit)
                except Overloaded as overloaded:
                    admit.future.set_exception(overloaded)
        if is_found:
            sender = self._queues[kid].sender
            if sender.has_admits and sender.in_flight is None and not sender.is_scheduled:
                self._schedule.add(sender)
