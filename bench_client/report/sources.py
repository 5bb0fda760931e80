"""The runs of a report: directories from the command line, opened, checked and labelled.

A directory is that of a run, or of a comparison, which stands for the runs in it. Every value that a later stage
computes with or shows is checked here; what the files say is somebody else's text, and is only ever shown escaped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

import orjson

from bench_client.errors import BenchError, BenchUsageError
from bench_client.records.out_directory import STORES
from bench_client.records.run_directory import COMPARE_NAME, RUN_NAME, RunInfo, read_info

MAX_RUNS = 6
"""More lines on the same axes can't be distinguished."""
MAX_LABEL = 28
MAX_SECONDS = 1e9
COMPARE_FIGURES = ("nodes", "keys_count", "rpm", "input_tpm", "output_tpm")


@dataclass(frozen=True, slots=True)
class Source:
    """Describe one run, before its records are read."""

    directory: Path
    label: str
    """What the page calls it: the store's name in a comparison, else the directory's; unique on the page."""
    info: RunInfo
    machine: dict[str, Any]
    comparison: dict[str, int] = field(default_factory=dict)
    """What the comparison it belongs to has started; empty outside one."""
    asked: Path = Path()
    """The directory as it was given: the run's, or its comparison's."""


def find_sources(directories: Sequence[Path]) -> list[Source]:
    """Return the runs in ``directories``, in their order.

    Raises BenchError where there is none, BenchUsageError for more than ``MAX_RUNS``.
    """
    found: list[tuple[Path, Path, str, dict[str, int]]] = []
    for directory in directories:
        if (directory / COMPARE_NAME).is_file():
            comparison, stores = _read_comparison(directory)
            found += [(directory, directory / store, store, comparison) for store in stores]
        else:
            _check_is_run(directory)
            found.append((directory, directory, _name(directory), {}))
    if len(found) > MAX_RUNS:
        raise BenchUsageError(f"{len(found)} runs don't fit on one page; pass at most {MAX_RUNS}")
    labels = _unique([(_name(asked), label) for asked, _, label, _ in found], several=len(directories) > 1)
    return [
        _open(asked, directory, label, comparison)
        for (asked, directory, _, comparison), label in zip(found, labels, strict=True)
    ]


def printable(text: str, most: int = MAX_LABEL) -> str:
    """Return ``text`` without what no figure can show (control characters, changes of direction), at most so long."""
    shown = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
    return shown if len(shown) <= most else shown[: most - 1] + "…"


def _check_is_run(directory: Path) -> None:
    if not directory.exists():
        raise BenchError(f"{directory} does not exist; pass the --out of a run or of a comparison")
    if not directory.is_dir():
        raise BenchError(f"{directory} is not a directory; pass the --out of a run or of a comparison")
    if (directory / RUN_NAME).exists():
        return
    inside = [store for store in STORES if (directory / store / RUN_NAME).exists()]
    if inside:
        raise BenchError(f"{directory} is of a comparison that did not finish; pass {directory / inside[0]}")
    raise BenchError(f"{directory} has neither {RUN_NAME} nor {COMPARE_NAME}: it is not the --out of a run")


def _read_comparison(directory: Path) -> tuple[dict[str, int], list[str]]:
    """Return what was started, and the stores that were measured: an interrupted comparison lacks the second."""
    path = directory / COMPARE_NAME
    try:
        document = orjson.loads(path.read_bytes())
        figures = {name: document[name] for name in COMPARE_FIGURES}
        figures["account_keys"] = document.get("account_keys", 0)
        measured = [store for store in STORES if store in document["stores"]]
        if not measured or any(type(figure) is not int for figure in figures.values()):
            raise ValueError(path)
    except OSError as error:
        raise BenchError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, TypeError, LookupError):
        raise BenchError(f"{path} is damaged or not of bench-client; make the comparison again") from None
    return figures, measured


def _name(directory: Path) -> str:
    return printable(directory.resolve().name or str(directory))


def _unique(names: Sequence[tuple[str, str]], *, several: bool) -> list[str]:
    """Return the shortest labels: with the directory before them, and numbered, only where that is needed."""
    counts = Counter(label for _, label in names)
    labels = [
        printable(f"{asked} {label}") if several and asked != label and counts[label] > 1 else label
        for asked, label in names
    ]
    counts, seen = Counter(labels), Counter[str]()
    for place, label in enumerate(labels):
        seen[label] += 1
        if counts[label] > 1:
            labels[place] = f"{label} ({seen[label]})"
    return labels


def _open(asked: Path, directory: Path, label: str, comparison: dict[str, int]) -> Source:
    info = read_info(directory)
    machine = orjson.loads((directory / RUN_NAME).read_bytes())["machine"]
    seconds = (info.planned_s, info.sending_s, info.warmup_s)
    counts = (info.planned, info.dispatched, info.warmup, info.started_unix_ms)
    sound = (
        all(type(value) in (int, float) and isfinite(value) and 0 <= value <= MAX_SECONDS for value in seconds)
        and all(type(value) is int and 0 <= value < 1 << 53 for value in counts)
        and isinstance(info.settings, dict)
        and isinstance(machine, dict)
        and isinstance(info.targets, list)
        and all(isinstance(text, str) for text in (*info.targets, *(word for key in info.keys for word in key)))
        and all(type(value) in (int, float) for report in info.processes for value in report_values(report))
    )
    if not sound:
        raise BenchError(f"{directory / RUN_NAME} is damaged or not of bench-client; make the run again")
    return Source(directory, label, info, machine, comparison, asked)


def report_values(report: Any) -> list[Any]:
    """Return the figures of a sending process's report."""
    return [getattr(report, name) for name in type(report).__dataclass_fields__]
