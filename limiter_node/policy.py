"""The limits of an account, of its teams and its keys, as they are stored: the windows, and the limits on them.

An account is everything that shares one hash slot. A key with limits that the plain form (`limits.KeyLimits`) can't
hold is an account of its own. A window counts every unit from its creation; limits are numbers laid on it, so they
change without forgetting anything. Another length or another set of models is another window.

Neighbours: `keysfile` reads what operators declare, `store.admin` stores it, `plans` chooses the windows of a request.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from limiter_node.key_states import Credential, CredentialState
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


class Declared(NamedTuple):
    """The declarations of an item that have been applied.

    `last`: the fields of the last one, as JSON; empty if there was none. `applied`: the digests of those before, the
    latest first, at most `MAX_APPLIED`.
    """

    last: str = ""
    applied: tuple[str, ...] = ()


MAX_APPLIED: Final = 32
NOTHING_DECLARED: Final = Declared()


@dataclass(frozen=True, slots=True)
class KeyPolicy:
    """A key of an account. `team` is empty if it belongs to the account itself.

    `credentials`: all of the key's, also those that have ended; empty stands for one without an end, whose digest is
    the `kid`. `expires_ms`: when the key ends, by the store's clock; 0 if it doesn't. `revision`: how often the policy
    was changed; a flat key has that of its account. `declared`: what keys files said of the key.
    """

    kid: str
    name: str = ""
    team: str = ""
    windows: tuple[PolicyWindow, ...] = ()
    output_reserve: int | None = None
    weight: int = 1
    credentials: tuple[Credential, ...] = ()
    expires_ms: int = 0
    is_disabled: bool = False
    revision: int = 0
    declared: Declared = NOTHING_DECLARED

    @property
    def all_credentials(self) -> tuple[Credential, ...]:
        """Return the key's credentials; at least one."""
        return self.credentials or (Credential(self.kid),)

    @property
    def has_one_lasting_credential(self) -> bool:
        """Whether the key has no credential but the first, which is good at any time: as most keys."""
        return not (self.credentials or self.expires_ms or self.is_disabled)

    def credential_state(self, digest: str, now_ms: int) -> CredentialState:
        """Return whether a credential is good at `now_ms`, by the store's clock."""
        for credential in self.all_credentials:
            if credential.digest == digest:
                if credential.is_revoked:
                    return CredentialState.REVOKED
                if self.is_disabled:
                    return CredentialState.DISABLED
                return CredentialState.EXPIRED if 0 < self.ends_ms(digest) <= now_ms else CredentialState.VALID
        return CredentialState.UNKNOWN

    def ends_ms(self, digest: str) -> int:
        """Return when a credential ends by itself, or with its key; 0 if it doesn't."""
        ends = [each.ends_ms for each in self.all_credentials if each.digest == digest]
        return min((each for each in (*ends, self.expires_ms) if each), default=0)


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
    revision: int = 0
    declared: Declared = NOTHING_DECLARED
    tag: str = field(init=False, default="")

    def __post_init__(self) -> None:
        object.__setattr__(self, "tag", account_tag(self.name) if self.key is None else self.key.kid)


def key_of(policy: AccountPolicy | KeyPolicy) -> KeyPolicy | None:
    """Return the key whose policy it is; of an account the key that is this account, None if it is a named one."""
    return policy.key if isinstance(policy, AccountPolicy) else policy


_TAG_DIGITS = 12

ACCOUNT_MARK: Final = "@"
"""Begins the hash tags of named accounts, and keeps them apart from the digests that are keys' tags."""


def account_tag(name: str) -> str:
    """Return the hash tag of a named account."""
    return ACCOUNT_MARK + name


def tag_text(tag: str) -> str:
    """Return how logs and messages call the owner of a hash tag: ``account acme``, or ``key 0123456789ab``."""
    return " ".join(*tag_fields(tag).items())


def tag_fields(tag: str) -> dict[str, str]:
    """Return the owner of a hash tag as fields of an event: a named account, or a key by its digest's first digits."""
    return {"account": tag[1:]} if tag.startswith(ACCOUNT_MARK) else {"key": tag[:_TAG_DIGITS]}


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
