"""Puts each key of a keys file on its path: the account, its teams, the key.

``declared_section`` reads the limits of each of them; ``declared_limits`` is what a run keeps of the paths.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from bench_client.load.declared_limits import ENFORCE, OWN, PATH, UNITS, DeclaredLimit, DeclaredTree, KeyPath
from bench_client.load.declared_section import MINUTE_MS, Amounts, Defaults, Section, Subject

BUILT_IN: Amounts = {"rpm": 600, "input_tpm": 100_000, "output_tpm": 50_000}
"""The limits per minute of keys without an account where nothing else is said."""
_USUAL = {(unit, MINUTE_MS, (), ENFORCE) for unit in UNITS[:3]}


class DeclaredPath(NamedTuple):
    """Describe a key's place: its account and team, empty if it has none, and all subjects from the account down."""

    account: str
    team: str
    show: str
    subjects: tuple[Subject, ...]


class _Account(NamedTuple):
    subject: Subject
    teams: dict[str, Subject]
    show: str
    key_defaults: Defaults


class PathReader:
    """Find the path of each key of one keys file."""

    def __init__(self, document: Mapping[str, Any], file: object) -> None:
        """``file`` is its name in messages. Raises BenchUsageError for an account that can't be read."""
        self._file = file
        self._defaults = Section(f"{file}: [defaults]", document.get("defaults", {})).defaults(BUILT_IN)
        accounts = Section(f"{file}: [accounts]", document.get("accounts", {})).fields
        self._accounts = {name: self._account(name, section) for name, section in accounts.items()}

    def path_of(self, place: str, name: str, fields: Mapping[str, Any]) -> DeclaredPath | None:
        """Return the path of a key; None for a plain one, as ``DeclaredTree.keys`` defines it.

        ``place`` names the key's section in messages, ``name`` the key in limits. Raises BenchUsageError for a section
        that can't be read.
        """
        section = Section(f"{self._file}: {place}", fields)
        if "account" not in fields:
            own = section.subject(name, self._defaults)
            laid = {(limit.unit, limit.per_ms, limit.models, limit.mode) for limit in own.limits}
            return None if laid == _USUAL and not own.unknown else DeclaredPath("", "", PATH, (own,))
        name_of_account, team = section.text("account"), section.text("team")
        account = self._accounts.get(name_of_account)
        if account is None:
            raise section.mistake("account", "is not declared: there must be an [accounts.NAME] for it")
        above = [account.subject]
        for each in teams_down_to(team):
            if each not in account.teams:
                raise section.mistake("team", "is not declared in the account, or one above it isn't")
            above.append(account.teams[each])
        own = section.subject(f"{name_of_account}/{name}", account.key_defaults)
        return DeclaredPath(name_of_account, team, account.show, (*above, own))

    def _account(self, name: str, fields: object) -> _Account:
        place = f"{self._file}: [accounts.{name}]"
        section = Section(place, fields)
        teams = Section(f"{place}: teams", section.fields.get("teams", {})).fields
        return _Account(
            section.subject(name),
            {team: Section(f"{place}: team {team}", each).subject(f"{name}/{team}") for team, each in teams.items()},
            section.choice("show", PATH, OWN),
            Section(f"{place}: key_defaults", section.fields.get("key_defaults", {})).defaults(),
        )


def tree_of(paths: Iterable[tuple[str, DeclaredPath | None]]) -> DeclaredTree:
    """Return the tree of the keys whose ids and paths are given."""
    limits: list[DeclaredLimit] = []
    places: dict[Subject, range] = {}
    keys = {}
    for key_id, path in paths:
        if path is None:
            continue
        for subject in path.subjects:
            if subject not in places:
                places[subject] = range(len(limits), len(limits) + len(subject.limits))
                limits += subject.limits
        on_path = tuple(place for subject in path.subjects for place in places[subject])
        keys[key_id] = KeyPath(path.account, path.team, path.show, on_path)
    return DeclaredTree(tuple(limits), keys, tuple(words for subject in places for words in subject.unknown))


def teams_down_to(team: str) -> Iterator[str]:
    """Return the names of a team and of those above it, from the top."""
    parts = team.split("/") if team else []
    return ("/".join(parts[: depth + 1]) for depth in range(len(parts)))
