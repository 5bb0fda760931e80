"""The private names of aiohttp that a node uses, all of them, and its own main loop of a connection, made of them.

aiohttp promises nothing about these names; its 3.15 branch has others. So no other module may use one (a test holds
that), they are looked up once, and where one is missing nothing here is used: the server then works by aiohttp's public
API alone (`public_connection`), which is slower and cuts nothing into slices. A node says so when it starts.

**The own loop**, `OpenConnection.start`, does what `aiohttp.web_protocol.RequestHandler.start` does, except:

- It runs handlers in the connection's own task. aiohttp makes a task for each request, so that context variables that
  one sets don't reach the next; before Python 3.12 that task begins a turn of the event loop later, and its end wakes
  the connection's task another turn later. Here the context is compared after each request (0.05 µs), and a connection
  whose handler has changed it goes on in a new task, with the context it began with.
- It discards a body that was answered unread by `discard`, and ends the connection by `linger`, both bounded in bytes.
  aiohttp reads on for `lingering_time` and then closes; a client that is still sending loses the response.
- It writes no access log, so it takes no time for one, and no debug messages.
- It doesn't set an exception on the body of an answered request: no handler keeps its request.

It adds a turn of the event loop between requests that came together, and holds no request while it waits for the next.
What is not HTTP is left to aiohttp's loop altogether.
"""

from __future__ import annotations

import asyncio
import enum
import inspect
import os
import sys
from collections import deque
from collections.abc import Callable
from contextvars import copy_context
from typing import Any, ClassVar, Final, Protocol, TypeVar

from aiohttp import __version__, http_parser, web
from aiohttp.http_parser import HttpRequestParser, RawRequestMessage
from aiohttp.http_writer import StreamWriter
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler

T = TypeVar("T")
_missing: list[str] = []


class Slot(Protocol[T]):
    """A slot of aiohttp's under a public name. It is the same descriptor, so it costs what aiohttp's own costs."""

    def __get__(self, instance: object, owner: type | None = None) -> T: ...

    def __set__(self, instance: object, value: T) -> None: ...


def _attribute(owner: type, name: str, *parameters: str) -> Any:
    """Return a slot of `owner`, or a method that takes these parameters; note it as missing if there is no such."""
    found = getattr(owner, name, None)
    if found is None or (parameters and tuple(inspect.signature(found).parameters) != parameters):
        _missing.append(f"{owner.__name__}.{name}")
    return found


def _instance_attribute(owner: type, name: str) -> None:
    """Note an attribute as missing that the instances of `owner` aren't given when they are made."""
    if name not in owner.__init__.__code__.co_names:  # type: ignore[misc]
        _missing.append(f"{owner.__name__}.{name}")


# ---- connections ---------------------------------------------------------------------------------------------------

_instance_attribute(web.Server, "_connections")  # to count them without a copy of the list
_instance_attribute(web.BaseRequest, "_task")  # to end a cycle, as aiohttp does
_attribute(HttpRequestParser, "message_consumed")  # before 3.14.1 the queue of requests has no bound


class OpenConnection(RequestHandler):
    """aiohttp's connection with the private names that are used here under public ones, and the own loop."""

    __slots__ = ()

    # Of requests: those that wait, the one under way, and who is to have them.
    queue: Slot[deque[tuple[object, StreamReader]]] = _attribute(RequestHandler, "_messages")
    queue_limit: Slot[int] = _attribute(RequestHandler, "_max_msg_queue_size")
    queue_resume: Slot[int] = _attribute(RequestHandler, "_msg_queue_resume_size")
    parsed_requests: Slot[int] = _attribute(RequestHandler, "_request_count")
    current_request: Slot[web.BaseRequest | None] = _attribute(RequestHandler, "_current_request")
    waiter: Slot[asyncio.Future[None] | None] = _attribute(RequestHandler, "_waiter")
    manager: Slot[web.Server | None] = _attribute(RequestHandler, "_manager")
    handler: Slot[Callable[..., Any] | None] = _attribute(RequestHandler, "_request_handler")
    factory: Slot[Callable[..., web.BaseRequest] | None] = _attribute(RequestHandler, "_request_factory")
    main_task: Slot[asyncio.Task[None] | None] = _attribute(RequestHandler, "_task_handler")
    handle: ClassVar[Callable[..., Any]] = _attribute(
        RequestHandler, "_handle_request", "self", "request", "start_time", "request_handler"
    )

    # Of its end, and of the time it is kept open without a request.
    is_last: Slot[bool] = _attribute(RequestHandler, "_close")
    is_ended: Slot[bool] = _attribute(RequestHandler, "_force_close")
    keeps_alive: Slot[bool] = _attribute(RequestHandler, "_keepalive")
    keepalive_s: Slot[float] = _attribute(RequestHandler, "_keepalive_timeout")
    keepalive_end_s: Slot[float] = _attribute(RequestHandler, "_next_keepalive_close_time")
    keepalive_timer: Slot[asyncio.Handle | None] = _attribute(RequestHandler, "_keepalive_handle")
    on_keepalive_end: ClassVar[Callable[..., None]] = _attribute(RequestHandler, "_process_keepalive", "self")

    # Of reading: its parser, and why nothing is read. `holds_reading` is for buffers that can't be emptied yet.
    parser: Slot[Any] = _attribute(RequestHandler, "_parser")
    is_upgraded: Slot[bool] = _attribute(RequestHandler, "_upgraded")
    is_reading_paused: Slot[bool] = _attribute(RequestHandler, "_reading_paused")
    holds_reading: Slot[bool] = _attribute(RequestHandler, "_buffer_paused")
    hold_reading: ClassVar[Callable[..., None]] = _attribute(RequestHandler, "_pause_reading_for_buffer", "self")
    release_reading: ClassVar[Callable[..., None]] = _attribute(RequestHandler, "_resume_reading_for_buffer", "self")
    resume_if_drained: ClassVar[Callable[..., None]] = _attribute(RequestHandler, "_resume_reading_if_drained", "self")

    loop: asyncio.AbstractEventLoop
    """The event loop of the connection; the server sets it."""

    def _resume_reading_if_drained(self) -> None:
        """Call `resume_if_drained`, which may be overridden; aiohttp calls this one."""
        self.resume_if_drained()

    async def start(self) -> None:
        """Answer requests one after the other, until the client or a response ends the connection."""
        manager, factory, handler = self.manager, self.factory, self.handler
        queue, has_paused = self.queue, True
        assert manager is not None
        assert factory is not None
        assert handler is not None
        context = copy_context()
        while not self.is_ended:
            if not queue:
                self.waiter = self.loop.create_future()
                try:
                    await self.waiter
                finally:
                    self.waiter = None
            elif not has_paused:
                # Else a client that sends many at once would have the event loop for itself until all are answered.
                await asyncio.sleep(0)
                self.has_rested()
                has_paused = True
                continue
            has_paused = False
            message, payload = queue[0]
            if not isinstance(message, RawRequestMessage):
                await super().start()  # answers what is not HTTP, and closes
                return
            queue.popleft()
            if self.parser is not None:
                self.parser.message_consumed()
            if self.holds_reading and len(queue) <= self.queue_resume:
                self.resume_if_drained()
            manager.requests_count += 1
            # No variable for the task: it would hold this frame once it has ended, and with it the last body: a cycle.
            writer = StreamWriter(self, self.loop)
            request = factory(message, payload, self, writer, self.main_task or asyncio.current_task(self.loop))
            try:
                response, is_gone = await self.handle(request, None, handler)
                if is_gone:
                    break
                self.keeps_alive = bool(response.keep_alive)
                del response
                if payload.is_eof() or self.is_ended:
                    pass
                elif not self.keeps_alive or not await self.discard(payload):
                    self.main_task = None
                    self.linger(payload)
                    return
            except ConnectionError:
                break
            except Exception as error:
                self.log_exception("Unhandled exception", exc_info=error)
                self.force_close()
            except BaseException:
                self.force_close()
                raise
            finally:
                request._task = None  # type: ignore[assignment]  # as aiohttp does: else they hold each other
            del request, message, payload, writer  # an idle connection holds no body and no answer
            if not self.keeps_alive or self.is_last:
                break
            self.keepalive_end_s = self.loop.time() + self.keepalive_s
            if self.keepalive_timer is None and not self.is_ended:
                self.keepalive_timer = self.loop.call_at(self.keepalive_end_s, self.on_keepalive_end)
            if copy_context() != context and not self.is_ended:
                self.main_task = self.loop.create_task(self.start(), context=context)
                return
        if not self.is_ended:
            self.main_task = None
            if self.transport is not None:
                self.transport.close()

    def has_rested(self) -> None:
        """Note that what came has waited for what came before it on this connection, and for nothing else."""

    async def discard(self, payload: StreamReader) -> bool:
        """Discard the rest of a body that was answered unread; return whether the connection can go on."""
        raise NotImplementedError

    def linger(self, payload: StreamReader) -> None:
        """End the connection behind a response whose request's body isn't read any more."""
        raise NotImplementedError


def connection_count(server: web.Server) -> int:
    """Return how many connections `server` has, in no time if the names are known."""
    return len(server._connections) if WAY is not Way.PUBLIC else len(server.connections)


# ---- bodies --------------------------------------------------------------------------------------------------------

_attribute(StreamReader, "_buffer")  # the blocks that nobody has taken yet, oldest first
_attribute(StreamReader, "_size")  # their bytes
_attribute(StreamReader, "_cursor")  # the bytes that were taken before them
_attribute(StreamReader, "_wait", "self", "func_name")

_FEW_BLOCKS: Final = 4


async def read_some(content: StreamReader) -> bytes:
    """Return what has come of a body since the last call, b"" at its end. Raises what ended it, as aiohttp does."""
    while not content.is_eof() and content.exception() is None and not content._buffer:
        await content._wait("read_some")
    return read_now(content)


def read_now(content: StreamReader) -> bytes:
    """Return what has come of a body. Raises what ended it, as aiohttp does.

    aiohttp looks at each block whether its connection may read on: ten times the work of parsing a chunk of a byte.
    Here many blocks are taken at once, and it looks at the last.
    """
    if not content.total_bytes or len(content._buffer) <= _FEW_BLOCKS or content.exception() is not None:
        return content.read_nowait()
    last = content._buffer.pop()
    taken = [*content._buffer]
    size = sum(map(len, taken))
    content._buffer.clear()
    content._buffer.append(last)
    content._size -= size
    content._cursor += size
    taken.append(content.read_nowait())
    return b"".join(taken)


def has_unread(content: StreamReader) -> bool:
    """Return whether something of a body has come that nobody has taken yet."""
    return bool(content._buffer)


def forget(content: StreamReader) -> None:
    """Let go of what has come of a body that is not read any more, and whose connection parses nothing any more."""
    if content.total_bytes:
        content._buffer.clear()


# ---- which way to go -----------------------------------------------------------------------------------------------


class Way(enum.Enum):
    """A way to serve requests."""

    OWN_LOOP = "own"
    """By the own loop."""
    TASKS = "tasks"
    """By aiohttp's loop, with a task for each request; all else as with the own loop."""
    PUBLIC = "public"
    """By aiohttp's public API alone."""


MISSING: Final = tuple(_missing)
"""The names that this aiohttp doesn't have, as ``StreamReader._buffer``."""

TASKS_SINCE: Final[tuple[int, int] | None] = None
"""The Python from which on aiohttp's loop is used, because its tasks are cheap enough; None: no Python.

Tasks begin at once from 3.12 on. They still cost a node more than 5 % of its CPU per request: tasks ÷ own loop is 1.25
on 3.11 (9 rounds), 1.10 to 1.16 on 3.12 and 1.16 to 1.17 on 3.13 (two series each, 22 rounds; ``benchmarks.own_loop``).
"""


VERSION: Final = __version__


def _way() -> Way:
    if MISSING:
        return Way.PUBLIC
    if asked := os.environ.get("AIOHTTP_WAY"):  # for tests and measurements
        return Way(asked)
    return Way.TASKS if TASKS_SINCE is not None and sys.version_info >= TASKS_SINCE else Way.OWN_LOOP


WAY: Final = _way()
"""The way of this process."""


def has_c_parser() -> bool:
    """Return whether aiohttp parses HTTP in C here: its parser in Python doesn't keep up, and has other limits."""
    return HttpRequestParser is not getattr(http_parser, "HttpRequestParserPy", None)
