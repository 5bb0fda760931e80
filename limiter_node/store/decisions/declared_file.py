"""The keys file of a running node: what it declares now, and whether that is later than what the store has told.

The file is checked once a second, so that a key that leaves it later is known to have been there, and again before a
missing key is judged. Neighbours: `store.decisions.redeclare` and `store.decisions.redeclare_accounts` declare by it
what the store has lost.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Protocol

from limiter_node.declarations import AccountKey, Declarations
from limiter_node.limits import KeyLimits
from limiter_node.policy import ACCOUNT_MARK, AccountPolicy

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 1.0
"""The keys file is checked at least this often."""
_FRESH_S = 0.02
"""The node's view of the file may be this old when a key is missing."""
_READ_PATIENCE_S = 0.05
"""A request waits this long for a large file to be read again. Then the file as read before decides about unknown keys;
known keys stay undecided."""
_FILE_FIRST_S = 1.0
"""A change reaches the file first: a reply of the store so soon after it may lack the change."""
_LOG_EVERY_S = 60.0


class DeclaredKeys(Protocol):
    """The keys file, as far as a dispatcher needs it. An entry's name is a key's `kid` or an account's hash tag."""

    def declarations(self) -> Declarations:
        """Return all that the file declares: the same object as before if it hasn't changed. Called in a thread.

        Raises:
            LimiterError: it can't be read.
        """

    def changed_s_ago(self, name: str) -> float:
        """Return the seconds since the file last changed this entry after its first reading; infinity if never."""

    def was_declared(self, name: str) -> bool:
        """Whether any reading of the file so far had this entry."""


class DeclaredFile:
    """Follow the keys file of one node; `file` is None if the node has none."""

    def __init__(self, file: DeclaredKeys | None) -> None:
        self._loop = asyncio.get_running_loop()
        self._file = file
        self._now = Declarations()
        self._first: Declarations | None = None
        self._kids: dict[str, str] = {}
        self._fresh_until_s = float("-inf")
        self._reading: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._waiting: list[Callable[[], None]] = []
        self._logged_s = float("-inf")

    # ---- reading ---------------------------------------------------------------------------------------------------

    @property
    def is_fresh(self) -> bool:
        """Whether the file as read last is as good as the file itself."""
        return self._file is None or monotonic() < self._fresh_until_s

    def when_read(self, go_on: Callable[[bool], None]) -> None:
        """Read the file again and call `go_on` once; with False if that takes long, and is still under way."""
        is_open = True

        def end(*, was_read: bool = True) -> None:
            nonlocal is_open
            if is_open:
                is_open = False
                go_on(was_read)

        self._waiting.append(end)
        self._loop.call_later(_READ_PATIENCE_S, partial(end, was_read=False))
        self._start_reading()

    async def read(self) -> bool:
        """Read the file again unless it is fresh. Return False if that takes long, and is still under way."""
        if self.is_fresh:
            return True
        result: asyncio.Future[bool] = self._loop.create_future()
        self.when_read(lambda was_read: None if result.done() else result.set_result(was_read))
        return await result

    def start(self) -> None:
        """Check the file from now on."""
        if self._file is not None:
            self._timer = self._loop.call_later(_LOOK_EVERY_S, self.start)
            self._start_reading()

    def close(self) -> None:
        """Stop checking the file."""
        if self._timer is not None:
            self._timer.cancel()
        if self._reading is not None:
            self._reading.cancel()

    def _start_reading(self) -> None:
        if self._reading is None and self._file is not None:
            self._reading = self._loop.create_task(self._read(self._file))

    async def _read(self, file: DeclaredKeys) -> None:
        try:
            self._now, self._kids = await asyncio.to_thread(self._read_in_thread, file)
            self._first = self._first or self._now
        except Exception as error:  # whatever is wrong with the file now, the node keeps what it read before
            if monotonic() - self._logged_s > _LOG_EVERY_S:
                self._logged_s = monotonic()
                event = {"event": "keys_file_unreadable"}
                log.error("the keys file can no longer be read; its last content stays in use: %s", error, extra=event)
        self._fresh_until_s = monotonic() + _FRESH_S
        self._reading = None
        waiting, self._waiting = self._waiting, []
        for go_on in waiting:
            self._loop.call_soon(go_on)

    def _read_in_thread(self, file: DeclaredKeys) -> tuple[Declarations, dict[str, str]]:
        """Return what the file declares, and the `kid` of each credential that a key lists."""
        found = file.declarations()
        if found is self._now:
            return found, self._kids
        return found, {one.digest: kid for kid, each in found.keys.items() for one in each.key.credentials}

    # ---- what it declares ------------------------------------------------------------------------------------------

    def kid_of(self, cid: str) -> str:
        """Return the `kid` of the key that a credential proves, by the file; of an unknown one, its own digest."""
        return self._kids.get(cid, cid)

    def key(self, kid: str) -> KeyLimits | AccountKey | None:
        """Return the limits of a plain key, or the policies of a key of an account; None if it isn't declared."""
        return self._now.plain.get(kid) or self._now.keys.get(kid)

    def at_start(self, kid: str) -> KeyLimits | None:
        """Return the limits of a plain key that the file declared when the node started; None if it didn't."""
        return None if self._first is None else self._first.plain.get(kid)

    def account(self, tag: str) -> AccountPolicy | None:
        """Return an account, or a key that is an account of its own; None if it isn't declared as one."""
        if tag.startswith(ACCOUNT_MARK):
            return self._now.accounts.get(tag.removeprefix(ACCOUNT_MARK))
        found = self._now.keys.get(tag)
        return found.account if found is not None and found.account.tag == tag else None

    def is_later(self, name: str, heard_s_ago: float) -> bool:
        """Whether the file changed an entry, which it must have, after what was heard of it, or just before that."""
        return self._file is not None and self._file.changed_s_ago(name) < heard_s_ago + _FILE_FIRST_S

    def is_revoked(self, name: str) -> bool:
        """Whether the file declared an entry once, and no longer does."""
        return self._file is not None and self._now.entry(name) is None and self._file.was_declared(name)
