"""One run from its settings to its results: checks, schedule, sending, records, summary."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import uvloop

from bench_client.errors import BenchError
from bench_client.load.declared_paths import tree_of
from bench_client.load.key_choice import KeyGroup, choose_keys
from bench_client.load.keys import read_keys
from bench_client.load.trace import read_trace
from bench_client.load.weights import Weights
from bench_client.load.workload import Workload, synthetic_workload, traced_workload
from bench_client.processes.coordinator import send_from_processes
from bench_client.processes.interrupts import interrupts_to
from bench_client.processes.live_view import LiveView
from bench_client.records.out_directory import refuse_to_replace_runs
from bench_client.records.run_directory import RunInfo, finish, open_records, prepare, write_info, write_json
from bench_client.results.summary import Summary, summarize
from bench_client.sending.open_loop_sender import OpenLoopSender, start_soon
from bench_client.sending.outcome import SendOutcome
from bench_client.sending.share import Share, sender_of
from bench_client.servers.procfs import LocalProcess
from bench_client.servers.server_watch import ServerWatch
from bench_client.servers.servers_file import write_servers
from bench_client.servers.targets import LoadTarget, await_targets, served_model
from bench_client.settings import RunSettings, WorkloadSettings, connections_per_target

Say = Callable[[str], None]
"""Shows one line to the user."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """Describe a finished run; its records and summary are in the settings' ``out``."""

    info: RunInfo
    summary: Summary


def run(settings: RunSettings, say: Say, servers: Sequence[LocalProcess] = ()) -> RunResult:
    """Make the run and write its results; meanwhile, measure the CPU that ``servers`` use.

    Raises BenchUsageError for wrong settings and for results that would be replaced, BenchError when a target can't be
    used or answered nothing at all.
    """
    if not settings.force:
        refuse_to_replace_runs(settings.out)
    sending = settings.sending
    targets = tuple(LoadTarget.parse(url, sending.ca_file) for url in settings.targets)
    admin_targets = tuple(LoadTarget.parse(url, sending.ca_file) for url in sending.admin_targets)
    ring = read_keys(settings.keys)
    if ring.skipped:
        say(f"note: {ring.skipped} keys of {settings.keys} are left out: they have no valid secret in plain text")
    keys, groups = choose_keys(ring.keys, settings.workload.accounts)
    workload = make_workload(settings.workload, targets=len(targets), keys=groups, models=sending.models)
    if not len(workload):
        raise BenchError("the schedule has no request; raise --qps or --duration")
    connections = connections_per_target(sending.connections, workload.offered_qps, len(targets), sending.processes)
    if admin_targets:
        await_targets(admin_targets, sending.wait_ready_s, "--admin-target")
    await_targets(targets, sending.wait_ready_s)
    models = sending.models or ((served_model(targets[0], keys[0].secret), 1),)
    settings = replace(settings, sending=replace(sending, models=models))
    info = RunInfo(
        settings.as_dict(),
        [target.url for target in targets],
        [(key.key_id, key.name) for key in keys],
        len(workload),
        workload.duration_s,
        warmup=workload.warmup,
        warmup_s=workload.warmup_s,
        tree=tree_of((key.key_id, key.path) for key in keys),
    )
    prepare(settings.out, info)
    shares = [
        Share(
            process,
            sending.processes,
            workload.share(process, sending.processes),
            targets,
            [key.secret for key in keys],
            [key.key_id for key in keys],
            tuple(name for name, _ in models),
            settings.workload.cap_output,
            connections[process],
            sending.timeout_s,
            settings.out,
        )
        for process in range(sending.processes)
    ]
    with ServerWatch(admin_targets or targets, workload.duration_s, servers) as watch:
        outcome = _send(shares, watch.on_start)
    info = replace(
        info,
        started_unix_ms=outcome.started_unix_ms,
        sending_s=outcome.sending_s,
        dispatched=outcome.dispatched,
        interrupted=outcome.interrupted,
        finished=True,
        processes=outcome.processes,
    )
    finish(settings.out, info)
    write_info(settings.out, info)
    write_servers(settings.out, watch.servers(outcome.processes, outcome.sending_s))
    summary = summarize(open_records(settings.out, info), info)
    write_json(settings.out / "summary.json", summary.as_dict())
    return RunResult(info, summary)


def make_workload(
    settings: WorkloadSettings, *, targets: int, keys: Sequence[KeyGroup], models: Weights = ()
) -> Workload:
    """Return the schedule of ``settings``, with its warm-up."""
    workload = _measured_workload(settings, targets=targets, keys=keys, models=[weight for _, weight in models])
    return workload.warmed_up(settings.warmup_s) if settings.warmup_s else workload


def _measured_workload(
    settings: WorkloadSettings, *, targets: int, keys: Sequence[KeyGroup], models: Sequence[float]
) -> Workload:
    if settings.trace is not None:
        return traced_workload(
            read_trace(settings.trace),
            speed=settings.speed,
            duration_s=settings.duration_s,
            targets=targets,
            keys=keys,
            models=models,
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
        models=models,
        zipf=settings.zipf,
        seed=settings.seed,
    )


def _send(shares: list[Share], on_start: Callable[[int], None]) -> SendOutcome:
    if len(shares) > 1:
        return send_from_processes(shares, on_start)
    with sender_of(shares[0]) as sender:
        return uvloop.run(_send_and_show(sender, shares[0].workload.duration_s, on_start))


async def _send_and_show(sender: OpenLoopSender, duration_s: float, on_start: Callable[[int], None]) -> SendOutcome:
    async def start() -> int:
        start_ns = await start_soon()
        on_start(start_ns)
        return start_ns

    with interrupts_to(sender.interrupt):
        async with LiveView(sender.snapshot, lambda: sender.requests.start_ns, duration_s).shown():
            return await sender.run(start)
