"""The values that travel between the stages of a request; no stage's types, no behaviour beyond reading themselves.

Tuples where one is made per request (a frozen dataclass costs several times as much to create), dataclasses elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

MAX_LIMIT = 4_000_000_000
"""The largest limit per window: a bucket's counters are 32 bits wide."""

MAX_BATCH = 64
"""Operations per script call: keeps a call far below 1 ms, so that no other key of the shard waits for long."""

DEFAULT_RPM = 600
DEFAULT_INPUT_TPM = 100_000
DEFAULT_OUTPUT_TPM = 50_000
DEFAULT_OUTPUT_RESERVE = 256

DIMENSIONS = ("requests", "input_tokens", "output_tokens")
"""The names of the three limits, in the order of every tuple of three in this code."""


class Amounts(NamedTuple):
    """One number per dimension: a limit, a usage, a remainder or a time in ms."""

    requests: int
    input_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """What one API key may use in any 60 s, as declared in ``keys.toml`` and stored in ``rl:{kid}:limits``.

    ``output_reserve`` is what is reserved per choice for a request that sets no output cap. ``name`` is what messages
    call the key; the key itself is never stored.
    """

    rpm: int = DEFAULT_RPM
    input_tpm: int = DEFAULT_INPUT_TPM
    output_tpm: int = DEFAULT_OUTPUT_TPM
    output_reserve: int = DEFAULT_OUTPUT_RESERVE
    name: str = ""


class Need(NamedTuple):
    """What one request asks of its key beside the one request that it is.

    The reservation is ``output_tokens + default_choices × the key's output_reserve``: a request with a cap has
    ``output_tokens = n × cap`` and ``default_choices = 0``, one without has ``0`` and ``default_choices = n``.
    """

    input_tokens: int
    output_tokens: int
    default_choices: int = 0


class Outcome(IntEnum):
    """How a request was decided. A denial is a value, and "never" is another value than "not now"."""

    ADMITTED = 0
    REJECTED = 1
    NEVER_FITS = 2
    UNKNOWN_KEY = 3


Receipt = object
"""The hold of an admission in the store, which makes it and takes it back; nobody else looks inside."""


class Decision(NamedTuple):
    """One decided request. For ``UNKNOWN_KEY`` only ``outcome`` means anything."""

    outcome: Outcome
    dimension: int
    """Index into ``DIMENSIONS`` of the limit that rejected (the one that frees last), -1 when admitted."""
    retry_after_ms: int
    """Exact time until this request would be admitted if nothing else happened; 0 unless ``REJECTED``."""
    limits: Amounts
    used: Amounts
    """After this decision."""
    reset_ms: Amounts
    """Time until the dimension is wholly free if nothing else happened."""
    need: Amounts
    """What the request asked for, the reservation resolved."""
    time_ms: int
    """The store's clock at the decision, ms since the epoch."""
    name: str
    """The key's name where it was rejected (empty if it has none), else empty."""
    receipt: Receipt = None
    """The hold of an admitted request in the store; None for any other."""
    degraded: str = ""
    """The policy that decided because the store could not be asked: `limits` are as the store last told them, `time_ms`
    is its clock as estimated. Empty if the store decided."""


UNKNOWN_KEY = Decision(
    Outcome.UNKNOWN_KEY, -1, 0, Amounts(0, 0, 0), Amounts(0, 0, 0), Amounts(0, 0, 0), Amounts(0, 0, 0), 0, ""
)


class WindowBucket(NamedTuple):
    """What one 100 ms bucket of a window holds; ``bucket`` is the store's clock divided by 100 ms."""

    bucket: int
    requests: int
    input_tokens: int
    output_tokens: int


class Usage(NamedTuple):
    """A key's limits and usage at one moment, read without counting anything."""

    limits: Amounts
    used: Amounts
    reset_ms: Amounts
    output_reserve: int
    time_ms: int
    name: str
    buckets: tuple[WindowBucket, ...]
    degraded: str = ""
    """The policy that tells this from what the node knows, because the store could not be asked; else empty."""


class LimiterError(Exception):
    """Base of all errors of this package that a caller may meet. The message says what to do."""


class StoreUnavailable(LimiterError):
    """Raised when the store did not decide in time or cannot be reached."""


class OtherFormat(LimiterError):
    """Raised when nodes of storage format `theirs` use the store, and this process reads and writes `ours`."""

    def __init__(self, theirs: bytes, ours: int) -> None:
        super().__init__(
            f"nodes of storage format {theirs.decode(errors='replace')} use this store; this node reads and writes "
            f"format {ours}: stop them first, or give this node another store"
        )


class Overloaded(LimiterError):
    """Raised when a node has as much undecided work as it may hold."""


class ConfigError(LimiterError):
    """Raised for wrong settings, keys files, URLs: what a person has to correct (exit code 2)."""
