"""What a batch on an account says, and what is answered to it: the words of the model in `reference_paths`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

NO_LIMIT = 2**53 - 1

DECIDED, REPLAYED, STALE, UNKNOWN, LOST = 0, 1, 2, 3, 4
NEVER, OLD_POLICY, UNKNOWN_KEY, ENDED = 8, 16, 17, 18
"""Verdicts: 0 admitted; 1 to 4 the unit that frees last, from requests on; `NEVER` + that: it can never fit."""

Triple = tuple[int, int, int]
"""Requests, input tokens, output tokens: what a bucket counts."""
NOTHING: Triple = (0, 0, 0)
UNITS = 4
"""Requests, input tokens, output tokens, tokens of both kinds: what can be limited."""


@dataclass(frozen=True)
class Window:
    """A window as a call names it. ``owner`` is the hash that holds it: a key, or "" for what the account shares.

    At bucket b, the buckets b - ``width`` .. b of ``bucket_ms`` each count. ``limits``: one for each unit.
    """

    owner: str
    id: bytes
    bucket_ms: int
    width: int
    limits: tuple[int, ...] = (NO_LIMIT,) * UNITS

    @property
    def life_ms(self) -> int:
        return (self.width + 1) * self.bucket_ms


@dataclass(frozen=True)
class Path:
    """The windows of a request, by their place in the call, and the key that asks: 1 for the first; 0 = none.

    `ends_ms`: when the credential that it comes with ends, by the store's clock; 0 if it doesn't.
    """

    key: int = 0
    windows: tuple[int, ...] = ()
    ends_ms: int = 0


@dataclass(frozen=True)
class AdmitOn:
    """One request: admitted if it fits into each window of its path."""

    path: int
    input: int = 0
    output: int = 0


@dataclass(frozen=True)
class SettleOn:
    """Gives back what was admitted at ``time_ms``; negative numbers add to it."""

    path: int
    time_ms: int
    requests: int = 0
    input: int = 0
    output: int = 0


@dataclass(frozen=True)
class ChargeOn:
    """Counts at ``time_ms`` what was admitted elsewhere, limit or not."""

    path: int
    time_ms: int
    requests: int = 0
    input: int = 0
    output: int = 0


OperationOn = AdmitOn | SettleOn | ChargeOn


@dataclass(frozen=True)
class Call:
    """What a node knows when it asks: the windows, its paths, and the policies by which it made these."""

    windows: tuple[Window, ...] = ()
    paths: tuple[Path, ...] = (Path(),)
    version: bytes = b""
    keys: tuple[tuple[str, bytes], ...] = ()
    """The keys, each with the version of its policy."""


class Policy(NamedTuple):
    """A stored policy; the model never reads the body."""

    version: bytes
    body: bytes


class Filled(NamedTuple):
    """A window after a batch: what counts, and for each counter the newest bucket with any of it (0 = none)."""

    used: Triple
    newest: Triple


class Result(NamedTuple):
    """The window that frees last, by its number from 1 on, and the time until then; 0 where none rejects for now."""

    verdict: int = 0
    window: int = 0
    retry_ms: int = 0


class AnswerOn(NamedTuple):
    """The answer to a batch: a result for each operation. ``policies``: 0 or which key, and the body of its policy.

    ``skipped``: the settles and charges whose key has moved away, by their place.
    """

    state: int
    time_ms: int = 0
    recorded: int = 0
    results: tuple[Result, ...] = ()
    windows: tuple[Filled, ...] = ()
    policies: tuple[tuple[int, bytes], ...] = ()
    skipped: tuple[int, ...] = ()
