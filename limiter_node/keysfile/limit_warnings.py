"""Warnings about declarations that can be loaded, but hardly mean what they say.

A limit above its parent's never rejects, a pattern that matches no model limits nothing, and of two keys with one name
no message can tell which it means. A file with secrets that others can read hardly keeps them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice

from limiter_node.declarations import Declarations
from limiter_node.model_patterns import matches
from limiter_node.plans import per_text, teams_of, who
from limiter_node.policy import ENFORCE, UNITS, AccountPolicy, PolicyWindow, WindowShape, shape_of

_MOST = 100

_Subject = tuple[str, Sequence[PolicyWindow]]
"""The name for people, and the windows."""


def warnings_of(declarations: Declarations, models: Sequence[str] = ()) -> list[str]:
    """Return one line per warning, at most 100, and one that says so if there are more.

    `models`: the names of all models that the nodes serve; empty if they aren't known.
    """
    found = _all_warnings(declarations, [each.lower() for each in models])
    first = list(islice(found, _MOST))
    more = sum(1 for _ in found)
    return [*first, f"{more} more warnings of these kinds"] if more else first


def _all_warnings(declarations: Declarations, models: Sequence[str]) -> Iterator[str]:
    if declarations.exposed_file:
        file = declarations.exposed_file
        yield f"others than its owner can read or change this file, which holds keys in plain text: chmod 600 {file}"
    for account in declarations.accounts.values():
        for subject in account.subjects:
            *above, own = _path(account, subject.name)
            yield from _warnings_of_subject(own, above, models)
    for account, key in declarations.keys.values():
        yield from _warnings_of_subject((who(account, key), key.windows), _path(account, key.team), models)
    flat = [each.name for each in declarations.plain.values()]
    flat += [each.key.name for each in declarations.keys.values() if each.account.key is not None]
    for name, count in Counter(flat).items():
        if name and count > 1:
            yield f"{count} keys are called '{name}': only their digests tell them apart"


def _path(account: AccountPolicy, team: str) -> list[_Subject]:
    """Return the account and the teams down to `team`; nothing for a key that is an account of its own."""
    windows = {each.name: each.windows for each in account.subjects}
    names = [name for name in ("", *teams_of(team)) if name in windows]
    return [(f"{account.name}/{name}" if name else account.name, windows[name]) for name in names]


def _warnings_of_subject(own: _Subject, above: Sequence[_Subject], models: Sequence[str]) -> Iterator[str]:
    name, windows = own
    parents = [(parent, _enforced(found)) for parent, found in reversed(above)]
    for window in windows:
        for limit in window.limits:
            place = (shape_of(window), limit.unit)
            for parent, enforced in parents:
                if enforced.get(place, limit.amount) < limit.amount:
                    yield (
                        f"{name}: {_text(window, limit.unit)} {limit.amount} is above the {enforced[place]} of "
                        f"{parent}, which rejects first"
                    )
                    break
        for pattern in window.models if models else ():
            if not any(matches(pattern.lower(), model) for model in models):
                yield (
                    f"{name}: no model matches '{pattern}' of the limit {_text(window, window.limits[0].unit)}: "
                    f"the models are {', '.join(models[:10])}{', …' if len(models) > 10 else ''}"
                )


def _enforced(windows: Sequence[PolicyWindow]) -> dict[tuple[WindowShape, int], int]:
    return {
        (shape_of(window), limit.unit): limit.amount
        for window in windows
        for limit in window.limits
        if limit.mode == ENFORCE
    }


def _text(window: PolicyWindow, unit: int) -> str:
    models = f" for {', '.join(window.models)}" if window.models else ""
    return f"{UNITS[unit]}/{per_text(window.per_ms)}{models}"
