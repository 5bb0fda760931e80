"""Sends a run from several processes: starts them, gives them one common start, adds up their reports, ends them all.

Each process runs ``worker``. It has a session of its own: an interrupt at the terminal is for this process, which
passes it on. However this process ends, the others end too: their standard input ends with it.
"""

from __future__ import annotations

import asyncio
import pickle
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import orjson

from bench_client.clock import NS_PER_S, clock_ns
from bench_client.errors import BenchError
from bench_client.processes.interrupts import interrupts_to
from bench_client.processes.live_view import LiveView
from bench_client.processes.worker import DONE, FAILED, LENGTH_BYTES, PROGRESS, READY, SENT
from bench_client.records.process_report import ProcessReport
from bench_client.sending.outcome import SendOutcome, SendSnapshot
from bench_client.sending.share import Share

COMMAND = (sys.executable, "-m", "bench_client.processes.worker")
LEAD_NS = NS_PER_S // 10
"""Time from when all processes are ready to the start of the schedule, so that the start reaches the last process."""
STOP_TIMEOUT_S = 5.0
LINE_LIMIT = 1 << 20


def send_from_processes(shares: Sequence[Share], on_start: Callable[[int], None]) -> SendOutcome:
    """Send the shares at the same time and leave each one's records in the run's directory.

    ``on_start`` gets the start of the schedule, in ``clock_ns``, as soon as it is known. Raises BenchError when a
    process could not do its part. No process is left behind.
    """
    return asyncio.run(_send(shares, on_start))


async def _send(shares: Sequence[Share], on_start: Callable[[int], None]) -> SendOutcome:
    start_ns = 0

    def interrupt() -> None:
        for worker in workers:
            worker.send_command("interrupt")

    async with _started(shares) as workers:
        with interrupts_to(interrupt):
            await _run_all(worker.wait_for(READY) for worker in workers)
            start_ns = clock_ns() + LEAD_NS
            for worker in workers:
                worker.send_command(f"start {start_ns}")
            on_start(start_ns)
            progress = LiveView(
                lambda: SendSnapshot.summed(worker.take_snapshot() for worker in workers),
                lambda: start_ns,
                shares[0].workload.duration_s,
            )
            async with progress.shown():
                sent = await _run_all(worker.wait_for(SENT) for worker in workers)
        await _run_all(worker.wait_for(DONE) for worker in workers)
        return SendOutcome.merged([_outcome(fields) for fields in sent])


@asynccontextmanager
async def _started(shares: Sequence[Share]) -> AsyncIterator[list[_Worker]]:
    workers: list[_Worker] = []
    try:
        for share in shares:
            try:
                process = await asyncio.create_subprocess_exec(
                    *COMMAND, stdin=PIPE, stdout=PIPE, stderr=PIPE, start_new_session=True, limit=LINE_LIMIT
                )
            except OSError as error:
                raise BenchError(
                    f"cannot start sending process {share.process} ({error.strerror}); lower --processes"
                ) from None
            workers.append(_Worker(process, share))
        yield workers
    finally:
        await asyncio.gather(*(worker.stop() for worker in workers))


class _Worker:
    """Talk to one sending process."""

    def __init__(self, process: Process, share: Share) -> None:
        """Send the share to the process at once."""
        self._number = share.process
        self._process = process
        self._counts = SendSnapshot(0, {}, 0, [])
        self._samples: list[int] = []
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self._input, self._output = process.stdin, process.stdout
        self._last_words = asyncio.create_task(_last_line(process.stderr))
        pickled = pickle.dumps(share)
        self._input.write(len(pickled).to_bytes(LENGTH_BYTES) + pickled)

    def send_command(self, command: str) -> None:
        if not self._input.is_closing():
            self._input.write(command.encode() + b"\n")

    async def wait_for(self, awaited: str) -> Any:
        """Listen until the process says ``awaited``; return the value that came with it.

        Raises BenchError when the process says that it failed, or says nothing more.
        """
        while line := await self._output.readline():
            said, value = orjson.loads(line)
            if said == PROGRESS:
                dispatched, statuses, errors, samples = value
                self._counts = SendSnapshot(dispatched, {int(status): n for status, n in statuses.items()}, errors, [])
                self._samples += samples
            elif said == FAILED:
                raise BenchError(value)
            elif said == awaited:
                return value
        code = await self._process.wait()
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        last_words = await self._last_words
        raise BenchError(
            f"sending process {self._number} ended early ({how}{': ' if last_words else ''}{last_words}); "
            "run again, with fewer --processes if memory was short"
        )

    def take_snapshot(self) -> SendSnapshot:
        samples, self._samples = self._samples, []
        return self._counts._replace(latency_samples=samples)

    async def stop(self) -> None:
        """Return when the process has ended; kill it if it doesn't end by itself in time."""
        self._input.close()
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                while await self._output.read(LINE_LIMIT):  # so that it is never stuck in a write
                    pass
                await self._process.wait()
        except TimeoutError:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        await self._last_words
        with suppress(ConnectionError):
            await self._input.wait_closed()


async def _last_line(stream: asyncio.StreamReader) -> str:
    last = b""
    while chunk := await stream.read(4096):
        last = (last + chunk)[-4096:]
    lines = last.decode("utf-8", "replace").strip().splitlines()
    return lines[-1].strip() if lines else ""


async def _run_all(steps: Iterable[Coroutine[Any, Any, Any]]) -> list[Any]:
    """Run all steps to the end, or until one fails. Raises that one's BenchError."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(step) for step in steps]
    except* BenchError as failed:
        failure: BaseException = failed
        while isinstance(failure, BaseExceptionGroup):
            failure = failure.exceptions[0]
    else:
        return [task.result() for task in tasks]
    raise failure


def _outcome(fields: dict[str, Any]) -> SendOutcome:
    return SendOutcome(**{**fields, "processes": [ProcessReport(**report) for report in fields["processes"]]})
