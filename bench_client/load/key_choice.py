"""The keys that are loaded, in groups with weights.

A group is an account, or an account or team that ``--accounts`` names. All keys without an account are one group.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

from bench_client.errors import BenchUsageError
from bench_client.load.declared_paths import teams_down_to
from bench_client.load.keys import ApiKey
from bench_client.load.weights import Weights

_WITHOUT_ACCOUNT = ""
_MOST_NAMES = 20


class KeyGroup(NamedTuple):
    """Hold places of keys, in the order of the file, and their weight together."""

    weight: float
    places: Sequence[int]


class LoadedKeys(NamedTuple):
    """Hold the keys that are loaded, and their groups: each key's place is in one of them."""

    keys: tuple[ApiKey, ...]
    groups: tuple[KeyGroup, ...]


def choose_keys(keys: Sequence[ApiKey], accounts: Weights = ()) -> LoadedKeys:
    """Return the keys at or below the names of ``accounts``, each in the group of the deepest name above it.

    Without names, return all keys; then the weight of an account is the number of its keys. Raises BenchUsageError for
    a name without keys.
    """
    places: dict[str, array[int]] = {name: array("I") for name, _ in accounts}
    chosen: list[ApiKey] = []
    for key in keys:
        above = _names_above(key)
        name = next((each for each in reversed(above) if each in places), None) if accounts else above[0]
        if name is not None:
            places.setdefault(name, array("I")).append(len(chosen))
            chosen.append(key)
    for name, found in places.items():
        if not found:
            raise _no_keys(name, keys)
    weights: dict[str, float] = dict(accounts) or {name: len(found) for name, found in places.items()}
    return LoadedKeys(tuple(chosen), tuple(KeyGroup(weights[name], found) for name, found in places.items()))


def _names_above(key: ApiKey) -> list[str]:
    """Return the names of a key's account and teams, from the top, as ``--accounts`` takes them."""
    if key.path is None or not key.path.account:
        return [_WITHOUT_ACCOUNT]
    account = key.path.account
    return [account, *(f"{account}/{team}" for team in teams_down_to(key.path.team))]


def _no_keys(name: str, keys: Sequence[ApiKey]) -> BenchUsageError:
    names = dict.fromkeys(each for key in keys for each in _names_above(key) if each != _WITHOUT_ACCOUNT)
    if name in names:
        return BenchUsageError(f"--accounts: all keys below {name} are below a deeper name given; leave {name} out")
    if not names:
        return BenchUsageError(f"--accounts: there is no {name}: no usable key of the keys file has an account")
    shown = [*islice(names, _MOST_NAMES), *(["..."] if len(names) > _MOST_NAMES else [])]
    return BenchUsageError(f"--accounts: no usable key is below {name}; there are {', '.join(shown)}")
