"""Limits with their usage as a table, the tightest first, and in words. Pure: takes views, returns lines."""

from __future__ import annotations

from collections.abc import Sequence

from limiter_node.commands.tables import NOTHING, number, table
from limiter_node.commands.times import length_text
from limiter_node.management.explaining import FOR_ALL_MODELS
from limiter_node.management.views import ExplainedLimit, Explanation, LimitView

_AUDIT = "audit"
NO_LIMITS = "no limits"


def limit_lines(limits: Sequence[LimitView]) -> list[str]:
    """Return a line per limit under a header."""
    if not limits:
        return [NO_LIMITS]
    rows = [
        (
            limit_text(each),
            number(each.limit),
            number(each.used),
            number(each.remaining),
            length_text(each.reset_ms) if each.reset_ms else NOTHING,
            each.mode if each.mode == _AUDIT else NOTHING,
            each.name or NOTHING,
        )
        for each in limits
    ]
    header = ("LIMIT", "AMOUNT", "USED", "LEFT", "ALL FREE IN", "MODE", "CALLED")
    return table(header, rows, left=("LIMIT", "MODE", "CALLED"))


def limit_text(limit: LimitView) -> str:
    """Return whose limit it is, and of what: ``acme/research requests/1d for o3*``."""
    models = f" for {','.join(limit.models)}" if limit.models else ""
    return f"{limit.subject} {limit.unit}/{limit.window}{models}"


def short_limit_text(limit: LimitView) -> str:
    """Return a limit without its subject: ``50,000 requests/1d for o3* (audit)``."""
    models = f" for {','.join(limit.models)}" if limit.models else ""
    mode = f" ({_AUDIT})" if limit.mode == _AUDIT else ""
    return f"{number(limit.limit)} {limit.unit}/{limit.window}{models}{mode}"


def explanation_lines(found: Explanation) -> list[str]:
    """Return which limits apply to a model, what each has left, and which rejects next, in words."""
    lines = [f"{found.who} ({found.state}), model {found.model}", found.summary]
    applying = [each for each in found.limits if each.applies]
    others = [each for each in found.limits if not each.applies]
    if applying:
        lines += ["", "These limits apply, the tightest first:"]
        lines += [f"  {limit_text(each.limit)}: {_left(each.limit)}{_reason(each)}" for each in applying]
    if others:
        lines += ["", "These do not apply:"]
        lines += [f"  {limit_text(each.limit)}: {each.why}" for each in others]
    return lines


def _left(limit: LimitView) -> str:
    free = f", all free in {length_text(limit.reset_ms)}" if limit.reset_ms else ""
    return f"{number(limit.remaining)} of {number(limit.limit)} left{free}"


def _reason(found: ExplainedLimit) -> str:
    """Return why a limit applies, or rejects; nothing if it is for all models and has room."""
    is_plain = not (found.limit.models or found.rejects or found.limit.mode == _AUDIT)
    return "" if is_plain else f" ({found.why.removeprefix(FOR_ALL_MODELS + '; ')})"
