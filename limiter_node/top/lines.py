"""A frame as plain lines, for files, pipes and dumb terminals: each begins with its kind, and can be grepped.

``top`` has the sums over all nodes and shards; ``down`` and ``cut_off`` lines follow for problems, then ``account``
lines for accounts and teams with their tightest limits, and ``key`` lines for the hottest keys. Numbers are plain,
rates per second, times in ms.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime

from limiter_node.chart import Glyphs
from limiter_node.limits import DIMENSIONS
from limiter_node.store.admin.limit_heat import LimitHeat
from limiter_node.top.cells import key_name, milliseconds, percent, printable
from limiter_node.top.frame import Frame

_BARE = re.compile(r"[\w.,:/@%+>…~-]+\Z")


def frame_lines(frame: Frame, glyphs: Glyphs) -> list[str]:
    """Return the lines of one frame."""
    return [_fields("top", _summary(frame)), *_wrong(frame), *_accounts(frame), *_keys(frame, glyphs)]


def _summary(frame: Frame) -> Iterator[tuple[str, str]]:
    yield "time", datetime.fromtimestamp(frame.time_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if frame.nodes is not None:
        yield "nodes", f"{frame.nodes_up}/{len(frame.nodes)}"
    if frame.shards is not None:
        yield "shards", f"{frame.shards_up}/{len(frame.shards)}"
    totals = frame.totals
    if totals is not None:
        yield "cut_off", str(frame.shards_cut_off)
        yield "requests/s", _number(totals.requests)
        yield "decisions/s", _number(totals.decisions)
        for outcome, per_second in totals.outcomes.items():
            yield f"{outcome}/s", _number(per_second)
        for reason, per_second in totals.reasons.items():
            yield f"by_{reason}/s", _number(per_second)
        yield "degraded/s", _number(sum(totals.degraded.values()))
        yield "shed/s", _number(totals.shed)
        yield "p50_ms", milliseconds(totals.p50_s)
        yield "p99_ms", milliseconds(totals.p99_s)
        yield "in_flight", _number(sum(row.in_flight or 0 for row in frame.nodes or ()))
        yield "waiting", _number(sum(row.waiting or 0 for row in frame.nodes or ()))
    if frame.shards is not None:
        yield "seen_keys", str(frame.walk.seen)
        yield "seen_accounts", str(frame.walk.accounts)
        yield "walked", "100%" if frame.walk.is_whole else percent(frame.walk.share)


def _wrong(frame: Frame) -> Iterator[str]:
    for node in frame.nodes or ():
        if node.problem:
            yield _fields("down", [("node", node.target), ("reason", node.problem)])
    if frame.store_problem:
        yield _fields("down", [("store", frame.store_name), ("reason", frame.store_problem)])
    for shard in frame.shards or ():
        if shard.reading.problem:
            yield _fields("down", [("shard", shard.reading.address), ("reason", shard.reading.problem)])
        if shard.cut_off_by:
            yield _fields("cut_off", [("shard", shard.reading.address), ("by", ",".join(shard.cut_off_by))])


def _accounts(frame: Frame) -> Iterator[str]:
    for each in frame.tightest:
        yield _fields("account", [("name", printable(each.name)), *_tightest(each)])


def _tightest(limit: LimitHeat) -> list[tuple[str, str]]:
    return [
        ("heat", percent(limit.heat)),
        ("limit", printable(limit.limit)),
        ("used", f"{limit.used}/{limit.amount}"),
    ]


def _keys(frame: Frame, glyphs: Glyphs) -> Iterator[str]:
    for key in frame.hottest:
        if isinstance(key, LimitHeat):
            yield _fields("key", [("name", key_name(key, glyphs)), *_tightest(key)])
            continue
        uses = [(name, f"{used}/{limit}") for name, used, limit in zip(DIMENSIONS, key.used, key.limits, strict=True)]
        yield _fields("key", [("name", key_name(key, glyphs)), ("heat", percent(key.heat)), *uses])


def _fields(kind: str, fields: Iterator[tuple[str, str]] | list[tuple[str, str]]) -> str:
    quoted = (
        f"{name}={value if _BARE.match(value) else json.dumps(value, ensure_ascii=False)}" for name, value in fields
    )
    return " ".join([kind, *quoted])


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
