"""The raw results of a run, streamed to disk while it goes on: what was sent when, and the bytes that came back.

Parsing a response costs more than sending its request, so that is left for afterwards (``run_directory.finish``). A
thread of its own packs and writes; memory stays flat, and a run that is killed leaves everything that was answered up
to its last tenth of a second. Each sending process has a file of its own, ``responses.<process>.spool``: a sequence of
entries, ``ENTRY`` followed by the raw bytes.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

from bench_client.errors import BenchError, cannot_write
from bench_client.load.workload import Workload

SPOOL_NAMES = "responses.*.spool"
ENTRY = struct.Struct("<IIIIIqqqBHI")
NEVER_SENT = -1

ERRORS = ("", "connect", "timeout", "closed", "reset", "protocol", "aborted")
"""Error kinds; an entry holds the index. ``connect``: no connection was to be had, so nothing was sent. ``closed`` and
``reset``: the connection ended before the response did. ``aborted``: cut off by a second interrupt."""
OK, CONNECT, TIMEOUT, CLOSED, RESET, PROTOCOL, ABORTED = range(len(ERRORS))

Result = tuple[int, int, int, int, bytes]
"""Index in the process's share of the workload, when sent and done (clock ns; ``NEVER_SENT``), index into ``ERRORS``,
raw bytes."""


class SpoolEntry(NamedTuple):
    """Describe one request; times in ns from the start of the run."""

    request: int
    """Its place in the whole schedule."""
    target: int
    key: int
    input_tokens: int
    max_tokens: int
    """0 where the request set no cap."""
    due_ns: int
    sent_ns: int
    done_ns: int
    error: int
    model: int
    """Index into the run's models."""
    raw: bytes


def spool_name(process: int) -> str:
    return f"responses.{process}.spool"


class SpoolWriter:
    """Write results handed over by the sending loop."""

    def __init__(
        self, directory: Path, workload: Workload, *, cap_output: bool, process: int = 0, processes: int = 1
    ) -> None:
        """``workload``: this process's share. Raises BenchError when the file can't be made."""
        self._workload = workload
        self._first, self._step = process, processes
        self._cap_output = cap_output
        self._queue: SimpleQueue[tuple[int, list[Result]] | None] = SimpleQueue()
        self._failure: OSError | None = None
        try:
            self._file = (directory / spool_name(process)).open("wb")
        except OSError as error:
            raise BenchError(f"cannot write to {directory}: {error.strerror}; choose another --out") from None
        self._thread = threading.Thread(target=self._write_all, name="spool", daemon=True)
        self._thread.start()

    def put(self, start_ns: int, results: list[Result]) -> None:
        """Have the results written, without blocking; ``results`` isn't the caller's any more."""
        self._queue.put((start_ns, results))

    def close(self) -> None:
        """Return when all is on disk. Raises BenchError when something could not be written."""
        self._queue.put(None)
        self._thread.join()
        if self._failure is not None:
            raise cannot_write(self._file.name, self._failure)

    def _write_all(self) -> None:
        with self._file:
            while (batch := self._queue.get()) is not None:
                if self._failure is None:
                    try:
                        self._file.write(self._packed(*batch))
                        self._file.flush()
                    except OSError as error:
                        self._failure = error

    def _packed(self, start_ns: int, results: list[Result]) -> bytes:
        workload, cap, pack, parts = self._workload, self._cap_output, ENTRY.pack, []
        first, step, models = self._first, self._step, workload.model
        for index, sent_ns, done_ns, error, raw in results:
            parts.append(
                pack(
                    first + index * step,
                    workload.target[index],
                    workload.key[index],
                    workload.input_tokens[index],
                    workload.output_tokens[index] if cap else 0,
                    workload.due_ns[index],
                    sent_ns - start_ns if sent_ns != NEVER_SENT else NEVER_SENT,
                    done_ns - start_ns,
                    error,
                    models[index] if models else 0,
                    len(raw),
                )
            )
            parts.append(raw)
        return b"".join(parts)


def read_spool(path: Path) -> Iterator[SpoolEntry]:
    """Return the entries of a spool; an incomplete last one is left out."""
    with path.open("rb", buffering=1 << 20) as file:
        while len(head := file.read(ENTRY.size)) == ENTRY.size:
            fields = ENTRY.unpack(head)
            raw = file.read(fields[-1])
            if len(raw) < fields[-1]:
                return
            yield SpoolEntry._make((*fields[:-1], raw))
