"""The violations that an audit finds, and rejections whose limit can't be told for sure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from bench_client.records.record import Record

EXAMPLES_KEPT = 100
WINDOW, UNJUSTIFIED = "window over the limit", "unjustified 429"
TOO_MUCH, TOO_LITTLE = "counted too much", "counted too little"
NOT_PAID_OFF = "admitted before an overrun was paid off"
INCONSISTENT, RETRY, AUDITED = "inconsistent response", "dishonest retry-after", "wrong x-limiter-audit"
NO_DECISION = "success without a decision"
PLURALS = {WINDOW: "windows over the limit", UNJUSTIFIED: "unjustified 429s"}


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
    _votes: Counter[tuple[str, str, int]] = field(default_factory=Counter)

    def add(self, kind: str, record: Record, message: str) -> None:
        self.counts[kind] += 1
        if self.counts[kind] <= EXAMPLES_KEPT:
            self.examples.append(Finding(kind, record.key, record.request, message))

    def add_if_all(self, kind: str, record: Record, message: str, name: str, limits: int) -> None:
        """Add the finding when it has been made for each of the limits that ``name`` in the response may mean."""
        if limits > 1:
            self._votes[kind, name, record.request] += 1
            if self._votes[kind, name, record.request] < limits:
                return
        self.add(kind, record, message)
