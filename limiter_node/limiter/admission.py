"""Admission of requests, and the reservations that they hold until they end.

Between HTTP, which asks, and the store, which counts. A request that is admitted holds a `Reservation`; it ends by
being settled to what was produced, exactly once, however the request ended.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from limiter_node.decisions import REFUSALS, Decision, Need, Outcome, Receipt, Usage
from limiter_node.errors import StoreUnavailable
from limiter_node.key_states import CredentialState
from limiter_node.telemetry import StoreState, Telemetry


class Decider(Protocol):
    """Decide requests of API keys. A node uses `store.decisions.dispatcher`.

    `kid` is the digest of the credential of a request: of a key's only one, or of any that it has.
    """

    def admit(self, kid: str, need: Need) -> asyncio.Future[Decision]:
        """Ask to admit one request of the key.

        The future brings the decision. It raises `StoreUnavailable` if neither the store nor a policy decides, and
        `Overloaded` if too many requests of the key wait.

        Raises:
            Overloaded: too many requests of the node wait.
        """

    def give_back(self, kid: str, receipt: Receipt, input_tokens: int, output_tokens: int) -> None:
        """Give back tokens of an admitted request by the receipt of its decision; negative numbers add."""

    def knows(self, kid: str) -> bool:
        """Whether the credential is good as far as this node knows without asking the store."""

    async def find(self, kid: str) -> CredentialState:
        """Ask the store whether the credential is good.

        If the store can't be asked, what the node knows counts if that is a reason to refuse requests.

        Raises:
            StoreUnavailable: the store did not reply in time.
        """

    async def peek(self, kid: str, models: tuple[str, ...] | None = None) -> Usage | CredentialState:
        """Return the key's limits and usage, without counting anything; if the credential isn't good, its state.

        `models`: the names of a model, whose requests touch the windows to read; None for all windows on the key's
        path. A plain key has one window, for all models.

        Raises:
            StoreUnavailable: the store did not reply in time, and the node knows nothing of the key.
        """

    def state(self) -> StoreState:
        """Return how the node and its store get along."""

    async def check(self) -> None:
        """Return if every shard of the store decides.

        Raises:
            StoreUnavailable: with the reason, naming the shard.
        """

    async def require_decisions(self) -> None:
        """Return if every shard of the store has decided once.

        Raises:
            StoreUnavailable: with the reason, naming the shard that hasn't.
        """

    def decides_alone(self) -> bool:
        """Whether requests of some keys can be decided while the store is away."""


class Reservation:
    """The tokens that an admitted request holds until it ends."""

    __slots__ = ("_decider", "_kid", "_receipt", "_telemetry", "input_tokens", "is_settled", "output_tokens")

    def __init__(self, decider: Decider, telemetry: Telemetry, kid: str, decision: Decision) -> None:
        self._decider = decider
        self._telemetry = telemetry
        self._kid = kid
        self._receipt = decision.receipt
        self.input_tokens = decision.need.input_tokens
        self.output_tokens = decision.need.output_tokens
        self.is_settled = False

    def settle(self, produced_output_tokens: int, reported_input_tokens: int = 0) -> None:
        """Give back the output reserved beyond what was produced; the response has ended, whole or not.

        More output than was reserved is charged, and so is input that the upstream reports beyond what was counted (its
        own tools, searches, stored conversations); less input isn't given back. A second call does nothing.
        """
        if not self.is_settled:
            telemetry = self._telemetry
            telemetry.settled += 1
            telemetry.output_tokens += produced_output_tokens
            unused = self.output_tokens - produced_output_tokens
            if unused < 0:
                telemetry.overrun_output_tokens -= unused
            overrun = reported_input_tokens - self.input_tokens
            if overrun > 0:
                telemetry.overrun_input_tokens += overrun
                self._give_back(-overrun, unused)
            else:
                self._give_back(0, unused)

    def refund(self) -> None:
        """Give back all tokens: the upstream failed before any output. The request stays counted."""
        if not self.is_settled:
            self._telemetry.refunded += 1
            self._give_back(self.input_tokens, self.output_tokens)

    def _give_back(self, input_tokens: int, output_tokens: int) -> None:
        self.is_settled = True
        if input_tokens or output_tokens:
            self._decider.give_back(self._kid, self._receipt, input_tokens, output_tokens)


class Limiter:
    """Decide requests of API keys, identified by `kid`, and count them in `telemetry`."""

    def __init__(self, decider: Decider, telemetry: Telemetry | None = None) -> None:
        self._decider = decider
        self.telemetry = telemetry or Telemetry()
        self.knows = decider.knows
        """``knows(kid)``: whether a credential is good as far as the node knows. Bound here: each request asks."""

    async def find(self, kid: str) -> Decision | None:
        """Ask the store whether a credential is good, before its request's body is read. Counts nothing there.

        Return None if it is, else the decision on the request.

        Raises:
            StoreUnavailable: the store did not reply in time.
        """
        decision = REFUSALS.get(await self._decider.find(kid))
        if decision is not None:
            self.telemetry.decisions.count(decision.outcome)
        return decision

    async def admit(self, kid: str, need: Need) -> Decision:
        """Decide one request.

        Raises:
            StoreUnavailable: the store did not decide in time; the request counts for nothing, or as one request
                without tokens if it turns out to have been counted.
            Overloaded: too many requests wait for a decision.
        """
        verdict = self._decider.admit(kid, need)
        try:
            return await verdict
        except asyncio.CancelledError:
            # Cancelled in the turn in which the verdict came: the decider counts it as delivered.
            if verdict.done() and not verdict.cancelled() and not verdict.exception():
                decision = verdict.result()
                if decision.outcome is Outcome.ADMITTED:
                    self.reservation(kid, decision).refund()
            raise

    def reservation(self, kid: str, decision: Decision) -> Reservation:
        """Return the hold of a request that `decision` admitted."""
        telemetry, (_, input_tokens, output_tokens) = self.telemetry, decision.need
        telemetry.input_tokens += input_tokens
        telemetry.reserved_output_tokens += output_tokens
        return Reservation(self._decider, telemetry, kid, decision)

    async def usage(self, kid: str, models: tuple[str, ...] | None = None) -> Usage | Decision:
        """Return the key's limits and usage now, without counting anything.

        If the credential isn't good, return the decision on its requests.

        `models`: the names of one model, so that only the limits on its requests count; None for all limits.

        Raises:
            StoreUnavailable: the store did not reply in time.
        """
        found = await self._decider.peek(kid, models)
        return REFUSALS[found] if isinstance(found, CredentialState) else found

    def state(self) -> StoreState:
        """Return how the node and its store get along."""
        return self._decider.state()

    async def require_decisions(self) -> None:
        """Return if every shard of the store has decided once since the node's start.

        Raises:
            StoreUnavailable: with the reason.
        """
        await self._decider.require_decisions()

    async def check(self) -> str:
        """Return "" if the store makes all decisions, else the reason why a policy makes some of them.

        Raises:
            StoreUnavailable: with the reason.
        """
        try:
            await self._decider.check()
        except StoreUnavailable as error:
            if not self._decider.decides_alone():
                raise
            return str(error)
        return ""
