"""The share of a run that one process sends, and a sender made ready for it."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench_client.load.prompts import RequestRenderer
from bench_client.load.workload import Workload
from bench_client.records.spool import SpoolWriter
from bench_client.sending.open_loop_sender import OpenLoopSender
from bench_client.servers.targets import LoadTarget
from bench_client.settings import FIRST_CONNECTIONS


@dataclass(frozen=True, slots=True)
class Share:
    """Hold every ``processes``-th request of a run and everything needed to send them; can be pickled."""

    process: int
    processes: int
    workload: Workload
    """The share's own requests only."""
    targets: tuple[LoadTarget, ...]
    secrets: list[str] = field(repr=False)
    key_ids: list[str]
    models: tuple[str, ...]
    cap_output: bool
    max_connections: int
    """Per target, of this process."""
    timeout_s: float
    directory: Path
    """The run's; the spool goes there."""


@contextmanager
def sender_of(share: Share) -> Iterator[OpenLoopSender]:
    """Yield a sender with its requests rendered and its spool open; after the block, all results are on disk.

    Raises BenchError when the spool can't be written.
    """
    renderer = RequestRenderer(
        share.workload,
        request_heads=[target.request_head for target in share.targets],
        secrets=share.secrets,
        models=share.models,
        cap_output=share.cap_output,
    )
    spool = SpoolWriter(
        share.directory,
        share.workload,
        cap_output=share.cap_output,
        process=share.process,
        processes=share.processes,
    )
    sender = OpenLoopSender(
        share.workload,
        renderer,
        share.targets,
        spool,
        max_connections=share.max_connections,
        first_connections=min(FIRST_CONNECTIONS, share.max_connections),
        timeout_s=share.timeout_s,
    )
    # What lives now lives to the end: the collector need not look at it, nor interrupt the sending to find nothing.
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield sender
    finally:
        gc.enable()
        gc.unfreeze()
        spool.close()
