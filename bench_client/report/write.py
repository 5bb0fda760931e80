"""From directories to files: the page, the figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench_client.errors import BenchError, BenchUsageError
from bench_client.records.out_directory import PAGE_NAME
from bench_client.report.axes import WIDE
from bench_client.report.canvas import check_available
from bench_client.report.figures import draw_all
from bench_client.report.gather import gather
from bench_client.report.page import page
from bench_client.report.sources import find_sources
from bench_client.report.svg import standalone


@dataclass(frozen=True, slots=True)
class Written:
    """Say which files were written."""

    verdicts: list[tuple[str, str]]
    """Each run's label and its audit's word."""
    html: Path | None
    html_bytes: int
    figures: list[Path]

    def text(self) -> str:
        """Return a line per file or directory."""
        verdicts = ", ".join(f"{label}: {word}" for label, word in self.verdicts)
        lines = [f"{self.html}: {self.html_bytes / 1000:,.0f} kB; {verdicts}"] if self.html else []
        if self.figures:
            lines.append(f"{self.figures[0].parent}: {', '.join(path.name for path in self.figures)}")
        return "\n".join(lines)


def write_report(directories: Sequence[Path], *, html: Path | None = None, figures: Path | None = None) -> Written:
    """Write the page of the runs in ``directories``, or their figures into a directory, or both.

    Raises BenchUsageError when there is nothing to write to, BenchError when there is nothing to report, when
    matplotlib is missing, or when a file can't be written.
    """
    if html is None and figures is None:
        raise BenchUsageError("nothing to write; pass --html FILE, --figures DIR, or both")
    check_available()
    runs = [gather(source) for source in find_sources(directories)]
    drawings = draw_all(runs)
    whole = page(runs, drawings).encode(errors="replace") if html else b""
    if html is not None:
        _write(html, whole)
    paths = []
    if figures is not None:
        for drawing in drawings:
            path = figures / f"{drawing.name}.svg"
            _write(path, standalone(drawing.shapes[WIDE.name], drawing.name, drawing.label).encode(errors="replace"))
            paths.append(path)
    return Written([(run.label, run.audit.word) for run in runs], html, len(whole), paths)


def report_of_comparison(directory: Path) -> str:
    """Write ``report.html`` into a comparison's directory; return a line that says so, or why it can't be."""
    try:
        write_report([directory], html=directory / PAGE_NAME)
    except BenchError as error:
        return f"no {PAGE_NAME}: {error}"
    return f"report: {directory / PAGE_NAME}"


def _write(path: Path, contents: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(contents)
    except OSError as error:
        raise BenchError(f"cannot write {path}: {error.strerror}; choose another place") from None
