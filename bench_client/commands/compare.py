"""The same workload on an embedded cluster and on a single store, side by side."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench_client.audit import AuditReport, audit_directory
from bench_client.commands.compared_account import account_for_load
from bench_client.commands.run import RunResult, Say, run
from bench_client.errors import BenchUsageError
from bench_client.load.declared_limits import ENFORCE
from bench_client.records.out_directory import PAGE_NAME, STORES, prepare_comparison, refuse_to_replace_runs
from bench_client.records.run_directory import COMPARE_NAME, write_json
from bench_client.results.tables import figure_rows, table
from bench_client.servers.limiter_under_test import GeneratedAccount, LimiterUnderTest, generate_keys
from bench_client.settings import RunSettings, SendingSettings, WorkloadSettings

KEYS_NAME = "keys.toml"


@dataclass(frozen=True, slots=True)
class CompareSettings:
    """Describe one workload, and the limiter that is started for each store."""

    workload: WorkloadSettings
    sending: SendingSettings
    out: Path
    nodes: int
    keys_count: int
    rpm: int
    input_tpm: int
    output_tpm: int
    account_keys: int | None = None
    """Keys in an account, of ``keys_count``; None: a tenth of them."""
    force: bool = False
    """Whether to replace results that ``out`` holds already."""

    def __post_init__(self) -> None:
        """Raises BenchUsageError when the settings contradict one another."""
        if self.keys_in_account > self.keys_count:
            raise BenchUsageError("--account-keys is above --keys-count; lower it")

    @property
    def keys_in_account(self) -> int:
        return self.keys_count // 10 if self.account_keys is None else self.account_keys


@dataclass(frozen=True, slots=True)
class StoreResult:
    """Hold the measurement of one store."""

    store: str
    result: RunResult
    audit: AuditReport


def compare(settings: CompareSettings, say: Say) -> list[StoreResult]:
    """Measure each store in turn and write ``compare.json``; an interrupted run ends the comparison.

    Raises BenchUsageError for results that would be replaced, BenchError when a limiter can't be started or a run
    fails. No process is left behind.
    """
    if not settings.force:
        refuse_to_replace_runs(settings.out, KEYS_NAME, PAGE_NAME)
    prepare_comparison(settings.out)
    keys = settings.out / KEYS_NAME
    generate_keys(
        keys,
        count=settings.keys_count,
        rpm=settings.rpm,
        input_tpm=settings.input_tpm,
        output_tpm=settings.output_tpm,
        account=_account(settings),
    )
    measured = []
    for store in STORES:
        measured.append(_measure(store, settings, keys, say))
        if measured[-1].result.info.interrupted:
            break
    write_json(settings.out / COMPARE_NAME, comparison(settings, measured))
    return measured


def _account(settings: CompareSettings) -> GeneratedAccount | None:
    if not settings.keys_in_account:
        return None
    return account_for_load(
        settings.workload,
        settings.keys_in_account,
        of=settings.keys_count,
        rpm=settings.rpm,
        tokens_per_minute=settings.input_tpm + settings.output_tpm,
    )


def _measure(store: str, settings: CompareSettings, keys: Path, say: Say) -> StoreResult:
    directory = settings.out / store
    say(f"{store}: starting {settings.nodes} nodes")
    with LimiterUnderTest(nodes=settings.nodes, store=store, keys=keys, log=directory / "limiter.log") as limiter:
        say(f"{store}: sending to {' '.join(limiter.targets)}")
        result = run(
            RunSettings(
                workload=settings.workload,
                sending=settings.sending,
                targets=limiter.targets,
                keys=keys,
                out=directory,
            ),
            say,
            limiter.processes(),
        )
    return StoreResult(store, result, audit_directory(directory, warn=say))


def comparison(settings: CompareSettings, measured: list[StoreResult]) -> dict[str, object]:
    """Return the contents of ``compare.json``."""
    return {
        "nodes": settings.nodes,
        "keys_count": settings.keys_count,
        "rpm": settings.rpm,
        "input_tpm": settings.input_tpm,
        "output_tpm": settings.output_tpm,
        "account_keys": settings.keys_in_account,
        "stores": {
            each.store: {"summary": each.result.summary.as_dict(), "audit": each.audit.as_dict()} for each in measured
        },
    }


def comparison_text(measured: list[StoreResult]) -> str:
    """Return one table with a column per store, and each store's verdict."""
    summaries = [each.result.summary for each in measured]
    rows = [["", *(each.store for each in measured)]]
    rows.append(["target QPS", *(f"{summary.target_qps:,.0f}" for summary in summaries)])
    rows.append(["achieved QPS", *(f"{summary.achieved_qps:,.0f}" for summary in summaries)])
    figures = figure_rows([summary.total for summary in summaries], summaries[0].sending_s)
    rows += [row for row in figures if row[0] != "responses/s"]
    rows.append(["fullest window", *(_fullest(each.audit) for each in measured)])
    rows.append(["audit", *(each.audit.word.lower() for each in measured)])
    lines = [table(rows), ""]
    if notes := list(dict.fromkeys(each.audit.never_slid for each in measured if each.audit.never_slid)):
        lines.append(f"note: {notes[0]}")
    for each in measured:
        lines.append(f"{each.store}: {each.audit.verdict}")
        if each.result.summary.client.remark:
            lines.append(f"{each.store}: {each.result.summary.client.remark}")
    return "\n".join(lines)


def _fullest(report: AuditReport) -> str:
    """Return the share of its limit that the fullest window held; audited limits are no bound and don't count."""
    shares = [fill.ratio for fill in report.worst.values()]
    shares += [use.ratio for use in report.limits if use.declared.mode == ENFORCE]
    return f"{max(shares, default=0.0):.1%}"
