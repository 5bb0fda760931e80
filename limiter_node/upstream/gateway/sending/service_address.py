"""One address of a service, which gets no requests for a while after several failures in a row."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from yarl import URL

from limiter_node.upstream.gateway.service import UNNAMED

log = logging.getLogger(__name__)

EJECT_AFTER: Final = 3
EJECT_S: Final = 10.0


class ServiceAddress:
    """Hold one address of a service, and the recent outcomes of requests to it."""

    __slots__ = ("_clock", "_out_until_s", "failures", "is_out", "name", "service", "url")

    def __init__(self, service: str, url: URL, clock: Callable[[], float]) -> None:
        self.service, self.url = service, url
        self.name = f"{url.host}:{url.port}"
        """The address for logs and metrics, without path and query."""
        self._clock = clock
        self.failures = 0
        """The failures in a row."""
        self.is_out = False
        self._out_until_s = 0.0

    @property
    def described(self) -> str:
        """The subject of log lines: the address, and the service's name if it has one."""
        if self.service in (UNNAMED, self.name):
            return f"upstream {self.name}"
        return f"upstream {self.service} ({self.name})"

    def note_success(self) -> None:
        """Note an answer: the address is back in the rotation."""
        self.failures = 0
        if self.is_out:
            self.is_out = False
            event = {"event": "upstream_back", "upstream": self.service, "target": self.name}
            log.info("%s answers again", self.described, extra=event)

    def note_failure(self, *, why: str, is_only: bool) -> None:
        """Note a failure. `is_only`: there is no other address to ask, so this one stays in the rotation."""
        self.failures += 1
        if self.failures < EJECT_AFTER or is_only:
            return
        self._out_until_s = self._clock() + EJECT_S
        if not self.is_out:
            self.is_out = True
            event = {"event": "upstream_ejected", "upstream": self.service, "target": self.name}
            log.warning(
                "%s failed %d times in a row, last: %s; no requests go there for %g s",
                *(self.described, self.failures, why, EJECT_S),
                extra=event,
            )

    def out_until_s(self) -> float:
        """Return the time until which the address is ejected, by the rotation's clock; 0 if it isn't."""
        return self._out_until_s if self.is_out else 0.0

    def try_again(self, now_s: float) -> None:
        """Let one request try the address now, and no other until the outcome is known."""
        self._out_until_s = now_s + EJECT_S
