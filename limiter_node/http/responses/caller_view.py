"""The part of a path that its caller may see, and how headers and messages name it.

With ``show = "own"`` a caller sees neither names nor numbers above its key: its own limits only, and its own name
without the account's.
"""

from __future__ import annotations

import re
from typing import Final

from limiter_node.limits import Amounts
from limiter_node.plans import Plan, PlannedWindow
from limiter_node.policy import TOKENS, UNITS

_OWN: Final = "own"
_ABOVE_KEY: Final = "account"
"""Stands in headers for a limit that the caller must not see."""

_NOT_IN_HEADERS: Final = re.compile(r'[^ -~]|[%,"\\]|^ | $')
"""Characters that a header or one of its quoted strings can't hold, that split lists, or that readers strip."""


def sees(plan: Plan, window: PlannedWindow) -> bool:
    """Whether the caller may see the names and numbers of `window`."""
    return plan.show != _OWN or window.is_own or plan.is_flat


def shown_key(plan: Plan) -> str:
    """Return the key's name as its caller sees it: ``acme/alice``, or ``alice``."""
    return plan.who if plan.show != _OWN or plan.is_flat else plan.who.partition("/")[2]


def shown_subject(plan: Plan, window: PlannedWindow) -> str:
    """Return the name of the subject of a window that the caller sees."""
    return shown_key(plan) if window.subject == plan.who else window.subject


def shown_limit(plan: Plan, window: PlannedWindow, unit: int) -> str:
    """Return a limit as headers name it: ``acme/research requests/1d``; ``account`` if the caller must not see it."""
    if not sees(plan, window):
        return _ABOVE_KEY
    return header_text(f"{shown_subject(plan, window)} {UNITS[unit]}/{window.per}")


def header_text(text: str) -> str:
    """Return `text` for a header or a quoted string within one; what neither can hold is percent-encoded (UTF-8)."""
    return _NOT_IN_HEADERS.sub(_percent_encoded, text)


def used_of(used: Amounts, unit: int) -> int:
    """Return the usage of a unit; ``tokens`` is the sum of input and output."""
    return used[1] + used[2] if unit == TOKENS else used[unit]


def reset_ms_of(reset_ms: Amounts, unit: int) -> int:
    """Return the time until nothing of a unit is used; of ``tokens``, the later of input's and output's."""
    return max(reset_ms[1], reset_ms[2]) if unit == TOKENS else reset_ms[unit]


def _percent_encoded(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match[0].encode("utf-8", "surrogatepass"))
