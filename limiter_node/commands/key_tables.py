"""Tables of ``limiter-node keys``: a key's limits with their usage, and the list of keys.

Pure: takes what the store has told, returns lines of text.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from limiter_node.decisions import PathUsage, Usage
from limiter_node.declarations import AccountKey
from limiter_node.keysfile.fields import LIMIT_RANGES
from limiter_node.keysfile.key_names import key_digest_name
from limiter_node.limit_names import PER_MINUTE
from limiter_node.limits import WINDOW_MS, KeyLimits
from limiter_node.plans import limit_text, per_text, plan_of, who
from limiter_node.policy import ENFORCE, TOKENS, UNITS, Limit, PolicyWindow

_PLAIN_FIELDS = tuple(field for field in PER_MINUTE if field in LIMIT_RANGES)


def called(kid: str, name: str) -> str:
    """Return a key's name with its digest, or the digest alone."""
    return f"{name} ({key_digest_name(kid)})" if name else key_digest_name(kid)


def usage_lines(kid: str, usage: Usage) -> list[str]:
    """Return the limits and the usage of a plain key."""
    rows = [
        (what, str(limit), str(used), str(max(0, limit - used)), _in_s(reset))
        for what, limit, used, reset in zip(
            ("requests", "input tokens", "output tokens"), usage.limits, usage.used, usage.reset_ms, strict=True
        )
    ]
    table = _table(("PER 60 s", "LIMIT", "USED", "REMAINING", "ALL FREE IN"), rows, left={0})
    return [f"{called(kid, usage.name)}, output reserve {usage.output_reserve}", *table]


def path_usage_lines(stored: AccountKey, path: PathUsage) -> list[str]:
    """Return all limits on the path of a key of an account, and their usage."""
    account, key = stored
    team = f", team {key.team}" if key.team else ""
    head = f"{called(key.kid, who(account, key))}{team}, output reserve {path.plan.output_reserve}"
    rows = list(_path_rows(path))
    if not rows:
        return [head, "no limits"]
    return [head, *_table(("LIMIT", "MODE", "AMOUNT", "USED", "REMAINING", "ALL FREE IN"), rows, left={0, 1})]


def _path_rows(path: PathUsage) -> Iterator[tuple[str, ...]]:
    for window, used, reset_ms in zip(path.plan.windows, path.used, path.reset_ms, strict=True):
        for limit in window.limits:
            if limit.unit == TOKENS:
                amount, reset = used.input_tokens + used.output_tokens, max(reset_ms[1:])
            else:
                amount, reset = used[limit.unit], reset_ms[limit.unit]
            text = limit_text(window, limit.unit)
            if window.models:
                text += f" for {', '.join(window.models)}"
            if limit.name:
                text += f" ({limit.name})"
            left = str(max(0, limit.amount - amount))
            yield text, limit.mode, str(limit.amount), str(amount), left, _in_s(reset)


def listing_lines(entries: Sequence[tuple[str, KeyLimits | AccountKey]]) -> list[str]:
    """Return a line per key under a header; with columns for teams and further limits if a key is in an account."""
    header = ("NAME", "DIGEST", *(field.upper().replace("_", " ") for field in LIMIT_RANGES))
    rows = [_row(kid, limits) for kid, limits in entries]
    if all(isinstance(limits, KeyLimits) for _, limits in entries):
        return _table(header, [row[: len(header)] for row in rows], left={0, 1})
    further = (len(header), len(header) + 1)
    return _table((*header, "TEAM", "FURTHER LIMITS"), rows, left={0, 1, *further})


def _row(kid: str, limits: KeyLimits | AccountKey) -> tuple[str, ...]:
    if isinstance(limits, KeyLimits):
        return (limits.name or "-", kid[:8], *(str(getattr(limits, field)) for field in LIMIT_RANGES), "-", "-")
    account, key = limits
    minute: dict[int, int] = {}
    further = []
    for window, limit in ((each, limit) for each in key.windows for limit in each.limits):
        is_plain = window.per_ms == WINDOW_MS and not window.models and limit.mode == ENFORCE and limit.unit != TOKENS
        if is_plain:
            minute[limit.unit] = limit.amount
        else:
            further.append(_limit_text(window, limit))
    return (
        who(account, key),
        kid[:8],
        *(str(minute.get(PER_MINUTE[field], "-")) for field in _PLAIN_FIELDS),
        str(plan_of(account, key, (), 0).output_reserve),
        key.team or "-",
        ", ".join(further) or "-",
    )


def _limit_text(window: PolicyWindow, limit: Limit) -> str:
    models = f" for {' '.join(window.models)}" if window.models else ""
    mode = "" if limit.mode == ENFORCE else f" {limit.mode}"
    return f"{limit.amount} {UNITS[limit.unit]}/{per_text(window.per_ms)}{models}{mode}"


def _in_s(reset_ms: int) -> str:
    return f"{reset_ms / 1000:.1f} s" if reset_ms else "-"


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]], *, left: Collection[int]) -> list[str]:
    """Return the lines of a table whose columns in `left` are aligned left, the others right."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    return [
        "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (header, *rows)
    ]
