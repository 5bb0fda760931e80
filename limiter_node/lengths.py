"""Distributions of answer lengths, in the form of the mock's options."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from limiter_node.errors import ConfigError

MAX_LENGTH = 1_000_000
"""The longest answer in tokens, some 5 MB; it bounds the tail of a lognormal distribution."""

_SHAPES = "'fixed:N', 'uniform:A:B' or 'lognormal:MEDIAN:SIGMA'"
LengthDraw = Callable[[], int]


def parse_length(spec: str, rng: random.Random) -> LengthDraw:
    """Return a function that draws lengths in tokens from the distribution `spec`.

    `spec` is ``fixed:N``, ``uniform:A:B`` (inclusive) or ``lognormal:MEDIAN:SIGMA``.

    Lengths are 0 to `MAX_LENGTH`; lognormal ones at least 1. Raises `ConfigError` for anything else.
    """
    kind, *numbers = spec.split(":")
    try:
        if kind == "fixed":
            (length,) = (_length(each) for each in numbers)
            return lambda: length
        if kind == "uniform":
            low, high = (_length(each) for each in numbers)
            if low > high:
                raise ValueError
            span = high - low + 1
            # Not randint: it costs four times as much.
            return lambda: low + int(rng.random() * span)
        if kind == "lognormal":
            median_text, sigma_text = numbers
            median, sigma = _length(median_text), float(sigma_text)
            if median < 1 or not 0 <= sigma <= 10:
                raise ValueError
            mu = math.log(median)
            return lambda: min(MAX_LENGTH, max(1, round(rng.lognormvariate(mu, sigma))))
    except ValueError:
        pass
    raise ConfigError(f"{spec!r} is not a length distribution: use {_SHAPES}, lengths from 0 to {MAX_LENGTH}")


def _length(text: str) -> int:
    length = int(text)
    if not 0 <= length <= MAX_LENGTH:
        raise ValueError
    return length
