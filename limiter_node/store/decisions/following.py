"""Follows keys that have moved to another account, by the marks that they leave, and waits for those being moved.

From the seal until a key is open in its new account, nobody decides for it. That takes some round trips to the store,
so requests wait. If it takes longer, whoever moves the key may be gone: then this node finishes the move.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import NamedTuple

from limiter_node.errors import KeyIsMoving, StoreUnavailable
from limiter_node.policy_body import Forward
from limiter_node.store.accounts.accounts import Accounts, Missing, Opened
from limiter_node.store.keyspace import slot_of
from limiter_node.store.outage.outage import Outage

log = logging.getLogger(__name__)

PATIENCE_S = 0.5
"""How long requests wait for a key that is being moved."""
_FINISH_AFTER_S = 0.1
_LOOK_EVERY_S = 0.02
_MOST_FINISHING = 8

FinishMove = Callable[[str, str], Awaitable[object]]
"""Finish the move of a key, by its ``kid``, away from the account with that hash tag."""


class Followed(NamedTuple):
    """Where a key is, and the marks that led there from the account where it was looked for."""

    found: Opened | Missing
    marks: tuple[Forward, ...]


class Follower:
    """Find keys in their accounts for one node. `finish`: None if this node can't finish moves."""

    def __init__(self, accounts: Accounts, outage: Outage, finish: FinishMove | None, *, timeout_s: float) -> None:
        self._accounts, self._outage, self._finish, self._timeout_s = accounts, outage, finish, timeout_s
        self._finishing: dict[tuple[str, str], asyncio.Task[None]] = {}

    def close(self) -> None:
        """Stop finishing moves."""
        for task in self._finishing.values():
            task.cancel()

    async def follow(self, kid: str, tag: str, not_before_s: float = 0.0, *, is_move_over: bool = False) -> Followed:
        """Look for a key in the account with the hash tag `tag`, and where it has moved from there.

        `is_move_over`: wait for the end of a move also if the key is open already. `not_before_s`: see `Accounts.open`.

        Raises:
            KeyIsMoving: the key is being moved for longer than a request can wait.
            StoreUnavailable: the store could not be asked.
            TimeoutError: it didn't reply in time.
        """
        since_s = monotonic()
        while True:
            followed, sealed = await self._walk(kid, tag, not_before_s)
            if sealed is None or (isinstance(followed.found, Opened) and not is_move_over):
                return followed
            waited_s = monotonic() - since_s
            if waited_s >= PATIENCE_S:
                raise KeyIsMoving("the key is being moved to another account")
            if waited_s >= _FINISH_AFTER_S:
                self._finish_soon(kid, sealed)
            await asyncio.sleep(_LOOK_EVERY_S)
            not_before_s = monotonic()

    async def _walk(self, kid: str, tag: str, not_before_s: float) -> tuple[Followed, str | None]:
        """Return where the marks lead now, and the first account whose mark is of a move that isn't over."""
        marks: list[Forward] = []
        seen: set[str] = set()
        sealed: str | None = None
        while True:
            seen.add(tag)
            if self._outage.cuts_off_slot(slot_of(tag)):
                raise StoreUnavailable("the account's shard is cut off")
            async with asyncio.timeout(self._timeout_s):
                found = await self._accounts.open(kid, tag, not_before_s)
            if isinstance(found, Opened) or found.forward is None:
                return Followed(found, tuple(marks)), sealed
            marks.append(found.forward)
            if sealed is None and not found.forward.is_over:
                sealed = tag
            tag = found.forward.to
            if tag in seen:  # the mark of an earlier stay, which goes when the key is opened there again
                return Followed(found._replace(forward=None), tuple(marks)), sealed

    def _finish_soon(self, kid: str, sealed: str) -> None:
        if self._finish is None or (kid, sealed) in self._finishing or len(self._finishing) >= _MOST_FINISHING:
            return
        finish = self._finish

        async def work() -> None:
            try:
                await finish(kid, sealed)
            except Exception as error:  # others may finish it, and requests are answered in any case
                extra = {"event": "move_not_finished", "key": kid[:12]}
                log.warning("failed to finish the move of key %s: %s", kid[:12], error, extra=extra)
            finally:
                del self._finishing[kid, sealed]

        self._finishing[kid, sealed] = asyncio.get_running_loop().create_task(work())
