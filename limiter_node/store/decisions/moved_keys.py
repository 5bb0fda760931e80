"""Keys that are not where the node looked for them: they are found anew, and their requests are asked again.

A plain key becomes an account's, a key moves to another account or is deleted, or the store has lost it: the node
learns it by a batch that the store doesn't decide. Nobody else in that batch waits for this.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress

from limiter_node.decisions import REFUSALS
from limiter_node.errors import KeyIsMoving, Overloaded, StoreUnavailable
from limiter_node.key_states import CredentialState
from limiter_node.store.accounts.member import FurtherCredential, Member
from limiter_node.store.batch import Admit, Asker, Batch
from limiter_node.store.decisions.forwarding import Forwarding
from limiter_node.store.decisions.key_exists import KeyExistence
from limiter_node.store.decisions.queues import KeyQueues
from limiter_node.store.decisions.receipts import Receipts
from limiter_node.store.decisions.schedule import Schedule
from limiter_node.store.key_queue import KeyBatch, KeyQueue
from limiter_node.store.outage.outage import Outage
from limiter_node.telemetry import Telemetry

log = logging.getLogger(__name__)


class MovedKeys:
    """Look for the keys of one node anew."""

    def __init__(
        self,
        queues: KeyQueues,
        receipts: Receipts,
        schedule: Schedule,
        outage: Outage,
        finder: Callable[[], KeyExistence],
        forwarding: Forwarding,
        telemetry: Telemetry,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._queues, self._receipts, self._schedule = queues, receipts, schedule
        self._outage, self._finder, self._decisions = outage, finder, telemetry.decisions
        self._forwarding = forwarding
        self._looking: set[asyncio.Task[None]] = set()

    def check_form(
        self,
        batch: Batch,
        is_moved: Callable[[Callable[[Batch], None]], None],
        otherwise: Callable[[CredentialState | None], None],
    ) -> None:
        """Find out whether the key of a batch that has not run is an account's now, and end the batch.

        If it is, by `is_moved`, with a function that lets its requests ask again; if not, by `otherwise`, with the
        state of their credential, None if the store could not be asked.
        """
        self._begin(self._check(batch, is_moved, otherwise))

    async def _check(
        self,
        batch: Batch,
        is_moved: Callable[[Callable[[Batch], None]], None],
        otherwise: Callable[[CredentialState | None], None],
    ) -> None:
        kid, state = batch.queue.kid, None
        try:
            state = await self._finder().find(kid)
        except KeyIsMoving as error:
            _fail([*batch.admits, *batch.queue.take_unsent()], error)
        except StoreUnavailable:
            pass  # it is refused below, and asked again later
        except Exception:  # a batch that never ended would block its key for good
            log.exception("failed to look for key %s", kid[:12], extra={"event": "key_not_found", "key": kid[:12]})
        if isinstance(self._queues.get(kid), Member | FurtherCredential):
            is_moved(self._ask_elsewhere)
        else:
            otherwise(state)

    def _ask_elsewhere(self, batch: Batch) -> None:
        queue = batch.queue
        assert isinstance(queue, KeyQueue)
        assert isinstance(batch, KeyBatch)
        asker = self._queues[queue.kid]
        assert isinstance(asker, Member | FurtherCredential)
        admits = [*batch.admits, *queue.take_unsent()]
        settles, queue.settles = [*batch.settles, *queue.settles], []
        alone = [admit.charge for admit in batch.admits if admit.charge is not None]
        self._receipts.move(queue, asker.member, settles, [*(charge for charge, _ in batch.charges), *alone])
        self._ask(queue.kid, admits)

    def look_up_again(self, admits: Sequence[Admit]) -> None:
        """Find the keys of these requests anew, and ask again. Those whose credential isn't good are refused."""
        by_asker: dict[Asker, list[Admit]] = {}
        for admit in admits:
            if not admit.future.done():
                admit.is_held = True
                by_asker.setdefault(admit.queue, []).append(admit)
        for asker, waiting in by_asker.items():
            self._begin(self._ask_again(asker, waiting))

    def find_anew(self, member: Member) -> None:
        """Find a key anew by each credential with which the node has met it, since it seems to be elsewhere."""

        async def find(cid: str) -> None:
            with suppress(StoreUnavailable):  # the next check of the pointer comes soon
                await self._finder().find(cid, is_missed=True)

        for cid in {member.kid, *(each.digest for each in member.key.all_credentials)}:
            known = self._queues.get(cid)
            if isinstance(known, Member | FurtherCredential) and known.member is member:
                self._begin(find(cid))

    def close(self) -> None:
        """Stop looking."""
        for task in self._looking:
            task.cancel()

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(work)
        self._looking.add(task)
        task.add_done_callback(self._looking.discard)

    async def _ask_again(self, asker: Asker, admits: Sequence[Admit]) -> None:
        try:
            state = await self._finder().find(asker.cid, is_missed=True)
            if (found := self._queues.get(asker.cid)) is not None:
                await self._forwarding.sent(found.kid)
        except KeyIsMoving as error:
            _fail(admits, error)
            return
        except StoreUnavailable as error:  # the node knows the key, so a policy can decide
            for admit in admits:
                self._outage.decide_pending(admit, str(error), is_sent=False)
            return
        finally:
            for admit in admits:
                admit.is_held = False
        if (refusal := REFUSALS.get(state)) is None:
            self._ask(asker.cid, admits)
            return
        for admit in admits:
            if not admit.future.done():
                admit.future.set_result(refusal)
                self._decisions.count(refusal.outcome)

    def _ask(self, cid: str, admits: Sequence[Admit]) -> None:
        """Ask again for a key that was found."""
        queue = self._queues[cid]
        for admit in admits:
            if admit.future.done():
                continue
            admit.queue = queue
            try:
                queue.add(admit)
            except Overloaded as error:
                admit.future.set_exception(error)
        sender = queue.sender
        if (sender.has_admits or sender.charges) and sender.in_flight is None and not sender.is_scheduled:
            self._schedule.add(sender)


def _fail(admits: Sequence[Admit], error: KeyIsMoving) -> None:
    """Refuse requests of a key that is being moved: no policy decides for it either."""
    for admit in admits:
        if not admit.future.done():
            admit.future.set_exception(error)
