"""The page: one HTML file that needs nothing else, made of what ``gather`` has read and ``figures`` has drawn.

All text comes in by ``_text``, which escapes it; the figures' SVG was escaped when it was written. The page's own
policy forbids it to load or run anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from bench_client.report.figures import Drawing
from bench_client.report.gather import ReportedRun
from bench_client.report.limit_table import HEADINGS, left_out, limit_rows
from bench_client.report.provenance import commands, setup_rows
from bench_client.report.rows import Row, figure_groups, node_rows
from bench_client.report.sources import printable
from bench_client.report.style import style_sheet
from bench_client.report.svg import inline
from bench_client.report.verdict import LAST_FIGURE, big_figures, remarks, sentence, title, verdict_line
from bench_client.report.words import NEVER_SLID, joined

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
MAX_TEXT = 4_000
"""Most characters of one text; longer ones are somebody's mistake, or worse."""
NODE_HEADINGS = ("node", "requests", "admitted", "rejected", "errors", "p50", "p99")
_MARKS = {"PROVED": "✓", "REFUTED": "✗", "INCOMPLETE": "?", "NOT AUDITED": "–"}


def page(runs: Sequence[ReportedRun], drawings: Sequence[Drawing]) -> str:
    """Return the HTML document of these runs, with their figures."""
    body = "\n".join(
        [
            f"<h1>{_text(title(runs))}</h1>",
            f'<p class="lead">{_text(sentence(runs))}</p>',
            f'<div class="runs">{"".join(map(_run, runs))}</div>',
            *_figure_sections(runs, {drawing.name: drawing for drawing in drawings}),
            _table_section(runs),
            _setup_section(runs),
            _commands_section(runs),
        ]
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<link rel="icon" href="data:,">\n'
        f"<title>{_text(title(runs))}</title>\n<style>\n{style_sheet()}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _text(text: str) -> str:
    return escape(printable(text, MAX_TEXT), quote=True)


def _run(run: ReportedRun) -> str:
    word = run.audit.word
    figures = "".join(_big_figure(*figure) for figure in big_figures(run))
    said = "".join(f"<li>{_text(remark)}</li>" for remark in remarks(run))
    return (
        f'<article class="run"><header><h2>{_text(run.label)}</h2>'
        f'<span class="badge {word.split()[-1].lower()}">{_MARKS[word]} {word}</span></header>'
        f"<p>{_text(verdict_line(run))}</p><dl>{figures}</dl>"
        + (f'<ul class="remarks">{said}</ul>' if said else "")
        + "</article>"
    )


def _big_figure(name: str, value: str, remark: str) -> str:
    wide = " class=double" if name == LAST_FIGURE else ""
    return f"<div{wide}><dt>{_text(name)}</dt><dd>{_text(value)}<small>{_text(remark)}</small></dd></div>"


def _figure_sections(runs: Sequence[ReportedRun], drawn: dict[str, Drawing]) -> list[str]:
    windows = [(run, f"windows-{place + 1}") for place, run in enumerate(runs)]
    unaudited = [run.label for run in runs if not run.windows and not run.limits]
    without_plain = [run.label for run in runs if not run.windows and run.limits]
    unbatched = [run.label for run in runs if run.batches is None]
    unmeasured = [run.label for run in runs if not run.processes]
    return [
        _section(
            "Outcomes of the requests",
            "The line is the rate that the schedule offered. The areas below it are the outcomes of the requests, "
            "stacked, at the time of the outcome.",
            [_figure(drawn["throughput"])],
        ),
        _section(
            "Use of each 60 s window",
            "Use of a key's limit in the 60 s up to each moment: the fullest window of each limit that rejected a "
            "request, then the busiest keys. The line may touch the limit and never crosses it. The marks at the top "
            "are requests that this limit rejected.",
            [_figure(drawn[name], run.label if len(runs) > 1 else "") for run, name in windows if name in drawn],
            _missing(unaudited, "no limiter signed its decisions, so nothing is known of its windows")
            or _missing(without_plain, "every key used has other limits than three per minute; they are below"),
        ),
        *_limits_section(runs, drawn),
        _section(
            "Latency by percentile",
            "All complete responses, from the due time of the request, so that waiting for a turn counts. Each "
            "further nine takes as much room as the one before.",
            [_figure(drawn["latency"])],
        ),
        _section(
            "Latency over time",
            "The median and the p99 of the requests that were due at each moment.",
            [_figure(drawn["latency-over-time"])],
        ),
        _section(
            "Operations per script call",
            "A node sends all waiting operations of a key in one call: at low load one operation, under load many.",
            [_figure(drawn["batches"])] if "batches" in drawn else [],
            _missing(unbatched, "the nodes' metrics were not sampled, so the sizes of batches are not known"),
        ),
        _section(
            "CPU per process",
            "In cores, while load was offered.",
            [_figure(drawn["cpu"])] if "cpu" in drawn else [],
            _missing(unmeasured, "CPU was not measured"),
        ),
    ]


def _limits_section(runs: Sequence[ReportedRun], drawn: dict[str, Drawing]) -> list[str]:
    """Return the section on all limits but those of plain keys; nothing where there are none."""
    if not any(run.limits for run in runs):
        return []
    parts = []
    for place, run in enumerate(runs):
        if run.limits:
            parts += [f"<h3>{_text(run.label)}</h3>" if len(runs) > 1 else "", _limits_table(run)]
            parts += [_figure(drawn[name]) for name in (f"limits-{place + 1}",) if name in drawn]
    return [
        _section(
            "Limits of accounts, teams and their keys",
            "Limits that keys share, and those of their own, whatever their length: first the ones that rejected, then "
            "the fullest. An audited limit only counts: what it would have rejected was admitted. A window that is "
            f"{NEVER_SLID} was only filled: nothing became free by time.",
            parts,
            _missing(
                [run.label for run in runs if not run.limits],
                "no key used has other limits than its three per minute",
            ),
        )
    ]


def _limits_table(run: ReportedRun) -> str:
    heads = "".join(f'<th scope="col">{name or "<span hidden>remarks</span>"}</th>' for name in HEADINGS)
    rows = "".join(
        f'<tr><th scope="row">{_text(limit)}</th>{"".join(f"<td>{_text(cell)}</td>" for cell in cells)}</tr>'
        for limit, *cells in limit_rows(run)
    )
    table = f'<table class="limits"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>'
    more = left_out(run)
    return _scrolled(table, f"Limits of {run.label}") + (f'<p class="more">{_text(more)}</p>' if more else "")


def _missing(labels: Sequence[str], why: str) -> str:
    return f"{joined(labels)}: {why}." if labels else ""


def _section(heading: str, says: str, figures: Iterable[str], missing: str = "") -> str:
    shown = "".join(figures)
    said = f"<p>{_text(says)}</p>" if shown else ""
    gone = f'<p class="missing">{_text(missing)}</p>' if missing else ""
    return f"<section><h2>{_text(heading)}</h2>{said}{shown}{gone}</section>"


def _figure(drawing: Drawing, caption: str = "") -> str:
    shapes = "".join(
        f'<div class="{shape}">{inline(svg, f"{drawing.name}-{shape}", drawing.label)}</div>'
        for shape, svg in drawing.shapes.items()
    )
    return f"<figure>{f'<figcaption>{_text(caption)}</figcaption>' if caption else ''}{shapes}</figure>"


def _table_section(runs: Sequence[ReportedRun]) -> str:
    groups = "".join(
        f'<tbody><tr><th scope="rowgroup" colspan="{len(runs) + 1}">{_text(group.name)}</th></tr>'
        + "".join(_row(row, merge=False) for row in group.rows)
        + "</tbody>"
        for group in figure_groups(runs)
    )
    nodes = "".join(_nodes(run) for run in runs)
    return (
        f"<section><h2>All figures</h2>{_scrolled(f'<table>{_heads(runs)}{groups}</table>', 'All figures')}"
        f"<details><summary>By node</summary>{nodes}</details></section>"
    )


def _nodes(run: ReportedRun) -> str:
    heads = "".join(f'<th scope="col">{name}</th>' for name in NODE_HEADINGS)
    rows = "".join(
        f'<tr><th scope="row">{_text(node)}</th>{"".join(f"<td>{_text(cell)}</td>" for cell in cells)}</tr>'
        for node, *cells in node_rows(run)
    )
    name = f"{run.label} by node"
    table = f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"
    return f"<h3>{_text(run.label)}</h3>{_scrolled(table, name)}"


def _setup_section(runs: Sequence[ReportedRun]) -> str:
    rows = setup_rows(runs)
    several = any(len(set(row.cells)) > 1 for row in rows)
    body = "".join(_row(row, merge=True) for row in rows)
    table = f'<table class="setup{" several" if several else ""}">{_heads(runs)}<tbody>{body}</tbody></table>'
    return f"<section><h2>Set-up</h2>{_scrolled(table, 'Set-up')}</section>"


def _commands_section(runs: Sequence[ReportedRun]) -> str:
    lines = "\n".join(" ".join(f"<span>{_text(part)}</span>" for part in command) for command in commands(runs))
    return f"<section><h2>Make it again</h2><pre><code>{lines}</code></pre></section>"


def _heads(runs: Sequence[ReportedRun]) -> str:
    heads = "".join(f'<th scope="col">{_text(run.label)}</th>' for run in runs)
    return f'<thead><tr><th scope="col"><span hidden>figure</span></th>{heads}</tr></thead>'


def _row(row: Row, *, merge: bool) -> str:
    """Return a row of a table; ``merge`` makes one cell of equal ones."""
    if merge and len(set(row.cells)) == 1:
        cells = f'<td colspan="{len(row.cells)}">{_text(row.cells[0])}</td>'
    else:
        cells = "".join(f"<td>{_text(cell)}</td>" for cell in row.cells)
    return f'<tr{" class=part" if row.part else ""}><th scope="row">{_text(row.name)}</th>{cells}</tr>'


def _scrolled(table: str, name: str) -> str:
    """Wrap a table, so that many columns scroll within their box, by the keyboard too, and never the page."""
    return f'<div class="scroll" role="region" tabindex="0" aria-label="{_text(name)}">{table}</div>'
