"""From listening to ready: a node waits for its store before it is ready, and logs the reason for a long wait.

A listening node serves what it can; it is ready when its store has been prepared (`store.admin.preparation`) and
each shard has decided once (`store.decisions.first`). Neighbours: `app` runs this between listening and the ready line;
``/readyz`` shows `Start.problem`.
"""

from __future__ import annotations

import asyncio
import logging

from limiter_node.errors import StoreUnavailable
from limiter_node.limiter.admission import Limiter
from limiter_node.store.admin.preparation import Preparation

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.025
_PATIENCE_S = 5.0
"""A start that takes longer gets a line in the log; a store that is known to be away gets one at once."""
_CANCEL_AGAIN_S = 0.1


class Start:
    """Bring one node from listening to ready. `problem` says why it isn't ready yet; it is empty once it is."""

    def __init__(self, preparation: Preparation) -> None:
        self._preparation = preparation
        self.problem = preparation.problem or "the store has not decided yet"

    async def complete(self, limiter: Limiter) -> None:
        """Return when the node is ready, however long that takes.

        If that takes long, one warning says why, and another that the node is ready.

        Raises:
            ConfigError: the store must not be used.
        """
        loop = asyncio.get_running_loop()
        since_s, has_warned = loop.time(), False
        preparing = asyncio.create_task(self._preparation.complete())
        try:
            while problem := await self._problem(preparing, limiter):
                self.problem = problem
                if not has_warned and (self._preparation.was_away or loop.time() - since_s >= _PATIENCE_S):
                    has_warned = True
                    log.warning(
                        "not ready, /readyz returns 503 until each shard of the store decides: %s",
                        problem,
                        extra={"event": "node_not_ready", "reason": problem},
                    )
                await asyncio.sleep(_LOOK_EVERY_S)
        finally:
            while not preparing.done():  # redis-py may swallow a cancellation
                preparing.cancel()
                await asyncio.wait({preparing}, timeout=_CANCEL_AGAIN_S)
        self.problem = ""
        if has_warned:
            waited_s = loop.time() - since_s
            event = {"event": "node_ready", "waited_s": round(waited_s, 3)}
            log.warning("ready after %.1f s: each shard of the store decides", waited_s, extra=event)

    async def _problem(self, preparing: asyncio.Task[None], limiter: Limiter) -> str:
        if preparing.done():
            preparing.result()  # raises its exception
        elif self._preparation.problem:
            return self._preparation.problem
        try:
            await limiter.require_decisions()
        except StoreUnavailable as error:
            return str(error)
        return ""
