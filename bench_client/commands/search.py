"""The search for the highest rate that holds; independent of how a trial is made.

The rate doubles until it misses twice in a row, so that one hiccup of the machine doesn't end the ramp. The bracket is
then halved (on a logarithmic scale) down to the precision, and the highest rate that held is tried once more; if it
misses, the next lower rate by the precision is tried. That is some 7 trials per factor of 100 between the first rate
and the found one, 4 more for a precision of 5 %, and the confirmation. Weakness: a server whose speed varies by more
than the precision gets a figure from its bad moments; the curve shows it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Generic, Protocol, TypeVar


class Verdict(StrEnum):
    """Name the outcome of a trial."""

    HELD = "held"
    LATENCY = "too slow"
    ERRORS = "errors"
    CLIENT = "client at its limit"
    """Missed while the client itself was the bottleneck: says nothing about the server."""


class HasVerdict(Protocol):
    @property
    def rate(self) -> float: ...

    @property
    def verdict(self) -> Verdict: ...


T = TypeVar("T", bound=HasVerdict)


@dataclass(slots=True)
class Search(Generic[T]):
    """Hold all trials so far and their result. Trials are kept even if a later one can't be made."""

    trial: Callable[[float], T]
    lowest: float
    """Requests/s of the first trial."""
    highest: float
    """No rate above this is tried."""
    precision: float
    """Largest gap between the found rate and one that misses, as a share of the found rate."""
    max_trials: int
    trials: list[T] = field(default_factory=list)
    found: T | None = None
    """The trial that confirmed the highest rate; None while there is none."""
    missed: T | None = None
    """The lowest rate known to miss; None when none did."""

    def run(self) -> None:
        """Search until the rate is found and confirmed, or ``max_trials`` are made."""
        held = self._ramp()
        if held is not None:
            held = self._bisect(held)
            self._confirm(held)

    def _try(self, rate: float) -> T:
        trial = self.trial(rate)
        self.trials.append(trial)
        if trial.verdict is not Verdict.HELD and (self.missed is None or trial.rate <= self.missed.rate):
            self.missed = trial
        return trial

    @property
    def _left(self) -> int:
        return self.max_trials - len(self.trials)

    def _ramp(self) -> T | None:
        """Return the highest rate that held, trying doubles of the first one."""
        held, rate = None, self.lowest
        while self._left > 1:  # one is kept back for the confirmation
            trial = self._try(rate)
            if trial.verdict is not Verdict.HELD and self._left > 1:
                trial = self._try(rate)
            if trial.verdict is not Verdict.HELD:
                break
            held, self.missed = trial, None
            if rate >= self.highest:
                break
            rate = min(2 * rate, self.highest)
        return held

    def _bisect(self, held: T) -> T:
        """Return the highest rate that held. Stop at a rate that the client itself can't send."""
        while (missed := self.missed) is not None and self._left > 1:
            if missed.verdict is Verdict.CLIENT or missed.rate <= held.rate * (1 + self.precision):
                break
            trial = self._try((held.rate * missed.rate) ** 0.5)
            if trial.verdict is Verdict.HELD:
                held = trial
        return held

    def _confirm(self, held: T) -> None:
        rate = held.rate
        while self._left and rate >= self.lowest:
            trial = self._try(rate)
            if trial.verdict is Verdict.HELD:
                self.found = trial
                return
            rate /= 1 + self.precision
