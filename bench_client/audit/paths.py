"""The windows that requests count in, and the path of each request: all limits that it is subject to.

A plain key has one window, whose limits only its responses announce. Any other key has the windows of all limits that
the keys file declares on its path, as far as their patterns match the model. A model that nodes rename is known here by
the caller's name alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from bench_client.audit.units import DIMENSIONS, UNITS
from bench_client.load.declared_limits import ENFORCE, OWN, DeclaredLimit, DeclaredTree, KeyPath
from bench_client.records.record import Record

MINUTE_MS = 60_000
WINDOW_MS = MINUTE_MS
"""The length of plain keys' windows."""
TICK_MS = 100
BUCKETS = 600
FLAT_NAMES = ("rpm", "input-tpm", "output-tpm")
"""The names in headers of a flat key's limits per minute."""
HIDDEN_NAME = "account"
"""Stands in headers for a limit that the caller must not see."""
_NOT_IN_HEADERS = re.compile(r'[^ -~]|[%,"\\]|^ | $')


class WindowLimit(NamedTuple):
    """Describe one limit on a window."""

    unit: int
    amount: int | None
    """As declared; None for a plain key, whose limits only its responses tell."""
    enforces: bool
    declared: DeclaredLimit | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """Describe a sliding window, with at most one limit per unit. The index of a limit in ``limits`` is its place."""

    scope: tuple[str, ...]
    """The subject's place in the tree: account, teams from the top, key id."""
    subject: str
    """Empty for a plain key."""
    per_ms: int
    models: tuple[str, ...]
    limits: tuple[WindowLimit, ...]

    @property
    def life_ms(self) -> int:
        """Return the longest time for which something counts: the length in whole buckets, and one bucket."""
        bucket_ms = max(TICK_MS, -(-self.per_ms // (BUCKETS * TICK_MS)) * TICK_MS)
        return (-(-self.per_ms // bucket_ms) + 1) * bucket_ms

    @property
    def key(self) -> str:
        """Return the id of the key whose window it is; empty if several keys share it."""
        return self.scope[-1].removeprefix(_KEY_MARK) if self.is_own else ""

    @property
    def is_own(self) -> bool:
        """Return whether it is of a single key."""
        return self.scope[-1].startswith(_KEY_MARK)

    def about(self, place: int) -> str:
        """Return the limit for the beginning of a message; empty for a plain key's."""
        if not self.subject:
            return ""
        models = f" for {', '.join(self.models)}" if self.models else ""
        return f"{self.subject} {UNITS[self.limits[place].unit]}/{length_text(self.per_ms)}{models}: "

    def contains(self, other: Window) -> bool:
        """Return whether all that counts in ``other`` counts here as well."""
        return (
            self.per_ms >= other.per_ms
            and other.scope[: len(self.scope)] == self.scope
            and self.models in ((), other.models)
        )


class PathLimit(NamedTuple):
    """Describe a limit on a path, with its names in responses."""

    window: Window
    place: int
    listed_as: str
    """In ``RateLimit`` and ``RateLimit-Policy``; empty if it isn't listed: an audited limit, or a hidden one."""
    named_as: str
    """In ``x-limiter-limit``."""
    audited_as: str
    """In ``x-limiter-audit``; empty if it isn't named there."""

    @property
    def limit(self) -> WindowLimit:
        return self.window.limits[self.place]


@dataclass(frozen=True, slots=True, eq=False)
class RequestPath:
    """Hold the limits on the path of one key's requests for some model. The index of a limit is its ordinal."""

    key: str
    limits: tuple[PathLimit, ...]
    ordinals: dict[Window, tuple[int, ...]]
    """Ordinals of each window's limits, by place."""
    is_plain: bool = False

    def places(self, window: Window, ordinals: Iterable[int]) -> tuple[int, ...]:
        """Return the places in a window of those limits that are on it."""
        return tuple(self.limits[each].place for each in ordinals if self.limits[each].window is window)


class Paths:
    """Return the paths of requests, made when first needed."""

    def __init__(self, tree: DeclaredTree, model: str | None, window_ms: int = WINDOW_MS) -> None:
        """``model``: that of requests whose records name none. ``window_ms``: the length of plain keys' windows."""
        self.tree = tree
        self._model = model
        self._window_ms = window_ms
        self._windows: dict[tuple[object, ...], Window] = {}
        self._plain: dict[str, RequestPath] = {}
        self._of_model: dict[tuple[str, str | None], RequestPath] = {}
        self._of_limits: dict[tuple[str, tuple[int, ...]], RequestPath] = {}

    def of(self, record: Record) -> RequestPath:
        """Return the path of a request."""
        key = record.key
        if key not in self.tree.keys:
            path = self._plain.get(key)
            if path is None:
                path = self._plain[key] = _plain_path(key, self._window_ms)
            return path
        found = self._of_model.get((key, record.model))
        if found is None:
            found = self._of_model[key, record.model] = self._path(key, record.model or self._model or "")
        return found

    def names(self, key: str) -> set[str]:
        """Return all names that responses to a key of the tree can name limits by, whatever the model."""
        whole = self._made(key, self.tree.keys[key].limits)
        return {name for limit in whole.limits for name in (limit.named_as, limit.audited_as)}

    def _path(self, key: str, model: str) -> RequestPath:
        on_path = (place for place in self.tree.keys[key].limits if _is_for(self.tree.limits[place], model))
        return self._made(key, tuple(on_path))

    def _made(self, key: str, places: tuple[int, ...]) -> RequestPath:
        found = self._of_limits.get((key, places))
        if found is not None:
            return found
        place_of_key = self.tree.keys[key]
        by_window: dict[tuple[object, ...], list[DeclaredLimit]] = {}
        for limit in (self.tree.limits[place] for place in places):
            scope = _scope(key, place_of_key, limit.subject)
            by_window.setdefault((scope, limit.per_ms, limit.models), []).append(limit)
        limits: list[PathLimit] = []
        ordinals = {}
        for identity, declared in by_window.items():
            window = self._windows.get(identity)
            if window is None:
                window = self._windows[identity] = _window(identity[0], declared)  # type: ignore[arg-type]
            first = len(limits)
            limits += (_path_limit(window, place, place_of_key) for place in range(len(window.limits)))
            ordinals[window] = tuple(range(first, len(limits)))
        path = self._of_limits[key, places] = RequestPath(key, tuple(limits), ordinals)
        return path


def length_text(per_ms: int) -> str:
    """Return a window's length as headers name it: ``1m``, ``90s``, ``7d``."""
    for letter, ms in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)):
        if per_ms % ms == 0:
            return f"{per_ms // ms}{letter}"
    return f"{per_ms}ms"


def header_text(text: str) -> str:
    """Return a name as a header holds it: percent-encoded where it can't hold it as it is."""
    return _NOT_IN_HEADERS.sub(lambda match: "".join(f"%{byte:02X}" for byte in match[0].encode()), text)


_KEY_MARK = "#"


def _plain_path(key: str, window_ms: int) -> RequestPath:
    limits = tuple(WindowLimit(unit, None, True) for unit in range(len(DIMENSIONS)))
    window = Window((_KEY_MARK + key,), "", window_ms, (), limits)
    on_path = tuple(PathLimit(window, place, FLAT_NAMES[place], "", "") for place in range(len(limits)))
    return RequestPath(key, on_path, {window: (0, 1, 2)}, is_plain=True)


def _scope(key: str, path: KeyPath, subject: str) -> tuple[str, ...]:
    """Return the place in the tree of a subject on the key's path."""
    above: list[str] = []
    if path.account:
        teams = path.team.split("/") if path.team else []
        names = [path.account, *(f"{path.account}/{'/'.join(teams[: depth + 1])}" for depth in range(len(teams)))]
        if subject in names:
            return tuple(names[: names.index(subject) + 1])
        above = names
    return *above, _KEY_MARK + key


def _window(scope: tuple[str, ...], declared: Sequence[DeclaredLimit]) -> Window:
    units = sorted(declared, key=lambda limit: UNITS.index(limit.unit))
    limits = tuple(WindowLimit(UNITS.index(each.unit), each.amount, each.mode == ENFORCE, each) for each in units)
    return Window(scope, units[0].subject, units[0].per_ms, units[0].models, limits)


def _path_limit(window: Window, place: int, path: KeyPath) -> PathLimit:
    limit = window.limits[place]
    declared = limit.declared
    assert declared is not None
    subject = window.subject
    if path.show == OWN and path.account:
        if not window.is_own:
            return PathLimit(window, place, "", HIDDEN_NAME, "")
        subject = subject.removeprefix(f"{path.account}/")
    name = header_text(f"{subject} {declared.unit}/{length_text(window.per_ms)}")
    if not limit.enforces:
        return PathLimit(window, place, "", name, header_text(declared.name) or name)
    is_flat = not path.account and window.per_ms == MINUTE_MS and not window.models and limit.unit < len(FLAT_NAMES)
    return PathLimit(window, place, FLAT_NAMES[limit.unit] if is_flat else name, name, "")


def _is_for(limit: DeclaredLimit, model: str) -> bool:
    return not limit.models or any(_pattern(pattern).fullmatch(model.lower()) for pattern in limit.models)


@cache
def _pattern(pattern: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(part) for part in pattern.lower().split("*")), re.DOTALL)
