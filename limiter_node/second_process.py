"""A second process of a node, for work that would hold up the event loop: the node's side, and the process's loop.

Parsing and counting hold the interpreter, so a thread would not help. The process starts when it is first needed, and
ends with its node, because its input then ends. It leaves signals to the node. If it dies, it is started again and gets
the work that it died of once more.

Two pipes connect it with the node. A frame is its kind (a byte), the lengths of its head and its body, and both; it is
written and read in parts, so that even the largest holds up nobody. A frame is answered before the next is written.
Work that nobody waits for any more is skipped in the queue; work that has begun is finished.

Short work goes first: work is ordered by size and age, so that long work waits for its turn a few seconds at most.

Weakness: there is one process, so large requests wait for each other.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import heapq
import itertools
import logging
import os
import signal
import struct
import sys
from collections.abc import Callable
from time import monotonic
from typing import BinaryIO, NamedTuple

from limiter_node.errors import Overloaded

log = logging.getLogger(__name__)

PART_BYTES = 131_072
"""Bytes to write or read in one turn of the event loop."""

_MAX_WAITING_BYTES = 64 * 1_048_576
_BYTES_PER_S = 8 * 1_048_576
"""Waiting work goes before work that comes a second later if it is larger by no more than these bytes."""
# The worst text known takes 0.2 s per million characters, on a core of its own.
_TIMEOUT_S = 30.0
_CLOSE_S = 1.0
_HEADER = struct.Struct("<BII")
_MALLOC = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
"""Makes glibc give back the memory of large bodies."""
_PASSED = ("PYTHON", "LD_", "DYLD_", "LC_", "MALLOC_", "COVERAGE_")
_PASSED_NAMES = frozenset(("PATH", "HOME", "LANG", "TMPDIR", "VIRTUAL_ENV"))


class Frame(NamedTuple):
    """Hold a piece of work, or its result."""

    kind: int
    head: bytes
    """Small, whatever the request's size."""
    body: bytes | bytearray = b""


class _Job(NamedTuple):
    priority: float
    number: int
    answer: asyncio.Future[Frame]


class SecondProcess:
    """Run ``python -m MODULE``, which calls `serve`. It gets `greeting` first, each time that it starts."""

    def __init__(self, module: str, greeting: Frame | None = None) -> None:
        self._module, self._greeting = module, greeting
        self._process: asyncio.subprocess.Process | None = None
        self._jobs: list[_Job] = []
        self._frames: dict[int, Frame] = {}
        """The work of each waiting job, by its number. A caller that leaves removes the work, not the job."""
        self._numbers = itertools.count()
        self._waiting_bytes = 0
        self._working: asyncio.Task[None] | None = None
        self._under_way: asyncio.Future[Frame] | None = None
        self.answered = 0
        """The number of frames answered."""

    async def ask(self, frame: Frame) -> Frame:
        """Return the answer to `frame`. Raises `Overloaded` if too much waits, or if the process died of it twice."""
        size = len(frame.head) + len(frame.body)
        # One frame may always wait, whatever its size.
        if self._waiting_bytes and self._waiting_bytes + size > _MAX_WAITING_BYTES:
            raise Overloaded("too many large requests already wait to be read")
        self._waiting_bytes += size
        number = next(self._numbers)
        try:
            answer: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
            self._frames[number] = frame
            heapq.heappush(self._jobs, _Job(size + monotonic() * _BYTES_PER_S, number, answer))
            del frame  # a caller holds the request no longer than the process needs it
            if self._working is None:
                self._working = asyncio.create_task(self._work())
            return await answer
        finally:
            self._waiting_bytes -= size
            self._frames.pop(number, None)

    async def close(self) -> None:
        """End the process. Waiting work fails; later work would start another process."""
        working, self._working = self._working, None
        if working is not None:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
            for answer in (self._under_way, *(job.answer for job in self._jobs)):
                if answer is not None and not answer.done():
                    answer.set_exception(Overloaded("the node is stopping"))
            self._jobs.clear()
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(_CLOSE_S):
                await process.wait()
        except TimeoutError:
            await _kill(process)

    async def _work(self) -> None:
        try:
            while self._jobs:
                job = heapq.heappop(self._jobs)
                self._under_way = job.answer
                if not job.answer.done() and (frame := self._frames.pop(job.number, None)) is not None:
                    await self._answer(job.answer, frame)
                    del frame
                del job
        finally:
            self._working = None

    async def _answer(self, answer: asyncio.Future[Frame], work: Frame) -> None:
        for is_last in (False, True):
            try:
                frame = await self._exchange(work)
            except (OSError, EOFError, TimeoutError) as error:
                log.warning(
                    "the process that reads large requests has failed (%s)",
                    type(error).__name__,
                    extra={"event": "worker_process_failed"},
                )
                if is_last and not answer.done():
                    answer.set_exception(Overloaded("this request could not be read"))
            else:
                self.answered += 1
                if not answer.done():
                    answer.set_result(frame)
                return
            if answer.done():
                return

    async def _exchange(self, frame: Frame) -> Frame:
        process = self._process
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                if process is None or process.returncode is not None:
                    process = self._process = await asyncio.create_subprocess_exec(
                        sys.executable,
                        "-m",
                        self._module,
                        stdin=asyncio.subprocess.PIPE,
                        stdout=asyncio.subprocess.PIPE,
                        limit=PART_BYTES,
                        env={**_MALLOC, **{name: value for name, value in os.environ.items() if _passes(name)}},
                    )
                    if self._greeting is not None:
                        await _write(process, self._greeting)
                await _write(process, frame)
                return await _read(process)
        except BaseException:
            # Also when cancelled half-way: else the next frame would get this one's answer.
            if process is not None:
                if self._process is process:
                    self._process = None
                await _kill(process)
            raise


def _passes(name: str) -> bool:
    """Whether to pass a variable of the environment to the process. Others may hold keys of services."""
    return name in _PASSED_NAMES or name.startswith(_PASSED)


async def _write(process: asyncio.subprocess.Process, frame: Frame) -> None:
    assert process.stdin is not None
    process.stdin.write(_HEADER.pack(frame.kind, len(frame.head), len(frame.body)))
    for data in (frame.head, frame.body):
        view = memoryview(data)
        for start in range(0, len(data), PART_BYTES):
            process.stdin.write(view[start : start + PART_BYTES])
            await process.stdin.drain()


async def _read(process: asyncio.subprocess.Process) -> Frame:
    assert process.stdout is not None
    kind, head_bytes, body_bytes = _HEADER.unpack(await process.stdout.readexactly(_HEADER.size))
    head = await _read_exactly(process.stdout, head_bytes)
    return Frame(kind, head, await _read_exactly(process.stdout, body_bytes))


async def _read_exactly(reader: asyncio.StreamReader, length: int) -> bytes:
    parts = []
    while length:
        parts.append(await reader.readexactly(min(length, PART_BYTES)))
        length -= len(parts[-1])
    return parts[0] if len(parts) == 1 else b"".join(parts)


async def _kill(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.wait()


# The process's side


def serve(answer: Callable[[Frame], Frame | None]) -> None:
    """Answer each incoming frame by `answer`, which returns None for a frame without an answer. Never returns."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    # The node, which serves all smaller requests, gets the CPU first.
    os.nice(10)
    # Parsed bodies hold no cycles, and the collector would walk through a million values time and again.
    gc.disable()
    with contextlib.suppress(BrokenPipeError):
        _serve(sys.stdin.buffer, sys.stdout.buffer, answer)
    os._exit(0)  # nothing to clean up, and nobody left to write to


def _serve(requests: BinaryIO, answers: BinaryIO, answer: Callable[[Frame], Frame | None]) -> None:
    while len(header := requests.read(_HEADER.size)) == _HEADER.size:
        kind, head_bytes, body_bytes = _HEADER.unpack(header)
        head, body = requests.read(head_bytes), requests.read(body_bytes)
        if len(head) < head_bytes or len(body) < body_bytes:
            return
        made = answer(Frame(kind, head, body))
        del head, body
        if made is None:
            continue
        answers.write(_HEADER.pack(made.kind, len(made.head), len(made.body)))
        answers.write(made.head)
        answers.write(made.body)
        del made  # before it waits for the next
        answers.flush()
