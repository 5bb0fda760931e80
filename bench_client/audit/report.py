"""The result of an audit, and its text: a short table, the first findings in full, one verdict line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import NamedTuple

from bench_client.audit.timeline import WINDOW_MS
from bench_client.records.record import Record
from bench_client.results.tables import table

PROVED, REFUTED, INCOMPLETE = "PROVED", "REFUTED", "INCOMPLETE"
EXAMPLES_KEPT = 100
EXAMPLES_SHOWN = 5
WINDOW, UNJUSTIFIED = "window over the limit", "unjustified 429"
PLURALS = {WINDOW: "windows over the limit", UNJUSTIFIED: "unjustified 429s"}


def share_used(used: int, limit: int) -> float:
    """Return the used share of a limit. Any use of a limit of 0 is a share of 1."""
    return used / limit if limit else float(used > 0)


class WorstFill(NamedTuple):
    """Describe the fullest window of a dimension."""

    used: int
    limit: int
    key: str
    time_ms: int
    """When the window's newest admission was decided, by the store's clock."""

    @property
    def ratio(self) -> float:
        return share_used(self.used, self.limit)


class Finding(NamedTuple):
    """Describe one violation of a rule by the limiter."""

    kind: str
    key: str
    request: int
    """The request's place in the schedule, as in the records."""
    message: str


@dataclass(slots=True)
class Findings:
    """Count all violations and keep the first ones of each kind."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: list[Finding] = field(default_factory=list)

    def add(self, kind: str, key: str, record: Record, message: str) -> None:
        self.counts[kind] += 1
        if self.counts[kind] <= EXAMPLES_KEPT:
            self.examples.append(Finding(kind, key, record.request, message))


@dataclass(slots=True)
class Overruns:
    """Count tokens that services reported beyond admission and reservation: charged on settle, so in no window here."""

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    def add(self, overruns: Iterable[tuple[int, int]]) -> None:
        """Add ``overruns``: input and output tokens, per request."""
        for input_tokens, output_tokens in overruns:
            self.requests += 1
            self.input_tokens += input_tokens
            self.output_tokens += output_tokens


@dataclass(slots=True)
class AuditReport:
    """Hold the result of an audit."""

    findings: Findings
    key_names: dict[str, str]
    worst: dict[str, WorstFill]
    """By dimension."""
    worst_with_degraded: dict[str, WorstFill]
    """The same with decisions made without the store included; empty if there were none."""
    keys: int = 0
    admitted: int = 0
    failed: int = 0
    """Admitted requests without an answer from the service behind the limiter."""
    rejected: int = 0
    rejections_held: int = 0
    """Number of rejections that could be held against the bounds: all, unless the run was cut off."""
    windows: int = 0
    unknown: int = 0
    undecided: int = 0
    overruns: Overruns = field(default_factory=Overruns)
    degraded: Counter[str] = field(default_factory=Counter)
    missing: tuple[str, ...] = ()
    """Reasons why records are missing, in words."""
    keys_not_judged: int = 0
    """Keys with other limits than their own three a minute, which this audit doesn't know."""
    requests_not_judged: int = 0
    """The requests of these keys."""
    window_ms: int = WINDOW_MS
    span_ms: int = 0
    """Time from the first decision to the last, by the store's clock."""

    @property
    def never_slid(self) -> str | None:
        """Return a note on the limits of a run shorter than a window; None for a longer run."""
        if self.span_ms >= self.window_ms:
            return None
        return (
            f"no {self.window_ms / 1000:g} s window has slid: the decisions span {self.span_ms // 100 / 10} s, so "
            "time freed nothing and limits were only filled; a longer --duration tests that as well"
        )

    @property
    def word(self) -> str:
        """Return the verdict in a word. An incomplete audit can refute, by a finding, but never prove."""
        if self.findings.counts:
            return REFUTED
        return INCOMPLETE if self.gaps else PROVED

    @property
    def gaps(self) -> tuple[str, ...]:
        """Return the reasons why the audit is incomplete, in words."""
        if not self.keys_not_judged:
            return self.missing
        return *self.missing, f"not judged: {self._not_judged}"

    @property
    def _not_judged(self) -> str:
        keys = f"{self.keys_not_judged:,} key{'s' if self.keys_not_judged > 1 else ''}"
        return (
            f"{self.requests_not_judged:,} requests of {keys} with other limits than requests, input and output tokens "
            "per minute"
        )

    @property
    def proved(self) -> bool:
        return self.word == PROVED

    @property
    def verdict(self) -> str:
        """Return the last line of an audit."""
        if self.word == INCOMPLETE:
            return f"audit: INCOMPLETE {'; '.join(self.gaps)}"
        if self.proved:
            return (
                f"audit: PROVED no {self.window_ms / 1000:g} s window over its limit "
                f"({self.windows:,} windows, {self.keys:,} keys), "
                f"{self.rejections_held:,} of {self.rejected:,} rejections justified within 100 ms"
            )
        found = ", ".join(f"{n:,} {PLURALS.get(kind, kind)}" for kind, n in self.findings.counts.most_common())
        return f"audit: REFUTED {found}"

    def text(self) -> str:
        """Return the table, findings and notes, without the verdict line."""
        rows = [
            ["keys", f"{self.keys:,}"],
            ["admitted", f"{self.admitted:,}"],
            ["rejected", f"{self.rejected:,}"],
            [f"{self.window_ms / 1000:g} s windows checked", f"{self.windows:,}"],
            ["windows over the limit", f"{self.findings.counts[WINDOW]:,}"],
            ["unjustified 429s", f"{self.findings.counts[UNJUSTIFIED]:,}"],
            ["unknown outcomes", f"{self.unknown:,}"],
        ]
        rows += [[f"degraded decisions ({kind})", f"{n:,}"] for kind, n in sorted(self.degraded.items())]
        lines = [table(rows)]
        for title, fills in (("", self.worst), (", degraded ones included", self.worst_with_degraded)):
            if fills:
                lines += [
                    f"  fullest windows{title}:",
                    table([self._fill_row(*item) for item in fills.items()], indent="    "),
                ]
        lines += self._notes()
        shown: Counter[str] = Counter()
        for finding in self.findings.examples:
            shown[finding.kind] += 1
            if shown[finding.kind] <= EXAMPLES_SHOWN:
                lines.append(
                    f"  {finding.kind}: key {self._name(finding.key)}, request {finding.request}: {finding.message}"
                )
        return "\n".join(lines)

    def as_dict(self) -> dict[str, object]:
        return {
            "proved": self.proved,
            "verdict": self.verdict,
            "keys": self.keys,
            "admitted": self.admitted,
            "failed_upstream": self.failed,
            "rejected": self.rejected,
            "rejections_held": self.rejections_held,
            "windows": self.windows,
            "violations": self.findings.counts[WINDOW],
            "unjustified": self.findings.counts[UNJUSTIFIED],
            "findings": dict(self.findings.counts),
            "unknown_outcomes": self.unknown,
            "undecided": self.undecided,
            "overruns": asdict(self.overruns),
            "degraded": dict(self.degraded),
            "span_ms": self.span_ms,
            "never_slid": self.never_slid,
            "keys_not_judged": self.keys_not_judged,
            "requests_not_judged": self.requests_not_judged,
            "complete": not self.missing,
            "missing": list(self.missing),
            "worst_fill": {dimension: self._fill_dict(fill) for dimension, fill in self.worst.items()},
            "worst_fill_with_degraded": {d: self._fill_dict(fill) for d, fill in self.worst_with_degraded.items()},
            "examples": [finding._asdict() for finding in self.findings.examples],
        }

    def _notes(self) -> list[str]:
        notes = []
        if self.failed:
            notes.append(
                f"  {self.failed:,} admitted requests failed at the upstream: each must count as a request, and its "
                "tokens for at most a second"
            )
        if self.overruns.requests:
            notes.append(
                f"  overruns: for {self.overruns.requests:,} requests the service reported more than was admitted, "
                f"{self.overruns.input_tokens:,} input and {self.overruns.output_tokens:,} output tokens in all: "
                "charged on settle, outside the windows above, and to be paid off before the next admission"
            )
        if self.unknown:
            notes.append(
                f"  {self.unknown:,} requests with unknown outcome may have been admitted; each can justify later "
                "429s with up to twice its planned input and its whole reservation"
            )
        if self.never_slid:
            notes.append(f"  {self.never_slid}")
        if self.keys_not_judged:
            notes.append(f"  not judged: {self._not_judged}; all figures are of the other keys")
        if self.missing:
            notes.append(
                f"  the records are not complete ({'; '.join(self.missing)}): {self.rejections_held:,} of "
                f"{self.rejected:,} rejections could be held against all requests before them, and windows only "
                "against the recorded requests"
            )
        if set(self.findings.counts) & {UNJUSTIFIED, "counted too much"}:
            notes.append("  (if other clients used these keys during the run, their usage explains the difference)")
        return notes

    def _fill_row(self, dimension: str, fill: WorstFill) -> list[str]:
        return [
            dimension.replace("_", " "),
            f"{fill.used:,}",
            f"of {fill.limit:,}",
            f"{fill.ratio:.1%}",
            f"key {self._name(fill.key)}",
            f"at {fill.time_ms} ms",
        ]

    def _fill_dict(self, fill: WorstFill) -> dict[str, object]:
        return {**fill._asdict(), "ratio": fill.ratio, "key_name": self._name(fill.key)}

    def _name(self, key: str) -> str:
        name = self.key_names.get(key, "")
        return f"{name} ({key})" if name and name != key else key
