"""One run from its settings to its results: checks, schedule, sending, records, summary."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

import uvloop

from .errors import BenchError
from .keys import KeyRing, read_keys
from .progress import Progress
from .prompts import RequestRenderer
from .rundir import RunInfo, finish, open_records, prepare, write_info, write_json
from .sender import Sender, SendOutcome
from .settings import FIRST_CONNECTIONS, RunSettings, WorkloadSettings, connections_per_target
from .spool import SpoolWriter
from .summary import Summary, summarize
from .targets import Target, check_targets, served_model
from .trace import read_trace
from .workload import Workload, synthetic_workload, traced_workload

Say = Callable[[str], None]
"""Tells the person something, one line at a time."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """A finished run; its records and summary are in the settings' ``out``."""

    info: RunInfo
    summary: Summary


def run(settings: RunSettings, say: Say) -> RunResult:
    """Makes the run and writes its results.

    Raises BenchUsageError for wrong settings, BenchError when a target can't be used or answered nothing at all.
    """
    targets = tuple(Target.parse(url) for url in settings.targets)
    ring = read_keys(settings.keys)
    if ring.skipped:
        say(f"note: {ring.skipped} keys of {settings.keys} are digests, which a client cannot send; left out")
    workload = make_workload(settings.workload, targets=len(targets), keys=len(ring.keys))
    if not len(workload):
        raise BenchError("the schedule has no request; raise --qps or --duration")
    per_target = connections_per_target(settings.connections, workload.offered_qps, len(targets))
    check_targets(targets)
    settings = replace(settings, model=settings.model or served_model(targets[0], ring.keys[0].secret))
    info = RunInfo(
        settings.as_dict(),
        [target.url for target in targets],
        [(key.key_id, key.name) for key in ring.keys],
        len(workload),
        workload.duration_s,
    )
    prepare(settings.out, info)
    outcome = _send(settings, targets, ring, workload, per_target)
    info = replace(
        info,
        started_unix_ms=outcome.started_unix_ms,
        sending_s=outcome.sending_s,
        dispatched=outcome.dispatched,
        interrupted=outcome.interrupted,
        finished=True,
    )
    finish(settings.out, info)
    write_info(settings.out, info)
    summary = summarize(open_records(settings.out, info), info)
    write_json(settings.out / "summary.json", summary.as_dict())
    return RunResult(info, summary)


def make_workload(settings: WorkloadSettings, *, targets: int, keys: int) -> Workload:
    """The schedule of ``settings``."""
    if settings.trace is not None:
        return traced_workload(
            read_trace(settings.trace),
            speed=settings.speed,
            duration_s=settings.duration_s,
            targets=targets,
            keys=keys,
            zipf=settings.zipf,
            seed=settings.seed,
        )
    assert settings.qps is not None
    assert settings.duration_s is not None
    return synthetic_workload(
        qps=settings.qps,
        duration_s=settings.duration_s,
        arrivals=settings.arrivals,
        input_size=settings.input_tokens,
        output_size=settings.output_tokens,
        targets=targets,
        keys=keys,
        zipf=settings.zipf,
        seed=settings.seed,
    )


def _send(
    settings: RunSettings, targets: tuple[Target, ...], ring: KeyRing, workload: Workload, per_target: int
) -> SendOutcome:
    renderer = RequestRenderer(
        workload,
        request_heads=[target.request_head for target in targets],
        secrets=[key.secret for key in ring.keys],
        model=settings.model or "",
        cap_output=settings.workload.cap_output,
    )
    spool = SpoolWriter(settings.out, workload, cap_output=settings.workload.cap_output)
    sender = Sender(
        workload,
        renderer,
        targets,
        spool,
        max_connections=per_target,
        first_connections=min(FIRST_CONNECTIONS, per_target),
        timeout_s=settings.timeout_s,
    )
    # What lives now lives to the end: the collector need not look at it, nor interrupt the sending to find nothing.
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        return uvloop.run(_send_and_show(sender, workload.duration_s))
    finally:
        gc.enable()
        gc.unfreeze()
        spool.close()


async def _send_and_show(sender: Sender, duration_s: float) -> SendOutcome:
    loop = asyncio.get_running_loop()
    progress = loop.create_task(Progress(sender, duration_s).run())
    with contextlib.ExitStack() as stack:
        for signum in (signal.SIGINT, signal.SIGTERM):
            with suppress(ValueError, RuntimeError):  # only a process's main thread can
                loop.add_signal_handler(signum, sender.interrupt)
                stack.callback(loop.remove_signal_handler, signum)
        try:
            return await sender.run()
        finally:
            progress.cancel()
            with suppress(asyncio.CancelledError):
                await progress
