"""Counts over a set of requests: by status, by the reason of a rejection, by kind of error."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from bench_client.records.record import Record, failed_upstream

REASONS = ("requests", "input_tokens", "output_tokens", "tokens")
ALL_REASONS = (*REASONS, "never_fits", "other")


@dataclass(slots=True)
class Counts:
    """Count a set of requests."""

    requests: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    """429s by the binding limit; ``never_fits`` and ``other`` (nobody's) apart. Those of a service behind the limiter
    are in ``upstream``."""
    upstream: Counter[int] = field(default_factory=Counter)
    """Statuses of requests that the limiter admitted and that failed at the service behind it."""
    errors: Counter[str] = field(default_factory=Counter)
    degraded: int = 0

    def count(self, record: Record) -> bool:
        """Count a request; return whether it got a whole response."""
        self.requests += 1
        if record.degraded is not None:
            self.degraded += 1
        if record.error is not None or record.status is None:
            self.errors[record.error or "protocol"] += 1
            return False
        self.statuses[record.status] += 1
        if failed_upstream(record):
            self.upstream[record.status] += 1
        elif record.status == 429:
            self.rejected[rejection_reason(record)] += 1
        return True

    @property
    def rejected_total(self) -> int:
        """Return the number of 429s, but for those of a service behind the limiter."""
        return self.statuses[429] - self.upstream[429]

    @property
    def other_statuses(self) -> Counter[int]:
        """Return the complete responses that are neither a success nor a rejection, by status."""
        return Counter({s: n for s, n in self.statuses.items() if s not in (200, 429)}) + Counter(
            {429: self.upstream[429]}
        )

    def as_dict(self) -> dict[str, object]:
        return {
            "requests": self.requests,
            "admitted": self.statuses[200],
            "rejected": {reason: self.rejected[reason] for reason in ALL_REASONS if self.rejected[reason]},
            "rejected_total": self.rejected_total,
            "other_statuses": {str(status): n for status, n in sorted(self.other_statuses.items())},
            "upstream_failures": {str(status): n for status, n in sorted(self.upstream.items())},
            "errors": dict(sorted(self.errors.items())),
            "errors_total": self.errors.total(),
            "degraded": self.degraded,
        }


def rejection_reason(record: Record) -> str:
    """Return why a request was rejected, one of ``ALL_REASONS``; only for a 429 that isn't an upstream's."""
    if record.never_fits:
        return "never_fits"
    return record.exceeded if record.exceeded in REASONS else "other"
