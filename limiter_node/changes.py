"""A change of an account, a team or a key: what happened to it, and the fields that differ.

Everybody who changes something says so in this form: to the person who asked for it, and once in the log.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

from limiter_node.errors import ConfigError
from limiter_node.policy_fields import FIELD_DEFAULTS, Fields

log = logging.getLogger(__name__)

Kind: TypeAlias = Literal["account", "team", "key"]
Action: TypeAlias = Literal[
    "created", "changed", "deleted", "moved", "rotated", "revoked", "disabled", "enabled", "expires"
]

_SHOWN_DIGITS = 12
_MOST_CREATIONS: Final = 100
"""At the first load of a file with many keys, a line for each would bury the log."""
_CREDENTIALS: Final = "credentials"
_Credentials: TypeAlias = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Change:
    """One change. `before`, `after`: only the fields that differ; a field that isn't there has its default.

    `who`: the name by which people know the item, such as ``acme/alice``; it never shows a secret.
    """

    kind: Kind
    who: str
    action: Action
    before: Fields = field(default_factory=dict)
    after: Fields = field(default_factory=dict)

    def line(self) -> str:
        """Return the change in words: ``key acme/alice changed: rpm 60 -> 120, weight 1 -> 2``."""
        head = f"{self.kind} {self.who} {self.action}"
        if self.action == "deleted":
            return head
        parts = [self._part(name) for name in dict.fromkeys((*self.before, *self.after))]
        return f"{head}: {', '.join(parts)}" if parts else head

    def to_json(self) -> dict[str, Any]:
        """Return the change as JSON has it."""
        return {
            "kind": self.kind,
            "who": self.who,
            "action": self.action,
            "before": self.before,
            "after": self.after,
        }

    def _part(self, name: str) -> str:
        if name == _CREDENTIALS and name in self.after:
            return f"{name} {', '.join(_credential_parts(self.before.get(name), self.after[name]))}"
        before, after = (_shown(name, fields) for fields in (self.before, self.after))
        return f"{name} {after}" if self.action == "created" else f"{name} {before} -> {after}"


class PartlyApplied(ConfigError):
    """Raised when some keys can't be as they are declared; all else is.

    `changes`: those that were made, or that a dry run would have made. `warnings`: what the person should know.
    """

    def __init__(self, message: str, changes: Sequence[Change], warnings: Sequence[str]) -> None:
        super().__init__(message)
        self.changes, self.warnings = tuple(changes), tuple(warnings)


def change_between(kind: Kind, who: str, action: Action, before: Mapping[str, Any], after: Mapping[str, Any]) -> Change:
    """Return the change from some fields to others, of which it keeps those that differ."""
    differ = [name for name in dict.fromkeys((*before, *after)) if before.get(name) != after.get(name)]
    return Change(
        kind,
        who,
        action,
        {name: before[name] for name in differ if name in before},
        {name: after[name] for name in differ if name in after},
    )


def newly_revoked(change: Change) -> set[str]:
    """Return the digests of the credentials that a change has revoked."""
    was, now = (
        {each["digest"] for each in fields.get(_CREDENTIALS, ()) if each.get("revoked")}
        for fields in (change.before, change.after)
    )
    return now - was


changed_by: Final[ContextVar[str]] = ContextVar("changed_by", default="")
"""Who makes the changes of a task, such as the id of a request of the admin API; the log says so."""


def log_change(change: Change) -> None:
    """Log a change that has been made; whoever makes it calls this once."""
    event = {"event": "key_changed", "what": f"{change.kind} {change.who}", "action": change.action}
    fields = {**event, "before": change.before, "after": change.after}
    if who := changed_by.get():
        log.info("%s (by %s)", change.line(), who, extra={**fields, "by": who})
    else:
        log.info("%s", change.line(), extra=fields)


def log_changes(changes: Sequence[Change]) -> None:
    """Log changes made at once, a line each; of more than 100 creations only how many there are.

    A creation has nothing before it, and what it brings stands in the file that was loaded.
    """
    created = [each for each in changes if each.action == "created"]
    are_many = len(created) > _MOST_CREATIONS
    for change in changes:
        if not (are_many and change.action == "created"):
            log_change(change)
    if are_many:
        kinds: Counter[str] = Counter(each.kind for each in created)
        counts = ", ".join(f"{number:,} {kind}{'' if number == 1 else 's'}" for kind, number in kinds.items())
        fields: dict[str, object] = {"event": "many_created", **kinds}
        if who := changed_by.get():
            log.info("created: %s (by %s)", counts, who, extra={**fields, "by": who})
        else:
            log.info("created: %s", counts, extra=fields)


def _shown(name: str, fields: Mapping[str, Any]) -> str:
    value = fields.get(name, FIELD_DEFAULTS.get(name))
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(f"sha256:{each['digest'][:_SHOWN_DIGITS]} {_credential_state(each)}" for each in value)
    if isinstance(value, dict):
        name = json.dumps(value["name"], ensure_ascii=False) if "name" in value else ""
        return " ".join(filter(None, (f"{value['amount']:,}", value.get("mode"), name)))
    return f"{value:,}" if isinstance(value, int) else str(value)


def _credential_parts(before: _Credentials | None, after: _Credentials) -> list[str]:
    """Return what happened to each credential that differs. `before`: None of a key that had only its first one."""
    was, now = ({each["digest"]: _credential_state(each) for each in listed} for listed in (before or (), after))
    parts = []
    for digest in dict.fromkeys((*was, *now)):
        old, new = was.get(digest, "none"), now.get(digest, "none")
        if old != new:
            parts.append(f"sha256:{digest[:_SHOWN_DIGITS]} {new if before is None else f'{old} -> {new}'}")
    return parts


def _credential_state(credential: Mapping[str, Any]) -> str:
    if credential.get("revoked"):
        return "revoked"
    return f"until {credential['expires']}" if "expires" in credential else "valid"
