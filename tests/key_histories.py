"""The changes of keys and their times, and so which verdicts a request with a secret may get.

Times are in s since the epoch, as the store's clock on this machine says them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

ADMITTED, UNKNOWN, REVOKED, DISABLED, EXPIRED, MOVING = (
    "admitted",
    "unknown",
    "revoked",
    "disabled",
    "expired",
    "moving",
)
VERDICTS = {
    "Incorrect API key provided.": UNKNOWN,
    "This API key has been revoked.": REVOKED,
    "This API key is disabled.": DISABLED,
    "This API key has expired.": EXPIRED,
}
"""By the message of a 401."""
HELD_S = 0.5
"""A request waits for a key that moves for so long before it gets a 503."""
_CLOCKS_S = 0.005
"""Clocks are read at different moments, in whole ms."""


@dataclass(frozen=True)
class Span:
    """A time that is known to lie between two others."""

    first_s: float = math.inf
    last_s: float = math.inf

    def before(self, other: Span) -> Span:
        """The earlier one of the two."""
        return Span(min(self.first_s, other.first_s), min(self.last_s, other.last_s))


NEVER = Span()


@dataclass(frozen=True)
class Secret:
    """One credential of a key."""

    ends: Span = NEVER
    is_revoked: bool = False


@dataclass(frozen=True)
class State:
    """A key from one change on. The change took from `begun_s` to `done_s`, and is seen at some time in between."""

    begun_s: float
    done_s: float
    secrets: Mapping[str, Secret]
    is_disabled: bool = False
    ends: Span = NEVER
    is_move: bool = False

    def verdicts(self, secret: str, from_s: float, to_s: float) -> set[str]:
        """The verdicts that a request which is decided between two times may get."""
        found = self.secrets.get(secret)
        if found is None:
            return {UNKNOWN}
        if found.is_revoked:
            return {REVOKED}
        if self.is_disabled:
            return {DISABLED}
        ends = found.ends.before(self.ends)
        may_have = {EXPIRED} if ends.first_s <= to_s + _CLOCKS_S else set()
        return may_have | ({ADMITTED} if from_s - _CLOCKS_S < ends.last_s else set())

    def text(self, secret: str, since_s: float) -> str:
        """The state of a secret in words, with times in s since `since_s`."""
        ends = [f"{at.first_s - since_s:.3f}" for at in (self.secrets.get(secret, Secret()).ends, self.ends)]
        took = f"{self.begun_s - since_s:.3f} to {self.done_s - since_s:.3f}"
        return f"{took}: {self.secrets.get(secret)}, ends {ends}, disabled {self.is_disabled}, moved {self.is_move}"

    def good(self, now_s: float) -> list[str]:
        """The secrets that are good for a while."""
        return [each for each in self.secrets if self.verdicts(each, now_s, now_s + 0.1) == {ADMITTED}]


@dataclass(frozen=True)
class Answer:
    """The response to a request: its verdict, and what it was told of what it used and where it was counted."""

    secret: str
    node: int
    sent_s: float
    done_s: float
    verdict: str
    account: str = ""
    used: tuple[int, int, int] = (0, 0, 0)


@dataclass
class Key:
    """A key with all that was done to it. `account`: "" if it has none. `is_plain`: it is made as a plain key."""

    name: str
    account: str
    is_plain: bool = False
    states: list[State] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    created: State | None = None
    """Its present life, as it began."""

    @property
    def who(self) -> str:
        """The name that commands take."""
        return f"{self.account}/{self.name}" if self.account else self.name

    @property
    def now(self) -> State:
        return self.states[-1]

    @property
    def all_secrets(self) -> list[str]:
        """Its secrets, the latest last, those of former lives among them."""
        return list(dict.fromkeys(secret for state in self.states for secret in state.secrets))

    def note(self, begun_s: float, done_s: float, **changes: object) -> None:
        """A change was made."""
        unmoved = replace(self.now, is_move=False)
        self.states.append(replace(unmoved, begun_s=begun_s, done_s=done_s, **changes))  # type: ignore[arg-type]

    def wrong(self) -> list[str]:
        """The answers that don't fit what was done."""
        return [
            f"{self.name}: {answer.verdict} on node {answer.node + 1} instead of {sorted(allowed)}, "
            f"{answer.secret} from 0 to {answer.done_s - answer.sent_s:.3f} s; {self._around(answer)}"
            for answer in self.answers
            if answer.verdict not in (allowed := self.allowed(answer.secret, answer.sent_s, answer.done_s))
        ]

    def _around(self, answer: Answer) -> str:
        """The changes shortly before and during a request, in s since it was sent."""
        near = [each for each in self.states if each.done_s - answer.sent_s > -2 and each.begun_s < answer.done_s]
        return "\n  ".join(("", *(each.text(answer.secret, answer.sent_s) for each in near)))

    def allowed(self, secret: str, sent_s: float, done_s: float) -> set[str]:
        """The verdicts that a request may get."""
        found: set[str] = set()
        for at, state in enumerate(self.states):
            is_last = at + 1 == len(self.states)
            from_s, to_s = max(sent_s, state.begun_s), done_s if is_last else min(done_s, self.states[at + 1].done_s)
            if from_s <= to_s:
                found |= state.verdicts(secret, from_s, to_s)
                is_long = state.done_s - state.begun_s > HELD_S
                found |= {MOVING} if state.is_move and is_long and sent_s < state.done_s else set()
        return found

    def counted(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The least and the most that its own windows may hold: what its answers were told in its present life."""
        assert self.created is not None
        admitted = [each for each in self.answers if each.verdict == ADMITTED]
        surely = [each for each in admitted if each.sent_s >= self.created.done_s]
        maybe = [each for each in admitted if each.done_s >= self.created.begun_s]
        return total_used(surely), total_used(maybe)


def total_used(answers: Iterable[Answer]) -> tuple[int, ...]:
    """The sums that all of them were told."""
    return tuple(map(sum, zip((0, 0, 0), *(each.used for each in answers), strict=True)))
