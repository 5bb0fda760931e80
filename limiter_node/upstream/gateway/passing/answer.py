"""A service's answer while it passes: bytes go to the caller in the turn in which they come, and are read on the way.

A piece costs only its counting: no task is woken, no queue holds it. A caller that reads slowly holds its service up:
reading pauses while the sink is full.

An answer can go on without its caller (`read_on`), until the usage is known or its time is over. The two kinds
of answers are in `stream` and `whole_body`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from limiter_node.held import Hold
from limiter_node.upstream.answers import Cost, Sink
from limiter_node.upstream.errors import UpstreamError
from limiter_node.upstream.gateway.wire.exchange import Exchange
from limiter_node.upstream.gateway.wire.wakeup import Wakeup

log = logging.getLogger(__name__)


class PassingAnswer:
    """Pass an answer of any kind on to its caller. `who`: the sender's name, for our log.

    `note_outcome` is called with one of `limiter_node.telemetry.UPSTREAM_OUTCOMES`, and a text.
    """

    content_type = ""
    length: int | None = None

    def __init__(
        self, exchange: Exchange, headers: str, who: str, note_outcome: Callable[[str, str], None], hold: Hold
    ) -> None:
        self.headers = headers
        self._hold = hold
        self._exchange, self._who, self._note_outcome = exchange, who, note_outcome
        self._first: list[bytes] = []
        """Bytes that passed before there was a sink."""
        self._sink: Sink | None = None
        self._is_over = False
        self._failure: UpstreamError | None = None
        self._wakeup = Wakeup()

    # ---- what kinds of answers differ in -----------------------------------------------------------------------------

    @property
    def cost(self) -> Cost:
        """The cost of the answer so far."""
        raise NotImplementedError

    @property
    def is_uncertain(self) -> bool:
        """Whether the answer may cost more than is known, if it isn't read any further."""
        raise NotImplementedError

    def error_event(self, error: bytes) -> bytes:
        """Return the event with `error` that ends the answer; empty if its form has no room for one."""
        raise NotImplementedError

    @property
    def _is_cost_known(self) -> bool:
        """Whether the cost is known without reading further."""
        raise NotImplementedError

    def _take(self, data: bytes) -> bytes:
        """Read the next bytes. Return those that pass."""
        raise NotImplementedError

    def _finish(self, failure: Exception | None) -> bytes:
        """Call `_end`, or `_fail` for a `failure`: no more comes. Return the bytes that still pass."""
        raise NotImplementedError

    # ---- the way of an answer ----------------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Wait until the first part can pass. Raises `UpstreamError` if that is an error."""
        self._exchange.pass_to(self._on_data, self._on_end)
        try:
            while not self._first and not self._is_over:
                await self._wakeup.wait()
        except BaseException:
            self._hold.release()
            self._exchange.close()
            raise
        if not self._first:
            self._raise_failure()

    async def deliver(self, sink: Sink) -> None:
        """Give all of the answer to `sink` as it comes. Raises `UpstreamError` if it breaks off."""
        first, self._first = self._first, []
        self._sink = sink
        try:
            sink.write(b"".join(first), is_last=self._is_over and self._failure is None)
            self._exchange.resume()
            while not self._is_over:
                if sink.is_full:
                    self._exchange.pause()
                    await sink.drained()
                    self._exchange.resume()
                else:
                    await self._wakeup.wait()
        finally:
            self._sink = _NOBODY  # the sink knows this: a cycle
        self._raise_failure()

    async def read_on(self, seconds: float) -> None:
        """Read on without the caller until the cost is known, for at most `seconds`."""
        self._sink, self._first = _NOBODY, []
        self._exchange.resume()
        try:
            async with asyncio.timeout(seconds):
                while not self._is_over and not self._is_cost_known:
                    await self._wakeup.wait()
        except TimeoutError:
            pass

    async def close(self) -> None:
        """Take no more of the answer. Its connection is closed, so that the service notices at once."""
        if not self._is_over:
            self._let_go()
            self._note_outcome("ok" if self._is_cost_known else "gone", "")
            self._exchange.close()

    # ---- in the turn in which it comes -------------------------------------------------------------------------------

    def _on_data(self, data: bytes) -> None:
        if self._is_over:
            return
        try:
            passed = self._take(data)
        except Exception:
            self._fail_unexpectedly()
            return
        if passed:
            self._pass(passed)
        elif self._is_cost_known and self._sink is _NOBODY:
            self._wakeup.wake()

    def _on_end(self) -> None:
        if self._is_over:
            return
        try:
            passed = self._finish(self._exchange.failure)
        except Exception:
            self._fail_unexpectedly()
            return
        if passed:
            self._pass(passed)
        self._wakeup.wake()

    def _fail_unexpectedly(self) -> None:
        log.exception("%s sent something that could not be read", self._who)
        self._fail("broken", "sent something that could not be read")

    def _pass(self, data: bytes) -> None:
        sink = self._sink
        if sink is None:
            self._first.append(data)
            self._wakeup.wake()
            if len(self._first) > 1:
                self._exchange.pause()  # nobody takes it yet
            return
        if not sink.write(data, is_last=self._is_over and self._failure is None):
            self._sink = _NOBODY
        if sink.is_full:
            self._exchange.pause()
            self._wakeup.wake()
        elif self._is_over or sink is _NOBODY:
            self._wakeup.wake()

    def _let_go(self) -> None:
        self._is_over = True
        self._hold.release()

    def _end(self) -> None:
        """Note that the answer is complete."""
        self._let_go()
        self._note_outcome("ok", "")
        self._wakeup.wake()

    def _fail(self, outcome: str, what: str, status: int = 502, error: UpstreamError | None = None) -> None:
        """Break off; the waiting `begin` or `deliver` raises `error`, or an error with the text `what`."""
        self._let_go()
        self._note_outcome(outcome, what)
        self._failure = error or UpstreamError(
            f"{self._who} {what}", status=status, produced_tokens=self.cost.output_tokens
        )
        self._exchange.close()
        self._wakeup.wake()

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        try:
            if failure is not None:
                raise failure
        finally:
            del failure  # it holds this frame: a cycle

    def _broke_off(self, failure: Exception, of_what: str) -> None:
        if isinstance(failure, TimeoutError):
            self._fail("timeout", f"fell silent in the middle of {of_what}", 504)
        else:
            self._fail("broken", f"broke off {of_what} ({failure})")


class _Nobody:
    """Take the bytes that come after the caller has left."""

    is_full = False

    def write(self, data: bytes, *, is_last: bool = False) -> bool:
        return True

    async def drained(self) -> None:
        """Return at once: nothing is kept."""


_NOBODY: Final = _Nobody()
