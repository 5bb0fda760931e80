"""Which address of a service is asked next: one after the other, those that fail left out for a while.

An address that failed `EJECT_AFTER` times in a row is left alone for `EJECT_S`; then one request tries it, and the
others follow if that succeeds. With nobody else left, those that are out are asked all the same: a service with one
address is never given up. Failing is not answering, breaking off, or a status of 500 and above; refusing is answering.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final

from yarl import URL

from limiter_node.upstream.gateway.service import UNNAMED

log = logging.getLogger(__name__)

EJECT_AFTER: Final = 3
EJECT_S: Final = 10.0


class Target:
    """One address of a service, and how it does."""

    __slots__ = ("_clock", "_out_until_s", "failures", "is_out", "name", "service", "url")

    def __init__(self, service: str, url: URL, clock: Callable[[], float]) -> None:
        self.service, self.url = service, url
        self.name = f"{url.host}:{url.port}"
        """For logs and metrics: no path, no query."""
        self._clock = clock
        self.failures = 0
        """In a row."""
        self.is_out = False
        self._out_until_s = 0.0

    @property
    def described(self) -> str:
        """What log lines begin with: the address, and the service's name where it has one of its own."""
        if self.service in (UNNAMED, self.name):
            return f"upstream {self.name}"
        return f"upstream {self.service} ({self.name})"

    def succeeded(self) -> None:
        """It answered."""
        self.failures = 0
        if self.is_out:
            self.is_out = False
            event = {"event": "upstream_back", "upstream": self.service, "target": self.name}
            log.info("%s answers again", self.described, extra=event)

    def failed(self, *, why: str, is_only: bool) -> None:
        """It didn't. `is_only`: there is no other to ask, so that it stays in."""
        self.failures += 1
        if self.failures < EJECT_AFTER or is_only:
            return
        self._out_until_s = self._clock() + EJECT_S
        if not self.is_out:
            self.is_out = True
            event = {"event": "upstream_ejected", "upstream": self.service, "target": self.name}
            log.warning(
                "%s failed %d times in a row, last: %s; it is left alone for %g s",
                *(self.described, self.failures, why, EJECT_S),
                extra=event,
            )

    def out_until_s(self) -> float:
        """0 unless it is out."""
        return self._out_until_s if self.is_out else 0.0

    def try_again(self, now_s: float) -> None:
        """One request tries it now; nobody else until it is known what comes of that."""
        self._out_until_s = now_s + EJECT_S


class Rotation:
    """The addresses of one service. `clock` is in seconds, monotonic."""

    def __init__(self, service: str, urls: Sequence[URL], clock: Callable[[], float]) -> None:
        self.targets = tuple(Target(service, url, clock) for url in urls)
        self._clock = clock
        self._next = 0

    @property
    def is_single(self) -> bool:
        """Whether there is only one."""
        return len(self.targets) == 1

    def in_turn(self, *, may_try: bool = True) -> Sequence[Target]:
        """All of them, in the order in which this request is to try them.

        `may_try`: it may be the one request that tries an address that was left alone, and tells what came of it.
        """
        targets = self.targets
        if len(targets) == 1:
            return targets
        first = self._next
        self._next = (first + 1) % len(targets)
        order = [*targets[first:], *targets[:first]]
        if not any(target.is_out for target in order):
            return order
        now_s = self._clock()
        due, tried = None, []
        if may_try:
            due = next((target for target in order if target.is_out and target.out_until_s() <= now_s), None)
        if due is not None:
            due.try_again(now_s)
            tried = [due]  # first, else it may not be asked at all
        inside = [target for target in order if not target.is_out]
        outside = [target for target in order if target.is_out and target is not due]
        return [*tried, *inside, *sorted(outside, key=Target.out_until_s)]
