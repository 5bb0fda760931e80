"""``servers.json``: the servers' samples during a run, written after the sending and read again by reports.

Holds each target's samples of its ``/metrics`` (``server_watch`` takes them), and the CPU of the known processes: the
client's own, and those that it has started on this machine or else the nodes by their own account. A target that has no
such metrics has no samples. Weakness: behind a balancer that spreads connections, samples would be of several nodes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson

from bench_client.errors import BenchError
from bench_client.records.run_directory import SERVERS_NAME, write_json
from bench_client.servers.procfs import NODE

FORMAT = "bench-client servers 1"
CLIENT = "client"
BATCH_BOUNDS = (1, 2, 4, 8, 16, 32, 64)
"""Operations per script call: the nodes' own buckets."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Describe a node at one moment; counts are since its start."""

    at_s: float
    """Time from the schedule's start; just below 0 for the sample taken before it."""
    cpu_s: float
    rss_bytes: int
    decisions: int
    batch_operations: tuple[int, ...]
    """Script calls by how many operations each carried, per bucket; the last one is above all bounds."""


@dataclass(frozen=True, slots=True)
class TargetSamples:
    """Hold the samples of one target, in order of time."""

    url: str
    node: str
    """The node's id; empty for a target without samples."""
    samples: tuple[Sample, ...]

    def cpu(self) -> ProcessUse | None:
        """Return the CPU from the first to the last sample; a node that was restarted meanwhile counts from 0."""
        if len(self.samples) < 2:
            return None
        cpu_s = 0.0
        for before, after in pairwise(self.samples):
            cpu_s += after.cpu_s - (before.cpu_s if after.cpu_s >= before.cpu_s else 0.0)
        seconds = self.samples[-1].at_s - self.samples[0].at_s
        return ProcessUse(f"{NODE} {self.node or self.url}", NODE, cpu_s, cpu_s / seconds if seconds > 0 else 0.0)


@dataclass(frozen=True, slots=True)
class ProcessUse:
    """Say how much CPU a process used while load was offered."""

    name: str
    kind: str
    """``node``, ``store`` or ``client``."""
    cpu_s: float
    cores: float


@dataclass(frozen=True, slots=True)
class Servers:
    """Hold the contents of ``servers.json``."""

    period_s: float
    """Between two samples of a target, about."""
    targets: tuple[TargetSamples, ...]
    processes: tuple[ProcessUse, ...]
    batch_bounds: tuple[int, ...] = BATCH_BOUNDS
    """Upper bounds of the samples' buckets."""


def write_servers(directory: Path, servers: Servers) -> None:
    """Write ``servers.json``. Raises BenchError when that can't be done."""
    write_json(directory / SERVERS_NAME, {"format": FORMAT, **{name: getattr(servers, name) for name in _FIELDS}})


def read_servers(directory: Path) -> Servers | None:
    """Read ``servers.json``; None if the run has no such file: it was killed, or made before there was one.

    Raises BenchError when the file is damaged.
    """
    path = directory / SERVERS_NAME
    try:
        document = orjson.loads(path.read_bytes())
        if document["format"] != FORMAT:
            raise BenchError(f"{path} was written by another version of bench-client; make the run again")
        return Servers(
            period_s=_number(document["period_s"]),
            targets=tuple(_target(target) for target in _items(document["targets"])),
            processes=tuple(
                ProcessUse(_text(each["name"]), _text(each["kind"]), _number(each["cpu_s"]), _number(each["cores"]))
                for each in _items(document["processes"])
            ),
            batch_bounds=_counts(document["batch_bounds"]),
        )
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BenchError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, TypeError, LookupError):
        raise BenchError(f"{path} is damaged or not of bench-client; remove it, or make the run again") from None


_FIELDS = tuple(Servers.__dataclass_fields__)


def _target(fields: Any) -> TargetSamples:
    samples = tuple(
        Sample(
            _number(each["at_s"]),
            _number(each["cpu_s"]),
            _count(each["rss_bytes"]),
            _count(each["decisions"]),
            _counts(each["batch_operations"]),
        )
        for each in _items(fields["samples"])
    )
    return TargetSamples(_text(fields["url"]), _text(fields["node"]), samples)


def _items(value: Any) -> Sequence[Any]:
    if not isinstance(value, list):
        raise TypeError
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise TypeError
    return float(value)


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise TypeError
    return value


def _counts(value: Any) -> tuple[int, ...]:
    return tuple(_count(each) for each in _items(value))
