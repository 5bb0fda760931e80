"""The values around a decision: a request's need, the decision, its key's usage.

Tuples where one is made per request (a frozen dataclass costs several times as much to create), dataclasses elsewhere.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NamedTuple

from limiter_node.key_states import CredentialState
from limiter_node.limits import Amounts
from limiter_node.plans import Plan
from limiter_node.policy import TOKENS


class Need(NamedTuple):
    """The tokens that one request asks of its key, beside counting as one request.

    The reservation is ``output_tokens + default_choices × the key's output_reserve``: a request with a cap has
    ``output_tokens = n × cap`` and ``default_choices = 0``, one without has ``0`` and ``default_choices = n``.
    """

    input_tokens: int
    output_tokens: int
    default_choices: int = 0
    models: tuple[str, ...] = ()
    """The names of the request's model: the caller's, and the service's if it differs."""


class Outcome(IntEnum):
    """The outcome of a decision. A denial is a value, and "never" is another value than "not now"."""

    ADMITTED = 0
    REJECTED = 1
    NEVER_FITS = 2
    UNKNOWN_KEY = 3
    REVOKED_KEY = 4
    EXPIRED_KEY = 5
    DISABLED_KEY = 6


Receipt = object
"""The hold of an admission in the store. Only the store's side makes receipts and reads them."""


class PathUsage(NamedTuple):
    """The usage of all windows that a request touches, in the order of its plan's windows."""

    plan: Plan
    used: tuple[Amounts, ...]
    reset_ms: tuple[Amounts, ...]
    """Per window the time until each dimension is wholly free if nothing else happened."""
    exceeded: int = -1
    """The index of the window that rejected; -1 if none did."""
    tokens: tuple[int, ...] = ()
    """Per window the usage by its limit of tokens, where a policy decided: what the node will not admit counts as used,
    so that it isn't the sum of input and output. Empty if it is their sum."""

    def used_of(self, window: int, unit: int) -> int:
        """Return the usage of a window by a unit of ``policy.UNITS``; tokens are input and output together."""
        if unit < TOKENS:
            return self.used[window][unit]
        if self.tokens:
            return self.tokens[window]
        _, input_tokens, output_tokens = self.used[window]
        return input_tokens + output_tokens


class Decision(NamedTuple):
    """One decided request. For ``UNKNOWN_KEY`` and what follows it only ``outcome`` means anything.

    `path` is given for a key of an account; then `limits`, `used` and `reset_ms` are zeros, and mean nothing.
    """

    outcome: Outcome
    dimension: int
    """Index into ``policy.UNITS`` of the limit that rejected (the one that frees last), -1 when admitted."""
    retry_after_ms: int
    """Exact time until this request would be admitted if nothing else happened; 0 unless ``REJECTED``."""
    limits: Amounts
    used: Amounts
    """The usage after this decision."""
    reset_ms: Amounts
    """Time until the dimension is wholly free if nothing else happened."""
    need: Amounts
    """The amounts that the request asked for, with its reservation worked out."""
    time_ms: int
    """The store's clock at the decision, ms since the epoch."""
    name: str
    """The key's name where it was rejected (empty if it has none), else empty."""
    receipt: Receipt = None
    """The hold of an admitted request in the store; None for any other."""
    degraded: str = ""
    """The policy that decided because the store could not be asked: `limits` are by its last reply, `time_ms` is its
    estimated clock. Empty if the store decided."""
    path: PathUsage | None = None
    """The windows of an account's key; None for a plain key, which has one."""


UNKNOWN_KEY = Decision(
    Outcome.UNKNOWN_KEY, -1, 0, Amounts(0, 0, 0), Amounts(0, 0, 0), Amounts(0, 0, 0), Amounts(0, 0, 0), 0, ""
)
REFUSALS: Final = {
    CredentialState.UNKNOWN: UNKNOWN_KEY,
    CredentialState.REVOKED: UNKNOWN_KEY._replace(outcome=Outcome.REVOKED_KEY),
    CredentialState.EXPIRED: UNKNOWN_KEY._replace(outcome=Outcome.EXPIRED_KEY),
    CredentialState.DISABLED: UNKNOWN_KEY._replace(outcome=Outcome.DISABLED_KEY),
}
"""The decisions on requests whose credential isn't good, by its state."""
EXPIRED_KEY: Final = REFUSALS[CredentialState.EXPIRED]


class WindowBucket(NamedTuple):
    """Hold the usage of one bucket of a window; ``bucket`` is the store's clock divided by `BUCKET_MS`."""

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
    """The policy that gave this usage from the node's own knowledge; empty if the store gave it."""
    path: PathUsage | None = None
    """The windows of an account's key; `limits`, `used` and `reset_ms` then mean nothing."""
    charted: int = -1
    """The index of the window of `path` to which `buckets` belong; -1 if they belong to none."""
