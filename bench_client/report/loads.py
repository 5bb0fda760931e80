"""The contents of a run's ``servers.json`` as the page shows them: batches and CPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from bench_client.servers.servers_file import ProcessUse, Servers

SHOWN_PROCESSES = 12
KINDS = ("node", "store", "client")


@dataclass(frozen=True, slots=True)
class Batches:
    """Hold how many operations the script calls of a run carried."""

    labels: list[str]
    calls: list[int]

    @property
    def shares(self) -> list[float]:
        """Return each bucket's share of all calls; they add up to 1."""
        return [count / sum(self.calls) for count in self.calls]


def batches_of(servers: Servers | None) -> Batches | None:
    """Return the calls from each target's first sample to its last; None if they aren't known.

    A node that was started again in between has counted from 0 again.
    """
    if servers is None:
        return None
    bounds = servers.batch_bounds
    calls = [0] * (len(bounds) + 1)
    for target in servers.targets:
        for before, after in pairwise(target.samples):
            restarted = sum(after.batch_operations) < sum(before.batch_operations)
            earlier: Sequence[int] = [0] * len(calls) if restarted else before.batch_operations
            for place, (now, then) in enumerate(zip(after.batch_operations, earlier, strict=False)):
                if place < len(calls):
                    calls[place] += max(now - then, 0)
    return Batches(_bucket_labels(bounds), calls) if any(calls) else None


def processes_of(servers: Servers | None) -> list[ProcessUse]:
    """Return nodes, stores and the client; if there are many, the busiest ones, and the others of each kind as one."""
    if servers is None:
        return []
    ordered = sorted(servers.processes, key=lambda each: KINDS.index(each.kind) if each.kind in KINDS else len(KINDS))
    if len(ordered) <= SHOWN_PROCESSES:
        return ordered
    busiest = sorted(ordered, key=lambda each: -each.cores)[: SHOWN_PROCESSES - len(KINDS) - 1]
    shown = []
    for kind in dict.fromkeys(each.kind for each in ordered):
        shown += [each for each in ordered if each.kind == kind and each in busiest]
        others = [each for each in ordered if each.kind == kind and each not in busiest]
        if len(others) == 1:
            shown += others
        elif others:
            total = replace(others[0], name=f"{len(others)} more", cores=sum(each.cores for each in others))
            shown.append(replace(total, cpu_s=sum(each.cpu_s for each in others)))
    return shown


def _bucket_labels(bounds: Sequence[int]) -> list[str]:
    labels, above = [], 0
    for bound in bounds:
        labels.append(f"{bound}" if bound == above + 1 else f"{above + 1}–{bound}")
        above = bound
    return [*labels, f">{above}"]
