"""The figures of a page: each drawn in two shapes, for wide screens and for telephones, or said to be missing and why.

What is drawn are the series of ``collect``, ``windows`` and ``loads`` as they are; nothing is computed here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from bench_client.report import canvas, words
from bench_client.report.axes import (
    NINES,
    SHAPES,
    WIDE,
    Shape,
    count_axis,
    legend,
    legend_height,
    log_ms_axis,
    merged,
    nines,
    note,
    panels,
    seconds_axis,
)
from bench_client.report.gather import ReportedRun
from bench_client.report.theme import KINDS, OUTCOMES, RUNS, Mark, stand_in
from bench_client.report.windows import WindowSeries

if TYPE_CHECKING:
    from bench_client.report.canvas import Axes, Figure

CURVE_POINTS = 120


@dataclass(frozen=True, slots=True)
class Drawing:
    """Hold one figure of the page."""

    name: str
    """Unique; the name of its file without ``.svg``."""
    label: str
    """What it shows, for those who can't see it."""
    shapes: dict[str, str]
    """matplotlib's SVG by the shape's name."""


def draw_all(runs: Sequence[ReportedRun]) -> list[Drawing]:
    """Return all figures that there is something to draw for, in the page's order.

    Raises BenchError when there is no matplotlib.
    """
    labels = [run.label for run in runs] if len(runs) > 1 else []
    speeds = [words.latency_legend(run) for run in runs]
    outcomes = {name for run in runs for name in words.outcomes(run.records.timeline)}
    kinds = [words.OFFERED, *(label for name, label in words.OUTCOMES.items() if name in outcomes)]
    drawings = [
        _drawing("throughput", words.throughput_label(runs), partial(_throughput, runs), len(runs), 235, kinds),
        _drawing("latency", words.latency_label(runs), partial(_percentiles, runs), 1, 320, speeds),
        _drawing("latency-over-time", words.over_time_label(runs), partial(_over_time, runs), 2, 225, labels),
    ]
    for place, run in enumerate(runs):
        if count := len(run.windows):
            draw = partial(_key_windows, run, RUNS[place])
            drawings.append(_drawing(f"windows-{place + 1}", words.windows_label(run), draw, count, 220, []))
    for place, run in enumerate(runs):
        if count := len(run.tree_windows):
            draw = partial(_tree_windows, run, RUNS[place])
            drawings.append(_drawing(f"limits-{place + 1}", words.limits_label(run), draw, count, 240, []))
    if any(run.batches for run in runs):
        sampled = [run.label for run in runs if run.batches] if labels else []
        drawings.append(_drawing("batches", words.batches_label(runs), partial(_batches, runs), 1, 270, sampled))
    if measured := [run for run in runs if run.processes]:
        each = 78 + 27 * max(len(run.processes) for run in measured)
        drawings.append(_drawing("cpu", words.cpu_label(measured), partial(_cpu, measured), len(measured), each, []))
    return drawings


_Draw = Callable[["Figure", Shape], None]


def _drawing(name: str, label: str, draw: _Draw, count: int, each: float, legend: Sequence[str]) -> Drawing:
    """Return a figure of ``count`` panels, each so many points high, below a legend."""
    shapes = {}
    for shape in SHAPES:
        height = shape.grid(count)[0] * each + legend_height(shape, legend)
        shapes[shape.name] = canvas.draw(f"{name} {shape.name}", shape.width, height, partial(_onto, draw, shape))
    return Drawing(name, label, shapes)


def _onto(draw: _Draw, shape: Shape, figure: Figure) -> None:
    draw(figure, shape)


def _throughput(runs: Sequence[ReportedRun], figure: Figure, shape: Shape) -> None:
    """Draw areas on top of one another, which add up to the answers, and the offered rate as a line over them."""
    every = panels(figure, shape, len(runs), sharey=True)
    handles: dict[str, Any] = {}
    most = 0.0
    for axes, run in zip(every, runs, strict=True):
        timeline = run.records.timeline
        edges, below = timeline.edges_s, [0.0] * len(timeline.offered)
        for outcome, counts in words.outcomes(timeline).items():
            top = [low + rate for low, rate in zip(below, timeline.rates(counts), strict=True)]
            mark, label = OUTCOMES[outcome], words.OUTCOMES[outcome]
            handles[outcome] = _area(axes, edges, below, top, mark, label)
            below = top
        offered = timeline.rates(timeline.offered)
        handles["offered"] = axes.stairs(
            offered, edges, baseline=None, color=stand_in("ink"), linewidth=1.5, label=words.OFFERED
        )
        most = max(most, *offered, *below)
        _run_title(axes, run, runs)
        seconds_axis(axes, edges[0], edges[-1])
    for axes in every:
        count_axis(axes, most * 1.08)
        axes.set_ylabel("per second")
    legend(figure, shape, [handles[name] for name in ("offered", *words.OUTCOMES) if name in handles])


def _area(
    axes: Axes, edges: Sequence[float], below: Sequence[float], top: Sequence[float], mark: Mark, label: str
) -> Any:
    return axes.stairs(
        top,
        edges,
        baseline=below,
        fill=True,
        facecolor=mark.colour,
        edgecolor=stand_in("paper"),
        hatch=mark.hatch or None,
        linewidth=0,
        label=label,
    )


def _percentiles(runs: Sequence[ReportedRun], figure: Figure, shape: Shape) -> None:
    (axes,) = panels(figure, shape, 1)
    handles, values, median, end = [], [], nines(0.5), 0.0
    for run, mark in zip(runs, RUNS, strict=False):
        histogram = run.records.summary.total.latency_us
        last = nines(1 - 1 / max(histogram.total_count, 10))
        at = [median + (last - median) * point / CURVE_POINTS for point in range(CURVE_POINTS + 1)]
        percentiles = [100 * (1 - 10.0**-place) for place in at]
        values_us = histogram.get_percentile_to_value_dict(percentiles)
        curve = [values_us[percentile] / 1_000 for percentile in percentiles]
        handles += axes.plot(at, curve, color=mark.colour, linestyle=mark.dashes, label=words.latency_legend(run))
        values += curve
        end = max(end, last)
    log_ms_axis(axes, values)
    ticks = [(name, nines(fraction)) for name, fraction in NINES if nines(fraction) <= end + 0.02]
    axes.set_xlim(median, end)
    axes.set_xticks([place for _, place in ticks], [name for name, _ in ticks])
    axes.grid(axis="x")
    axes.set_xlabel("percentile")
    axes.set_ylabel("milliseconds from the due time")
    legend(figure, shape, handles)


def _over_time(runs: Sequence[ReportedRun], figure: Figure, shape: Shape) -> None:
    handles: list[Any] = []
    for axes, title in zip(panels(figure, shape, 2), ("p50", "p99"), strict=True):
        handles, values = [], list[float]()
        for run, mark in zip(runs, RUNS, strict=False):
            timeline = run.records.timeline
            curve = timeline.p50_ms if title == "p50" else timeline.p99_ms
            points = [
                ((timeline.edges_s[i] + timeline.edges_s[i + 1]) / 2, value)
                for i, value in enumerate(curve)
                if value is not None
            ]
            handles += axes.plot(
                *zip(*points, strict=True), color=mark.colour, linestyle=mark.dashes, linewidth=1.8, label=run.label
            )
            values += [value for _, value in points]
        axes.set_title(title)
        seconds_axis(axes, 0, max(run.seconds for run in runs))
        axes.set_ylabel("milliseconds")
        log_ms_axis(axes, values)
    if len(runs) > 1:
        legend(figure, shape, handles)


def _key_windows(run: ReportedRun, mark: Mark, figure: Figure, shape: Shape) -> None:
    for axes, window in zip(panels(figure, shape, len(run.windows)), run.windows, strict=True):
        _window(axes, window, mark)
        axes.set_title(f"{run.key_name(window.shown.name)}: {words.UNITS[window.shown.unit]}", pad=25)
        note(axes, words.window_note(window))


def _tree_windows(run: ReportedRun, mark: Mark, figure: Figure, shape: Shape) -> None:
    for axes, window in zip(panels(figure, shape, len(run.tree_windows)), run.tree_windows, strict=True):
        _window(axes, window.series, mark)
        axes.set_title(words.limit_title(window.audited), pad=40)
        note(axes, words.limit_note(window))


def _window(axes: Axes, window: WindowSeries, mark: Mark) -> None:
    """Draw as a line the most that any window ending there held, and as a darker band below it the range to the least.

    Above the limit, where the line of an enforced one never gets, stand marks where it rejected a request.
    """
    edges, limit = window.edges_s, window.limit[-1]
    top = max(*window.limit, *window.highest) * 1.16
    spans, (most, least) = merged(edges, window.highest, window.lowest)
    axes.stairs(most, spans, fill=True, facecolor=mark.colour, alpha=0.22, linewidth=0)
    axes.stairs(most, spans, baseline=least, fill=True, facecolor=mark.colour, alpha=0.3, linewidth=0)
    axes.stairs(most, spans, baseline=None, color=mark.colour, linewidth=1.8)
    spans, (limits,) = merged(edges, window.limit)
    axes.stairs(limits, spans, baseline=None, color=stand_in("ink"), linewidth=1.8)
    spans, (knocks,) = merged(edges, [top if count else top * 0.95 for count in window.rejected])
    axes.stairs(knocks, spans, baseline=top * 0.95, fill=True, facecolor=stand_in("grey"), linewidth=0)
    count_axis(axes, top)
    axes.set_yticks([0, limit // 2, limit])
    seconds_axis(axes, edges[0], edges[-1])


def _batches(runs: Sequence[ReportedRun], figure: Figure, shape: Shape) -> None:
    (axes,) = panels(figure, shape, 1)
    shown = [(run, RUNS[place]) for place, run in enumerate(runs) if run.batches]
    width, handles, most, labels = 0.8 / len(shown), [], 0.0, list[str]()
    for place, (run, mark) in enumerate(shown):
        assert run.batches is not None
        labels = max(labels, run.batches.labels, key=len)
        shares = [100 * share for share in run.batches.shares]
        at = [bucket - 0.4 + width * (place + 0.5) for bucket in range(len(shares))]
        bars = axes.bar(
            at, shares, width * 0.9, facecolor=mark.colour, edgecolor=stand_in("paper"), hatch=mark.hatch or None,
            linewidth=0, label=run.label,
        )  # fmt: skip
        handles.append(bars)
        most = max(most, *shares)
    count_axis(axes, most * 1.1)
    axes.set_xticks(range(len(labels)), labels, fontsize=12 if shape is WIDE else 10)
    axes.tick_params(axis="x", length=0)
    axes.set_xlabel("operations in a call")
    axes.set_ylabel("% of the calls")
    if len(runs) > 1:
        legend(figure, shape, handles)


def _cpu(runs: Sequence[ReportedRun], figure: Figure, shape: Shape) -> None:
    most = max(use.cores for run in runs for use in run.processes) or 1.0
    for axes, run in zip(panels(figure, shape, len(runs)), runs, strict=True):
        for place, use in enumerate(run.processes):
            mark = KINDS.get(use.kind, KINDS["client"])
            axes.barh(
                place, use.cores, 0.66, facecolor=mark.colour, edgecolor=stand_in("paper"), hatch=mark.hatch or None,
                linewidth=0,
            )  # fmt: skip
            axes.annotate(
                f"{use.cores:.2f}", (use.cores, place), xytext=(5, 0), textcoords="offset points", va="center"
            ).set_fontsize(12)
        axes.set_yticks(range(len(run.processes)), [words.process_name(use) for use in run.processes])
        axes.set_ylim(max(len(each.processes) for each in runs) - 0.4, -0.6)
        axes.set_xlim(0, most * 1.14)
        axes.grid(axis="y", visible=False)
        axes.grid(axis="x")
        axes.locator_params(axis="x", nbins=5)
        axes.set_xlabel("cores")
        _run_title(axes, run, runs)


def _run_title(axes: Axes, run: ReportedRun, runs: Sequence[ReportedRun]) -> None:
    if len(runs) > 1:
        axes.set_title(run.label)
