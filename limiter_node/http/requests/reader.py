"""Reads requests of any size without holding up the event loop, into their need and their prepared form.

A small request is parsed, checked and counted at once. The texts of a larger one are counted in slices. The second
process (`limiter_node.http.requests.reader_process`) reads a request that is large in bytes or in values, and returns
its need and its draft; the node itself looks at none of its bytes.
"""

from __future__ import annotations

from typing import Final

from limiter_node.decisions import Need
from limiter_node.held import SMALL_BYTES
from limiter_node.http.requests.json_body import count_values
from limiter_node.http.requests.limited_routes import LimitedRoute
from limiter_node.http.requests.reader_frames import READ, read_of, setup_frame
from limiter_node.second_process import Frame, SecondProcess
from limiter_node.tokens.process import INLINE_CHARS, TokenCounting
from limiter_node.tokens.totals import Total
from limiter_node.upstream.interface import Draft, Prepared, Upstream

LARGE_VALUES: Final = 4_000
"""JSON values up to which the node reads a request itself; each may take a microsecond or two."""

_PROGRAM: Final = "limiter_node.http.requests.reader_process"


class RequestReader:
    """Read requests for `upstream`. There is one per node; `close` it in the end."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self.worker = SecondProcess(_PROGRAM, setup_frame(upstream.drafter))
        self._counting = TokenCounting(self.worker)

    async def read(self, route: LimitedRoute, body: bytes | bytearray) -> tuple[Need, Prepared]:
        """Return the need of the request in `body`, and its form prepared for the upstream.

        Raises:
            InvalidRequest: the caller has to correct the request.
            NotServed: no upstream serves the request.
            Overloaded: too many large requests wait to be read, or this one killed the second process twice.
        """
        if isinstance(body, bytes) and len(body) <= INLINE_CHARS:
            return self.read_small(route, body)
        if isinstance(body, bytearray) or is_large(body):
            return await self._read_apart(route, body)
        upstream, later = self._upstream, list[tuple[str, Total]]()

        def postpone(model: str, total: Total) -> int:
            later.append((model, total))
            return 0

        asked = route.parse(body, postpone, upstream.drafter.extra_fields)
        model, total = later.pop()
        asked = asked._replace(input_tokens=await self._counting.count(model, total))
        draft = upstream.drafter.draft(asked, body)
        return route.need(asked, draft), upstream.prepared(draft)

    def read_small(self, route: LimitedRoute, body: bytes) -> tuple[Need, Prepared]:
        """Do the same as `read`, at once, for a body of up to `INLINE_CHARS` bytes (and so no more characters)."""
        upstream = self._upstream
        asked = route.parse(body, extra_fields=upstream.drafter.extra_fields)
        draft = upstream.drafter.draft(asked, body)
        # Most upstreams rename nothing; that saves them a call.
        need = route.need(asked, draft) if draft.models else route.need_of(asked)
        return need, upstream.prepared(draft)

    async def _read_apart(self, route: LimitedRoute, body: bytes | bytearray) -> tuple[Need, Prepared]:
        answer = await self.worker.ask(Frame(READ, route.path.encode(), body))
        read = read_of(answer)
        draft = Draft(read.content, body if read.is_body_as_sent else answer.body)
        return read.need, self._upstream.prepared(draft)

    def model_names(self, model: str) -> tuple[str, ...]:
        """Return all names of a caller's model, as requests for it have them."""
        return self._upstream.drafter.model_names(model)

    async def close(self) -> None:
        """End the second process, if it was started."""
        await self.worker.close()


def is_large(body: bytes) -> bool:
    """Return whether reading `body` in the node would hold up the event loop."""
    return len(body) > SMALL_BYTES or count_values(body) > LARGE_VALUES
