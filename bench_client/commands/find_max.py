"""``bench-client find-max``: trials by ``run``, the search's verdict on each, and the curve as a table and as JSON."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench_client.commands.run import Say, run
from bench_client.commands.search import Search, Verdict
from bench_client.errors import BenchError, BenchUsageError
from bench_client.records.out_directory import refuse_to_replace
from bench_client.records.run_directory import make_directory, write_json
from bench_client.results.summary import Summary, percentiles_ms
from bench_client.results.tables import number, table
from bench_client.results.unserved import failure_message
from bench_client.settings import RunSettings, SendingSettings, WorkloadSettings

FIND_MAX_NAME = "find-max.json"
SLO_SHARE = 0.99
"""The share of requests that must be answered within the target: what a target for p99 demands."""
NOTED_REJECTIONS = 0.03
"""Above this share of 429s, a note says that rejections shaped the result."""


@dataclass(frozen=True, slots=True)
class FindMaxSettings:
    """Describe the search, and how each trial is sent."""

    workload: WorkloadSettings
    """The workload of a trial, whose rate each trial replaces."""
    sending: SendingSettings
    targets: tuple[str, ...]
    keys: Path
    slo_p99_ms: float
    lowest: float
    highest: float
    precision: float
    """As a share, 0.05 for 5 %."""
    max_trials: int
    out: Path | None
    force: bool = False
    """Whether to replace a curve that ``out`` holds already."""

    def __post_init__(self) -> None:
        """Raises BenchUsageError when the settings contradict one another."""
        if self.lowest > self.highest:
            raise BenchUsageError("--from is above --to; lower it")


@dataclass(frozen=True, slots=True)
class Trial:
    """Hold the result of one trial of one rate."""

    rate: float
    """Requests/s of the search; ``offered`` is the rate of the resulting schedule."""
    verdict: Verdict
    offered: float
    achieved: float
    latency_ms: dict[str, float]
    requests: int
    errors: int
    """Requests without an answer, and answers other than 200 and a 429 of the limiter."""
    rejected: int
    cause: str
    """Reason why the rate was missed, in words; empty if it was held."""


@dataclass(slots=True)
class FoundMax:
    """Hold the end of a search; ``failure`` says what ended it early, if anything did."""

    settings: FindMaxSettings
    search: Search[Trial] = field(repr=False)
    failure: str | None = None

    @property
    def found(self) -> bool:
        return self.search.found is not None

    def as_dict(self) -> dict[str, object]:
        """Return the contents of ``find-max.json``."""
        found, missed = self.search.found, self.search.missed
        return {
            "slo_p99_ms": self.settings.slo_p99_ms,
            "targets": list(self.settings.targets),
            "processes": self.settings.sending.processes,
            "highest_qps": found.rate if found else None,
            "limit": missed.verdict if missed else None,
            "verdict": self.verdict,
            "failure": self.failure,
            "trials": self.search.trials,
        }

    @property
    def verdict(self) -> str:
        """Return the last line of the command's output."""
        search, target = self.search, f"p99 ≤ {self.settings.slo_p99_ms:g} ms"
        found, missed = search.found, search.missed
        if found is None:
            if not search.trials:
                return "no rate was tried"
            if missed is not None and missed.rate <= search.lowest:
                return f"not even {missed.rate:,.0f} requests/s hold {target}: {missed.cause}"
            return f"no rate that holds {target} was confirmed in {len(search.trials)} trials"
        rate = f"{found.rate:,.0f} requests/s"
        if missed is None:
            return f"at least {rate} hold {target}: the highest rate tried"
        at = f"at {missed.rate:,.0f} requests/s"
        if missed.verdict is Verdict.CLIENT:
            return f"at least {rate} hold {target}; {at} {missed.cause}"
        return f"{rate} is the highest rate that holds {target}; the server's limit: {at} {missed.cause}"

    def text(self) -> str:
        """Return the curve by rate, notes and the verdict."""
        rows = [["offered/s", "achieved/s", "p50 ms", "p99 ms", "p99.9 ms", "429", "errors", "verdict"]]
        for trial in sorted(self.search.trials, key=lambda trial: trial.rate):
            latencies = [number(trial.latency_ms.get(name)) for name in ("p50", "p99", "p99_9")]
            rows.append(
                [
                    f"{trial.offered:,.0f}",
                    f"{trial.achieved:,.0f}",
                    *latencies,
                    f"{trial.rejected:,}",
                    f"{trial.errors:,}",
                    trial.verdict + (", confirmed" if trial is self.search.found else ""),
                ]
            )
        lines = [table(rows, left=(7,))] if self.search.trials else []
        requests = sum(trial.requests for trial in self.search.trials)
        rejected = sum(trial.rejected for trial in self.search.trials)
        if rejected > NOTED_REJECTIONS * requests:
            lines.append(
                f"  note: {rejected / requests:.0%} of the answers were 429, so the keys' limits shaped the result, "
                "not only the server's speed; use keys with higher limits"
            )
        return "\n".join([*lines, self.verdict])


def find_max(settings: FindMaxSettings, say: Say) -> FoundMax:
    """Make the trials, and write the curve to ``out`` if that is given.

    Raises BenchUsageError for wrong settings, BenchError when the first trial can't be made. An error in a later trial
    becomes the result's ``failure``.
    """
    if settings.out is not None:
        if not settings.force:
            refuse_to_replace(settings.out, FIND_MAX_NAME)
        make_directory(settings.out)
    with tempfile.TemporaryDirectory(prefix="bench-client-") as directory:
        search = Search(
            _trials(settings, Path(directory), say),
            settings.lowest,
            settings.highest,
            settings.precision,
            settings.max_trials,
        )
        found = FoundMax(settings, search)
        try:
            search.run()
        except BenchError as error:
            if not search.trials:
                raise
            found.failure = str(error)
    if settings.out is not None:
        write_json(settings.out / FIND_MAX_NAME, found.as_dict())
    return found


def _trials(settings: FindMaxSettings, directory: Path, say: Say) -> Callable[[float], Trial]:
    made = 0

    def quiet(line: str) -> None:
        if not made:
            say(line)

    def trial(rate: float) -> Trial:
        nonlocal made
        # Each trial has its own seed: a confirmation with the same one would only repeat the trial it confirms.
        workload = replace(settings.workload, qps=rate, seed=settings.workload.seed + made)
        # If a target is no longer ready between two trials, the search reports that instead of waiting.
        sending = replace(settings.sending, wait_ready_s=0.0) if made else settings.sending
        result = run(RunSettings(workload, sending, settings.targets, settings.keys, directory, force=True), quiet)
        made += 1
        if result.info.interrupted:
            raise BenchError("interrupted")
        judged = judge(rate, result.summary, settings.slo_p99_ms)
        say(f"trial {made}: {rate:,.0f} requests/s: {judged.cause or judged.verdict}")
        return judged

    return trial


def judge(rate: float, summary: Summary, slo_p99_ms: float) -> Trial:
    """Judge whether 99 of 100 requests were answered within the target, and if not, whether server or client failed."""
    total = summary.total
    others = total.other_statuses
    errors = total.errors.total() + others.total()
    latency_ms = percentiles_ms(total.latency_us)
    verdict, cause = Verdict.HELD, ""
    if not total.requests or errors > (1 - SLO_SHARE) * total.requests:
        names = {**{str(status): n for status, n in others.items()}, **total.errors}
        verdict = Verdict.ERRORS
        kinds = ", ".join(f"{count:,} {name}" for name, count in names.items())
        cause = f"{errors:,} of {total.requests:,} requests failed ({kinds})"
        if total.statuses:
            cause = failure_message(total) or cause
    elif (at_ms := _percentile_of_all_ms(summary, errors)) > slo_p99_ms:
        verdict, cause = Verdict.LATENCY, f"p99 was {at_ms:,.1f} ms"
    # Only the server causes a wrong status; a client that reads too late can cause timeouts.
    may_be_the_clients = others.total() <= (1 - SLO_SHARE) * total.requests
    if verdict is not Verdict.HELD and summary.client.bottleneck and may_be_the_clients:
        verdict, cause = Verdict.CLIENT, summary.client.remark or ""
    return Trial(
        rate,
        verdict,
        summary.target_qps,
        summary.achieved_qps,
        latency_ms,
        total.requests,
        errors,
        total.rejected_total,
        cause,
    )


def _percentile_of_all_ms(summary: Summary, errors: int) -> float:
    """Return the latency within which 99 % of all requests were answered, as if the failed ones had taken forever."""
    requests = summary.total.requests
    share = SLO_SHARE * requests / (requests - errors)
    return float(summary.total.latency_us.get_value_at_percentile(100 * share)) / 1000
