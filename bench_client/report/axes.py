"""Scales, ticks and labels that several figures share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from math import ceil, floor, log10
from typing import TYPE_CHECKING, Any, NamedTuple

from bench_client.report.theme import stand_in

if TYPE_CHECKING:
    from bench_client.report.canvas import Axes, Figure

NINES = (("50", 0.5), ("90", 0.9), ("99", 0.99), ("99.9", 0.999), ("99.99", 0.9999), ("99.999", 0.99999))
"""Ticks of a scale of percentiles on which each further nine takes as much room as the one before."""

TICK_STEPS = ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 3.0, 5.0, 7.0))
MAX_TICKS = 6
CHARACTER_WIDTH, LEGEND_HANDLE, LEGEND_LINE = 7.2, 48, 19
"""Sizes in a legend, in points: a character on average and at most, the mark with its gaps, a line."""


class Shape(NamedTuple):
    """Say how wide a figure is drawn, in points: as many pixels where the page is as wide as it gets."""

    name: str
    width: float
    columns: int
    """Panels side by side."""

    def grid(self, panels: int) -> tuple[int, int]:
        """Return the number of rows and of columns."""
        columns = min(self.columns, panels)
        return -(-panels // columns), columns


WIDE = Shape("wide", 1040, 2)
NARROW = Shape("narrow", 372, 1)
SHAPES = (WIDE, NARROW)


def panels(figure: Figure, shape: Shape, count: int, *, sharey: bool = False, sharex: bool = False) -> list[Axes]:
    """Return ``count`` axes, row by row, and remove the surplus ones of the last row."""
    rows, columns = shape.grid(count)
    grid = figure.subplots(rows, columns, squeeze=False, sharey=sharey, sharex=sharex)
    every: list[Axes] = [axes for row in grid for axes in row]
    for axes in every[count:]:
        axes.remove()
    for axes in every[:count]:
        axes.tick_params(labelleft=True, labelbottom=True)
    return every[:count]


def legend(figure: Figure, shape: Shape, handles: Sequence[Any]) -> None:
    """Draw the legend above all panels, at the left."""
    columns = legend_columns(shape, [handle.get_label() for handle in handles])
    figure.legend(handles=handles, loc="outside upper left", ncols=columns, columnspacing=1.4)


def legend_columns(shape: Shape, labels: Sequence[str]) -> int:
    """Return how many columns of entries fit side by side."""
    widths = [max(map(len, label.split("\n"))) * CHARACTER_WIDTH + LEGEND_HANDLE for label in labels]
    for columns in range(len(labels), 1, -1):
        least, longer = divmod(len(labels), columns)  # entries in a column; so many have one more
        ends = [least * column + min(column, longer) for column in range(columns + 1)]
        if sum(max(widths[start:end]) for start, end in pairwise(ends)) <= shape.width:
            return columns
    return 1


def legend_height(shape: Shape, labels: Sequence[str]) -> float:
    """Return the legend's height in points; 0 if there is none."""
    if not labels:
        return 0
    lines = max(label.count("\n") + 1 for label in labels)
    return -(-len(labels) // legend_columns(shape, labels)) * lines * LEGEND_LINE + 12


def note(axes: Axes, text: str) -> None:
    """Draw lighter lines below the title, which needs ``pad=25`` to make room for one, and 15 more for each other."""
    axes.annotate(
        text, (0, 1), xytext=(0, 7), xycoords="axes fraction", textcoords="offset points", color=stand_in("muted")
    ).set_fontsize(12)


def seconds_axis(axes: Axes, start_s: float, end_s: float) -> None:
    axes.set_xlim(start_s, end_s)
    axes.set_xlabel("seconds")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
    axes.locator_params(axis="x", nbins=6)


def count_axis(axes: Axes, most: float) -> None:
    """Scale an axis from 0, in whole numbers with separators."""
    axes.set_ylim(0, most or 1)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
    axes.locator_params(axis="y", nbins=5)


def log_ms_axis(axes: Axes, values_ms: Iterable[float]) -> None:
    """Scale an axis in ms, logarithmically, with round ticks: powers of ten, and more where there is room."""
    positive = [value for value in values_ms if value > 0]
    low, high = (min(positive) * 0.8, max(positive) * 1.25) if positive else (1.0, 10.0)
    ticks: list[float] = []
    for steps in TICK_STEPS:
        finer = [step * 10.0**power for power in range(floor(log10(low)), ceil(log10(high))) for step in steps]
        finer = [tick for tick in finer if low <= tick <= high]
        if len(finer) > MAX_TICKS:
            break
        ticks = finer
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    axes.set_yticks(ticks)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
    axes.minorticks_off()


def nines(fraction: float) -> float:
    """Return where a percentile stands on the scale of nines: 0.9 at 1, 0.99 at 2."""
    return -log10(1 - fraction)


def merged(edges: Sequence[float], *series: Sequence[float]) -> tuple[list[float], list[list[float]]]:
    """Merge steps that stay on one level: the same picture in a fraction of the points. Returns edges and series."""
    kept = [i for i in range(len(edges) - 1) if i == 0 or any(each[i] != each[i - 1] for each in series)]
    return [*(edges[i] for i in kept), edges[-1]], [[each[i] for i in kept] for each in series]
