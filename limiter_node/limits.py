"""The limits of an API key, and the sliding window in which they hold: 60 s in buckets of 100 ms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

BUCKET_MS = 100
WINDOW_MS = 60_000
WINDOW_BUCKETS = WINDOW_MS // BUCKET_MS

MAX_LIMIT = 4_000_000_000
"""The largest limit per window: a bucket's counters are 32 bits wide."""

MAX_BATCH = 64
"""Operations per script call: keeps a call far below 1 ms, so that no other key of the shard waits for long."""

DEFAULT_RPM = 600
DEFAULT_INPUT_TPM = 100_000
DEFAULT_OUTPUT_TPM = 50_000
DEFAULT_OUTPUT_RESERVE = 256
DIMENSIONS = ("requests", "input_tokens", "output_tokens")
"""The names of the three limits, in the order of all tuples of three in this code."""


class Amounts(NamedTuple):
    """One number per dimension: a limit, a usage, a remainder or a time in ms."""

    requests: int
    input_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """The limits of one API key in any 60 s, as declared in ``keys.toml`` and stored in ``rl:{kid}:limits``.

    ``output_reserve``: the tokens reserved per choice for a request that sets no output cap. ``name``: the key's name
    in messages; the key itself is never stored.
    """

    rpm: int = DEFAULT_RPM
    input_tpm: int = DEFAULT_INPUT_TPM
    output_tpm: int = DEFAULT_OUTPUT_TPM
    output_reserve: int = DEFAULT_OUTPUT_RESERVE
    name: str = ""


def bucket_life_ms(window_buckets: int = WINDOW_BUCKETS) -> int:
    """Return the time from a bucket's beginning until it leaves a window of that many buckets, in ms.

    A bucket leaves as a whole, together with its last moment: one bucket later than its first moment would.
    """
    return (window_buckets + 1) * BUCKET_MS
