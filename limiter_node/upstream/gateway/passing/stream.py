"""An event stream while it passes, read by an `EventReader` and understood by an `Account`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from limiter_node.errors import Overloaded
from limiter_node.held import Hold
from limiter_node.upstream.answers import Cost
from limiter_node.upstream.errors import UpstreamError
from limiter_node.upstream.gateway.cost.account import Account
from limiter_node.upstream.gateway.cost.responses_api_account import ResponsesApiAccount
from limiter_node.upstream.gateway.passing.answer import PassingAnswer
from limiter_node.upstream.gateway.passing.event_reader import EventReader, TooLong
from limiter_node.upstream.gateway.service_errors.in_band import InBandError, to_in_band_error
from limiter_node.upstream.gateway.sse import EVENT_STREAM
from limiter_node.upstream.gateway.wire.exchange import Exchange
from limiter_node.upstream.openai.responses_api_events import responses_api_error_event
from limiter_node.upstream.openai.stream_events import error_event

_CLOSING_S: Final = 0.5
"""Seconds that a stream may take to end after its end mark, so that its connection is kept."""


class PassingStream(PassingAnswer):
    """Pass an event stream on, which `account` understands.

    `hides`: whether the model is known to produce output that callers don't see. `to_error`: makes the error to raise
    from an error event, whether anything has passed before, and the tokens so far.
    """

    content_type = EVENT_STREAM

    def __init__(
        self,
        exchange: Exchange,
        account: Account,
        headers: str,
        who: str,
        note_outcome: Callable[[str, str], None],
        hold: Hold,
        hides: Callable[[Account], bool],
        to_error: Callable[[InBandError, bool, int], UpstreamError],
    ) -> None:
        super().__init__(exchange, headers, who, note_outcome, hold)
        self._account, self._hides, self._to_error = account, hides, to_error
        self._reader = EventReader(account, hold)

    @property
    def cost(self) -> Cost:
        return Cost(self._account.output_tokens, self._account.input_tokens)

    @property
    def is_uncertain(self) -> bool:
        return self._hides(self._account) and not self._is_cost_known

    @property
    def _is_cost_known(self) -> bool:
        account = self._account
        return account.is_done or (account.has_usage and account.is_finished)

    def error_event(self, error: bytes) -> bytes:
        if isinstance(self._account, ResponsesApiAccount):
            return responses_api_error_event(error, self._account.next_number)
        return error_event(error)

    def _take(self, data: bytes) -> bytes:
        account = self._account
        try:
            passed = self._reader.feed(data)
        except TooLong:
            self._fail("broken", "sent an event without an end")
            return b""
        except Overloaded:
            # This isn't the address's fault.
            self._fail("gone", "sent a longer event than the node has room for now", 503)
            return b""
        if account.error is not None:
            self._fail_with_event(has_begun=bool(passed))
        elif account.is_done:
            self._end()
            self._exchange.end_within(_CLOSING_S)
        return passed

    def _finish(self, failure: Exception | None) -> bytes:
        account = self._account
        passed = self._reader.rest() if failure is None else b""
        if account.error is not None:
            self._fail_with_event(has_begun=bool(passed))
        elif account.is_whole and (failure is None or account.is_done or account.is_finished):
            self._end()
        elif failure is not None:
            self._broke_off(failure, "a stream")
        else:
            self._fail("broken", "ended a stream before it was whole")
        return passed

    def _fail_with_event(self, *, has_begun: bool) -> None:
        in_band = to_in_band_error(self._account.error)
        assert in_band is not None, "asked because there is one"
        has_begun = has_begun or bool(self._first) or self._sink is not None
        error = self._to_error(in_band, has_begun, self._account.output_tokens)
        self._fail(in_band.outcome, "" if in_band.is_callers_own else "broke off a stream with an error", error=error)
