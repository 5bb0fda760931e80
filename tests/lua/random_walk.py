"""Seeded random walks of a window beside its model: quick, compact, the same each time.

Hypothesis searches better and shrinks what it finds (test_script_differential.py); this is what many mutants can be put
through in a few seconds.
"""

from __future__ import annotations

import random

from reference import Admit, Charge, Limits, Operation, Settle
from script_driver import Pair

BUCKET_MS = 100
NODES = ("a", "b", "c")
RING = 24 * 32
"""So many buckets later, a field of the hash comes round again."""


def some_limits(rng: random.Random) -> Limits:
    """Limits that a walk runs into: few requests or few tokens of one kind, at times none."""
    requests = rng.choice((0, 1, 3, 8, 30, 1000))
    return Limits(
        requests, rng.choice((0, 60, 400, 100_000)), rng.choice((0, 60, 400, 100_000)), rng.choice((0, 7, 50))
    )


class Walk:
    """One walk. `step` does something at random on both sides and raises AssertionError where they differ."""

    def __init__(self, pair: Pair, seed: int) -> None:
        self.pair = pair
        self.rng = random.Random(seed)
        self.admitted: list[tuple[int, int, int]] = []  # bucket, input, output
        # How busy the key is: a walk in small steps fills neighbouring buckets, one in large ones leaves gaps.
        self.pace = self.rng.choice(("rush", "steady", "sparse", "mixed"))
        self.sent: dict[str, tuple[int, list[Operation]]] = {}  # each node's last batch

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.step()

    def step(self) -> None:
        rng = self.rng
        self.move_clock()
        action = rng.random()
        if action < 0.05:
            self.pair.set_limits(None if rng.random() < 0.1 else some_limits(rng))
        elif self.pair.model.limits is None:
            self.pair.set_limits(some_limits(rng))
        self.batch()

    def move_clock(self) -> None:
        rng, width = self.rng, self.pair.window.width
        pace = rng.choice(("rush", "steady", "sparse")) if self.pace == "mixed" else self.pace
        if rng.random() < 0.04:  # to the edges of the window, or past all of it
            step = (width + rng.choice((-1, 0, 1, 2, 40))) * BUCKET_MS + rng.randint(-1, 1)
        elif rng.random() < 0.05 and self.pair.model.buckets:  # to where a new bucket takes an old one's field
            oldest = min(self.pair.model.buckets)
            now_ms = self.pair.model.time_ms(self.pair.window.clock_ms)
            step = max((oldest + RING + rng.randint(0, 9)) * BUCKET_MS - now_ms, 0)
        elif rng.random() < 0.05:
            step = -rng.choice((1, 50, 100, 1000, width * BUCKET_MS, 2 * width * BUCKET_MS))
        elif pace == "rush":
            step = rng.choice((0, 0, 1, 30, 100))
        elif pace == "steady":
            step = rng.choice((100, 101, 200, 500, 700))
        else:
            step = rng.randint(0, max(width // 8, 2)) * BUCKET_MS
        self.pair.window.clock_ms += step

    def batch(self) -> None:
        rng, window = self.rng, self.pair.window
        # Now and then a node that has just started.
        node = rng.choice(NODES) if rng.random() < 0.95 else f"node-{len(self.sent)}"
        operations = [self.operation() for _ in range(rng.choice((1, 1, 2, 3, 6)))]
        fate = rng.random()
        if fate < 0.03:  # the store has an older record than the node was told of, or none
            record = self.pair.model.records.get(node)
            recorded = record.number if record else 0
            number = max(window.numbers.get(node, 0), recorded) + 10
            self.pair.decide(operations, node=node, number=number, expected=recorded + rng.randint(1, 9))
            return
        if fate < 0.8:
            self.decide(operations, node)
            return
        number = window.numbers.get(node, 0) + 1
        if fate < 0.93:
            applied = fate < 0.87
            if applied:  # the reply was lost; else the batch
                self.decide(operations, node)
            if rng.random() < 0.5:
                self.move_clock()
            if rng.random() < 0.2:
                self.pair.set_limits(some_limits(rng))
            if rng.random() < 0.2:
                self.decide([self.operation()], rng.choice([n for n in NODES if n != node]))
            window.numbers[node] = number
            self.decide(operations, node, number, resent=True)
            if rng.random() < 0.2:
                self.decide(operations, node, number, resent=True)
        elif fate < 0.96 and self.sent:  # a batch may come again long after
            node = rng.choice(list(self.sent))
            number, operations = self.sent[node]
            self.decide(operations, node, number, resent=rng.random() < 0.5)
        elif record := self.pair.model.records.get(node):
            self.decide(operations, node, record.number - 1)

    def decide(
        self, operations: list[Operation], node: str, number: int | None = None, *, resent: bool = False
    ) -> None:
        reply = self.pair.decide(operations, node=node, number=number, resent=resent)
        if number is None or number == self.pair.window.numbers[node]:
            self.sent[node] = (self.pair.window.numbers[node], operations)
        bucket = reply.time_ms // BUCKET_MS
        for operation, (verdict, _) in zip(operations, reply.results, strict=False):
            if isinstance(operation, Admit) and verdict == 0:
                output = operation.output + operation.choices * reply.output_reserve
                self.admitted.append((bucket, operation.input, output))
        del self.admitted[:-40]

    def operation(self) -> Operation:
        rng = self.rng
        kind = rng.random()
        if kind < 0.55:
            choices = rng.choice((0, 0, 0, 1, 2))
            output = 0 if choices else rng.choice((0, 5, 20, 61))
            return Admit(rng.choice((0, 1, 20, 61)), output, choices)
        if kind < 0.8 and self.admitted:
            bucket, input_tokens, output = rng.choice((self.admitted[-1], rng.choice(self.admitted)))
            how = rng.random()
            if how < 0.3:  # all of it, as after a failure upstream
                return Settle(bucket, input_tokens, output)
            if how < 0.6:
                return Settle(bucket, 0, rng.randint(0, output), rng.choice((0, 0, 0, 1)))
            if how < 0.8:
                return Settle(bucket, rng.randint(-5, 5), rng.randint(-30, 90))
            return Settle(bucket + rng.randint(-3, 3), 5, 5)
        bucket = self.pair.model.time_ms(self.pair.window.clock_ms) // BUCKET_MS
        next_round = min(self.pair.model.buckets, default=bucket) + RING + rng.randint(0, 4)
        if next_round <= bucket and rng.random() < 0.7:
            return Charge(next_round, 1, 2, 3)
        ago = rng.choice((-2, 0, 1, 2, 4, 7, self.pair.window.width, self.pair.window.width + 1))
        return Charge(bucket - ago, rng.choice((0, 1, 1, 2)), rng.choice((0, 9)), rng.choice((0, 9)))
