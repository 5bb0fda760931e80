"""A dispatcher under judgement: asked through the limiter, every operation written down as its caller saw it."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from limiter_node.decisions import Need, Outcome
from limiter_node.declarations import Declarations
from limiter_node.errors import Overloaded, StoreUnavailable
from limiter_node.limiter.admission import Limiter, Reservation
from limiter_node.limiter.policies import policy
from limiter_node.limits import KeyLimits
from limiter_node.plans import Plan
from limiter_node.store.decisions.dispatcher import Dispatcher
from limiter_node.store.url import parse_store_url
from limiter_node.store.wire.topology import Topology

from . import records
from .records import Op, Place, Record, Touched, Triple, clock_ms

_OUTCOMES = {
    Outcome.ADMITTED: records.ADMITTED,
    Outcome.REJECTED: records.REJECTED,
    Outcome.NEVER_FITS: records.NEVER,
    Outcome.UNKNOWN_KEY: records.UNKNOWN,
}


class DeclaredKeys:
    """Stand for the keys file that nodes are given: limits by `kid`, which may change at any time."""

    def __init__(self) -> None:
        self._limits: dict[str, KeyLimits] = {}
        self._changed_s: dict[str, float] = {}

    def put(self, kid: str, limits: KeyLimits) -> None:
        """Declare a key."""
        self._limits = {**self._limits, kid: limits}
        self._changed_s[kid] = time.monotonic()

    def remove(self, kid: str) -> None:
        """Declare a key no longer."""
        self._limits = {other: limits for other, limits in self._limits.items() if other != kid}

    def declarations(self) -> Declarations:
        """Return what is declared."""
        return Declarations(plain=self._limits)

    def changed_s_ago(self, kid: str) -> float:
        """Return how many seconds ago a key was declared last."""
        return time.monotonic() - self._changed_s[kid]

    def was_declared(self, kid: str) -> bool:
        """Return whether a key has ever been declared."""
        return kid in self._changed_s


def declared_option(declared: DeclaredKeys | None) -> dict[str, Any]:
    """Return the dispatcher's option that gives it declared limits."""
    return {} if declared is None else {"declared": declared}


def left_over(dispatcher: Dispatcher) -> list[str]:
    """Return what a drained dispatcher must not have any more. The one place that knows its private parts."""
    state = dispatcher.state()
    left = {
        "waiting requests": state.waiting,
        "batches in flight": state.batches_in_flight,
        "shards cut off": state.shards_cut_off,
        "an outage that goes on": dispatcher.outage.is_on,
        "held queues": getattr(dispatcher.outage, "holds_any", False),
        "queues at work": sum(
            not queue.is_idle for queue in getattr(dispatcher, "_queues", {}).values() if hasattr(queue, "is_idle")
        ),
    }
    return [f"{count:d} {what}" for what, count in left.items() if count]


class _Observed:
    """Stands between the limiter and the dispatcher, to see whether a decision was there at once."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self.was_done = False

    def admit(self, kid: str, need: Need) -> asyncio.Future[Any]:
        """See `Dispatcher.admit`."""
        future = self._dispatcher.admit(kid, need)
        self.was_done = future.done()
        return future

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dispatcher, name)


class JudgedNode:
    """One incarnation of a node. `incarnation` is unique in a run."""

    def __init__(self, record: Record, incarnation: int, dispatcher: Dispatcher) -> None:
        self.record, self.incarnation, self.dispatcher = record, incarnation, dispatcher
        self._observed = _Observed(dispatcher)
        self._limiter = Limiter(self._observed)  # type: ignore[arg-type]
        self.is_dead = False

    @classmethod
    async def start(
        cls,
        record: Record,
        incarnation: int,
        url: str,
        *,
        declared: DeclaredKeys | None,
        stall_timeout_s: float,
    ) -> JudgedNode:
        """Start a node as the record says, on a store."""
        topology = Topology(parse_store_url(url), stall_timeout_s=stall_timeout_s)
        dispatcher = Dispatcher(
            topology,
            timeout_ms=record.timeout_ms,
            window_buckets=record.window_buckets,
            policy=lambda _: policy(record.policy, lambda: record.sharing.nodes),
            **declared_option(declared),
        )
        await dispatcher.start()
        return cls(record, incarnation, dispatcher)

    async def ask(self, key: str, need: Need, most: Triple, *, finds: bool = False) -> tuple[Op, Reservation | None]:
        """Ask for one request; the operation, and what it holds if it was admitted. A cancellation ends it quietly.

        `finds`: look the key up first if the node doesn't know it, as its HTTP side does.
        """
        op = Op(self.incarnation, key, clock_ms(), most, models=need.models)
        self.record.ops.append(op)
        self._observed.was_done = False
        try:
            if finds and not self._limiter.knows(key) and await self._limiter.find(key) is not None:
                op.told_ms, op.outcome = clock_ms(), records.UNKNOWN
                return op, None
            decision = await self._limiter.admit(key, need)
            # The dispatcher was called, and this set, before anything else could run; a done future isn't waited for.
            was_done = self._observed.was_done and clock_ms() - op.asked_ms < 1
        except asyncio.CancelledError:
            op.told_ms, op.outcome = clock_ms(), records.CANCELLED
            return op, None
        except StoreUnavailable:
            op.told_ms, op.outcome = clock_ms(), records.UNAVAILABLE
            return op, None
        except Overloaded:
            op.told_ms, op.outcome = clock_ms(), records.OVERLOADED
            return op, None
        except Exception as error:
            op.told_ms, op.outcome = clock_ms(), f"{type(error).__name__}: {error}"
            return op, None
        op.told_ms, op.outcome = clock_ms(), _OUTCOMES[decision.outcome]
        op.degraded, op.time_ms = decision.degraded, decision.time_ms
        op.limits, op.need, op.used = (*decision.limits,), (*decision.need,), (*decision.used,)
        op.at_once = was_done
        op.unit, op.retry_ms = decision.dimension, decision.retry_after_ms
        if decision.path is not None:
            op.exceeded, op.path = decision.path.exceeded, self._touched(key, decision.path.plan)
        reservation = self._limiter.reservation(key, decision) if decision.outcome is Outcome.ADMITTED else None
        return op, reservation

    def _touched(self, key: str, plan: Plan) -> tuple[Touched, ...]:
        tag = self.record.account_of[key]
        touched = []
        for window in plan.windows:
            # A flat key's windows are its own, though they are stored as an account's are.
            team = window.subject.partition("/")[2]
            subject = f"={key}" if window.is_own or plan.is_flat else team
            touched.append(Touched(Place(tag, subject, window.per_ms, window.models), window.enforced))
        return tuple(touched)

    def settle(self, op: Op, reservation: Reservation, output: int | None) -> None:
        """End the request with so much output; None refunds it."""
        if self.is_dead or op.settled_ms is not None:
            return
        requests, input_tokens, _ = op.need
        if output is None:
            op.settled_ms, op.settled = clock_ms(), (requests, 0, 0)
            reservation.refund()
        else:
            op.settled_ms, op.settled = clock_ms(), (requests, input_tokens, output)
            reservation.settle(output)

    async def die(self) -> None:
        """End without draining: what is owed and not yet settled goes with it."""
        self.is_dead = True
        self.record.deaths[self.incarnation] = clock_ms()
        await self.dispatcher.close()
