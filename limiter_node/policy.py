"""The limits of an account, of its teams and its keys, as they are stored: the windows, and the limits on them.

An account is everything that shares one hash slot. A key with limits that the plain form (`limits.KeyLimits`) can't
hold is an account of its own. A window counts every unit from its creation; limits are numbers laid on it, so they
change without forgetting anything. Another length or another set of models is another window.

Neighbours: `keysfile` reads what operators declare, `store.admin` stores it, `plans` chooses the windows of a request.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, TypeVar

from limiter_node.limits import BUCKET_MS

UNITS: Final = ("requests", "input_tokens", "output_tokens", "tokens")
"""The units of limits. ``tokens`` is the sum of input and output, and has no counter of its own."""
REQUESTS, INPUT_TOKENS, OUTPUT_TOKENS, TOKENS = range(4)

MAX_AMOUNT: Final = 999_999_999_999_999
"""The largest limit: 15 digits, which structured header fields can hold and Lua adds exactly."""

BUCKETS: Final = 600
"""The most buckets of a window, apart from the current one."""
KEY_SUBJECT: Final = "="
"""Stands for a key in the id of its windows: a key keeps them when it is renamed or moves to another team."""
ENFORCE, AUDIT = "enforce", "audit"
_Policy = TypeVar("_Policy")


class Limit(NamedTuple):
    """A number laid on a window. `unit` is an index into `UNITS`; `mode` is ``enforce`` or ``audit``."""

    unit: int
    amount: int
    mode: str = ENFORCE
    name: str = ""


class PolicyWindow(NamedTuple):
    """A sliding window of `per_ms`, for models that match one of `models` (all if it is empty).

    `since_ms`: when it was declared first, by the store's clock; it counts from then on. `until_ms`: when a window
    without limits ends, because its length has passed since it lost them; 0 if it has limits.
    """

    per_ms: int
    models: tuple[str, ...] = ()
    limits: tuple[Limit, ...] = ()
    since_ms: int = 0
    until_ms: int = 0

    @property
    def bucket_ms(self) -> int:
        """The width of its buckets: the error of the window."""
        return bucket_ms_of(self.per_ms)

    @property
    def buckets(self) -> int:
        """W: at bucket b the buckets b-W .. b count."""
        return -(-self.per_ms // self.bucket_ms)


class Subject(NamedTuple):
    """An account (its `name` is empty) or a team, such as ``research/vision``. `output_reserve`: None if not set."""

    name: str
    windows: tuple[PolicyWindow, ...] = ()
    output_reserve: int | None = None


@dataclass(frozen=True, slots=True)
class KeyPolicy:
    """A key of an account. `team` is empty if it belongs to the account itself."""

    kid: str
    name: str = ""
    team: str = ""
    windows: tuple[PolicyWindow, ...] = ()
    output_reserve: int | None = None
    weight: int = 1

    def to_body(self) -> bytes:
        """Return the stored form."""
        return _to_body(
            {
                "kid": self.kid,
                "name": self.name,
                "team": self.team,
                "windows": _windows_to_json(self.windows),
                "output_reserve": self.output_reserve,
                "weight": self.weight,
            }
        )


@dataclass(frozen=True, slots=True)
class AccountPolicy:
    """An account with its teams, the account itself first; or, if `key` is set, a flat key that is its own account.

    `show`: ``path``, or ``own`` if callers see no names and numbers above their key. `key_defaults`: the limits per
    minute that its keys have unless they say otherwise, by field of the keys file.
    """

    name: str = ""
    subjects: tuple[Subject, ...] = ()
    show: str = "path"
    key_defaults: tuple[tuple[str, int], ...] = ()
    key: KeyPolicy | None = None
    tag: str = field(init=False, default="")

    def __post_init__(self) -> None:
        object.__setattr__(self, "tag", account_tag(self.name) if self.key is None else self.key.kid)

    def to_body(self) -> bytes:
        """Return the stored form."""
        return _to_body(
            {
                "name": self.name,
                "subjects": [
                    {
                        "name": each.name,
                        "windows": _windows_to_json(each.windows),
                        "output_reserve": each.output_reserve,
                    }
                    for each in self.subjects
                ],
                "show": self.show,
                "key_defaults": dict(self.key_defaults),
                "key": None if self.key is None else json.loads(self.key.to_body()),
            }
        )


ACCOUNT_MARK: Final = "@"
"""Begins the hash tags of named accounts, and keeps them apart from the digests that are keys' tags."""


def account_tag(name: str) -> str:
    """Return the hash tag of a named account."""
    return ACCOUNT_MARK + name


def bucket_ms_of(per_ms: int) -> int:
    """Return the width of the buckets of a window: a 600th of its length, in whole `BUCKET_MS`."""
    return max(BUCKET_MS, -(-per_ms // (BUCKETS * BUCKET_MS)) * BUCKET_MS)


WindowShape = tuple[int, tuple[str, ...]]
"""A window's length and its patterns, sorted and in lower case: equal for one window of a subject, however written."""


def shape_of(window: PolicyWindow) -> WindowShape:
    """Return what makes a window of a subject the same one."""
    return window.per_ms, tuple(sorted(each.lower() for each in window.models))


def window_id(subject: str, window: PolicyWindow) -> bytes:
    """Return the 6 bytes by which a subject's window is stored: the same wherever it is computed."""
    per_ms, patterns = shape_of(window)
    return hashlib.sha256("\n".join((subject, str(per_ms), *patterns)).encode()).digest()[:6]


def version_of(body: bytes) -> bytes:
    """Return the 8 bytes that stand for a stored policy: equal for equal policies."""
    return hashlib.sha256(body).digest()[:8]


def read_account(body: bytes) -> AccountPolicy:
    """Read a stored account. Raises ValueError if `body` isn't one."""
    return _read(body, _account_from)


def read_key(body: bytes) -> KeyPolicy:
    """Read a stored key of an account. Raises ValueError if `body` isn't one."""
    return _read(body, _key_from)


def _account_from(found: dict[str, Any]) -> AccountPolicy:
    subjects = tuple(
        Subject(each["name"], _windows_from_json(each["windows"]), each["output_reserve"]) for each in found["subjects"]
    )
    key = found["key"]
    return AccountPolicy(
        found["name"],
        subjects,
        found["show"],
        tuple(found["key_defaults"].items()),
        None if key is None else _key_from(key),
    )


def _key_from(found: dict[str, Any]) -> KeyPolicy:
    return KeyPolicy(
        found["kid"],
        found["name"],
        found["team"],
        _windows_from_json(found["windows"]),
        found["output_reserve"],
        found["weight"],
    )


def _to_body(content: dict[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _read(body: bytes, convert: Callable[[dict[str, Any]], _Policy]) -> _Policy:
    """Return the policy in `body`. Raises ValueError for whatever isn't one, such as one of a later version."""
    try:
        return convert(json.loads(body))
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"not a stored policy: {error!r}") from error


def _windows_to_json(windows: Sequence[PolicyWindow]) -> list[dict[str, Any]]:
    return [
        {
            "per_ms": each.per_ms,
            "models": each.models,
            "limits": [limit._asdict() | {"unit": UNITS[limit.unit]} for limit in each.limits],
            "since_ms": each.since_ms,
            "until_ms": each.until_ms,
        }
        for each in windows
    ]


def _windows_from_json(found: Sequence[dict[str, Any]]) -> tuple[PolicyWindow, ...]:
    return tuple(
        PolicyWindow(
            each["per_ms"],
            tuple(each["models"]),
            tuple(
                Limit(UNITS.index(limit["unit"]), limit["amount"], limit["mode"], limit["name"])
                for limit in each["limits"]
            ),
            each["since_ms"],
            each["until_ms"],
        )
        for each in found
    )
