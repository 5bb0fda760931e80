"""Checks that each request of a run has exactly one record: only then can an audit prove anything."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from bench_client.records.record import Record
from bench_client.records.record_file import RecordReader
from bench_client.records.run_directory import RunInfo


@dataclass(frozen=True, slots=True)
class Completeness:
    """Hold the gaps in a run's records."""

    reasons: tuple[str, ...] = ()
    """In words; empty where nothing is missing."""
    only_the_end_is_missing: bool = False
    """The run was killed: the missing requests were done after all recorded ones."""

    def __bool__(self) -> bool:
        """Return whether nothing is missing."""
        return not self.reasons


def read_once(reader: RecordReader, info: RunInfo) -> tuple[list[Record], Completeness]:
    """Return the run's records, each request once (its first record), and whether they are complete."""
    records, seen = [], set[int]()
    doubled = 0
    for record in reader:
        if record.request in seen:
            doubled += 1
            continue
        seen.add(record.request)
        records.append(record)
    damage = [reason for reason in (reader.problem, _doubled(doubled)) if reason]
    if not info.finished:
        killed = "the run was killed before it wrote how many requests it sent"
        return records, Completeness((killed, *damage), only_the_end_is_missing=not damage)
    return records, Completeness((*damage, *_miscounted(len(records), info)))


def _doubled(count: int) -> str:
    return f"{count:,} records are duplicates of others" if count else ""


def _miscounted(records: int, info: RunInfo) -> Iterable[str]:
    if records != info.dispatched:
        yield f"there are records of {records:,} requests, {info.dispatched:,} were sent"
    if info.dispatched != info.planned and not info.interrupted:
        yield f"{info.dispatched:,} requests were sent, the schedule has {info.planned:,}, and nothing interrupted it"
