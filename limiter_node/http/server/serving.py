"""aiohttp's connection with its main loop written anew: handlers run in the connection's own task.

aiohttp makes a task for each request, so that context variables which one sets don't reach the next. Nothing here uses
any, and that task is one of the larger items of a request: it is made, it begins a turn of the event loop later, and
its end wakes the connection's task another turn later. Without it a request costs a node a tenth less
(docs/measurements.md).

The rest is what `aiohttp.web_protocol.RequestHandler.start` does, and what is not HTTP is left to it altogether.
"""

from __future__ import annotations

import asyncio

from aiohttp.http_parser import RawRequestMessage
from aiohttp.http_writer import StreamWriter
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler

from limiter_node.http.server.raw_body import MAX_DISCARDED_BYTES, UnreadableBody, next_block


class ServingConnection(RequestHandler):
    """Answers the requests of one connection, one after the other."""

    __slots__ = ()

    async def start(self) -> None:
        """Until the client or an answer ends it; aiohttp runs this as the connection's task."""
        manager, factory, handler = self._manager, self._request_factory, self._request_handler
        messages, has_paused = self._messages, True
        assert manager is not None
        assert factory is not None
        assert handler is not None
        while not self._force_close:
            if not messages:
                self._waiter = self._loop.create_future()
                try:
                    await self._waiter
                finally:
                    self._waiter = None
            elif not has_paused:
                # Else a client that sends many at once would have the event loop for itself until all are answered.
                await asyncio.sleep(0)
                self.has_rested()
                has_paused = True
                continue
            has_paused = False
            message, payload = messages[0]
            if not isinstance(message, RawRequestMessage):
                await super().start()  # answers what is not HTTP, and closes
                return
            messages.popleft()
            if self._parser is not None:
                self._parser.message_consumed()
            if self._buffer_paused and len(messages) <= self._msg_queue_resume_size:
                self._resume_reading_if_drained()
            manager.requests_count += 1
            task = asyncio.current_task(self._loop)
            assert task is not None
            request = factory(message, payload, self, StreamWriter(self, self._loop), task)
            del task  # held here, it would hold this frame once it has ended, and with it the last body: a cycle
            try:
                response, is_gone = await self._handle_request(request, None, handler)
                if is_gone:
                    break
                self._keepalive = bool(response.keep_alive)
                del response
                if not payload.is_eof() and not self._force_close and not await self._throw_away(payload):
                    self._task_handler = None
                    self.linger(payload)
                    return
            except ConnectionError:
                break
            except asyncio.CancelledError:
                self.force_close()
                raise
            except Exception as error:
                self.log_exception("Unhandled exception", exc_info=error)
                self.force_close()
            finally:
                request._task = None  # type: ignore[assignment]  # as aiohttp does: else they hold each other
            del request, message, payload  # an idle connection holds no body and no answer
            if not self._keepalive or self._close:
                break
            self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
            if self._keepalive_handle is None and not self._force_close:
                self._keepalive_handle = self._loop.call_at(self._next_keepalive_close_time, self._process_keepalive)
        if not self._force_close:
            self._task_handler = None
            if self.transport is not None:
                self.transport.close()

    def has_rested(self) -> None:
        """What came has waited for what came before it on this connection, and for nothing else."""

    @property
    def has_unparsed(self) -> bool:
        """Whether something that the client sent waits to be parsed."""
        return False

    def linger(self, payload: StreamReader) -> None:
        """The response has been sent, and the rest of the request's body is not read any more: end the connection."""
        self.force_close()

    async def _throw_away(self, payload: StreamReader) -> bool:
        """Discard what the client still sends of a body that was answered without being read, as it comes.

        Return whether that was all of it, so that the connection can go on. Raises `ClientLeft`.
        """
        if not self._keepalive or self.has_unparsed:
            return False
        left = MAX_DISCARDED_BYTES
        try:
            async with asyncio.timeout(self._lingering_time):
                while not payload.is_eof() and left >= 0:
                    left -= len(await next_block(payload))
        except (TimeoutError, UnreadableBody):
            return False
        return left >= 0
