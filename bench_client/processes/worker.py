"""One sending process of several: ``python -m bench_client.processes.worker``, started by ``coordinator``.

On standard input come its share of the run (pickled, after eight bytes that give the length) and then lines: ``start
NS`` gives the start of the schedule on the system's monotonic clock; ``interrupt`` has the effect of a signal on a run
of one process. The end of the input means that the coordinator is gone: the process sends no more requests, keeps its
results and ends. On standard output go lines of JSON, each a kind of message and its value.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import sys
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import orjson
import uvloop

from bench_client.errors import BenchError
from bench_client.records.run_directory import convert_spool
from bench_client.sending.open_loop_sender import OpenLoopSender
from bench_client.sending.outcome import SendOutcome
from bench_client.sending.share import Share, sender_of

REPORT_PERIOD_S = 0.5
MAX_SAMPLES = 1_000
"""Most latency samples in a report: a line must never fill the pipe, because a blocked write would stop the sending."""
LENGTH_BYTES = 8

READY, PROGRESS, SENT, DONE, FAILED = "ready", "progress", "sent", "done", "failed"
"""Kinds of messages: connections open; a snapshot; an outcome; records written; an error for the user."""


def main() -> int:
    """Send the share that standard input brings; return the exit code."""
    share: Share = pickle.loads(_read(int.from_bytes(_read(LENGTH_BYTES))))  # by the process that started this one
    try:
        with sender_of(share) as sender:
            outcome = uvloop.run(_send(sender))
        _say(SENT, asdict(outcome))
        convert_spool(share.directory, share.process, share.key_ids, share.models)
        _say(DONE)
    except BenchError as error:
        with suppress(BrokenPipeError):
            _say(FAILED, str(error))
        return 1
    except BrokenPipeError:  # nobody listens any more
        return 1
    return 0


def _read(count: int) -> bytes:
    """Read, but not through Python's buffer, which would keep what comes after."""
    parts = []
    while count and (part := os.read(sys.stdin.fileno(), min(count, 1 << 20))):
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


async def _send(sender: OpenLoopSender) -> SendOutcome:
    loop = asyncio.get_running_loop()
    started: asyncio.Future[int] = loop.create_future()
    reader = asyncio.StreamReader()
    pipe, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)

    async def start() -> int:
        _say(READY)
        return await started

    tasks = [loop.create_task(_follow(reader, sender, started)), loop.create_task(_report(sender))]
    try:
        return await sender.run(start)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        pipe.close()


async def _follow(commands: asyncio.StreamReader, sender: OpenLoopSender, started: asyncio.Future[int]) -> None:
    while line := (await commands.readline()).split():
        if line[0] == b"start":
            started.set_result(int(line[1]))
        else:
            sender.interrupt()
    if not started.done():
        started.set_exception(BenchError("the run has ended before its start"))
    sender.interrupt()
    sender.interrupt()


async def _report(sender: OpenLoopSender) -> None:
    while True:
        await asyncio.sleep(REPORT_PERIOD_S)
        snapshot = sender.snapshot()
        samples = snapshot.latency_samples
        step = len(samples) // MAX_SAMPLES + 1
        try:
            _say(PROGRESS, [*snapshot[:3], samples[::step]])
        except BrokenPipeError:  # ``_follow`` learns the same
            return


def _say(what: str, value: Any = None) -> None:
    line = orjson.dumps([what, value], option=orjson.OPT_NON_STR_KEYS)
    sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(main())
