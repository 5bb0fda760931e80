"""A batch of one account: requests of many of its keys, and settles and charges in its windows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from limiter_node.decisions import Need
from limiter_node.limits import Amounts
from limiter_node.plans import Plan
from limiter_node.store.accounts.charges import PathSettle
from limiter_node.store.accounts.codec import Layout, pack_admit
from limiter_node.store.batch import Admit, Batch, BatchOwner, SendQueue
from limiter_node.store.wire.commands import bulk
from limiter_node.store.wire.routing_and_retries import Router
from limiter_node.store.wire.script_target import ScriptTarget


class PathAdmits:
    """The requests of a batch, each with its plan, the number of its path, and when its credential ends."""

    __slots__ = ("admits", "ends_ms", "paths", "plans")

    def __init__(self) -> None:
        self.admits: list[Admit] = []
        self.plans: list[Plan] = []
        self.paths: list[int] = []
        self.ends_ms: list[int] = []

    def add(self, admit: Admit, plan: Plan, path: int, ends_ms: int) -> None:
        """Add a request."""
        self.admits.append(admit)
        self.plans.append(plan)
        self.paths.append(path)
        self.ends_ms.append(ends_ms)

    def sort(self) -> None:
        """Bring requests of the same path together, those of a path in their order."""
        order = sorted(range(len(self.paths)), key=self.paths.__getitem__)
        self.admits = [self.admits[at] for at in order]
        self.plans = [self.plans[at] for at in order]
        self.paths = [self.paths[at] for at in order]
        self.ends_ms = [self.ends_ms[at] for at in order]

    def needed(self, at: int) -> Amounts:
        """Return the amounts that a request asks for, with its reservation worked out."""
        need: Need = self.admits[at].need
        return Amounts(1, need.input_tokens, need.output_tokens + need.default_choices * self.plans[at].output_reserve)


class Versions(NamedTuple):
    """The versions of the policies that a batch was made under: the account's, and those of its layout's keys."""

    account: bytes
    keys: Sequence[bytes]


class PathBatch(Batch):
    """A batch of one account. `expected` returns the lowest number that the node's record can have."""

    __slots__ = ("_expected", "_versions", "layout", "others_packed", "path_admits", "settles")

    def __init__(
        self,
        owner: BatchOwner,
        router: Router,
        queue: SendQueue,
        target: ScriptTarget,
        number: int,
        layout: Layout,
        path_admits: PathAdmits,
        versions: Versions,
        expected: Callable[[], int],
        now_s: float,
    ) -> None:
        Batch.__init__(self, owner, router, queue, target, number, path_admits.admits, (), now_s)
        self.layout, self.path_admits, self._versions = layout, path_admits, versions
        self._expected = expected
        self.others_packed: list[bytes] = []
        self.settles: list[PathSettle] = []

    @property
    def others(self) -> int:
        return len(self.others_packed)

    def arguments(self) -> bytes:
        taken, versions = self.path_admits, self._versions
        admits = []
        for at, path in enumerate(taken.paths):
            _, input_tokens, output_tokens = taken.needed(at)
            admits.append(pack_admit(path, input_tokens, output_tokens))
        packed = self.layout.pack(
            self.number,
            self.others_packed,
            admits,
            resent=self.resent,
            expected=self._expected(),
            version=versions.account,
            key_versions=versions.keys,
        )
        return bulk((packed, *(kid.encode() for kid in self.layout.kids)))
