"""The record of one request, and the file of all of them.

``requests.jsonl``: the first line is an object that names the format and its columns; every further line is an array
with one request's values in that order; those of each sending process stand together, in the order in which they were
done. Times are microseconds from the start of the schedule; null is "not said" or "never". Chosen over CSV for its
types and over objects for a third of the size; any JSON tool reads it line by line, and a file cut off anywhere loses
nothing but its last line. Columns that were added later come last; files without them are read as if they said null.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import orjson

from .errors import BenchError

REQUESTS_NAME = "requests.jsonl"
FORMAT = "bench-client requests 1"
_LINES_PER_WRITE = 2_000


class Record(NamedTuple):
    """One request. Never holds the API key or any text of prompt and answer."""

    request: int
    """Its place in the schedule."""
    due_us: int
    sent_us: int | None
    """None: it never left, for want of a connection."""
    done_us: int
    target: int
    """Index into the targets in ``run.json``."""
    key: str
    """The key's id: 12 hex digits; its name is in ``run.json``."""
    input_tokens: int
    """As planned; the server's own count is ``prompt_tokens``."""
    max_tokens: int | None
    error: str | None
    """How the request failed (``spool.ERRORS``); None when a whole response came, whatever its status."""
    status: int | None
    """May be given beside an error: the head had come when the connection broke."""
    node: str | None
    time_ms: int | None
    """The store's clock at the decision, ms since the epoch."""
    exceeded: str | None
    retry_after_ms: int | None
    limit_requests: int | None
    limit_input: int | None
    limit_output: int | None
    remaining_requests: int | None
    remaining_input: int | None
    remaining_output: int | None
    reserved_output: int | None
    prompt_tokens: int | None
    completion_tokens: int | None
    requested: int | None
    """The "Requested N" of a rejection's message."""
    never_fits: bool
    degraded: str | None
    upstream_status: int | None
    """The status of the service behind the limiter, on errors that come from it."""


def failed_upstream(record: Record) -> bool:
    """Whether a limiter admitted the request and had no answer for it: it counts as a request, its tokens don't.

    A 429 is one only where it says that it is the service's and names no limit of ours; if it says neither, nobody
    knows whose it is.
    """
    if record.status is None or record.status == 200:
        return False
    if record.status == 429:
        return record.upstream_status is not None and record.exceeded is None
    return record.upstream_status is not None or record.time_ms is not None


HEADER = {"format": FORMAT, "columns": list(Record._fields)}
_ADDED = 1
"""How many columns, the last ones, files of earlier versions may lack."""


def write_records(path: Path, records: Iterable[Record]) -> int:
    """Writes the file and returns how many records it has. Raises BenchError when it can't be written."""
    dumps, count, rows = orjson.dumps, 0, iter(records)
    try:
        with path.open("wb") as file:
            file.write(dumps(HEADER) + b"\n")
            while lines := [dumps(tuple(record)) for record in islice(rows, _LINES_PER_WRITE)]:
                count += len(lines)
                file.write(b"\n".join(lines) + b"\n")
    except OSError as error:
        raise BenchError(f"cannot write {path}: {error.strerror}") from None
    return count


class RecordReader:
    """Iterates over the records of one file.

    ``truncated`` is set once iteration has met an incomplete last line, which is left out. Raises BenchError when the
    file isn't one of records, or is damaged elsewhere than at its end.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.truncated = False

    def __iter__(self) -> Iterator[Record]:
        loads, make = orjson.loads, Record._make
        try:
            file = self.path.open("rb", buffering=1 << 20)
        except OSError as error:
            raise BenchError(f"cannot read {self.path}: {error.strerror}") from None
        with file:
            missing = [None] * self._missing_columns(file.readline())
            width = len(Record._fields) - len(missing)
            for number, line in enumerate(file, start=2):
                try:
                    row = loads(line)
                    if type(row) is not list or len(row) != width:
                        raise ValueError(line)
                except ValueError:  # orjson's is one
                    if line.endswith(b"\n"):
                        raise BenchError(f"{self.path}, line {number} is damaged; make the run again") from None
                    self.truncated = True
                    return
                yield make(row + missing if missing else row)

    def _missing_columns(self, line: bytes) -> int:
        try:
            header = orjson.loads(line)
        except ValueError:
            header = None
        for missing in range(_ADDED + 1):
            if header == {"format": FORMAT, "columns": list(Record._fields[: len(Record._fields) - missing])}:
                return missing
        raise BenchError(f"{self.path} is not a file of bench-client's records, or of another version of it")
