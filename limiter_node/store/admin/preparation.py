"""Prepares the store for a node that starts: checks that it is fit for counters, and loads the keys file into it.

A node starts even if the store, or a part of it, can't be reached: restarted during an outage, it serves the healthy
shards at once and the others as soon as they return. So preparation is repeated until it succeeds. A store that must
not be used (`StoreAdmin.check_store`) is refused, however late it returns.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from limiter_node.declarations import Declarations
from limiter_node.errors import ConfigError, StoreUnavailable
from limiter_node.store.admin.store_admin import administering
from limiter_node.store.url import StoreAddress

log = logging.getLogger(__name__)

_FIRST_TIMEOUT_S, _LONGEST_TIMEOUT_S = 3.0, 60.0
"""The time limit of one check. It grows, so that a cluster whose first endpoints are silent is found in the end."""
_FIRST_DELAY_S, _LONGEST_DELAY_S = 0.05, 0.5


class Preparation:
    """Prepare one store with what is `declared`; `read_again` reads the keys file again if the store comes late.

    `problem` says why preparation isn't done yet, and is empty once it is. `was_away`: whether the store, or a part of
    it, couldn't be reached at some attempt.
    """

    def __init__(
        self,
        address: StoreAddress,
        declared: Declarations,
        read_again: Callable[[], Declarations] | None = None,
    ) -> None:
        self._address, self._declared, self._read_again = address, declared, read_again
        self._is_checked = self._is_late = False
        self.problem = "the store has not been checked yet"
        self.was_away = False

    async def check(self, timeout_s: float) -> bool:
        """Check the store once. Return False if it, or a part of it, doesn't reply: `problem` says why.

        Raises:
            ConfigError: the store must not be used.
        """
        try:
            async with asyncio.timeout(timeout_s), administering(self._address) as admin:
                warnings = await admin.check_store()
        except StoreUnavailable as error:
            self.problem, self.was_away = str(error), True
            return False
        except TimeoutError:
            self.problem = f"{self._address.describe()} does not reply: is it running?"
            return False
        for warning in warnings:
            log.warning("%s", warning)
        self._is_checked = True
        self.problem = "the keys have not been loaded yet" if self._declared else ""
        return True

    async def complete(self) -> None:
        """Return when the store has been checked and has the keys; retry as long as it is away.

        Raises:
            ConfigError: the store must not be used.
        """
        timeout_s, delay_s = _FIRST_TIMEOUT_S, _FIRST_DELAY_S
        self._is_late = not self._is_checked
        while not (self._is_checked or await self.check(timeout_s)) or not await self._load():
            self._is_late = True
            await asyncio.sleep(delay_s)
            timeout_s, delay_s = min(2 * timeout_s, _LONGEST_TIMEOUT_S), min(2 * delay_s, _LONGEST_DELAY_S)

    async def _load(self) -> bool:
        if not self._declared:
            return True
        if self._is_late and self._read_again is not None:
            # Read again: a key that was revoked meanwhile must not come back from a file of hours ago.
            try:
                self._declared = await asyncio.to_thread(self._read_again)
            except ConfigError as error:
                self.problem = f"the keys have not been loaded yet: {error}"
                return False
        try:
            async with administering(self._address) as admin:
                warnings = await admin.declare(self._declared)
        except StoreUnavailable as error:
            self.problem, self.was_away = f"the keys have not been loaded yet: {error}", True
            return False
        for warning in warnings:
            log.warning("%s", warning)
        count = self._declared.key_count
        log.info("loaded %d keys", count, extra={"event": "keys_loaded", "keys": count})
        self._declared, self.problem = Declarations(), ""
        return True
