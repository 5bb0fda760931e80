"""Keys, accounts and teams as commands and the admin API show them; each has the JSON form that both give out."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Final

from limiter_node.changes import Change
from limiter_node.policy_fields import Fields, time_text

_DIGEST_PREFIX: Final = "sha256:"


def digest_text(cid: str) -> str:
    """Return the digest of a credential as people read it and may type it: ``sha256:`` and 32 hex digits."""
    return _DIGEST_PREFIX + cid


def utc(ms: int) -> str | None:
    """Return a time in ms since the epoch as people write it, such as ``2027-06-30T00:00:00Z``; None for 0."""
    return time_text(ms) if ms else None


class _View:
    """Give a frozen dataclass its JSON form, in the order of its fields."""

    __slots__ = ()

    def to_json(self) -> dict[str, Any]:
        """Return values that JSON can hold, by the names of the fields."""
        return {each.name: _to_json(getattr(self, each.name)) for each in fields(self)}  # type: ignore[arg-type]


def _to_json(value: Any) -> Any:
    if isinstance(value, _View):
        return value.to_json()
    return [_to_json(each) for each in value] if isinstance(value, tuple) else value


@dataclass(frozen=True, slots=True)
class LimitView(_View):
    """A limit with its usage now, as an element of ``limits_on_path`` of ``GET /v1/rate_limits``.

    `name`: None if it has none. `subject`: whose limit it is, such as ``acme/research``. `window`: ``1m``, ``1d``.
    `models`: the patterns of the models that it is for; none for all. `reserved`: None, because the usage includes what
    requests under way have reserved. `counting_since`: None for the window of a plain key, which always counts.
    """

    name: str | None
    subject: str
    unit: str
    window: str
    models: tuple[str, ...]
    limit: int
    used: int
    reserved: int | None
    remaining: int
    reset_ms: int
    mode: str
    counting_since: str | None

    @property
    def share_left(self) -> float:
        """The share of the limit that is left, from 0 to 1."""
        return self.remaining / self.limit if self.limit else 0.0


@dataclass(frozen=True, slots=True)
class CredentialView(_View):
    """A credential of a key. `state`: ``active``, ``disabled``, ``expired`` or ``revoked``."""

    digest: str
    expires: str | None
    state: str


@dataclass(frozen=True, slots=True)
class KeyView(_View):
    """A key with all limits on its path, the tightest first.

    `who` is what commands take: ``acme/alice``, a flat key's name, or its digest if it has no name. `digest`: that of
    its first credential, for ever. `account` is None for a flat key, `team` if it belongs to the account itself.
    `expires`: when the key ends, with all its credentials. `output_reserve`: the one that counts for the key.
    """

    who: str
    digest: str
    account: str | None
    team: str | None
    name: str
    state: str
    expires: str | None
    credentials: tuple[CredentialView, ...]
    output_reserve: int
    weight: int
    limits: tuple[LimitView, ...]


@dataclass(frozen=True, slots=True)
class KeyEntry(_View):
    """A key in a list: without usage, and with its own limits only, as fields (`policy_fields`), such as ``rpm``."""

    who: str
    digest: str
    account: str | None
    team: str | None
    name: str
    state: str
    expires: str | None
    output_reserve: int
    weight: int
    limits: Fields


@dataclass(frozen=True, slots=True)
class KeyList(_View):
    """The first keys by name, and how many there are in all.

    `damaged`: the digests of keys whose values in the store can't be read, which are not counted.
    """

    entries: tuple[KeyEntry, ...]
    total: int
    damaged: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TeamView(_View):
    """A team with its own limits, the tightest first. `who`: ``acme/research/vision``.

    `keys` and `teams` count those directly in it. `output_reserve`: None if the team sets none.
    """

    who: str
    account: str
    name: str
    output_reserve: int | None
    limits: tuple[LimitView, ...]
    teams: int
    keys: int


@dataclass(frozen=True, slots=True)
class AccountView(_View):
    """An account with its own limits, the tightest first. `teams`: the names of all its teams; `keys`: how many."""

    name: str
    show: str
    output_reserve: int | None
    key_defaults: dict[str, int]
    limits: tuple[LimitView, ...]
    teams: tuple[str, ...]
    keys: int


@dataclass(frozen=True, slots=True)
class ExplainedLimit(_View):
    """A limit on a key's path, and whether it applies to the model. `why`: the reason in words."""

    limit: LimitView
    applies: bool
    rejects: bool
    """Whether it would reject a request now."""
    why: str


@dataclass(frozen=True, slots=True)
class Explanation(_View):
    """All limits on a key's path for one model, those that apply first, of these the tightest first.

    `state`: of the credential that was asked for, else of the key. `binding`: the limit that rejects now, or would
    reject next; None if none can. `summary`: the same in one sentence.
    """

    who: str
    digest: str
    model: str
    state: str
    limits: tuple[ExplainedLimit, ...]
    binding: LimitView | None
    summary: str


@dataclass(frozen=True, slots=True)
class Made(_View):
    """A key or a credential that was made.

    `secret`: shown once, and known to nobody else; None if it was made elsewhere. `kid`: the digest of the key's
    first credential.
    """

    change: Change
    secret: str | None
    kid: str

    def to_json(self) -> dict[str, Any]:
        """Return values that JSON can hold, by the names of the fields; `kid` as ``digest``."""
        return {"change": self.change.to_json(), "secret": self.secret, "digest": digest_text(self.kid)}
