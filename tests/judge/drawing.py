"""Draws accounts and changes of them."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from .policies import Declared, Rule
from .records import NO_LIMIT
from .traffic import KeyPlan

MODELS: tuple[tuple[str, ...], ...] = (("gpt-4o",), ("o3-mini",), ("mine", "GPT-5-pro"), ("o3",))
_PATTERNS: tuple[tuple[str, ...], ...] = ((), (), (), ("O3*",), ("gpt-5*", "gpt-4o"))
_LENGTHS_MS = (1_000, 1_000, 1_000, 2_000, 2_000, 5_000, 10_000, 60_000, 90_000, 600_000, 3_600_000)
_TREES: tuple[tuple[str, ...], ...] = ((), ("a",), ("a", "b"), ("a", "a/b"), ("a", "a/b", "c"))
_REQUESTS = (1, 3, 10, 10, 40, 40, 100, 300, 10**15 - 1)
_TOKENS = (200, 3_000, 3_000, 20_000, 10**9, 10**15 - 1)
_LONG_MS = 5_000
_MOST_WINDOWS = 9
"""On one path."""


@dataclass(frozen=True)
class AccountPlan:
    """An account as it is declared first, and how its keys are used."""

    declared: Declared
    keys: tuple[KeyPlan, ...]

    @property
    def tag(self) -> str:
        """Its hash tag."""
        return self.declared.tag


def draw_account(rng: random.Random) -> AccountPlan:
    """Draw an account of 2 to 8 keys, or a flat key with limits that a plain one can't have."""
    is_flat = rng.random() < 0.2
    teams = () if is_flat else rng.choice(_TREES)
    kids = [rng.randbytes(16).hex() for _ in range(1 if is_flat else rng.randint(2, 8))]
    tag = kids[0] if is_flat else f"@{rng.randbytes(3).hex()}"
    room = rng.randint(1, _MOST_WINDOWS)
    rules: list[Rule] = []
    depth = 2 + max((team.count("/") + 1 for team in teams), default=0) if not is_flat else 1
    for subject in (*(() if is_flat else ("", *teams)), *(f"={kid}" for kid in kids)):
        least = 1 if is_flat else 0
        rules += _draw_rules(subject, rng.randint(least, max(least, -(-room // depth))), rng)
    if not any(rule.subject == "" for rule in rules) and not is_flat:
        rules += _draw_rules("", 1, rng)
    reserve = rng.choice((0, 20, 60))
    declared = Declared(tag, tuple(rules), teams, {kid: rng.choice(("", *teams)) for kid in kids}, reserve, is_flat)
    return AccountPlan(declared, tuple(_draw_member(kid, declared, rng) for kid in kids))


def _draw_rules(subject: str, count: int, rng: random.Random) -> list[Rule]:
    found: dict[tuple[int, tuple[str, ...]], Rule] = {}
    for _ in range(count):
        per_ms, models = rng.choice(_LENGTHS_MS), rng.choice(_PATTERNS)
        scale = 5 if per_ms >= _LONG_MS else 1
        enforced: list[int | None] = [None] * 4
        audited: list[int | None] = [None] * 4
        for unit in rng.sample(range(4), rng.choice((1, 1, 2, 4))):
            amount = min((rng.choice(_TOKENS) if unit else rng.choice(_REQUESTS)) * scale, 10**15 - 1)
            if rng.random() < 0.02:
                amount = 0
            (audited if rng.random() < 0.2 else enforced)[unit] = amount
        found[per_ms, models] = Rule(subject, per_ms, models, tuple(enforced), tuple(audited))
    return list(found.values())


def _draw_member(kid: str, declared: Declared, rng: random.Random) -> KeyPlan:
    rules = declared.path(kid, ("gpt-4o",)) or []
    requests, input_tokens, output_tokens = (
        min((rule.limits[unit] for rule in rules if rule.limits[unit] != NO_LIMIT), default=10**9) for unit in range(3)
    )
    tokens = min((rule.limits[3] for rule in rules), default=10**9)
    return KeyPlan(
        kid=kid,
        limits=(requests, min(input_tokens, tokens, 10**9), min(output_tokens, tokens, 10**9)),
        reserve=declared.reserve,
        shape=rng.choice(("steady", "bursts", "bursts", "rush")),
        sizes=rng.choice(("small", "small", "mixed", "large")),
        cancels=rng.choice((0.0, 0.0, 0.05)),
        models=MODELS,
        pace=len(declared.keys),
    )


def draw_change(declared: Declared, rng: random.Random) -> Declared:
    """Draw another amount of a window's limits, a limit that is audited from now on or not, or a key's other team."""
    kind = rng.random()
    if kind < 0.2 and declared.teams:
        kid = rng.choice(sorted(declared.keys))
        return replace(declared, keys={**declared.keys, kid: rng.choice(("", *declared.teams))})
    at = rng.randrange(len(declared.rules))
    rule = declared.rules[at]
    if rule.until_ms:
        return declared
    if kind < 0.4:
        enforced, audited = list(rule.enforced), list(rule.audited)
        unit = rng.randrange(4)
        enforced[unit], audited[unit] = audited[unit], enforced[unit]
        return with_rule(declared, at, rule._replace(enforced=tuple(enforced), audited=tuple(audited)))
    factor = rng.choice((0.3, 0.5, 2, 3))
    amounts = tuple(None if each is None else min(int(each * factor), 10**15 - 1) for each in rule.enforced)
    return with_rule(declared, at, rule._replace(enforced=amounts))


def with_rule(declared: Declared, at: int, rule: Rule) -> Declared:
    """Return the account with another rule at a position."""
    return replace(declared, rules=(*declared.rules[:at], rule, *declared.rules[at + 1 :]))
