"""Plans: which windows one request of a key touches, and the limits on them.

A plan is compiled from the stored policies (`policy`) for a key and the names of a request's model, and kept as long as
both policies are the same. Its windows are the account's first, then the teams' from the top, then the key's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from limiter_node.limits import DEFAULT_OUTPUT_RESERVE
from limiter_node.model_patterns import matches
from limiter_node.policy import (
    ENFORCE,
    KEY_SUBJECT,
    UNITS,
    AccountPolicy,
    KeyPolicy,
    Limit,
    PolicyWindow,
    Subject,
    window_id,
)

_UNNAMED_KEY_DIGITS: Final = 12

NO_LIMIT: Final = 2**53 - 1
"""Stands for a unit without a limit in a window."""


class PlannedWindow(NamedTuple):
    """One window of a plan: everything that the node, the script and a message need of it.

    `is_own`: whether it is stored with the key, not with its account. `enforced`: the limit of each unit of `UNITS`,
    `NO_LIMIT` where there is none that rejects. `ends_ms`: when it stops to count, because it has no limits any more; 0
    if it has some.
    """

    id: bytes
    is_own: bool
    subject: str
    per_ms: int
    bucket_ms: int
    buckets: int
    models: tuple[str, ...]
    limits: tuple[Limit, ...]
    enforced: tuple[int, int, int, int]
    since_ms: int
    ends_ms: int

    @property
    def life_ms(self) -> int:
        """The time from a bucket's beginning until it leaves the window."""
        return (self.buckets + 1) * self.bucket_ms

    @property
    def per(self) -> str:
        """The window's length as operators write it, such as ``1m``."""
        return per_text(self.per_ms)


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """The windows that a request touches, and the tokens reserved per choice without a cap. `who`: the key's name.

    `ends_ms`: when one of the windows stops to count, so that the plan has to be made again; 0 if none does. `is_flat`:
    whether the key is an account of its own.
    """

    who: str
    windows: tuple[PlannedWindow, ...]
    output_reserve: int
    show: str
    ends_ms: int
    is_flat: bool = False


def plan_of(
    account: AccountPolicy, key: KeyPolicy, models: Sequence[str], now_ms: int, *, is_whole: bool = False
) -> Plan:
    """Return the plan of a request. `models`: the caller's name of the model, and the service's if it differs.

    `is_whole`: return all windows on the key's path instead, whatever their models.
    """
    names = [each.lower() for each in models]
    path = _path(account, key)
    windows = [
        _planned(subject, shown, window, is_own)
        for subject, shown, found, is_own in path
        for window in found
        if (is_whole or _matches(window, names)) and not 0 < window.until_ms <= now_ms
    ]
    ends = [each.ends_ms for each in windows if each.ends_ms]
    return Plan(
        who(account, key),
        tuple(windows),
        _reserve(account, key),
        account.show,
        min(ends, default=0),
        account.key is not None,
    )


def stored_windows(account: AccountPolicy, key: KeyPolicy | None = None) -> list[PlannedWindow]:
    """Return the windows that are stored in one hash: those of `key`, else the account's own.

    The account's own are those of the account and all its teams, or of the key that is an account of its own.
    """
    if key is not None:
        return [_planned(KEY_SUBJECT, who(account, key), each, True) for each in key.windows]
    flat = [(KEY_SUBJECT, who(account, account.key), account.key.windows)] if account.key is not None else []
    subjects = [(each.name, _subject_name(account, each.name), each.windows) for each in account.subjects]
    return [_planned(name, shown, each, False) for name, shown, windows in (*subjects, *flat) for each in windows]


def patterns_of(account: AccountPolicy, key: KeyPolicy) -> frozenset[str]:
    """Return all patterns on the key's path; models that match the same of them have the same plan."""
    return frozenset(
        pattern.lower() for _, _, windows, _ in _path(account, key) for window in windows for pattern in window.models
    )


def who(account: AccountPolicy, key: KeyPolicy) -> str:
    """Return the key's name in messages: ``acme/alice``, or its own name if it is a flat key."""
    name = key_name(key.name, key.kid)
    return f"{account.name}/{name}" if account.name else name


def key_name(name: str, kid: str) -> str:
    """Return a key's name in messages; of one that has none, the first digits of its digest."""
    return name or kid[:_UNNAMED_KEY_DIGITS]


def per_text(per_ms: int) -> str:
    """Return a length as operators write it: ``1m``, ``90s``, ``7d``; in ms if it isn't in whole seconds."""
    if per_ms % 1000:
        return f"{per_ms}ms"
    for letter, ms in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000)):
        if per_ms % ms == 0:
            return f"{per_ms // ms}{letter}"
    return f"{per_ms // 1000}s"


def limit_text(window: PlannedWindow, unit: int) -> str:
    """Return a limit as headers and messages name it: ``acme/research requests/1d``."""
    return f"{window.subject} {UNITS[unit]}/{window.per}"


def text_within_subject(window: PlannedWindow, unit: int) -> str:
    """Return a limit as one among those of its subject: ``requests/1d``, ``tokens/1m for o3*``."""
    models = f" for {', '.join(window.models)}" if window.models else ""
    return f"{UNITS[unit]}/{window.per}{models}"


def _path(account: AccountPolicy, key: KeyPolicy) -> Iterator[tuple[str, str, Sequence[PolicyWindow], bool]]:
    """Yield subject (as in `window_id`), its name for people, its windows, and whether they are stored with the key."""
    subjects: dict[str, Subject] = {each.name: each for each in account.subjects}
    for name in ("", *teams_of(key.team)):
        if (found := subjects.get(name)) is not None:
            yield name, _subject_name(account, name), found.windows, False
    yield KEY_SUBJECT, who(account, key), key.windows, account.key is None


def _subject_name(account: AccountPolicy, team: str) -> str:
    return f"{account.name}/{team}" if team else account.name


def teams_of(team: str) -> list[str]:
    """Return a team and the teams above it, from the top."""
    parts = team.split("/") if team else []
    return ["/".join(parts[: depth + 1]) for depth in range(len(parts))]


def _matches(window: PolicyWindow, names: Sequence[str]) -> bool:
    return not window.models or any(matches(pattern.lower(), name) for pattern in window.models for name in names)


def _planned(subject: str, shown: str, window: PolicyWindow, is_own: bool) -> PlannedWindow:
    enforced = [NO_LIMIT] * len(UNITS)
    for limit in window.limits:
        if limit.mode == ENFORCE:
            enforced[limit.unit] = limit.amount
    requests, input_tokens, output_tokens, tokens = enforced
    return PlannedWindow(
        window_id(subject, window),
        is_own,
        shown,
        window.per_ms,
        window.bucket_ms,
        window.buckets,
        window.models,
        window.limits,
        (requests, input_tokens, output_tokens, tokens),
        window.since_ms,
        window.until_ms,
    )


def _reserve(account: AccountPolicy, key: KeyPolicy) -> int:
    """Return the nearest `output_reserve` that is set: the key's, its team's and upwards, the account's."""
    if key.output_reserve is not None:
        return key.output_reserve
    subjects = {each.name: each.output_reserve for each in account.subjects}
    for name in (*reversed(teams_of(key.team)), ""):
        if (found := subjects.get(name)) is not None:
            return found
    return DEFAULT_OUTPUT_RESERVE
