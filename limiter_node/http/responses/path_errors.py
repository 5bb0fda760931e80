"""The sentence of a 429 on a path: it names the limit that rejected by unit, window and subject, with its numbers.

The pattern is that of plain keys, which clients parse: ``Rate limit reached for WHO on WHAT: Limit …, Used …, Requested
…. Please try again in ….``
"""

from __future__ import annotations

from typing import Final

from limiter_node.decisions import Decision, Outcome
from limiter_node.http.responses.caller_view import sees, shown_key, shown_subject, used_of
from limiter_node.http.responses.durations import duration_text
from limiter_node.limits import WINDOW_MS
from limiter_node.plans import Plan, PlannedWindow
from limiter_node.policy import UNITS

PER_MINUTE: Final = (
    "requests per min (RPM)",
    "input tokens per min (input TPM)",
    "output tokens per min (output TPM)",
    "tokens per min (TPM)",
)
"""The names of limits per minute in messages, in the order of `UNITS`."""


def rejection_message(decision: Decision) -> str:
    """Return the message of a rejection by a limit on a path.

    Of a limit that the caller must not see, it says the unit alone.
    """
    path, unit = decision.path, decision.dimension
    assert path is not None, "a decision about a plain key"
    plan, window = path.plan, path.plan.windows[path.exceeded]
    numbers = [f"Requested {used_of(decision.need, unit)}"]
    if sees(plan, window):
        on = _described(plan, window, unit)
        if decision.outcome is Outcome.REJECTED:
            numbers.insert(0, f"Used {path.used_of(path.exceeded, unit)}")
        numbers.insert(0, f"Limit {window.enforced[unit]}")
    else:
        on = f"{_unit_words(unit)} of its account"
    beginning = "Request too large" if decision.outcome is Outcome.NEVER_FITS else "Rate limit reached"
    message = f"{beginning} for {shown_key(plan)} on {on}: {', '.join(numbers)}."
    if decision.outcome is Outcome.NEVER_FITS:
        return message
    return f"{message} Please try again in {duration_text(decision.retry_after_ms)}."


def _described(plan: Plan, window: PlannedWindow, unit: int) -> str:
    """Return a limit in words: ``requests per 1d of acme/research``; without the subject if it is the key itself."""
    words = PER_MINUTE[unit] if window.per_ms == WINDOW_MS else f"{_unit_words(unit)} per {window.per}"
    if window.models:
        words += f" for {', '.join(window.models)}"
    return words if window.subject == plan.who else f"{words} of {shown_subject(plan, window)}"


def _unit_words(unit: int) -> str:
    return UNITS[unit].replace("_", " ")
