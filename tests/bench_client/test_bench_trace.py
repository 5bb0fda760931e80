"""Trace files in the Azure format, and files that are something else."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench_client.errors import BenchUsageError
from bench_client.load.trace import read_trace, timestamp_ns

HEADER = b"TIMESTAMP,ContextTokens,GeneratedTokens\r\n"
SAMPLE = (
    HEADER
    + b"2023-11-16 18:15:46.6805900,374,44\r\n"
    + b"2023-11-16 18:15:50.9951690,396,109\r\n"
    + b"2023-11-16 18:15:50.9951691,879,55\r\n"
    + b"2023-11-16 18:16:00,0,0"
)


@pytest.fixture
def trace_file(tmp_path: Path) -> Path:
    return tmp_path / "trace.csv"


def test_the_azure_format_is_read_to_the_last_digit(trace_file: Path) -> None:
    trace_file.write_bytes(SAMPLE)
    trace = read_trace(trace_file)
    assert list(trace.arrival_ns) == [0, 4_314_579_000, 4_314_579_100, 13_319_410_000]
    assert list(trace.input_tokens) == [374, 396, 879, 1]
    assert list(trace.output_tokens) == [44, 109, 55, 1]


def test_line_feeds_and_unsorted_rows_are_read_too(trace_file: Path) -> None:
    lines = SAMPLE.replace(b"\r\n", b"\n").split(b"\n")
    trace_file.write_bytes(b"\n".join([lines[0], lines[3], lines[1], b"", lines[2], lines[4]]))
    assert list(read_trace(trace_file).input_tokens) == [374, 396, 879, 1]


def test_timestamps() -> None:
    assert timestamp_ns("1970-01-01 00:00:01.0000001") == 1_000_000_100
    assert timestamp_ns("2024-05-10 00:00:00.009930+00:00") % 1_000_000_000 == 9_930_000
    with pytest.raises(ValueError):
        timestamp_ns("yesterday")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "first line must be"),
        (b"a,b,c\r\n1,2,3\r\n", "first line must be"),
        (HEADER, "no requests"),
        (HEADER + b"2023-11-16 18:15:46,374\r\n", "line 2"),
        (HEADER + b"2023-11-16 18:15:46,374,x\r\n", "line 2"),
        (HEADER + b"2023-11-16 18:15:46,-1,5\r\n", "line 2"),
        (HEADER + b"not a time,1,5\r\n", "line 2"),
        (b"\xff\xfe\x00", "not a trace"),
    ],
)
def test_what_is_no_trace_is_refused_with_the_place(trace_file: Path, content: bytes, says: str) -> None:
    trace_file.write_bytes(content)
    with pytest.raises(BenchUsageError, match=says):
        read_trace(trace_file)


def test_a_missing_trace_is_refused(trace_file: Path) -> None:
    with pytest.raises(BenchUsageError, match="cannot read the trace"):
        read_trace(trace_file)
