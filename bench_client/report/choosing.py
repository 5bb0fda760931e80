"""Which windows a page draws: the fullest ones, and those of limits that rejected, of plain keys and of all others."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from bench_client.audit.units import DIMENSIONS
from bench_client.audit.windows import share_used
from bench_client.report.audit_figures import AuditedLimit
from bench_client.report.collect import KeyUse
from bench_client.report.shown_limits import PlainLimit, TreeLimit

SHOWN_KEYS = 4
SHOWN_LIMITS = 6


def choose_keys(keys: dict[str, KeyUse], fullest: dict[str, str]) -> list[PlainLimit]:
    """Return the windows of plain keys to show: the fullest ones, then those of the busiest keys.

    The busiest keys' windows are of the limits that bound them. ``fullest`` names, by dimension, the key with the
    audit's fullest window. Dimensions that rejected nothing are passed over, unless none did.
    """
    bound = {d for use in keys.values() for d in use.rejected} & set(DIMENSIONS) or set(DIMENSIONS)
    shown = [PlainLimit(fullest[d], d) for d in DIMENSIONS if d in bound and d in fullest]
    for key, use in sorted(keys.items(), key=lambda item: (-item[1].requests, item[0])):
        if len(shown) >= SHOWN_KEYS:
            break
        if any(use.used) and all(each.key != key for each in shown):
            shown.append(PlainLimit(key, _binding(use)))
    return shown


def in_order(limits: Iterable[AuditedLimit], shared: Collection[str]) -> list[AuditedLimit]:
    """Return the limits: those that rejected, those that would have, the others; of each kind the fullest first.

    Of equally full ones, by whole percent, those come first that rejected most: many keys may be at their limits while
    their account is a token below its own. Of the keys' own limits of one unit and window, the first stands for all:
    the others come after all else of their kind. ``shared``: the subjects that aren't single keys.
    """
    met: set[object] = set()
    order = []
    by_fullness = sorted(limits, key=lambda each: (_kind(each), -round(each.share, 2), -each.rejected_or_would_have))
    for place, each in enumerate(by_fullness):
        alike = (_kind(each), each.subject if each.subject in shared else "", *each[1:4])
        order.append((_kind(each), alike in met, place))
        met.add(alike)
    return [by_fullness[place] for _, _, place in sorted(order)]


def choose_limits(
    limits: Iterable[AuditedLimit], declared: Iterable[TreeLimit]
) -> list[tuple[AuditedLimit, TreeLimit]]:
    """Return the first of ``limits``, which are in order, to show.

    A limit whose name and window two keys without an account share is passed over: the audit's figures don't tell
    which of them is meant.
    """
    known: dict[object, list[TreeLimit]] = {}
    for limit in declared:
        known.setdefault(limit.limit[:4], []).append(limit)
    certain = [(each, known[each[:4]]) for each in limits if each[:4] in known]
    return [(each, found[0]) for each, found in certain if len(found) == 1][:SHOWN_LIMITS]


def _kind(limit: AuditedLimit) -> int:
    return 0 if limit.rejected else 1 if limit.would_have_rejected else 2


def _binding(use: KeyUse) -> str:
    """Return the limit that rejected most; if none did, the one of which most was used."""
    place = max(range(3), key=lambda d: (use.rejected[DIMENSIONS[d]], share_used(use.used[d], use.limits[d])))
    return DIMENSIONS[place]
