"""The limits that the keys file declares, and which of them lie on each key's path.

A window is what a limit's `subject`, `per_ms` and `models` name: it counts the requests of all keys at or below its
subject whose model matches. Only keys without an account may have a name twice, or one that looks like a path: such a
key's windows are its own, whatever other subjects are called.

Neighbours: ``declared_paths`` reads the file; ``run.json`` keeps the result for those that judge a run.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

UNITS = ("requests", "input_tokens", "output_tokens", "tokens")
"""The units of limits; ``tokens`` are input and output together."""
ENFORCE, AUDIT = "enforce", "audit"
PATH, OWN = "path", "own"


class DeclaredLimit(NamedTuple):
    """Describe one limit."""

    subject: str
    """As headers name it, but not percent-encoded: ``acme``, ``acme/research``, ``acme/alice``. Of a key without an
    account its name. A key without a name is called by the first 12 hex digits of its digest. Responses to a key whose
    path shows ``own`` name the key without its account: ``alice``."""
    unit: str
    """One of ``UNITS``."""
    per_ms: int
    """Length of the sliding window."""
    models: tuple[str, ...]
    """Patterns of models, in lower case and sorted; empty for all models."""
    amount: int
    mode: str
    """``enforce``, or ``audit``: counted, never rejects."""
    name: str
    """Empty if it has none."""


class KeyPath(NamedTuple):
    """Describe a key's place in the tree."""

    account: str
    """Empty for a key without an account."""
    team: str
    """``research/vision``; empty if the key belongs to the account itself."""
    show: str
    """``path``, or ``own``: its responses name none of the limits above the key."""
    limits: tuple[int, ...]
    """Places in the tree's ``limits`` of all limits on the path, for any model: the account's first, then the teams'
    from the top, the key's own last."""


@dataclass(frozen=True, slots=True)
class DeclaredTree:
    """Hold the paths of the keys of a run, and the limits on them."""

    limits: tuple[DeclaredLimit, ...] = ()
    keys: dict[str, KeyPath] = field(default_factory=dict)
    """By key id. Plain keys are missing: those without an account whose limits are exactly three that reject, on
    requests, input and output tokens per minute for all models."""
    unknown: tuple[str, ...] = ()
    """Limits on these paths that this client doesn't know, in words that begin with the subject. An audit of the keys
    below is incomplete."""

    def as_dict(self) -> dict[str, object]:
        """Return the tree for ``run.json``."""
        return {
            "limits": [list(limit) for limit in self.limits],
            "keys": {key_id: list(path) for key_id, path in self.keys.items()},
            "unknown": list(self.unknown),
        }

    @classmethod
    def from_dict(cls, document: dict[str, Any]) -> DeclaredTree:
        """Return the tree that ``as_dict`` made. Raises ValueError, TypeError or LookupError for anything else."""
        limits = tuple(_limit_from(values) for values in document["limits"])
        keys = {key_id: _path_from(values, len(limits)) for key_id, values in document["keys"].items()}
        return cls(limits, keys, tuple(map(_text, document["unknown"])))


def _limit_from(values: list[Any]) -> DeclaredLimit:
    subject, unit, per_ms, models, amount, mode, name = values
    if unit not in UNITS or mode not in (ENFORCE, AUDIT) or {type(per_ms), type(amount)} != {int}:
        raise ValueError(values)
    return DeclaredLimit(_text(subject), unit, per_ms, tuple(map(_text, models)), amount, mode, _text(name))


def _path_from(values: list[Any], limits: int) -> KeyPath:
    account, team, show, places = values
    if show not in (PATH, OWN) or any(type(place) is not int or not 0 <= place < limits for place in places):
        raise ValueError(values)
    return KeyPath(_text(account), _text(team), show, tuple(places))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(value)
    return value
