"""The directory of one run: which files it has, how it is finished after the run and opened again later.

``run.json``           the settings, versions, machine, targets, keys' ids and names, and the limits that the keys file
                       declares; written before and after the run
``responses.N.spool``  the raw responses to sending process N; there only during a run, or after one that was killed
``requests.N.part``    the records made from that spool; there only until those of all processes are put together
``requests.jsonl``     one record per request (``record_file``)
``servers.json``       what the servers did meanwhile (``servers.servers_file``)
``summary.json``, ``audit.json``  derived from the records; can be made again from them
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import mkdtemp
from typing import Any
from weakref import finalize

import orjson

from bench_client.errors import BenchError, cannot_write
from bench_client.load.declared_limits import DeclaredTree
from bench_client.records.process_report import ProcessReport
from bench_client.records.record import Record
from bench_client.records.record_file import REQUESTS_NAME, RecordReader, join_records, write_records
from bench_client.records.response_fields import NOTHING, parse_response
from bench_client.records.spool import ERRORS, NEVER_SENT, SPOOL_NAMES, read_spool, spool_name

RUN_NAME = "run.json"
RUN_FORMAT = "bench-client run 1"
PART_NAMES = "requests.*.part"
SERVERS_NAME = "servers.json"
COMPARE_NAME = "compare.json"
"""Only in the directory of a comparison (``commands.compare``), which has its runs in directories below."""
_FACTS_BEFORE_MODEL = Record._fields.index("model") - Record._fields.index("status")
DERIVED = ("summary.json", "audit.json", COMPARE_NAME)


@dataclass(frozen=True, slots=True)
class RunInfo:
    """Hold the contents of ``run.json``."""

    settings: dict[str, Any]
    """The options as given; ``seed``, ``qps``, ``timeout_s`` and so on."""
    targets: list[str]
    keys: list[tuple[str, str]]
    """Id and name, in the order of the keys file."""
    planned: int
    """Requests in the schedule, warm-up included."""
    planned_s: float
    """Length of the schedule, warm-up included."""
    started_unix_ms: int = 0
    """The wall clock at the start of the schedule; 0 before the run."""
    sending_s: float = 0.0
    """How long load was offered, warm-up included."""
    dispatched: int = 0
    interrupted: bool = False
    finished: bool = False
    """False in a run that was killed: the last requests may be missing from the records."""
    warmup: int = 0
    """How many of the requests, the first ones, are the warm-up: recorded and audited, left out of the figures."""
    warmup_s: float = 0.0
    processes: list[ProcessReport] = field(default_factory=list)
    """How each sending process fared; empty before the run."""
    tree: DeclaredTree = field(default_factory=DeclaredTree)
    """The limits of keys with others than the usual three, as the keys file declares them."""

    @property
    def models(self) -> list[str]:
        """Return the models that the requests asked for. Raises BenchError for a run of an earlier version."""
        models = self.settings.get("models")
        if not isinstance(models, dict):
            raise BenchError("the run was made by an earlier version of bench-client; make it again")
        return list(models)

    @property
    def key_names(self) -> dict[str, str]:
        return dict(self.keys)


def prepare(directory: Path, info: RunInfo) -> None:
    """Make the directory and its ``run.json``, and remove what an earlier run left of the same names.

    Raises BenchError when that can't be done.
    """
    make_directory(directory)
    remove_results(directory)
    write_info(directory, info)


def remove_results(directory: Path) -> None:
    """Remove a run's files, and those that were derived from them. Raises BenchError when that can't be done."""
    try:
        left = [*directory.glob(SPOOL_NAMES), *directory.glob(PART_NAMES)]
        for path in (*left, *(directory / name for name in (RUN_NAME, REQUESTS_NAME, SERVERS_NAME, *DERIVED))):
            path.unlink(missing_ok=True)
    except OSError as error:
        raise BenchError(f"cannot write to {directory}: {error.strerror}; choose another --out") from None


def make_directory(directory: Path) -> None:
    """Make the directory, if there is none. Raises BenchError when that can't be done."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BenchError(f"cannot write to {directory}: {error.strerror}; choose another --out") from None


def write_info(directory: Path, info: RunInfo) -> None:
    write_json(directory / RUN_NAME, {"format": RUN_FORMAT, **_fields(info), "machine": machine()})


def write_json(path: Path, document: object) -> None:
    """Write the document as JSON. Raises BenchError when that can't be done."""
    try:
        path.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n")
    except OSError as error:
        raise cannot_write(path, error) from None


def read_info(directory: Path) -> RunInfo:
    """Read ``run.json``. Raises BenchError when ``directory`` isn't that of a run."""
    if not directory.is_dir():
        raise BenchError(f"{directory} is not a directory; pass the --out of a run")
    try:
        document = orjson.loads((directory / RUN_NAME).read_bytes())
        if document.pop("format") != RUN_FORMAT:
            raise BenchError(
                f"{directory / RUN_NAME} was written by another version of bench-client; make the run again"
            )
        document.pop("machine")
        document["keys"] = [(key_id, name) for key_id, name in document["keys"]]
        document["processes"] = [ProcessReport(**report) for report in document.get("processes", ())]
        if "tree" in document:
            document["tree"] = DeclaredTree.from_dict(document["tree"])
        return RunInfo(**document)
    except FileNotFoundError:
        raise BenchError(f"{directory} has no {RUN_NAME}: it is not the --out of a run") from None
    except OSError as error:
        raise BenchError(f"cannot read {directory / RUN_NAME}: {error.strerror}") from None
    except (ValueError, TypeError, AttributeError, LookupError):
        raise BenchError(f"{directory / RUN_NAME} is damaged or not of bench-client; make the run again") from None


def convert_spool(directory: Path, process: int, key_ids: Sequence[str], models: Sequence[str]) -> None:
    """Turn one process's spool into a part of the records. Raises BenchError when that can't be written."""
    spool = directory / spool_name(process)
    write_records(directory / f"requests.{process}.part", _converted(spool, key_ids, models))
    spool.unlink()


def finish(directory: Path, info: RunInfo) -> None:
    """Put the records together from all processes' parts, and from the spools that no process has made a part of.

    Raises BenchError when they can't be written, or when a killed run of another version left a spool.
    """
    for spool in sorted(directory.glob(SPOOL_NAMES)):
        convert_spool(directory, _process_of(spool), [key_id for key_id, _ in info.keys], info.models)
    parts, whole = sorted(directory.glob(PART_NAMES)), directory / (REQUESTS_NAME + ".tmp")
    try:
        join_records(whole, parts)
        whole.replace(directory / REQUESTS_NAME)
        for part in parts:
            part.unlink()
    except OSError as error:
        raise cannot_write(whole, error) from None


def open_records(directory: Path, info: RunInfo) -> RecordReader:
    """Open a run's records; those of a killed run are made from its spools first. Raises BenchError if none."""
    if not (directory / REQUESTS_NAME).exists():
        if not any(True for names in (SPOOL_NAMES, PART_NAMES) for _ in directory.glob(names)):
            raise BenchError(f"{directory} has no {REQUESTS_NAME}: the run recorded nothing")
        try:
            finish(directory, info)
        except BenchError:  # perhaps it can only be read
            return _records_made_elsewhere(directory, info)
    return RecordReader(directory / REQUESTS_NAME)


def _records_made_elsewhere(directory: Path, info: RunInfo) -> RecordReader:
    """Put a killed run's records together in a temporary directory from links to its spools and parts.

    Of a part no link is made where its spool is still there: the part is made again, and must not be written through
    the link. Raises BenchError when this can't be done either.
    """
    elsewhere = Path(mkdtemp(prefix="bench-client-"))
    reader = RecordReader(elsewhere / REQUESTS_NAME)
    finalize(reader, shutil.rmtree, elsewhere, ignore_errors=True)
    spools = list(directory.glob(SPOOL_NAMES))
    made_again = {f"requests.{_process_of(spool)}.part" for spool in spools}
    parts = [part for part in directory.glob(PART_NAMES) if part.name not in made_again]
    try:
        for path in (*spools, *parts):
            (elsewhere / path.name).symlink_to(path.resolve())
    except OSError as error:
        raise BenchError(f"cannot write to {elsewhere}: {error.strerror}") from None
    finish(elsewhere, info)
    return reader


def _process_of(spool: Path) -> int:
    return int(spool.name.split(".")[1])


def _converted(spool: Path, key_ids: Sequence[str], models: Sequence[str]) -> Iterator[Record]:
    names = models if len(models) > 1 else (None,)
    for entry in read_spool(spool):
        facts = parse_response(entry.raw) if entry.raw else NOTHING
        yield Record._make(
            (
                entry.request,
                entry.due_ns // 1_000,
                None if entry.sent_ns == NEVER_SENT else entry.sent_ns // 1_000,
                entry.done_ns // 1_000,
                entry.target,
                key_ids[entry.key],
                entry.input_tokens,
                entry.max_tokens or None,
                ERRORS[entry.error] or None,
                *facts[:_FACTS_BEFORE_MODEL],
                names[entry.model],
                *facts[_FACTS_BEFORE_MODEL:],
            )
        )


def machine() -> dict[str, object]:
    """Return where and with what the run was made."""
    packages = {}
    for package in ("llm-rate-limiter", "uvloop", "httptools", "orjson", "hdrhistogram"):
        try:
            packages[package] = version(package)
        except PackageNotFoundError:
            packages[package] = "unknown"
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "packages": packages,
    }


def _fields(info: RunInfo) -> dict[str, object]:
    return {**{name: getattr(info, name) for name in RunInfo.__dataclass_fields__}, "tree": info.tree.as_dict()}
