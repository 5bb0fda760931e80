"""The limits whose windows a page shows: which requests count in one, how much, and what rejected.

``PlainLimit`` is one of the three limits of a plain key; ``TreeLimit`` one of the limits on the paths of all other
keys, as the keys file declares it, which many keys may share. Responses announce amounts; where none does, the declared
one counts.

Neighbours: ``windows`` counts with these, ``choosing`` chooses them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote

from bench_client.audit.announced import limits_of
from bench_client.audit.outcomes import is_decided
from bench_client.audit.paths import HIDDEN_NAME, WINDOW_MS, length_text
from bench_client.audit.units import DIMENSIONS
from bench_client.load.declared_limits import AUDIT, ENFORCE, OWN, DeclaredLimit, DeclaredTree, KeyPath
from bench_client.records.record import Record, failed_upstream

UNKNOWN = -1
"""Stands for a limit that a response doesn't announce: the one in force before goes on."""
_KEPT = 4_096
"""Results kept: texts of policies, and models."""
_POLICY = re.compile(r'"([^"]*)"([^,"]*)')
_QUOTA = re.compile(r";\s*q=(\d{1,15})(?!\d)")
_FLAT_NAMES = {"requests": "rpm", "input_tokens": "input-tpm", "output_tokens": "output-tpm"}


class Counted(NamedTuple):
    """Hold an admission's amount of a limit's unit, and the limit announced with it, ``UNKNOWN`` if there was none."""

    amount: int
    limit: int


class PlainLimit(NamedTuple):
    """Name a plain key, and one of its three limits per minute."""

    key: str
    unit: str

    @property
    def name(self) -> str:
        """Return whose limit it is."""
        return self.key

    @property
    def per_ms(self) -> int:
        return WINDOW_MS

    @property
    def declared(self) -> int:
        """Return the limit in force where none was announced."""
        return 0

    @property
    def keys(self) -> Collection[str]:
        """Return the ids of the keys whose requests it counts."""
        return (self.key,)

    def counted(self, record: Record) -> Counted | None:
        """Return how an admission counts; None if it isn't known to be one."""
        limits = limits_of(record) if is_decided(record) else None
        if limits is None and not failed_upstream(record):
            return None
        amount = _admitted(record, self.unit)
        return None if amount is None else Counted(amount, limits[DIMENSIONS.index(self.unit)] if limits else UNKNOWN)

    def rejected(self, record: Record) -> bool:
        """Return whether this limit rejected the request."""
        return record.status == 429 and is_decided(record) and record.exceeded == self.unit


class TreeLimit(NamedTuple):
    """Hold a limit on the paths of some keys."""

    limit: DeclaredLimit
    names: Mapping[str, str]
    """By the ids of these keys, the limit as headers of their responses call it, but not percent-encoded:
    ``acme/research requests/1d``, or ``account`` for any that the caller must not see."""
    policy_name: str
    """Its name in ``RateLimit-Policy``, if that is another one; else empty."""
    only_model: str
    """The model of records that name none."""

    @property
    def name(self) -> str:
        """Return whose limit it is."""
        return self.limit.subject

    @property
    def unit(self) -> str:
        return self.limit.unit

    @property
    def per_ms(self) -> int:
        return self.limit.per_ms

    @property
    def declared(self) -> int:
        """Return the limit in force where none was announced."""
        return self.limit.amount

    @property
    def keys(self) -> Collection[str]:
        """Return the ids of the keys whose requests it counts."""
        return self.names.keys()

    def counted(self, record: Record) -> Counted | None:
        """Return how an admission counts; None if it isn't known to be one, or is of another model."""
        if not self._is_for(record):
            return None
        amount = _admitted(record, self.unit)
        return None if amount is None else Counted(amount, self._announced(record))

    def rejected(self, record: Record) -> bool:
        """Return whether the response names this limit, or may mean it, as the one that rejected."""
        if record.status != 429 or record.limit is None or failed_upstream(record):
            return False
        may_reject = self.limit.mode == ENFORCE and record.exceeded == self.unit and self._is_for(record)
        return may_reject and unquote(record.limit) == self.names[record.key]

    def _is_for(self, record: Record) -> bool:
        return not self.limit.models or matches(self.limit.models, record.model or self.only_model)

    def _announced(self, record: Record) -> int:
        if record.policies is None or self.limit.mode == AUDIT:  # an audited limit is never announced
            return UNKNOWN
        amounts = _amounts_by_name(record.policies).get(self.policy_name or self.names[record.key], ())
        if len(amounts) > 1:  # limits for other models have the same name: the declared number tells which it is
            return self.limit.amount if self.limit.amount in amounts else UNKNOWN
        return next(iter(amounts), UNKNOWN)


ShownLimit = PlainLimit | TreeLimit


def tree_limits(tree: DeclaredTree, only_model: str) -> list[TreeLimit]:
    """Return all limits of the tree, each with the keys below it."""
    names: list[dict[str, str]] = [{} for _ in tree.limits]
    policy_names = [""] * len(tree.limits)
    for key, path in tree.keys.items():
        for place in path.limits:
            limit = tree.limits[place]
            names[place][key] = _name(limit, path)
            if not path.account and limit.per_ms == WINDOW_MS and not limit.models:
                policy_names[place] = _FLAT_NAMES.get(limit.unit, "")
    return [TreeLimit(*each, only_model) for each in zip(tree.limits, names, policy_names, strict=True)]


def shared_subjects(tree: DeclaredTree) -> set[str]:
    """Return the names of the accounts and teams of the tree."""
    teams = {f"{path.account}/{path.team}" if path.team else path.account for path in tree.keys.values()}
    return {
        "/".join(parts[:depth]) for parts in (team.split("/") for team in teams) for depth in range(1, len(parts) + 1)
    }


def _name(limit: DeclaredLimit, path: KeyPath) -> str:
    subject = limit.subject
    if path.account and path.show == OWN:
        if f"{path.account}/{path.team}/".startswith(f"{subject}/"):
            return HIDDEN_NAME
        subject = subject.removeprefix(f"{path.account}/")
    return f"{subject} {limit.unit}/{length_text(limit.per_ms)}"


@lru_cache(_KEPT)
def matches(patterns: tuple[str, ...], model: str) -> bool:
    """Return whether a model matches one of the patterns, in which ``*`` stands for any characters."""
    return any(_matches(pattern, model.lower()) for pattern in patterns)


def _matches(pattern: str, model: str) -> bool:
    first, *others = pattern.split("*")
    if not others or not model.startswith(first):
        return model == pattern
    last, at = others.pop(), len(first)
    for part in others:  # each at its first place, which leaves most to the others
        found = model.find(part, at)
        if found < 0:
            return False
        at = found + len(part)
    return len(model) - len(last) >= at and model.endswith(last)


def _admitted(record: Record, unit: str) -> int | None:
    """Return the admitted amount: output up to its reservation, nothing but the request itself if it failed."""
    if failed_upstream(record):
        return int(unit == "requests")
    if record.status != 200:
        return None
    if unit == "requests":
        return 1
    output = record.completion_tokens or 0
    reserved = record.max_tokens if record.reserved_output is None else record.reserved_output
    output = output if reserved is None else min(output, reserved)
    amounts = {"input_tokens": record.prompt_tokens or 0, "output_tokens": output}
    return amounts[unit] if unit in amounts else sum(amounts.values())


@lru_cache(_KEPT)
def _amounts_by_name(policies: str) -> dict[str, set[int]]:
    """Return the limits of a ``RateLimit-Policy`` by their names."""
    found: dict[str, set[int]] = {}
    for name, parameters in _POLICY.findall(policies):
        for amount in _QUOTA.findall(parameters):
            found.setdefault(unquote(name), set()).add(int(amount))
    return found
