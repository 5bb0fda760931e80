"""The result of an audit, and its verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import NamedTuple

from bench_client.audit.findings import PLURALS, TOO_MUCH, UNJUSTIFIED, WINDOW, Findings
from bench_client.audit.limit_use import LimitUse, fullest_table
from bench_client.audit.paths import WINDOW_MS, length_text
from bench_client.audit.units import DIMENSIONS
from bench_client.audit.windows import share_used
from bench_client.results.tables import table

EXAMPLES_SHOWN = 5
PROVED, REFUTED, INCOMPLETE = "PROVED", "REFUTED", "INCOMPLETE"
OTHER_LIMITS = "with other limits than requests, input and output tokens per minute"


class WorstFill(NamedTuple):
    """Describe the fullest window of plain keys in one unit."""

    used: int
    limit: int
    key: str
    time_ms: int
    """When the window's newest admission was decided, by the store's clock."""

    @property
    def ratio(self) -> float:
        return share_used(self.used, self.limit)


class NotJudged(NamedTuple):
    """Count keys that were not judged, and their requests."""

    keys: int
    requests: int
    why: str
    """Follows "of N keys"."""

    def __str__(self) -> str:
        return f"{self.requests:,} requests of {self.keys:,} key{'s' if self.keys > 1 else ''} {self.why}"


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
    not_judged: list[NotJudged] = field(default_factory=list)
    unknown_limits: tuple[str, ...] = ()
    """Limits in the keys file that this client doesn't know, in words."""
    limits: list[LimitUse] = field(default_factory=list)
    """Limits of the tree, the fullest first. All other figures but ``worst`` are of plain keys, too."""
    changed_limits: int = 0
    """Limits that responses announced with another amount than the keys file declares."""
    plain_keys: int = 0
    window_ms: int = WINDOW_MS
    span_ms: int = 0
    """Time from the first decision to the last, by the store's clock."""

    @property
    def never_slid(self) -> str | None:
        """Return a note on the windows that are longer than the run; None if there are none."""
        lengths = {each.declared.per_ms for each in self.limits if not each.slid}
        if self.span_ms < self.window_ms and (self.plain_keys or not self.limits):
            lengths.add(self.window_ms)
        if not lengths:
            return None
        words = ", ".join(_length_words(per_ms) for per_ms in sorted(lengths))
        return (
            f"no {words} window has slid: the decisions span {self.span_ms // 100 / 10} s, so "
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
        not_judged = [f"not judged: {each}" for each in self.not_judged]
        unknown = [f"the keys file has limits that this client doesn't know: {'; '.join(self.unknown_limits)}"]
        return *self.missing, *not_judged, *(unknown if self.unknown_limits else ())

    @property
    def keys_not_judged(self) -> int:
        return sum(each.keys for each in self.not_judged)

    @property
    def requests_not_judged(self) -> int:
        return sum(each.requests for each in self.not_judged)

    @property
    def proved(self) -> bool:
        return self.word == PROVED

    @property
    def verdict(self) -> str:
        """Return the last line of an audit."""
        if self.word == INCOMPLETE:
            return f"audit: INCOMPLETE {'; '.join(self.gaps)}"
        if self.proved:
            justified = f"{self.rejections_held:,} of {self.rejected:,} rejections justified within"
            if not self.limits:
                return (
                    f"audit: PROVED no {self.window_ms / 1000:g} s window over its limit "
                    f"({self.windows:,} windows, {self.keys:,} keys), {justified} 100 ms"
                )
            return (
                f"audit: PROVED no window over its limit ({self.windows:,} windows, "
                f"{len(self.limits) + len(DIMENSIONS) * self.plain_keys:,} limits, {self.keys:,} keys), "
                f"{justified} one bucket of its window"
            )
        found = ", ".join(f"{n:,} {PLURALS.get(kind, kind)}" for kind, n in self.findings.counts.most_common())
        return f"audit: REFUTED {found}"

    def text(self) -> str:
        """Return the table, findings and notes, without the verdict line."""
        rows = [
            ["keys", f"{self.keys:,}"],
            ["admitted", f"{self.admitted:,}"],
            ["rejected", f"{self.rejected:,}"],
            [f"{'' if self.limits else f'{self.window_ms / 1000:g} s '}windows checked", f"{self.windows:,}"],
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
        if self.limits:
            lines += fullest_table(self.limits)
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
            "not_judged": [str(each) for each in self.not_judged],
            "complete": not self.missing,
            "missing": list(self.missing),
            "limits": [each.as_dict() for each in self.limits],
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
        notes += (f"  not judged: {each}; all figures are of the other keys" for each in self.not_judged)
        notes += (f"  not known to this client: {each}" for each in self.unknown_limits)
        if self.changed_limits:
            notes.append(
                f"  responses announced {self.changed_limits:,} limits with other amounts than the keys file declares: "
                "the announced ones count"
            )
        if self.missing:
            notes.append(
                f"  the records are not complete ({'; '.join(self.missing)}): {self.rejections_held:,} of "
                f"{self.rejected:,} rejections could be held against all requests before them, and windows only "
                "against the recorded requests"
            )
        if set(self.findings.counts) & {UNJUSTIFIED, TOO_MUCH}:
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


def _length_words(per_ms: int) -> str:
    """Return a window's length in words: seconds up to a minute, as in all other figures of plain keys."""
    return f"{per_ms / 1000:g} s" if per_ms <= WINDOW_MS else length_text(per_ms)
