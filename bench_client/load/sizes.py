"""Distributions of token sizes: ``fixed:N``, ``uniform:A:B`` and ``lognormal:MEDIAN:SIGMA``."""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass
from random import Random

from bench_client.errors import BenchUsageError

MAX_TOKENS = 1_000_000
"""Largest size ever drawn: more than any model takes, and small enough that a lognormal's tail fits in memory."""


@dataclass(frozen=True, slots=True)
class SizeDistribution:
    """Draw how many tokens a prompt or an answer has; sizes are whole numbers from 1 to ``MAX_TOKENS``."""

    kind: str
    first: float
    second: float
    text: str
    """As given on the command line."""

    @classmethod
    def parse(cls, text: str) -> SizeDistribution:
        """Read the command line's form. Raises BenchUsageError, which names the possible forms."""
        kind, *rest = text.strip().lower().split(":")
        try:
            numbers = [float(number) for number in rest]
        except ValueError:
            numbers = []
        match kind, numbers:
            case "fixed", [n] if _is_size(n):
                return cls(kind, n, n, text)
            case "uniform", [low, high] if _is_size(low) and _is_size(high) and low <= high:
                return cls(kind, low, high, text)
            case "lognormal", [median, sigma] if 1 <= median <= MAX_TOKENS and 0 <= sigma <= 5:
                return cls(kind, median, sigma, text)
        raise BenchUsageError(
            f"{text!r} is not a size: use fixed:N, uniform:A:B or lognormal:MEDIAN:SIGMA (1 <= tokens <= {MAX_TOKENS})"
        )

    def draw(self, count: int, rng: Random) -> array[int]:
        """Return ``count`` sizes in tokens."""
        match self.kind:
            case "fixed":
                return array("I", [int(self.first)]) * count
            case "uniform":
                low, span = int(self.first), int(self.second) - int(self.first) + 1
                return array("I", [low + int(rng.random() * span) for _ in range(count)])
            case _:
                mu, sigma, exp, gauss = math.log(self.first), self.second, math.exp, rng.gauss
                return array("I", [_clipped(exp(gauss(mu, sigma))) for _ in range(count)])

    def __str__(self) -> str:
        return self.text


def _is_size(number: float) -> bool:
    return 1 <= number <= MAX_TOKENS and number == int(number)


def _clipped(tokens: float) -> int:
    return min(max(round(tokens), 1), MAX_TOKENS)
