"""The stored form of policies, and of what is left where one was deleted or has moved away: JSON.

The version that stands for a policy is made of its stored form.

A key with credentials, an end or a state of its own has a form that earlier versions can't read: they would ignore
these, and admit a key that is disabled.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from limiter_node.key_states import Credential
from limiter_node.policy import (
    NOTHING_DECLARED,
    UNITS,
    AccountPolicy,
    Declared,
    KeyPolicy,
    Limit,
    PolicyWindow,
    Subject,
)

_Value = TypeVar("_Value")


def body_of(policy: AccountPolicy | KeyPolicy) -> bytes:
    """Return the stored form of a policy."""
    return _to_body(_key_to_json(policy) if isinstance(policy, KeyPolicy) else _account_to_json(policy))


def version_of(body: bytes) -> bytes:
    """Return the 8 bytes that stand for a stored policy: equal for equal policies."""
    return hashlib.sha256(body).digest()[:8]


def read_account(body: bytes) -> AccountPolicy:
    """Read a stored account. Raises ValueError if `body` isn't one."""
    return _read(body, _account_from)


def read_key(body: bytes) -> KeyPolicy:
    """Read a stored key of an account. Raises ValueError if `body` isn't one."""
    return _read(body, _key_from)


class Tombstone(NamedTuple):
    """The rest that the store keeps of a deleted account or key.

    If it comes back, it goes on with its `revision` and the record of its declarations. `revoked`: the digests of a
    key's credentials that had been revoked.
    """

    revision: int = 0
    declared: Declared = NOTHING_DECLARED
    revoked: tuple[str, ...] = ()


def tombstone_of(policy: AccountPolicy | KeyPolicy) -> bytes:
    """Return the stored form of what is kept of a policy that is deleted; of a flat key, of its account's."""
    key = policy if isinstance(policy, KeyPolicy) else policy.key
    content = _history_to_json(policy)
    if key is not None:
        if key.declared != NOTHING_DECLARED:
            content |= {"declared": _declared_to_json(key.declared)}
        content["revoked"] = [each.digest for each in key.credentials if each.is_revoked]
    return _to_body(content)


def read_tombstone(body: bytes) -> Tombstone:
    """Read what is kept of a deleted account or key. Raises ValueError if `body` isn't that."""

    def convert(found: dict[str, Any]) -> Tombstone:
        history = _history_from(found)
        return Tombstone(history["revision"], history["declared"], tuple(found.get("revoked", ())))

    return _read(body, convert)


class Forward(NamedTuple):
    """The mark of a key that has moved to another account.

    `to`: the account's hash tag. `id`: tells one move from another. `time_ms`: when the key was sealed, by its former
    account's clock. `body`: the policy for the other account, `back` that for the former one if the other is gone; both
    are empty once the move is over. Then `shift_ms` and `opened_ms` say how the windows were moved: see ``open.lua``;
    `revision` is the one with which the key was opened there: higher than any that it had here.
    """

    to: str
    id: str
    time_ms: int
    body: str
    back: str = ""
    shift_ms: int = 0
    opened_ms: int = 0
    revision: int = 0

    @property
    def is_over(self) -> bool:
        """Whether the move is over; else somebody has to finish it."""
        return not self.body


def forward_body(forward: Forward) -> bytes:
    """Return the stored form of a forward mark."""
    return _to_body(forward._asdict())


def read_forward(body: bytes) -> Forward:
    """Read a forward mark. Raises ValueError if `body` isn't one."""

    def convert(found: dict[str, Any]) -> Forward:
        return Forward(
            *(found["to"], found["id"], found["time_ms"], found["body"]),
            *(found.get("back", ""), found.get("shift_ms", 0), found.get("opened_ms", 0), found.get("revision", 0)),
        )

    return _read(body, convert)


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
        **_history_from(found),
    )


def _account_to_json(account: AccountPolicy) -> dict[str, Any]:
    return {
        "name": account.name,
        "subjects": [
            {
                "name": each.name,
                "windows": _windows_to_json(each.windows),
                "output_reserve": each.output_reserve,
            }
            for each in account.subjects
        ],
        "show": account.show,
        "key_defaults": dict(account.key_defaults),
        "key": None if account.key is None else _key_to_json(account.key),
        **_history_to_json(account),
    }


def _key_to_json(key: KeyPolicy) -> dict[str, Any]:
    content = {
        "kid": key.kid,
        "name": key.name,
        "team": key.team,
        "windows": _windows_to_json(key.windows),
        "output_reserve": key.output_reserve,
        "weight": key.weight,
        **_history_to_json(key),
    }
    if key.has_one_lasting_credential:
        return content
    content |= {
        "credentials": [each._asdict() for each in key.credentials],
        "expires_ms": key.expires_ms,
        "is_disabled": key.is_disabled,
    }
    return {"with_credentials": content}


def _history_to_json(policy: KeyPolicy | AccountPolicy) -> dict[str, Any]:
    content: dict[str, Any] = {"revision": policy.revision} if policy.revision else {}
    if policy.declared != NOTHING_DECLARED:
        content["declared"] = _declared_to_json(policy.declared)
    return content


def _declared_to_json(declared: Declared) -> dict[str, Any]:
    return {"last": declared.last, "applied": declared.applied}


def _history_from(found: dict[str, Any]) -> dict[str, Any]:
    declared = found.get("declared")
    return {
        "revision": found.get("revision", 0),
        "declared": NOTHING_DECLARED if declared is None else Declared(declared["last"], tuple(declared["applied"])),
    }


def _key_from(found: dict[str, Any]) -> KeyPolicy:
    found = found.get("with_credentials", found)
    return KeyPolicy(
        found["kid"],
        found["name"],
        found["team"],
        _windows_from_json(found["windows"]),
        found["output_reserve"],
        found["weight"],
        tuple(Credential(**each) for each in found.get("credentials", ())),
        found.get("expires_ms", 0),
        found.get("is_disabled", False),
        **_history_from(found),
    )


def _to_body(content: dict[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _read(body: bytes, convert: Callable[[dict[str, Any]], _Value]) -> _Value:
    """Return the value in `body`. Raises ValueError for whatever isn't one, such as one of a later version."""
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
