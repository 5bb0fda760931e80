"""A decider that asks no store: shows what a node costs when its limiter costs nothing.

Its weakness is its purpose: it admits everything and counts nothing. It stands where the store's dispatcher stands, and
its verdicts come, as that one's do, in a later turn of the event loop: requests are then read in one phase and answered
in another, which costs a node a third less than finishing each before the next one is looked at.
"""

from __future__ import annotations

import asyncio
import time

from limiter_node.decisions import Decision, Need, Outcome, Receipt, Usage
from limiter_node.key_states import CredentialState
from limiter_node.limits import MAX_LIMIT, Amounts
from limiter_node.telemetry import StoreState

_LIMITS = Amounts(MAX_LIMIT, MAX_LIMIT, MAX_LIMIT)
_RESET_MS = Amounts(60_000, 60_000, 60_000)
_OUTPUT_RESERVE = 256


def _tell(verdict: asyncio.Future[Decision], decision: Decision) -> None:
    if not verdict.done():
        verdict.set_result(decision)


class AdmitAll:
    """Admits every request of every key."""

    def admit(self, kid: str, need: Need) -> asyncio.Future[Decision]:
        """Return an admission, which comes in the next turn of the event loop."""
        reserved = need.output_tokens + need.default_choices * _OUTPUT_RESERVE
        needed = Amounts(1, need.input_tokens, reserved)
        now_ms = int(time.time() * 1000)
        loop = asyncio.get_running_loop()
        verdict: asyncio.Future[Decision] = loop.create_future()
        decision = Decision(Outcome.ADMITTED, -1, 0, _LIMITS, needed, _RESET_MS, needed, now_ms, "")
        loop.call_soon(_tell, verdict, decision)
        return verdict

    def knows(self, kid: str) -> bool:
        """Return True: every key exists."""
        return True

    async def find(self, kid: str) -> CredentialState:
        """Return that every credential is good."""
        return CredentialState.VALID

    async def peek(self, kid: str, models: tuple[str, ...] | None = None) -> Usage | CredentialState:
        """Return an empty window: nothing is counted."""
        now_ms = int(time.time() * 1000)
        return Usage(_LIMITS, Amounts(0, 0, 0), Amounts(0, 0, 0), _OUTPUT_RESERVE, now_ms, "", ())

    def give_back(self, kid: str, receipt: Receipt, input_tokens: int, output_tokens: int) -> None:
        """Do nothing: nothing was reserved."""

    def state(self) -> StoreState:
        """Return the state of a store without shards."""
        return StoreState(0, 0, 0, (), 0, 0, {}, {}, {}, 0, 0, 0)

    async def check(self) -> None:
        """Return: it can always decide."""

    async def require_decisions(self) -> None:
        """Return: it decides from the start."""

    def decides_alone(self) -> bool:
        """Return True: no store takes part in its decisions."""
        return True
