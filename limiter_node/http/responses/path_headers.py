"""The headers about limits for a request on a path: a key of an account, or a flat key with more than three limits.

`x-ratelimit-*` are of the enforcing limits of exactly one minute: for each unit, the one with the fewest remaining,
then the smallest; absent where there is none. `RateLimit-Policy` and `RateLimit` list all enforcing limits in the same
order, the smallest share remaining first. `x-limiter-audit` names audited limits that would have rejected.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from limiter_node.decisions import Decision, Outcome
from limiter_node.http.responses.caller_view import header_text, sees, shown_limit, used_of
from limiter_node.http.responses.durations import duration_text
from limiter_node.limits import WINDOW_MS
from limiter_node.plans import Plan, PlannedWindow
from limiter_node.policy import ENFORCE, TOKENS, Limit

MAX_LISTED: Final = 16
"""Limits listed in one header: a path may have hundreds, and clients bound their heads."""
MAX_LIST_CHARS: Final = 4_096
"""Length of one list: percent-encoded, a name of 128 characters can take 1,536, and aiohttp reads lines up to 8,190
bytes, Node.js heads up to 16 KiB."""
MAX_PLANS: Final = 2_048
"""Plans whose lines are kept, some KiB each."""

_HEADER_UNITS: Final = ("requests", "input-tokens", "output-tokens")
_FLAT_NAMES: Final = ("rpm", "input-tpm", "output-tpm")
"""The names of a flat key's limits per minute, which it has as a plain key, too."""


class _Enforced(NamedTuple):
    """One enforcing limit. `name`: a quoted string; `policy`: its item in `RateLimit-Policy`."""

    window: int
    unit: int
    amount: int
    is_per_minute: bool
    name: str
    policy: str


class _Audited(NamedTuple):
    """One audited limit."""

    window: int
    unit: int
    amount: int
    name: str


_Tightest = tuple[int, int, int]
"""Remainder, amount, and time until nothing is used, in ms: of one unit's limits the smallest tuple is the tightest."""


class _PlanLines:
    """Hold all that is rendered from a plan alone."""

    __slots__ = ("_order", "_policies", "audited", "enforced", "max_audited", "max_enforced")

    def __init__(self, plan: Plan) -> None:
        self.enforced: list[_Enforced] = []
        self.audited: list[_Audited] = []
        for index, window in enumerate(plan.windows):
            if not sees(plan, window):
                continue
            for limit in window.limits:
                if limit.mode == ENFORCE:
                    self.enforced.append(_enforced(plan, index, window, limit))
                else:
                    name = header_text(limit.name) or shown_limit(plan, window, limit.unit)
                    self.audited.append(_Audited(index, limit.unit, limit.amount, name))
        self.max_enforced = _max_listed(each.policy for each in self.enforced)
        self.max_audited = _max_listed(each.name for each in self.audited)
        self._order: list[int] = []
        self._policies = ""

    def policies(self, order: list[int]) -> str:
        """Return `RateLimit-Policy` in this order. The last one is kept: the order changes much less than the usage."""
        if order != self._order:
            self._order = order
            self._policies = f"RateLimit-Policy: {', '.join([self.enforced[each].policy for each in order])}\r\n"
        return self._policies


class PathHeaders:
    """Render the headers about the limits on a path, as blocks of lines that each end with CRLF."""

    __slots__ = ("_lines",)

    def __init__(self) -> None:
        self._lines: dict[Plan, _PlanLines] = {}  # plans are equal only if they are the same object

    def lines(self, decision: Decision) -> str:
        """Return the lines of a decision with a path, admitted or not."""
        path = decision.path
        assert path is not None, "a decision about a plain key"
        plan, used, resets_ms, tokens_used = path.plan, path.used, path.reset_ms, path.tokens
        lines = self._lines.get(plan)
        if lines is None:
            lines = self._render_plan(plan)
        rows: list[tuple[float, int, str]] = []
        tightest: list[_Tightest | None] = [None, None, None, None]
        # Written out, without calls: it runs for every limit on the path of every request.
        for index, (window, unit, amount, is_per_minute, name, _) in enumerate(lines.enforced):
            if unit == TOKENS:
                _, used_input, used_output = used[window]
                _, input_ms, output_ms = resets_ms[window]
                in_use = tokens_used[window] if tokens_used else used_input + used_output
                reset_ms = input_ms if input_ms > output_ms else output_ms
            else:
                in_use, reset_ms = used[window][unit], resets_ms[window][unit]
            remaining = amount - in_use if amount > in_use else 0
            share = remaining / amount if amount else 0.0
            rows.append((share, index, f"{name};r={remaining};t={-(-reset_ms // 1_000)}"))
            if is_per_minute:
                state, known = (remaining, amount, reset_ms), tightest[unit]
                if known is None or state < known:
                    tightest[unit] = state
        block = "".join([_minute_lines(name, state) for name, state in zip(_HEADER_UNITS, tightest[:3], strict=True)])
        if tokens := [state for state in tightest[1:] if state is not None]:
            block += _minute_lines("tokens", min(tokens))
        if rows:
            rows.sort()
            del rows[lines.max_enforced :]
            policies = lines.policies([index for _, index, _ in rows])
            block += f"{policies}RateLimit: {', '.join([item for _, _, item in rows])}\r\n"
        if lines.audited and (names := _would_have_rejected(lines, decision)):
            block += f"x-limiter-audit: {', '.join(names)}\r\n"
        return block

    def _render_plan(self, plan: Plan) -> _PlanLines:
        if len(self._lines) >= MAX_PLANS:
            del self._lines[next(iter(self._lines))]  # the oldest: policies that changed leave their plans behind
        lines = self._lines[plan] = _PlanLines(plan)
        return lines


def binding_limit(decision: Decision) -> str:
    """Return the line that names the limit that rejected."""
    path = decision.path
    assert path is not None, "a decision about a plain key"
    return f"x-limiter-limit: {shown_limit(path.plan, path.plan.windows[path.exceeded], decision.dimension)}\r\n"


def _enforced(plan: Plan, index: int, window: PlannedWindow, limit: Limit) -> _Enforced:
    is_per_minute = window.per_ms == WINDOW_MS
    if plan.is_flat and is_per_minute and not window.models and limit.unit < len(_FLAT_NAMES):
        name = f'"{_FLAT_NAMES[limit.unit]}"'
    else:
        name = f'"{shown_limit(plan, window, limit.unit)}"'
    policy = f"{name};q={limit.amount};w={-(-window.per_ms // 1_000)}"
    return _Enforced(index, limit.unit, limit.amount, is_per_minute, name, policy)


def _minute_lines(unit: str, state: _Tightest | None) -> str:
    if state is None:
        return ""
    remaining, amount, reset_ms = state
    return (
        f"x-ratelimit-limit-{unit}: {amount}\r\n"
        f"x-ratelimit-remaining-{unit}: {remaining}\r\n"
        f"x-ratelimit-reset-{unit}: {duration_text(reset_ms)}\r\n"
    )


def _max_listed(items: Iterable[str]) -> int:
    """Return how many of `items` one list has at most: any so many of them are short enough."""
    count, chars = 0, 0
    for length in sorted(map(len, items), reverse=True)[:MAX_LISTED]:
        chars += length + 3  # the separator, and a digit more in a state than in its policy
        count += chars <= MAX_LIST_CHARS
    return count


def _would_have_rejected(lines: _PlanLines, decision: Decision) -> list[str]:
    """Return the names of audited limits that the request would have exceeded. A need of 0 always fits."""
    path, need = decision.path, decision.need
    assert path is not None, "a decision about a plain key"
    counted = decision.outcome is Outcome.ADMITTED  # then the usage includes the request
    names: dict[str, None] = {}
    for window, unit, amount, name in lines.audited:
        needed = used_of(need, unit)
        if needed and path.used_of(window, unit) + (0 if counted else needed) > amount:
            names[name] = None
    return list(names)[: lines.max_audited]
