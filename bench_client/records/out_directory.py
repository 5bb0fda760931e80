"""The directory of ``--out``: refuses to replace results without ``--force``.

A directory without records (of a run that could not begin) holds no results. Other files don't count, unless a file of
a run would replace them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bench_client.errors import BenchError, BenchUsageError
from bench_client.records.record_file import REQUESTS_NAME
from bench_client.records.run_directory import COMPARE_NAME, PART_NAMES, RUN_NAME, make_directory, remove_results
from bench_client.records.spool import SPOOL_NAMES

PAGE_NAME = "report.html"
STORES = ("cluster", "single")
"""A comparison's runs, each in a directory of that name."""


def refuse_to_replace_runs(directory: Path, *names: str) -> None:
    """Raise BenchUsageError if ``directory`` holds a run, a comparison, or one of the files called ``names``."""
    _refuse(directory, [*_runs(directory), *_files(directory, names)])


def refuse_to_replace(directory: Path, name: str) -> None:
    """Raise BenchUsageError if ``directory`` holds a file of that name."""
    _refuse(directory, list(_files(directory, (name,))))


def prepare_comparison(directory: Path) -> None:
    """Make a comparison's directory and remove the results that it had. Raises BenchError when that can't be done."""
    for each in (directory, *(directory / store for store in STORES)):
        make_directory(each)
        remove_results(each)
    try:
        (directory / PAGE_NAME).unlink(missing_ok=True)
    except OSError as error:
        raise BenchError(f"cannot write to {directory}: {error.strerror}; choose another --out") from None


def _refuse(directory: Path, held: list[str]) -> None:
    if held:
        raise BenchUsageError(f"{directory} already holds {held[0]}; choose another --out, or replace it with --force")


def _runs(directory: Path) -> Iterator[str]:
    if (directory / COMPARE_NAME).exists():
        yield f"a comparison ({COMPARE_NAME})"
    for each in (directory, *(directory / store for store in STORES)):
        if _has_records(each):
            yield f"a run ({(each / RUN_NAME).relative_to(directory)})"


def _files(directory: Path, names: tuple[str, ...]) -> Iterator[str]:
    return (name for name in names if (directory / name).exists())


def _has_records(directory: Path) -> bool:
    """Return whether there are records. Those of a killed run are its spools, empty until there was an answer."""
    whole = (directory / REQUESTS_NAME, *directory.glob(PART_NAMES))
    return any(path.exists() for path in whole) or any(_size(spool) for spool in directory.glob(SPOOL_NAMES))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
