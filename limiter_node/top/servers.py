"""The tables of nodes and shards, cut to the lines there are.

Pure. Problems are never cut: if not all rows fit, rows with a problem come first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from rich.text import Text

from limiter_node.chart import Glyphs
from limiter_node.top.cells import average, count, milliseconds, percent, rate, size
from limiter_node.top.frame import Frame, NodeRow, ShardRow
from limiter_node.top.table import BAD, WARN, WIDE, Column, Table

_NODE_COLUMNS = (
    Column("req/s", 6, "requests/s", 10),
    Column("dec/s", 6, "decisions/s", 11),
    Column("p50ms", 5, "p50 ms", 6),
    Column("p99ms", 5, "p99 ms", 6),
    Column("batch", 5, "batch", 5, is_spare=True),
    Column("in fl", 5, "in flight", 9, is_spare=True),
    Column("wait", 5, "waiting", 7),
    Column("CPU", 4, "CPU", 5),
    Column("mem", 4, "memory", 6, is_spare=True),
    Column("shed/s", 6, "shed/s", 6),
)
_SHARD_COLUMNS = (
    Column("ops/s", 7, "ops/s", 9),
    Column("CPU", 4, "CPU", 5),
    Column("mem", 4, "memory", 6, is_spare=True),
    Column("keys", 6, "keys", 9, is_spare=True),
    Column("repl", 4, "replicas", 8, is_spare=True),
)
_SHARD_COLUMNS_BY_NODES = (Column("p99ms", 5, "p99 ms", 6), Column("cut off by", 20, "cut off by", 36, is_left=True))
_CPU_BUSY, _CPU_FULL = 0.7, 0.9

_Row = TypeVar("_Row")


def node_lines(frame: Frame, width: int, most: int, glyphs: Glyphs) -> list[Text]:
    """Return the nodes in at most `most` lines, header included.

    If they don't fit, nodes that are down come first and the last line sums up the rest.
    """
    if frame.nodes is None:
        return []
    table = Table("NODES", _NODE_COLUMNS, width, width >= WIDE, glyphs)
    rows, left_out = _cut(frame.nodes, most - 1, lambda row: bool(row.problem))
    lines = [table.header(), *(_node_line(table, row) for row in rows)]
    if left_out:
        requests = sum(row.requests or 0 for row in left_out)
        up = sum(not row.problem for row in left_out)
        lines.append(table.note(f"{len(left_out)} more, {up} of them up: {rate(requests, 9)} requests/s"))
    return lines


def _node_line(table: Table, row: NodeRow) -> Text:
    if row.problem:
        return table.problem(row.target, row.problem)
    wide = 10 if table.is_wide else 6
    cells = (
        rate(row.requests, wide),
        rate(row.decisions, wide),
        milliseconds(row.p50_s),
        milliseconds(row.p99_s),
        average(row.batch),
        count(row.in_flight, 5),
        Text(count(row.waiting, 5), WARN if row.waiting else ""),
        _cpu(row.cpu),
        size(row.memory_bytes),
        Text(rate(row.shed, 6), BAD if row.shed else ""),
    )
    return table.row(row.target, cells)


def shard_lines(frame: Frame, width: int, most: int, glyphs: Glyphs) -> list[Text]:
    """Return the shards, likewise; no line without a store."""
    if frame.shards is None:
        return []
    by_nodes = frame.nodes is not None
    shard_columns = (*_SHARD_COLUMNS, *(_SHARD_COLUMNS_BY_NODES if by_nodes else ()))
    table = Table("SHARDS", shard_columns, width, width >= WIDE, glyphs)
    lines = [table.header()]
    if frame.store_problem:
        lines.append(table.problem("store", frame.store_problem))
    rows, left_out = _cut(frame.shards, most - len(lines), lambda row: bool(row.reading.problem or row.cut_off_by))
    lines += [_shard_line(table, row, frame.nodes_up, with_nodes=by_nodes) for row in rows]
    if left_out:
        ops = sum(row.reading.ops_per_s or 0 for row in left_out)
        up = sum(not row.reading.problem for row in left_out)
        lines.append(table.note(f"{len(left_out)} more, {up} of them up: {count(ops, 9)} ops/s"))
    return lines


def _shard_line(table: Table, row: ShardRow, nodes: int, *, with_nodes: bool) -> Text:
    reading = row.reading
    by_whom = "-"
    if row.cut_off_by:
        by_whom = "all nodes" if len(row.cut_off_by) == nodes > 1 else ", ".join(row.cut_off_by)
    if reading.problem:
        cut_off = f"; cut off by {by_whom}" if row.cut_off_by else ""
        return table.problem(reading.address, f"{reading.problem}{cut_off}")
    cells = (
        count(reading.ops_per_s, 7),
        _cpu(row.cpu),
        size(reading.memory_bytes),
        count(reading.keys, 9 if table.is_wide else 6),
        count(reading.replicas, 5),
        milliseconds(row.p99_s),
        Text(by_whom, BAD if row.cut_off_by else ""),
    )
    return table.row(reading.address, cells if with_nodes else cells[:-2])


def _cpu(cores: float | None) -> Text:
    style = "" if cores is None or cores < _CPU_BUSY else WARN if cores < _CPU_FULL else BAD
    return Text(percent(cores), style)


def _cut(rows: Sequence[_Row], most: int, is_bad: Callable[[_Row], bool]) -> tuple[Sequence[_Row], Sequence[_Row]]:
    """Return the rows to show and the rows to leave out; the line that sums up the latter counts in `most`."""
    if len(rows) <= most:
        return rows, ()
    kept = max(most - 1, 0)
    ordered = sorted(rows, key=lambda row: not is_bad(row))
    return ordered[:kept], ordered[kept:]
