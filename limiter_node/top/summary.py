"""The view's first lines: the servers that are up, and the totals over all nodes.

Pure: a `Frame` and the width go in, lines come out.
"""

from __future__ import annotations

from collections.abc import Iterable

from rich.text import Text

from limiter_node.chart import Glyphs, columns
from limiter_node.top.cells import milliseconds, percent, rate
from limiter_node.top.frame import Frame, Totals
from limiter_node.top.table import BAD, FAINT, GOOD, WARN

_RARE = frozenset(("revoked_key", "expired_key", "disabled_key"))
"""Outcomes that are shown only where there are any, because a narrow terminal has no room for all."""
_TOKENS = {"input": "input", "reserved": "output reserved", "output": "output produced"}


def title_lines(frame: Frame, width: int, hint: str, clock: str) -> list[Text]:
    """Return the first line: the servers that are up and, if there is room, a hint and the time on the right."""
    line = Text.assemble(("limiter-node top", "bold"))
    if frame.nodes is not None:
        line.append_text(_up("nodes", frame.nodes_up, len(frame.nodes)))
        if frame.live_nodes is not None and frame.live_nodes > len(frame.nodes):
            line.append(f" ({frame.live_nodes} announced)", FAINT)
    if frame.shards is not None:
        line.append_text(_up("shards", frame.shards_up, len(frame.shards)))
    if frame.shards_cut_off:
        line.append(f"   {frame.shards_cut_off} cut off", BAD)
    for right in (f"{hint}   {clock}", clock):
        room = width - len(line.plain) - len(right)
        if room > 2:
            return [line.append(" " * room).append(right, FAINT)]
    return [line]


def _up(what: str, up: int, of: int) -> Text:
    return Text.assemble("   ", f"{what} ", (f"{up}/{of} up", GOOD if up == of > 0 else BAD))


def totals_lines(frame: Frame, width: int, glyphs: Glyphs) -> list[Text]:
    """Return the totals over all nodes; no line without nodes."""
    if frame.nodes is None:
        return []
    totals = frame.totals
    if totals is None:
        return [Text("decisions/s  -", FAINT)]
    head = Text.assemble(("decisions/s ", "bold"), (f"{rate(totals.decisions, 9):>9}", "bold"), "   ")
    for label, each in (("p50 ms", totals.p50_s), ("p99 ms", totals.p99_s)):
        head.append_text(_pair(label, f"{milliseconds(each):<4}")).append("  ")
    history = frame.history[-max(width - len(head.plain), 1) :]
    head.append(columns(history, 1, glyphs)[0], "cyan")
    reasons = [_pair(name.replace("_", " "), rate(n, 9)) for name, n in totals.reasons.items()]
    tokens = [_pair(name, rate(totals.tokens[what], 9)) for what, name in _TOKENS.items()]
    lines = [head, *_flow(_outcomes(totals), width)]
    lines += _flow([_pair("rejected by", ""), *reasons], width)
    lines += _flow([_pair("tokens/s", ""), *tokens], width)
    if any(totals.degraded.values()) or totals.shed:
        without = [(what, rate(n, 9)) for what, n in totals.degraded.items()]
        bad = [_pair("without the store", "", BAD), *(_pair(*each) for each in without)]
        lines += _flow([*bad, _pair("shed", rate(totals.shed, 9), BAD if totals.shed else "")], width)
    return lines


def _outcomes(totals: Totals) -> Iterable[Text]:
    styles = {"admitted": GOOD, "rejected": WARN}
    for outcome, per_second in totals.outcomes.items():
        if outcome in _RARE and not per_second:
            continue
        share = per_second / totals.decisions if totals.decisions else 0
        yield _pair(
            outcome.replace("_", " "),
            f"{rate(per_second, 9)}{f' ({percent(share)})' if share >= 0.01 else ''}",
            styles.get(outcome, ""),
        )


def _pair(label: str, value: str, style: str = "") -> Text:
    return Text.assemble((label, style or FAINT), " " if value else "", value)


def _flow(items: Iterable[Text], width: int) -> list[Text]:
    """Return the items with three spaces between them, in as many lines as needed."""
    lines: list[Text] = []
    for item in items:
        if lines and len(lines[-1].plain) + 3 + len(item.plain) <= width:
            lines[-1].append("   ").append_text(item)
        else:
            lines.append(item.copy())
    return lines
