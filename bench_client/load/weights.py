"""Names with weights, as options give them: ``gpt-4o:3,o3:1``."""

from __future__ import annotations

from math import isfinite

from bench_client.errors import BenchUsageError

Weights = tuple[tuple[str, float], ...]
"""Names, each once, and their weights above 0."""


def parse_weights(text: str) -> Weights:
    """Return the weights in ``text``; a name without a weight has 1.

    What follows a name's last colon is its weight if it is a number: ``llama3:8b`` is a name, ``qwen:7`` isn't, and
    becomes one as ``qwen:7:1``. Raises BenchUsageError.
    """
    weights: dict[str, float] = {}
    for item in text.split(","):
        name, weight = _split(item.strip())
        if not name or not isfinite(weight) or weight <= 0:
            raise BenchUsageError(f"{text!r} is not a list of names and weights: use NAME:WEIGHT,..., weights above 0")
        if name in weights:
            raise BenchUsageError(f"{text!r} has {name} twice; name each once")
        weights[name] = weight
    return tuple(weights.items())


def _split(item: str) -> tuple[str, float]:
    name, colon, last = item.rpartition(":")
    try:
        weight = float(last)
    except ValueError:
        return item, 1
    return (name, int(weight) if weight.is_integer() else weight) if colon else (item, 1)
