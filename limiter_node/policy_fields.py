"""Policies as *fields*: what people set and files declare, by the name that people use, with values that JSON can hold.

A field that isn't there has its default. Limits have a field each (`limit_names`), a team's fields begin with
``team research/vision``, and the field of that name alone says that the team exists. Times are written as
``2027-06-30T00:00:00Z``.

Fields are how a declaration is compared with the last one and with the stored policy (`three_way`), and how a change is
shown. They don't hold since when windows count: `key_from` and `account_from` take that from the stored policy.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeAlias

from limiter_node.key_states import Credential
from limiter_node.limit_names import limits_to_fields, parse_limit_name, windows_from_fields
from limiter_node.limits import DEFAULT_OUTPUT_RESERVE, MAX_LIMIT, KeyLimits
from limiter_node.policy import AccountPolicy, KeyPolicy, Subject
from limiter_node.window_merging import merge_windows

Fields: TypeAlias = dict[str, Any]

FIELD_DEFAULTS: Final[Mapping[str, Any]] = {"weight": 1, "show": "path", "disabled": False}
"""The values of fields that aren't there, as far as there are any."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TEAM, _KEY_DEFAULT = "team ", "key_defaults."
_PLAIN_LIMITS = ("rpm", "input_tpm", "output_tpm")
_KEY_FIELDS = ("name", "account", "team", "weight", "output_reserve", "expires", "disabled", "credentials")
_TEAM_FIELDS, _ACCOUNT_FIELDS = ("output_reserve",), ("output_reserve", "show")


# ---- keys ------------------------------------------------------------------------------------------------------------


def fields_of_key(key: KeyPolicy) -> Fields:
    """Return the fields of a key; its account is none of them."""
    fields: Fields = limits_to_fields(key.windows)
    if key.name:
        fields["name"] = key.name
    if key.team:
        fields["team"] = key.team
    if key.weight != FIELD_DEFAULTS["weight"]:
        fields["weight"] = key.weight
    if key.output_reserve is not None:
        fields["output_reserve"] = key.output_reserve
    if key.expires_ms:
        fields["expires"] = time_text(key.expires_ms)
    if key.is_disabled:
        fields["disabled"] = True
    if key.credentials:
        fields["credentials"] = [_credential_to_json(each) for each in key.credentials]
    return fields


def fields_of_plain(limits: KeyLimits) -> Fields:
    """Return the fields of a plain key."""
    fields: Fields = {
        "rpm": limits.rpm,
        "input_tpm": limits.input_tpm,
        "output_tpm": limits.output_tpm,
        "output_reserve": limits.output_reserve,
    }
    return {**fields, "name": limits.name} if limits.name else fields


def plain_from(fields: Mapping[str, Any]) -> KeyLimits | None:
    """Return the limits of a plain key with these fields; None if the plain form can't hold them."""
    if fields.keys() - {*_PLAIN_LIMITS, "output_reserve", "name"}:
        return None
    amounts = tuple(fields.get(name) for name in _PLAIN_LIMITS)
    if not all(type(each) is int and each <= MAX_LIMIT for each in amounts):
        return None
    reserve, name = fields.get("output_reserve", DEFAULT_OUTPUT_RESERVE), fields.get("name", "")
    return KeyLimits(fields["rpm"], fields["input_tpm"], fields["output_tpm"], reserve, name)


def key_from(kid: str, fields: Mapping[str, Any], stored: KeyPolicy | None, now_ms: int) -> KeyPolicy:
    """Return the policy of a key that shall have `fields`; `stored` itself if that has them.

    `now_ms`: by the store's clock. Raises ValueError for fields that no key has; ``account`` is none of the policy, but
    is taken. What `fields` say nothing of has its default, but for ``credentials`` and ``disabled``: these stay as they
    are stored (``disabled`` = False enables a key). Credentials are never forgotten: a stored one that isn't listed is
    revoked. `declared` stays; `revision` rises by one.
    """
    _check_fields(fields, _KEY_FIELDS)
    before = stored or KeyPolicy(kid)
    key = replace(
        before,
        kid=kid,
        name=fields.get("name", ""),
        team=fields.get("team", ""),
        windows=merge_windows(before.windows, windows_from_fields(fields), now_ms),
        output_reserve=fields.get("output_reserve"),
        weight=fields.get("weight", FIELD_DEFAULTS["weight"]),
        credentials=_credentials_from(kid, fields, stored),
        expires_ms=time_ms(fields["expires"]) if "expires" in fields else 0,
        is_disabled=fields.get("disabled", before.is_disabled),
        revision=before.revision + 1,
    )
    return stored if stored is not None and fields_of_key(key) == fields_of_key(stored) else key


def flat_account_from(kid: str, fields: Mapping[str, Any], stored: AccountPolicy | None, now_ms: int) -> AccountPolicy:
    """Return the policy of a key that is an account of its own; the rules are those of `key_from`.

    The revision is the account's, the declarations are the key's.
    """
    before = stored.key if stored is not None else None
    key = key_from(kid, fields, before, now_ms)
    if stored is not None and key is before:
        return stored
    account = stored or AccountPolicy()
    return replace(account, key=replace(key, revision=0), revision=account.revision + 1)


# ---- accounts --------------------------------------------------------------------------------------------------------


def fields_of_account(account: AccountPolicy) -> Fields:
    """Return the fields of an account and of its teams."""
    fields: Fields = {f"{_KEY_DEFAULT}{name}": amount for name, amount in account.key_defaults}
    if account.show != FIELD_DEFAULTS["show"]:
        fields["show"] = account.show
    for subject in account.subjects:
        if subject.name:
            fields[team_field(subject.name)] = True
        fields |= {team_field(subject.name, name): value for name, value in _fields_of_subject(subject).items()}
    return fields


def account_from(name: str, fields: Mapping[str, Any], stored: AccountPolicy | None, now_ms: int) -> AccountPolicy:
    """Return the policy of an account that shall have `fields`; `stored` itself if that has them.

    `now_ms`: by the store's clock. What `fields` say nothing of has its default; a team that they don't have is none of
    the account's. `declared` stays; `revision` rises by one.
    """
    before = stored or AccountPolicy(name)
    by_subject: dict[str, Fields] = {"": {}}
    key_defaults = {}
    for field, value in fields.items():
        if field.startswith(_KEY_DEFAULT):
            key_defaults[field.removeprefix(_KEY_DEFAULT)] = value
            continue
        team, inner = split_team_field(field)
        by_subject.setdefault(team, {})
        if inner:
            by_subject[team][inner] = value
    for team, inner_fields in by_subject.items():
        _check_fields(inner_fields, _TEAM_FIELDS if team else _ACCOUNT_FIELDS)
    known = {each.name: each for each in before.subjects}
    account = replace(
        before,
        name=name,
        subjects=tuple(_subject_from(each, by_subject[each], known.get(each), now_ms) for each in sorted(by_subject)),
        show=fields.get("show", FIELD_DEFAULTS["show"]),
        key_defaults=tuple(sorted(key_defaults.items())),
        revision=before.revision + 1,
    )
    return stored if stored is not None and fields_of_account(account) == fields_of_account(stored) else account


def team_field(team: str, inner: str = "") -> str:
    """Return the name of a team's field in its account; `inner` itself if `team` is empty, for the account's own."""
    if not team:
        return inner
    return f"{_TEAM}{team} {inner}" if inner else f"{_TEAM}{team}"


def split_team_field(field: str) -> tuple[str, str]:
    """Return the team whose field it is, and its name there; both as in `team_field`."""
    if not field.startswith(_TEAM):
        return "", field
    team, _, inner = field.removeprefix(_TEAM).partition(" ")
    return team, inner


def teams_in(fields: Mapping[str, Any]) -> Iterator[str]:
    """Yield the teams of an account with these fields."""
    for field in fields:
        team, inner = split_team_field(field)
        if team and not inner:
            yield team


def _fields_of_subject(subject: Subject) -> Fields:
    fields: Fields = limits_to_fields(subject.windows)
    return fields if subject.output_reserve is None else {**fields, "output_reserve": subject.output_reserve}


def _subject_from(name: str, fields: Mapping[str, Any], stored: Subject | None, now_ms: int) -> Subject:
    windows = merge_windows(stored.windows if stored else (), windows_from_fields(fields), now_ms)
    return Subject(name, windows, fields.get("output_reserve"))


# ---- declarations ----------------------------------------------------------------------------------------------------


def three_way(base: Mapping[str, Any], declared: Mapping[str, Any], stored: Mapping[str, Any]) -> Fields:
    """Return the fields to store: those that `declared` says otherwise than `base`, the last declaration, are its.

    All others stay as they are stored.
    """
    merged = dict(stored)
    for field in {*base, *declared}:
        if field in declared:
            if field not in base or base[field] != declared[field]:
                merged[field] = declared[field]
        else:
            merged.pop(field, None)
    return merged


def _check_fields(fields: Mapping[str, Any], known: Collection[str]) -> None:
    for name in fields:
        if name not in known and parse_limit_name(name) is None:
            raise ValueError(f"there is no field {name!r}")


# ---- values ----------------------------------------------------------------------------------------------------------


def time_text(at_ms: int) -> str:
    """Return a time as people write it: ``2027-06-30T00:00:00Z``."""
    text = (_EPOCH + timedelta(milliseconds=at_ms)).isoformat(timespec="milliseconds" if at_ms % 1000 else "seconds")
    return text.removesuffix("+00:00") + "Z"


def time_ms(text: str) -> int:
    """Return a time in ms. Raises ValueError if `text` is no time with an offset."""
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError("a time needs its offset")
    return (at - _EPOCH) // timedelta(milliseconds=1)


def _credential_to_json(credential: Credential) -> dict[str, Any]:
    found: dict[str, Any] = {"digest": credential.digest}
    if credential.ends_ms:
        found["expires"] = time_text(credential.ends_ms)
    if credential.is_revoked:
        found["revoked"] = True
    return found


def _credentials_from(kid: str, fields: Mapping[str, Any], stored: KeyPolicy | None) -> tuple[Credential, ...]:
    listed = fields.get("credentials")
    if listed is None:
        return stored.credentials if stored is not None else ()
    credentials = [
        Credential(
            each["digest"], time_ms(each["expires"]) if "expires" in each else 0, bool(each.get("revoked", False))
        )
        for each in listed
    ]
    found = {each.digest for each in credentials}
    known = stored.all_credentials if stored is not None else ()
    credentials += [each._replace(is_revoked=True) for each in known if each.digest not in found]
    return () if credentials == [Credential(kid)] else tuple(credentials)
