"""Reads request traces in the format of the Azure LLM inference traces.

CSV with CRLF or LF line ends and the columns ``TIMESTAMP,ContextTokens,GeneratedTokens``; the timestamps have up to
nine fractional digits (Azure's have seven, which ``datetime`` can't read). Source: Patel et al., "Splitwise: Efficient
generative LLM inference using phase splitting", ISCA 2024, github.com/Azure/AzurePublicDataset.
"""

from __future__ import annotations

import csv
import re
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from bench_client.clock import NS_PER_S
from bench_client.errors import BenchUsageError
from bench_client.load.sizes import MAX_TOKENS

COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
_TIMESTAMP = re.compile(r"(\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(?:Z|\+00:00)?")


@dataclass(frozen=True, slots=True)
class Trace:
    """Hold requests in order of arrival; ``arrival_ns`` counts from the first of them."""

    arrival_ns: array[int]
    input_tokens: array[int]
    output_tokens: array[int]

    @property
    def seconds(self) -> float:
        """Return the time of the last arrival."""
        return self.arrival_ns[-1] / NS_PER_S


def read_trace(path: Path) -> Trace:
    """Return the trace in the file ``path``, sorted by arrival; sizes of zero are read as one token.

    Raises BenchUsageError naming the line when the file can't be read as a trace.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = _read_rows(path, file)
    except OSError as error:
        raise BenchUsageError(f"cannot read the trace {path}: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise BenchUsageError(f"{path} is not a trace: {error}") from None
    if not rows:
        raise BenchUsageError(f"the trace {path} has no requests")
    rows.sort(key=lambda row: row[0])  # stable; merged traces are not always in order
    first_ns = rows[0][0]
    return Trace(
        array("q", [row[0] - first_ns for row in rows]),
        array("I", [row[1] for row in rows]),
        array("I", [row[2] for row in rows]),
    )


def _read_rows(path: Path, lines: Iterable[str]) -> list[tuple[int, int, int]]:
    reader = csv.reader(lines)
    header = tuple(cell.strip() for cell in next(reader, []))
    if header[:3] != COLUMNS:
        raise BenchUsageError(f"{path} is not a trace: its first line must be {','.join(COLUMNS)}")
    rows = []
    for cells in reader:
        if not cells:
            continue
        try:
            rows.append((timestamp_ns(cells[0]), _tokens(cells[1]), _tokens(cells[2])))
        except (ValueError, IndexError):
            raise BenchUsageError(
                f"{path}, line {reader.line_num}: expected a time and two token counts, not {','.join(cells)[:80]!r}"
            ) from None
    return rows


def timestamp_ns(text: str) -> int:
    """Return a UTC timestamp as nanoseconds since the epoch. Raises ValueError when it isn't one."""
    match = _TIMESTAMP.fullmatch(text.strip())
    if match is None:
        raise ValueError(text)
    whole = datetime.fromisoformat(match[1]).replace(tzinfo=UTC)
    return int(whole.timestamp()) * NS_PER_S + int((match[2] or "0").ljust(9, "0"))


def _tokens(text: str) -> int:
    tokens = int(text)
    if not 0 <= tokens <= MAX_TOKENS:
        raise ValueError(text)
    return max(tokens, 1)
