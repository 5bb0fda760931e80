"""Node processes: started together, restarted when they die, drained at the end.

Owns the life of the children of ``limiter-node up``. A node writes a line to stdout when it is ready; its other lines
are passed on. Neighbours: `commands.up` plans the nodes; `processes` makes them end with their parent.
"""

from __future__ import annotations

import asyncio
import logging
import re
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from limiter_node.errors import LimiterError
from limiter_node.processes import end_with_parent, exit_text

log = logging.getLogger(__name__)

START_TIMEOUT_S = 60.0
FIRST_DELAY_S = 0.2
LONGEST_DELAY_S = 5.0
LONG_LIFE_S = 30.0
"""A node that ran this long restarts after the first delay, as if it had never failed."""
KILL_MARGIN_S = 5.0
"""Time for settling and closing beyond a node's own drain time-out, before it is killed."""

_READY = re.compile(r"node \S+ ready \S+\Z")
_ADMIN = re.compile(r"node \S+ admin \S+\Z")
"""The line with the admin address; it comes before the ready line."""


class NodeFailed(LimiterError):
    """Raised when a node ends, or does not become ready, during the start."""


@dataclass(frozen=True, slots=True)
class NodePlan:
    """Describe how to start one node. `command` begins with an absolute path."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]


class Supervisor:
    """Keep the planned nodes running while the block runs; leaving it stops them.

    `on_ready` is called with each node that has become ready for the first time, `on_line` with each further line that
    a node writes. Set `hurry` to stop waiting for nodes that still drain.
    """

    def __init__(
        self,
        plans: Sequence[NodePlan],
        *,
        drain_timeout_s: float,
        on_ready: Callable[[NodePlan], None],
        on_line: Callable[[NodePlan, str], None],
    ) -> None:
        self.hurry = asyncio.Event()
        self._stopping = asyncio.Event()
        self._stop_timeout_s = drain_timeout_s + KILL_MARGIN_S
        self._nodes = [_Node(plan, self._stopping, on_ready, on_line) for plan in plans]
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start all nodes and wait until each is ready. Raises NodeFailed as soon as one cannot start."""
        self._tasks = [asyncio.create_task(node.keep_running()) for node in self._nodes]
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await asyncio.gather(*(node.ready for node in self._nodes))
        except TimeoutError:
            late = ", ".join(node.plan.name for node in self._nodes if not node.was_ready)
            raise NodeFailed(
                f"not all nodes were ready within {START_TIMEOUT_S:.0f} s (not ready: {late}): "
                "see their warnings, and look at the store"
            ) from None

    async def stop(self) -> None:
        """Ask all nodes to drain, wait for that (bounded), and kill those that are left."""
        self._stopping.set()
        for node in self._nodes:
            node.send(signal.SIGTERM)
        if not self._tasks:
            return
        hurry = asyncio.create_task(self.hurry.wait())
        kept = asyncio.ensure_future(asyncio.wait(self._tasks))
        await asyncio.wait([kept, hurry], timeout=self._stop_timeout_s, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        for node in self._nodes:
            if node.send(signal.SIGKILL):
                event = {"event": "node_killed", "node": node.plan.name}
                log.warning("node %s did not end in time and was killed", node.plan.name, extra=event)
        await kept


class _Node:
    """Hold one node and the task that keeps it running."""

    def __init__(
        self,
        plan: NodePlan,
        stopping: asyncio.Event,
        on_ready: Callable[[NodePlan], None],
        on_line: Callable[[NodePlan, str], None],
    ) -> None:
        self.plan = plan
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._stopping = stopping
        self._on_ready = on_ready
        self._on_line = on_line
        self._process: Process | None = None
        self._reason = ""

    @property
    def was_ready(self) -> bool:
        """Whether the node has become ready once."""
        return self.ready.done() and not self.ready.cancelled() and self.ready.exception() is None

    def send(self, number: signal.Signals) -> bool:
        """Send a signal to the process if it runs. Return whether it did."""
        if self._process is None or self._process.returncode is not None:
            return False
        with suppress(ProcessLookupError):
            self._process.send_signal(number)
        return True

    async def keep_running(self) -> None:
        """Start the node, and restart it whenever it ends, until the supervisor stops or the first start fails."""
        loop = asyncio.get_running_loop()
        delay_s = FIRST_DELAY_S
        while not self._stopping.is_set():
            started_s = loop.time()
            code = await self._run()
            if self._stopping.is_set():
                break
            if not self.ready.done():
                self.ready.set_exception(NodeFailed(f"node {self.plan.name} could not start: {self._why(code)}"))
                return
            if loop.time() - started_s >= LONG_LIFE_S:
                delay_s = FIRST_DELAY_S
            event = {"event": "node_ended", "node": self.plan.name, "reason": self._why(code)}
            log.warning("node %s ended (%s): restart in %.1f s", self.plan.name, self._why(code), delay_s, extra=event)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay_s)
            delay_s = min(2 * delay_s, LONGEST_DELAY_S)
        if not self.ready.done():
            self.ready.cancel()

    async def _run(self) -> int:
        self._reason = ""
        try:
            process = await asyncio.create_subprocess_exec(
                *end_with_parent(self.plan.command, signal.SIGTERM),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=PIPE,
                stderr=PIPE,
                env=dict(self.plan.environment),
                # Ctrl-C reaches the supervisor only, which passes it on once, as SIGTERM.
                start_new_session=True,
            )
        except OSError as error:
            self._reason = error.strerror or str(error)
            return 1
        self._process = process
        if self._stopping.is_set():
            self.send(signal.SIGTERM)
        assert process.stdout is not None
        assert process.stderr is not None
        await asyncio.gather(self._read(process.stdout), self._read(process.stderr))
        return await process.wait()

    async def _read(self, stream: asyncio.StreamReader) -> None:
        while True:
            try:
                raw = await stream.readline()
            except ValueError:  # longer than the reader's limit; the part read so far is dropped
                continue
            if not raw:
                return
            self._line(raw.decode("utf-8", "replace").rstrip())

    def _line(self, line: str) -> None:
        if _READY.match(line):
            if self.ready.done():
                event = {"event": "node_ready_again", "node": self.plan.name}
                log.warning("node %s is ready again", self.plan.name, extra=event)
            else:
                self.ready.set_result(None)
                self._on_ready(self.plan)
        elif line.startswith("error: "):
            self._reason = line.removeprefix("error: ")
        elif line and not _ADMIN.match(line):
            self._on_line(self.plan, line)

    def _why(self, code: int) -> str:
        return self._reason or exit_text(code)
