"""The file of all records of a run, and the last line that shows whether the file is whole.

``requests.jsonl``: the first line is an object that names the format and its columns. Each further line is an array
with one request's values in that order; those of each sending process stand together, in the order in which they were
done. The last line is an object with the number of records and the SHA-256 of all lines before it, so that a file that
was cut off, or lost or gained a line, can't pass for a whole one: ``head -n -1 requests.jsonl | sha256sum``.
(The digest guards against accidents, not against forgery.)

Chosen over CSV for its types and over objects for a third of the size; any JSON tool reads it line by line, and a file
that was cut off anywhere still gives all records before. Files of earlier versions lack the last columns, which are
read as null, and the last line, which ``RecordReader.problem`` reports.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Any

import orjson

from bench_client.errors import BenchError, cannot_write
from bench_client.records.record import Record

REQUESTS_NAME = "requests.jsonl"
FORMAT = "bench-client requests 1"
HEADER = {"format": FORMAT, "columns": list(Record._fields)}
_ADDED = 9
"""Number of columns at the end that files of earlier versions may lack."""
_LINES_PER_WRITE = 2_000
_CHUNK_BYTES = 1 << 20
_END = b'{"end":'
_TAIL_BYTES = 1 << 16
"""More than any line takes."""


def write_records(path: Path, records: Iterable[Record]) -> int:
    """Write the file with its end and return how many records it has. Raises BenchError when it can't be written."""
    dumps, rows = orjson.dumps, iter(records)
    try:
        with path.open("wb") as file:
            lines_of = _EndedFile(file)
            while lines := [dumps(tuple(record)) for record in islice(rows, _LINES_PER_WRITE)]:
                lines_of.add(b"\n".join(lines) + b"\n", len(lines))
            lines_of.end()
    except OSError as error:
        raise cannot_write(path, error) from None
    return lines_of.records


def join_records(path: Path, parts: Sequence[Path]) -> None:
    """Write the records of several files into one, with an end of its own if each of them has one.

    Raises OSError when that can't be read or written.
    """
    with path.open("wb") as file:
        joined = _EndedFile(file)
        have_ends = [_copy_records(part, joined) for part in parts]
        if all(have_ends):
            joined.end()


class RecordReader:
    """Iterate over the records of one file.

    After an iteration ``problem`` says in words why the file isn't whole; it is None for a whole file. An incomplete
    last line is left out. Raises BenchError for a file of another kind, or with a damaged line in its middle.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problem: str | None = None

    def __iter__(self) -> Iterator[Record]:
        self.problem = None
        loads, make = orjson.loads, Record._make
        try:
            file = self.path.open("rb", buffering=_CHUNK_BYTES)
        except OSError as error:
            raise BenchError(f"cannot read {self.path}: {error.strerror}") from None
        with file:
            header = file.readline()
            missing = [None] * self._missing_columns(header)
            width = len(Record._fields) - len(missing)
            digest, number = hashlib.sha256(header), 1
            for number, line in enumerate(file, start=2):
                try:
                    row = loads(line)
                    if type(row) is not list or len(row) != width:
                        raise ValueError(line)
                except ValueError:  # orjson's is one
                    if line.startswith(_END) and line.endswith(b"\n"):
                        self.problem = self._check_end(line, number - 2, digest.hexdigest(), file)
                        return
                    if line.endswith(b"\n"):
                        raise BenchError(f"{self.path}, line {number} is damaged; make the run again") from None
                    self.problem = f"{self.path.name} is cut off in line {number}"
                    return
                digest.update(line)
                yield make(row + missing if missing else row)
        self.problem = f"{self.path.name} has no end after line {number}: it was cut off, or is of an earlier version"

    def _check_end(self, line: bytes, records: int, digest: str, rest: IO[bytes]) -> str | None:
        name = self.path.name
        end = _end_of(line)
        if end is None:
            return f"the end of {name} is damaged"
        if rest.readline():
            return f"{name} goes on after its end"
        if end["records"] != records:
            return f"{name} has {records:,} records, but its end says {end['records']:,}"
        if end["sha256"] != digest:
            return f"{name} was changed: its digest differs from the one at its end"
        return None

    def _missing_columns(self, line: bytes) -> int:
        try:
            header = orjson.loads(line)
        except ValueError:
            header = None
        for missing in range(_ADDED + 1):
            if header == {"format": FORMAT, "columns": list(Record._fields[: len(Record._fields) - missing])}:
                return missing
        raise BenchError(
            f"{self.path} is not a file of bench-client's records, or was written by another version; "
            "make the run again"
        )


class _EndedFile:
    """Write a header, lines and the end that counts them; O(1) memory."""

    def __init__(self, file: IO[bytes]) -> None:
        self.records = 0
        self._file = file
        self._digest = hashlib.sha256()
        self.add(orjson.dumps(HEADER) + b"\n", 0)

    def add(self, lines: bytes, records: int) -> None:
        """Write ``lines``, any bytes of the file, in order; ``records`` lines begin in them."""
        self.records += records
        self._digest.update(lines)
        self._file.write(lines)

    def end(self) -> None:
        end = {"end": {"records": self.records, "sha256": self._digest.hexdigest()}}
        self._file.write(orjson.dumps(end) + b"\n")


def _copy_records(part: Path, joined: _EndedFile) -> bool:
    """Return whether the part has an end. If it has none, an incomplete last line is left out."""
    with part.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(size - _TAIL_BYTES, 0))
        tail = file.read()
        last = tail[tail.rstrip(b"\n").rfind(b"\n") + 1 :]
        has_end = _end_of(last) is not None
        until = size - len(last) if has_end else size - len(tail) + tail.rfind(b"\n") + 1
        file.seek(0)
        left = until - len(file.readline())
        while left > 0 and (chunk := file.read(min(left, _CHUNK_BYTES))):
            left -= len(chunk)
            joined.add(chunk, chunk.count(b"\n"))
    return has_end


def _end_of(line: bytes) -> dict[str, Any] | None:
    """Return the count and the digest of a file's end; None if the line isn't an end."""
    try:
        end = orjson.loads(line)["end"]
        sound = type(end["records"]) is int and type(end["sha256"]) is str
    except (ValueError, TypeError, LookupError):
        return None
    return end if sound else None
