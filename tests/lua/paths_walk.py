"""Seeded random walks of an account beside its model: trees, models, policies that change, clocks that step.

Each walk has an account of its own shape: up to nine windows on up to four hashes, from a second to 31 days long.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

from paths_pair import PathsPair
from reference_calls import (
    NO_LIMIT,
    OLD_POLICY,
    UNITS,
    UNKNOWN_KEY,
    AdmitOn,
    AnswerOn,
    Call,
    ChargeOn,
    OperationOn,
    Path,
    SettleOn,
    Window,
)

NODES = ("node-aaa", "node-bbb", "node-ccc")
MODELS = ("small", "large")
LENGTHS = (
    *((100, 5), (100, 10), (100, 20), (100, 100), (100, 600), (100, 600), (100, 600), (200, 600), (1_000, 600)),
    *((6_000, 600), (144_000, 600), (144_000, 600), (1_008_000, 600), (4_464_000, 600)),
)
"""Width of a bucket in ms, and their number: 500 ms to 31 days, most of them a minute or a day."""
RING = 24 * 32
"""So many buckets later, a field of a hash comes round again."""
LARGEST = 999_999_999_999_999
SCALES: dict[str, tuple[int, ...]] = {
    "small": (0, 0, 1, 1, 5, 20, 20, 61),
    "wide": (0, 1, 2**32 - 1, 2**32, 30_000_000_000, 30_000_000_000, 270_000_000_000),
    "mixed": (0, 0, 1, 1, 20, 20, 61, 2**32 - 30, 2**32, 270_000_000_000),
}
LIMITS: dict[str, tuple[int, ...]] = {
    "small": (60, 100, 400, 400, 3_000),
    "wide": (2**34, 300_000_000_000, 300_000_000_000, 2_000_000_000_000, LARGEST),
    "mixed": (60, 400, 2**33, 2**33, 600_000_000_000, LARGEST),
}


@dataclass(frozen=True)
class Placed:
    """A window of the tree: the models that it counts, and the keys below it (its owner's, for a key's window)."""

    window: Window
    models: frozenset[str]
    keys: frozenset[str]


@dataclass
class Known:
    """The policies as a node has read them."""

    version: bytes = b"nothing!"
    keys: dict[str, bytes] = field(default_factory=dict)
    windows: list[Placed] = field(default_factory=list)


@dataclass(frozen=True)
class Admission:
    """What a node settles later: the windows, the key, the time, the amounts."""

    key: str
    windows: tuple[Window, ...]
    time_ms: int
    input: int
    output: int


@dataclass
class Batch:
    """A batch under construction: windows and paths are numbered when all are known."""

    known: Known
    paths: list[tuple[str, tuple[Window, ...], int]] = field(default_factory=list)
    others: list[OperationOn] = field(default_factory=list)
    admits: list[OperationOn] = field(default_factory=list)

    def path(self, key: str, windows: tuple[Window, ...], ends_ms: int = 0) -> int:
        if (key, windows, ends_ms) not in self.paths:
            self.paths.append((key, windows, ends_ms))
        return self.paths.index((key, windows, ends_ms))

    def to_call(self, rng: random.Random) -> Call:
        keys = list(dict.fromkeys(key for key, _, _ in self.paths if key))
        rng.shuffle(keys)
        # A window may be on a path as it was and on another as it is: it is named once.
        named = {(window.owner, window.id): window for _, windows, _ in reversed(self.paths) for window in windows}
        found = list(named.values())
        rng.shuffle(found)
        found.sort(key=lambda window: ["", *keys].index(window.owner))
        places = {(window.owner, window.id): place for place, window in enumerate(found)}
        paths = [
            Path(keys.index(key) + 1 if key else 0, tuple(places[each.owner, each.id] for each in windows), ends_ms)
            for key, windows, ends_ms in self.paths
        ]
        versions = tuple((key, self.known.keys.get(key, b"nothing!")) for key in keys)
        return Call(tuple(found), tuple(paths), self.known.version, versions)


class PathsWalk:
    """One walk. `run` does something at random on both sides and raises AssertionError where they differ."""

    def __init__(self, pair: PathsPair, seed: int) -> None:
        self.pair = pair
        self.rng = rng = random.Random(seed)
        self.rng_of_ends = random.Random(~seed)
        self.scale = rng.choice(("small", "small", "wide", "mixed"))
        self.keys = [f"{seed:08x}{number:024x}" for number in range(rng.choice((0, 1, 1, 2, 3)))]
        self.present = list(self.keys)
        self.version = b""
        self.versions: dict[str, bytes] = {}
        self.tree = self._some_tree()
        self.absent: list[Placed] = []
        self.known = {node: Known() for node in NODES}
        self.admissions: list[Admission] = []
        self.sent: dict[str, tuple[int, Call, list[OperationOn]]] = {}
        # How busy the account is, measured in the buckets of one of its windows.
        self.pace = rng.choice(("rush", "steady", "sparse", "mixed"))
        self.focus = rng.choice(self.tree).window
        self._declare()

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self._move_clock()
            action = self.rng.random()
            if action < 0.10:
                self._change()
            elif action < 0.12:
                self.pair.lose(self.rng.choice(["", *self.keys]))
            elif action < 0.17:
                self._fill()
            elif action < 0.20:
                self._go_on_steadily()
            self._batch()

    # ---- the tree ------------------------------------------------------------------------------------------------
    def _some_tree(self) -> list[Placed]:
        rng = self.rng
        owners = ["", *self.keys]
        placed = []
        for _ in range(rng.randint(1, 9)):
            owner = rng.choice(owners)
            bucket_ms, width = rng.choice(LENGTHS)
            keys = frozenset({owner} if owner else {each for each in ["", *self.keys] if rng.random() < 0.7})
            models = frozenset(MODELS if rng.random() < 0.7 else {rng.choice(MODELS)})
            window = Window(owner, rng.randbytes(6), bucket_ms, width, self._some_limits())
            placed.append(Placed(window, models, keys))
        return placed

    def _some_limits(self) -> tuple[int, ...]:
        rng = self.rng
        limits = [NO_LIMIT if rng.random() < 0.4 else rng.choice(LIMITS[self.scale]) for _ in range(UNITS)]
        limits[0] = rng.choice((NO_LIMIT, NO_LIMIT, 1, 3, 8, 30, LARGEST))
        if rng.random() < 0.05:
            limits[rng.randrange(UNITS)] = 0
        return tuple(limits)

    def _change(self) -> None:
        """Change a policy: a limit, a window taken away or given back, a key, or nothing but a version."""
        rng = self.rng
        if rng.random() < 0.5:
            self.present = self.keys
        action = rng.random()
        if action < 0.5:
            place = rng.randrange(len(self.tree))
            changed = replace(self.tree[place].window, limits=self._some_limits())
            self.tree[place] = replace(self.tree[place], window=changed)
        elif action < 0.6 and len(self.tree) > 1:
            self.absent.append(self.tree.pop(rng.randrange(len(self.tree))))
        elif action < 0.85 and self.absent:
            self.tree.append(self.absent.pop(rng.randrange(len(self.absent))))
        elif 0.85 <= action < 0.92 and self.keys:  # a key is deleted; with one of the next changes it is there again
            self.present = rng.sample(self.keys, len(self.keys) - 1)
        elif 0.92 <= action < 0.96:  # the account is unknown until the next change
            self.version = b""
            self.pair.set_policy(b"", {})
            return
        self._declare(rng.choice(["", *self.keys]))

    def _declare(self, owner: str | None = None) -> None:
        """Store new versions: of one owner, or of all."""
        if owner in (None, "") or not self.version:
            self.version = self.rng.randbytes(8)
        for key in self.present:
            if owner in (None, key) or key not in self.versions:
                self.versions[key] = self.rng.randbytes(8)
        self.versions = {key: self.versions[key] for key in self.present}
        gone = [key for key in self.keys if key not in self.present]
        moved = [key for key in gone if self.rng_of_ends.random() < 0.7]
        self.pair.set_policy(self.version, self.versions, moved)

    # ---- the clock -----------------------------------------------------------------------------------------------
    def _move_clock(self) -> None:
        rng = self.rng
        if rng.random() < 0.1:
            self.focus = rng.choice(self.tree).window
        window = self.focus
        pace = rng.choice(("rush", "steady", "sparse")) if self.pace == "mixed" else self.pace
        fate = rng.random()
        if fate < 0.04:  # to the edges of the window, or past all of it
            step = (window.width + rng.choice((-1, 0, 1, 2, 40))) * window.bucket_ms + rng.randint(-1, 1)
        elif fate < 0.08 and (buckets := self.pair.model.stored(window)):  # to where an old bucket's field is reused
            at_ms = (min(buckets) + RING + rng.randint(0, 30)) * window.bucket_ms
            step = max(at_ms - self.pair.now_ms([window]), 0)
        elif fate < 0.12:
            step = -rng.choice((1, 50, 100, 1_000, window.bucket_ms, window.life_ms, 2 * window.life_ms))
        elif pace == "rush":
            step = rng.choice((0, 0, 1, 30, 100, window.bucket_ms // 3))
        elif pace == "steady":
            step = rng.choice((100, 101, 200, window.bucket_ms, window.bucket_ms + 1, 5 * window.bucket_ms))
        else:
            step = rng.randint(0, max(window.width // 8, 2)) * window.bucket_ms
        self.pair.clock_ms += step

    def _go_on_steadily(self) -> None:
        """Admit one by one on one path, so that buckets begin and leave one after the other: the usual use."""
        rng = self.rng
        node = rng.choice(NODES)
        self._read(node)
        key, windows = self._some_path(self.known[node])
        if not windows:
            return
        window = rng.choice(windows)
        step_ms = window.bucket_ms * rng.choice((1, 1, 3, 8, 23, max(window.width // 10, 1)))
        for _ in range(rng.randint(5, 30)):
            passed_ms = rng.choice((step_ms, step_ms, step_ms + 1, 0))
            self.pair.pass_time(passed_ms, [window.owner for window in windows])
            batch = Batch(self.known[node])
            batch.admits.append(
                AdmitOn(batch.path(key, windows, self._some_end()), rng.choice((0, 1)), rng.choice((0, 1, 1)))
            )
            self._decide(node, batch.to_call(rng), [*batch.admits])

    # ---- batches -------------------------------------------------------------------------------------------------
    def _batch(self) -> None:
        rng = self.rng
        node = rng.choice(NODES) if rng.random() < 0.96 else f"node-{rng.randrange(1000):03d}"
        call, operations = self._some_batch(node)
        fate = rng.random()
        if fate < 0.03:  # the store has an older record than the node was told of, or none
            record = self.pair.model.records.get(node)
            recorded = record.number if record else 0
            number = max(self.pair.numbers.get(node, 0), recorded) + 10
            self.pair.decide(call, operations, node=node, number=number, expected=recorded + rng.randint(1, 9))
        elif fate < 0.8:
            self._decide(node, call, operations)
        elif fate < 0.93:
            self._decide_resent(node, call, operations)
        elif fate < 0.96 and self.sent:  # a batch may come again long after
            node = rng.choice(list(self.sent))
            number, call, operations = self.sent[node]
            self._decide(node, call, operations, number, resent=rng.random() < 0.5)
        elif record := self.pair.model.records.get(node):
            self._decide(node, call, operations, record.number - 1)

    def _decide_resent(self, node: str, call: Call, operations: list[OperationOn]) -> None:
        rng = self.rng
        record = self.pair.model.records.get(node)
        number = max(self.pair.numbers.get(node, 0), record.number if record else 0) + 1
        if rng.random() < 0.5:  # the reply was lost; else the batch
            self._decide(node, call, operations, number)
        if rng.random() < 0.5:
            self._move_clock()
        if rng.random() < 0.2:
            self._change()
        if rng.random() < 0.2:
            other = rng.choice([each for each in NODES if each != node])
            self._decide(other, *self._some_batch(other))
        self.pair.numbers[node] = number
        if rng.random() < 0.4:  # made anew, by what the node has learned meanwhile
            call = self._with_present_policies(call)
        for _ in range(rng.choice((1, 1, 2))):
            self._decide(node, call, operations, number, resent=True)

    def _with_present_policies(self, call: Call) -> Call:
        limits = {(each.window.owner, each.window.id): each.window.limits for each in self.tree}
        if self.rng.random() < 0.5:
            limits = {place: self._some_limits() for place in limits}
        windows = [replace(each, limits=limits.get((each.owner, each.id), each.limits)) for each in call.windows]
        keys = tuple((key, self.versions.get(key, version)) for key, version in call.keys)
        return replace(call, windows=tuple(windows), version=self.version or call.version, keys=keys)

    def _decide(
        self, node: str, call: Call, operations: list[OperationOn], number: int | None = None, *, resent: bool = False
    ) -> None:
        answer = self.pair.decide(call, operations, node=node, number=number, resent=resent)
        if number is None:
            self.sent[node] = (self.pair.numbers[node], call, operations)
        self._learn(node, call, operations, answer)

    def _learn(self, node: str, call: Call, operations: list[OperationOn], answer: AnswerOn) -> None:
        for operation, result in zip(operations, answer.results, strict=False):
            if isinstance(operation, AdmitOn) and result.verdict == 0:
                path = call.paths[operation.path]
                key = call.keys[path.key - 1][0] if path.key else ""
                windows = tuple(call.windows[place] for place in path.windows)
                self.admissions.append(Admission(key, windows, answer.time_ms, operation.input, operation.output))
            elif result.verdict in (OLD_POLICY, UNKNOWN_KEY) and self.rng.random() < 0.8:
                self._read(node)
        del self.admissions[:-40]

    def _read(self, node: str) -> None:
        self.known[node] = Known(self.version, dict(self.versions), list(self.tree))

    def _some_batch(self, node: str) -> tuple[Call, list[OperationOn]]:
        rng = self.rng
        if node not in self.known or rng.random() < 0.5:
            self._read(node)
        batch = Batch(self.known[node])
        for _ in range(rng.choice((1, 1, 2, 3, 6))):
            if rng.random() < 0.65:
                key, windows = self._some_path(batch.known)
                run = rng.choice((1, 1, 1, 2, 5))  # requests of one path in a row
                ends_ms = self._some_end()
                for _ in range(run):
                    amounts = self._amount(windows), self._amount(windows)
                    batch.admits.append(AdmitOn(batch.path(key, windows, ends_ms), *amounts))
            elif self.admissions and rng.random() < 0.7:
                batch.others.append(self._settle(batch))
            else:
                batch.others.append(self._charge(batch))
        return batch.to_call(rng), [*batch.others, *batch.admits]

    def _some_path(self, known: Known) -> tuple[str, tuple[Window, ...]]:
        rng = self.rng
        key, model = rng.choice(self.keys or [""]), rng.choice(MODELS)
        return key, tuple(each.window for each in known.windows if key in each.keys and model in each.models)

    def _some_end(self) -> int:
        """When a credential ends, most often never; else around what the store's clock shows, and not the account's."""
        rng = self.rng_of_ends
        if rng.random() < 0.85:
            return 0
        return self.pair.clock_ms + rng.choice((-1, 0, 1, 50, 1_000, 100_000, self.pair.model.skew_ms))

    def _amount(self, windows: tuple[Window, ...] = ()) -> int:
        """Some tokens; at times as many as a window of these has room for, or one more."""
        rng = self.rng
        if windows and rng.random() < 0.2:
            window, unit = rng.choice(windows), rng.randint(1, 3)
            _, *used = self.pair.model.used(window, self.pair.now_ms(windows))
            room = window.limits[unit] - (*used, sum(used))[unit - 1]
            if 0 <= room < 2**40:
                return room + rng.choice((0, 0, 0, 1))
        return rng.choice(SCALES[self.scale])

    def _settle(self, batch: Batch) -> OperationOn:
        rng = self.rng
        admission = rng.choice((self.admissions[-1], rng.choice(self.admissions)))
        path, time_ms = batch.path(admission.key, admission.windows), admission.time_ms
        how = rng.random()
        if how < 0.3:  # all of it, as after a failure upstream
            return SettleOn(path, time_ms, rng.choice((0, 1)), admission.input, admission.output)
        if how < 0.6:
            return SettleOn(path, time_ms, 0, 0, rng.randint(0, admission.output))
        if how < 0.8:
            return SettleOn(path, time_ms, 0, rng.randint(-5, 5), rng.choice((-self._amount(), rng.randint(-30, 90))))
        shift = rng.randint(-3, 3) * (rng.choice(admission.windows).bucket_ms if admission.windows else 100)
        return SettleOn(path, time_ms + shift, 0, 5, 5)

    def _charge(self, batch: Batch) -> OperationOn:
        rng = self.rng
        key, windows = self._some_path(batch.known)
        window = rng.choice(windows) if windows else self.focus
        now_ms = self.pair.now_ms(windows)
        ago = rng.choice((-2, 0, 1, 2, 4, 7, 30, window.width, window.width + 1))
        if buckets := self.pair.model.stored(window):
            next_round = (min(buckets) + RING + rng.randint(0, 4)) - now_ms // window.bucket_ms
            if next_round <= 0 and rng.random() < 0.7:
                ago = -next_round
        time_ms = max(now_ms - ago * window.bucket_ms + rng.choice((0, 0, 1, 99)), 0)
        return ChargeOn(batch.path(key, windows), time_ms, rng.choice((0, 1, 1, 2)), self._amount(), self._amount())

    def _fill(self) -> None:
        """Fill many buckets of a window, as a busy account does."""
        rng = self.rng
        node = rng.choice(NODES)
        batch = Batch(self.known[node])
        key, windows = self._some_path(batch.known)
        if not windows:
            return
        window = rng.choice(windows)
        now_ms = self.pair.now_ms(windows)
        every, begin = rng.choice((1, 1, 2, 7)), rng.choice((0, 0, 1, window.width // 2))
        for ago in range(begin + rng.choice((30, 60, 120, 120, window.width)), begin, -every):
            time_ms = max(now_ms - ago * window.bucket_ms, 0)
            amounts = rng.choice((0, 1, 3)), rng.choice((0, 1, self._amount()))
            batch.others.append(ChargeOn(batch.path(key, windows), time_ms, rng.choice((0, 1)), *amounts))
        self._decide(node, batch.to_call(rng), batch.others)
