"""Accounts as the judge declares them, and its own reading of them: which windows a request touches, in which order.

Nothing here uses the node's plans: the paths that nodes tell are judged by these.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import NamedTuple

from limiter_node.policy import AUDIT, ENFORCE, AccountPolicy, KeyPolicy, Limit, PolicyWindow, Subject
from limiter_node.policy_body import body_of

from .records import BUCKET_MS, NO_LIMIT, UNITS, Limits, Place

_MOST_BUCKETS = 600


class Rule(NamedTuple):
    """A window and the limits on it. `subject`: as in `Place`.

    `enforced` and `audited` have an amount, or None, by unit of `UNITS`. `until_ms`: when it ends because its limits
    were taken away; 0 if it has some.
    """

    subject: str
    per_ms: int
    models: tuple[str, ...] = ()
    enforced: tuple[int | None, ...] = (None,) * 4
    audited: tuple[int | None, ...] = (None,) * 4
    until_ms: int = 0

    @property
    def limits(self) -> Limits:
        """The limits that reject."""
        requests, input_tokens, output_tokens, tokens = (NO_LIMIT if each is None else each for each in self.enforced)
        return requests, input_tokens, output_tokens, tokens

    def is_for(self, models: tuple[str, ...]) -> bool:
        """Return whether requests for a model of these names count here. The judge's patterns end on a star at most."""
        names = [each.lower() for each in models]
        return not self.models or any(_is_match(each.lower(), name) for each in self.models for name in names)


def _is_match(pattern: str, name: str) -> bool:
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern


def widths(per_ms: int) -> tuple[int, int]:
    """Return the width of a bucket in ms, and how many make a window of that length."""
    bucket_ms = max(BUCKET_MS, -(-per_ms // (_MOST_BUCKETS * BUCKET_MS)) * BUCKET_MS)
    return bucket_ms, -(-per_ms // bucket_ms)


def window_id(place: Place) -> bytes:
    """Return the 6 bytes under which a window is stored in its hash."""
    subject = "=" if place.subject.startswith("=") else place.subject
    text = "\n".join((subject, str(place.per_ms), *sorted(each.lower() for each in place.models)))
    return hashlib.sha256(text.encode()).digest()[:6]


@dataclass(frozen=True)
class Declared:
    """An account as it is declared at a time. `keys`: kid → team, empty for none. `is_flat`: a key of its own."""

    tag: str
    rules: tuple[Rule, ...] = ()
    teams: tuple[str, ...] = ()
    keys: dict[str, str] = field(default_factory=dict)
    reserve: int = 0
    is_flat: bool = False

    def path(self, kid: str, models: tuple[str, ...]) -> list[Rule] | None:
        """Return the rules for a request, in order; None if the account doesn't have the key."""
        team = self.keys.get(kid)
        if team is None:
            return None
        parts = team.split("/") if team else []
        subjects = ["", *("/".join(parts[: depth + 1]) for depth in range(len(parts))), f"={kid}"]
        return [rule for subject in subjects for rule in self.rules if rule.subject == subject and rule.is_for(models)]

    def place(self, rule: Rule) -> Place:
        """Return the window of a rule."""
        return Place(self.tag, rule.subject, rule.per_ms, rule.models)

    def bodies(self) -> dict[str, bytes]:
        """Return the stored policies: by kid, and the account's under an empty one."""
        keys = {kid: KeyPolicy(kid, kid[:8], team, self._windows(f"={kid}")) for kid, team in self.keys.items()}
        if self.is_flat:
            [key] = [KeyPolicy(kid, windows=key.windows, output_reserve=self.reserve) for kid, key in keys.items()]
            return {"": body_of(AccountPolicy(key=key))}
        subjects = [Subject("", self._windows(""), self.reserve)]
        subjects += [Subject(team, self._windows(team)) for team in self.teams]
        account = AccountPolicy(self.tag.removeprefix("@"), tuple(subjects))
        return {"": body_of(account), **{kid: body_of(key) for kid, key in keys.items()}}

    def _windows(self, subject: str) -> tuple[PolicyWindow, ...]:
        return tuple(
            PolicyWindow(rule.per_ms, rule.models, _limits(rule), 1, rule.until_ms)
            for rule in self.rules
            if rule.subject == subject
        )


def _limits(rule: Rule) -> tuple[Limit, ...]:
    amounts = [(ENFORCE, rule.enforced), (AUDIT, rule.audited)]
    return tuple(
        Limit(unit, amount, mode)
        for mode, by_unit in amounts
        for unit in range(len(UNITS))
        if (amount := by_unit[unit]) is not None
    )
