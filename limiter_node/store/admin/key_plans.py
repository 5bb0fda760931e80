"""Plans what a declaration makes of one key: the fields that it shall have, and where; or why nothing changes.

Pure: `key_places` says what is stored, `key_loading` carries the plans out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import TypeAlias

from limiter_node.changes import Action, Change, change_between
from limiter_node.declaration_merging import (
    apply_key_fields,
    declared_fields,
    flat_to_store,
    key_to_store,
    merge_key_fields,
)
from limiter_node.declaration_records import applied_before, declaration_bytes, declaration_of, was_applied
from limiter_node.declarations import Declarations
from limiter_node.limits import KeyLimits
from limiter_node.plans import key_name
from limiter_node.policy import AccountPolicy, KeyPolicy, account_tag, key_of
from limiter_node.policy_fields import Fields, fields_of_key, fields_of_plain, plain_from
from limiter_node.store.admin.adopting import plain_account
from limiter_node.store.admin.key_places import KeyPlace, Sought
from limiter_node.store.values import DECLARATION_BYTES, PlainRecord, pack_limits, pack_record, unpack_limits


class Unchanged(Enum):
    """Why a declaration changes nothing."""

    SAME = auto()
    OLDER = auto()
    """A later declaration of the item was applied since."""
    DELETED = auto()
    """The item was deleted on purpose."""
    NO_ACCOUNT = auto()
    """The account was deleted on purpose, or the team."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A key as it is declared; `limits` if it may be a plain one."""

    kid: str
    fields: Fields
    limits: KeyLimits | None
    digests: tuple[str, ...]
    is_listed: bool = False
    """Whether a plain key's one credential is listed."""

    @property
    def account(self) -> str:
        """The name of the account that shall have the key; empty for a flat key."""
        return str(self.fields.get("account", ""))

    @property
    def who(self) -> str:
        """The key's name for people."""
        return _who(self.fields, self.kid)

    @property
    def sought(self) -> Sought:
        """Where to look for the key."""
        tag = account_tag(self.account) if self.account else ""
        return Sought(self.digests, tag, self.limits is not None)

    def with_list(self) -> Wanted:
        """Return the key with the list of its credentials as a field, which a plain key's declaration leaves out."""
        fields = {**self.fields, "credentials": [{"digest": self.kid}]}
        return replace(self, fields=fields, limits=None) if self.is_listed else self


Stored: TypeAlias = KeyLimits | KeyPolicy | AccountPolicy


@dataclass(frozen=True, slots=True)
class KeyPlan:
    """A key as it shall be, in the account called `account` (empty: flat), and the `place` where it is now.

    `policy`: the limits of a plain key, the policy of a key of an account, or the account of a flat key. `record`: the
    record of declarations to store with a plain key, packed. `change`: None if at most the record changes. `warnings`:
    for people.
    """

    place: KeyPlace
    account: str
    policy: Stored
    record: bytes
    change: Change | None
    warnings: tuple[str, ...] = ()

    @property
    def who(self) -> str:
        """The key's name for people."""
        return _who(_fields_of(self.policy, self.account), self.place.kid)

    @property
    def tag(self) -> str:
        """The hash tag of the account that shall have the key."""
        return account_tag(self.account) if self.account else self.place.kid

    @property
    def moves(self) -> bool:
        """Whether the key has to leave an account, or to enter one, with its windows."""
        return self.place.exists and (self.place.tag or self.place.kid) != self.tag

    @property
    def is_written(self) -> bool:
        """Whether anything differs from what is stored of the key."""
        if isinstance(self.policy, KeyLimits):
            is_changed = pack_limits(self.policy) != self.place.plain or self.record != self.place.record
            return is_changed or self.place.is_marked
        return self.policy is not (self.place.account if isinstance(self.policy, AccountPolicy) else self.place.key)

    @property
    def key(self) -> KeyPolicy | None:
        """The policy of the key; None of a plain one."""
        return None if isinstance(self.policy, KeyLimits) else key_of(self.policy)

    @property
    def credentials(self) -> tuple[str, ...]:
        """The digests of all credentials that shall lead to the key."""
        return (self.place.kid,) if self.key is None else tuple(each.digest for each in self.key.all_credentials)


def wanted_keys(declared: Declarations) -> dict[str, Wanted]:
    """Return all declared keys by their first credential."""
    found = {
        kid: Wanted(kid, fields_of_plain(limits), limits, (kid,), kid in declared.listed)
        for kid, limits in declared.plain.items()
    }
    for kid, (account, key) in declared.keys.items():
        digests = tuple(each.digest for each in key.all_credentials)
        found[kid] = Wanted(kid, declared_fields(key, account.name), None, digests)
    return found


def plan_by_file(wanted: Wanted, place: KeyPlace, accounts: Mapping[str, AccountPolicy | None]) -> KeyPlan | Unchanged:
    """Return what a node's start makes of a key. `accounts`: those that are stored, None for one that isn't."""
    if place.is_marked:
        return Unchanged.DELETED
    limits = wanted.limits
    if limits is not None and place.plain is not None and place.plain_record.last == pack_limits(limits):
        return Unchanged.SAME  # as all plain keys are, nearly always
    record = place.declared
    if record.last and "credentials" in json.loads(record.last):  # else the list says nothing new
        wanted = wanted.with_list()
    text = declaration_of(wanted.fields)
    if not place.exists and (record.last or record.applied):
        return Unchanged.DELETED  # by an earlier version, whose marks expired
    if was_applied(record, text):
        return Unchanged.OLDER
    if record.last == text:
        return _plan(wanted, place, place.fields, is_recorded=False)
    fields = merge_key_fields(record, wanted.fields, place.fields) if place.exists else dict(wanted.fields)
    account, warnings = fields.get("account", ""), []
    if account and account != place.account_name and accounts.get(account) is None:
        if not place.exists:
            return Unchanged.NO_ACCOUNT
        warnings.append(f"account {account} was deleted, so {_who(place.fields, place.kid)} stays where it is")
        fields = {**fields, "account": place.account_name, "team": place.fields.get("team", "")}
    elif fields.get("team", "") != place.fields.get("team", "") or account != place.account_name:
        policy = accounts.get(account)
        if fields.get("team") and (policy is None or fields["team"] not in {each.name for each in policy.subjects}):
            if not place.exists:
                return Unchanged.NO_ACCOUNT
            warnings.append(f"{_who(fields, place.kid)}: {account} has no team {fields['team']}, so that is left out")
            fields["team"] = place.fields.get("team", "") if account == place.account_name else ""
    return _plan(wanted, place, {name: value for name, value in fields.items() if value != ""}, tuple(warnings))


def plan_by_word(wanted: Wanted, place: KeyPlace) -> KeyPlan:
    """Return what a person's word makes of a key."""
    if place.key is not None:
        wanted = wanted.with_list()
    before = place.fields
    fields = apply_key_fields(wanted.fields, before)
    who, warnings = _who(fields, place.kid), []
    state = {each["digest"]: bool(each.get("revoked")) for each in before.get("credentials", ())}
    if place.tombstone is not None and not place.exists:
        state = dict.fromkeys(place.tombstone.revoked, True)
    listed = wanted.fields.get("credentials")
    for digest in wanted.digests:
        if state.get(digest):
            is_back = listed is not None
            end = "is valid again" if is_back else "stays revoked: list it in `credentials` to make it valid"
            warnings.append(f"{who}: the credential sha256:{digest[:12]} was revoked, and {end}")
    return _plan(wanted, place, fields, tuple(warnings))


def _plan(
    wanted: Wanted, place: KeyPlace, fields: Fields, warnings: tuple[str, ...] = (), *, is_recorded: bool = True
) -> KeyPlan:
    account = fields.get("account", "")
    policy = _policy(wanted, place, account, fields, is_recorded=is_recorded)
    if not place.exists and not isinstance(policy, KeyLimits):
        policy = replace(policy, revision=max(policy.revision, place.last_revision + 1))
    record = _plain_record(wanted, place) if is_recorded else place.record
    after = _fields_of(policy, account)
    before = place.fields
    change = None
    if not place.exists:
        change = change_between("key", _who(after, place.kid), "created", {}, after)
    elif after != before:
        action: Action = "changed" if before.get("account") == after.get("account") else "moved"
        change = change_between("key", _who(after, place.kid), action, before, after)
    return KeyPlan(place, account, policy, record, change, warnings)


def _plain_record(wanted: Wanted, place: KeyPlace) -> bytes:
    """Return the record of a plain key's declarations once `wanted` has been applied, packed."""
    if wanted.limits is None:
        return place.record
    record, last = place.plain_record, pack_limits(wanted.limits)
    if record.last == last:
        return place.record
    former = [_digest(unpack_limits(record.last))] if record.last else []
    return pack_record(PlainRecord(last, applied_before(_digest(wanted.limits), (*former, *record.applied))))


def _digest(limits: KeyLimits) -> bytes:
    return declaration_bytes(declaration_of(fields_of_plain(limits)))[:DECLARATION_BYTES]


def _policy(wanted: Wanted, place: KeyPlace, account: str, fields: Fields, *, is_recorded: bool) -> Stored:
    kid, now_ms, tombstone = place.kid, place.time_ms, place.tombstone
    may_be_plain = not account and place.key is None and tombstone is None and place.leads_nowhere
    if may_be_plain and (limits := plain_from(fields)) is not None:
        return limits
    declared = wanted.fields if is_recorded else None
    stored = place.account if place.is_flat else None
    if place.plain is not None:
        stored = plain_account(kid, place.plain, place.plain_record, now_ms)
    if not account:
        if place.key is not None and not place.is_flat:
            stored = AccountPolicy(key=replace(place.key, revision=0), revision=place.key.revision)
        return flat_to_store(kid, fields, declared, stored, now_ms, tombstone)
    key = place.key if stored is None else stored.key
    if key is not None and stored is not None:
        key = replace(key, revision=stored.revision)
    return key_to_store(kid, fields, declared, key, now_ms, tombstone)


def _fields_of(policy: Stored, account: str) -> Fields:
    if isinstance(policy, KeyLimits):
        return fields_of_plain(policy)
    key = key_of(policy)
    assert key is not None
    fields = fields_of_key(key)
    return {**fields, "account": account} if account else fields


def _who(fields: Fields, kid: str) -> str:
    name = key_name(fields.get("name", ""), kid)
    return f"{fields['account']}/{name}" if fields.get("account") else name
