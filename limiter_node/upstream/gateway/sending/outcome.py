"""The outcome of a request to a service: counted once, and noted for the address."""

from __future__ import annotations

from limiter_node.telemetry import UpstreamCounts
from limiter_node.upstream.gateway.sending.service_address import ServiceAddress

_ANSWERED = frozenset(("ok", "rate_limited", "refused"))


class OutcomeRecorder:
    """Count a request's outcome once, and note it for the address.

    Call it with one of `limiter_node.telemetry.UPSTREAM_OUTCOMES`, and a text for the log.
    """

    __slots__ = ("_address", "_counts", "_is_only", "has_ended")

    def __init__(self, counts: UpstreamCounts, address: ServiceAddress, *, is_only: bool) -> None:
        self._counts, self._address, self._is_only = counts, address, is_only
        self.has_ended = False

    def __call__(self, outcome: str, what: str) -> None:
        if self.has_ended:
            return
        self.has_ended = True
        self._counts.outcomes[outcome] += 1
        if outcome in _ANSWERED:
            self._address.note_success()
        elif outcome != "gone":
            self._address.note_failure(why=what, is_only=self._is_only)
