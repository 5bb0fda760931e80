"""A whole answer while it passes, too long to be held until its end."""

from __future__ import annotations

from collections.abc import Callable

from limiter_node.held import Hold
from limiter_node.upstream.answers import Cost
from limiter_node.upstream.gateway.cost.whole_answer import WholeReader
from limiter_node.upstream.gateway.passing.answer import PassingAnswer
from limiter_node.upstream.gateway.wire.exchange import Exchange


class PassingBody(PassingAnswer):
    """Pass on an answer that isn't a stream and is too long to be held; `reader` finds its cost.

    `reader` is None for an answer that can't be read, because it came packed without being asked for.
    """

    def __init__(
        self,
        exchange: Exchange,
        reader: WholeReader | None,
        headers: str,
        who: str,
        note_outcome: Callable[[str, str], None],
        hold: Hold,
        content_type: str,
        length: int | None,
    ) -> None:
        super().__init__(exchange, headers, who, note_outcome, hold)
        self.content_type, self.length = content_type, length
        self._body = reader
        self._has_come = False

    @property
    def cost(self) -> Cost:
        return Cost(self._body.output_tokens, self._body.input_tokens) if self._body else Cost(0)

    @property
    def is_uncertain(self) -> bool:
        return self._body is None or not self._has_come

    @property
    def _is_cost_known(self) -> bool:
        return self._has_come

    def error_event(self, error: bytes) -> bytes:
        return b""

    def _take(self, data: bytes) -> bytes:
        if self._body is not None:
            self._body.feed(data)
        return data

    def _finish(self, failure: Exception | None) -> bytes:
        if self._body is not None:
            self._body.finish()
        if failure is not None:
            self._broke_off(failure, "its answer")
        else:
            self._has_come = True
            self._end()
        return b""
