"""The error of a run in which no request was served or rejected: it has measured error pages, not a limiter."""

from __future__ import annotations

from collections import Counter

from bench_client.results.summary import Figures

_ADVICE = {
    400: "does the target take such requests, and the model? (--model)",
    401: "are the keys loaded in this target?",
    403: "may these keys use this target?",
    404: "does the target serve POST /v1/chat/completions, and the model? (--model)",
    413: "is --input-tokens beyond what the target takes?",
    502: "does the service behind the target answer?",
    503: "is the target's store up? its log tells",
    504: "does the service behind the target answer in time?",
}


def failure_message(figures: Figures) -> str | None:
    """Return one line with the cause and what to check; None if a request was served or rejected."""
    statuses, errors = figures.statuses, figures.errors
    if not statuses:
        return f"no request was answered ({_listed(errors)}); check the targets"
    if statuses[200] or figures.rejected_total:
        return None
    status, count = statuses.most_common(1)[0]
    advice = f": {_ADVICE[status]}" if status in _ADVICE else "; look at the target"
    if count == figures.requests:
        return f"every request was answered {status}{advice}"
    others = {f"answered {each}": n for each, n in statuses.most_common()} | dict(errors)
    return f"no request was served or rejected ({_listed(Counter(others))}){advice}"


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{count:,} {kind}" for kind, count in counts.items()) or "none was sent"
