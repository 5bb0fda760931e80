"""A declared item and the stored one, made one: who wins, field by field.

*By a file*, that is at a node's start, a declaration counts only if it was never applied before, and of it the fields
that differ from the last one that was. *By a person's word*, the item becomes as it is declared. Each item keeps the
record of its declarations (`policy.Declared`).

What isn't declared stays: an account's teams as its keys. A team that was deleted does not come back by a file. Neither
way makes a credential valid that was revoked, unless a person lists it.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TypeVar

from limiter_node.declaration_records import declaration_of, with_declaration
from limiter_node.policy import NOTHING_DECLARED, AccountPolicy, Declared, KeyPolicy
from limiter_node.policy_body import Tombstone
from limiter_node.policy_fields import (
    Fields,
    account_from,
    fields_of_account,
    fields_of_key,
    flat_account_from,
    key_from,
    split_team_field,
    teams_in,
    three_way,
)

_Policy = TypeVar("_Policy", AccountPolicy, KeyPolicy)


def declared_fields(key: KeyPolicy, account: str) -> Fields:
    """Return the fields that a file declares of a key. `account`: the name of its account; empty if it is flat."""
    fields = fields_of_key(key)
    return {**fields, "account": account} if account else fields


# ---- by a file -------------------------------------------------------------------------------------------------------


def merge_account(stored: AccountPolicy | None, declared: AccountPolicy, now_ms: int) -> AccountPolicy:
    """Return the policy to store for an account, or a flat key, that a file declares; `stored` if nothing changes."""
    if declared.key is not None:
        return _merge_flat(stored, declared.key, now_ms)
    wanted = fields_of_account(declared)
    record = NOTHING_DECLARED if stored is None else stored.declared
    fields = merge_account_fields(record, wanted, {} if stored is None else fields_of_account(stored))
    return account_to_store(declared.name, fields, wanted, stored, now_ms)


def merge_key(stored: KeyPolicy | None, declared: KeyPolicy, account: str, now_ms: int) -> KeyPolicy:
    """Return the policy to store for a key of the account called `account` that a file declares."""
    wanted = declared_fields(declared, account)
    fields = wanted
    if stored is not None:
        fields = merge_key_fields(stored.declared, wanted, declared_fields(stored, account))
    return key_to_store(declared.kid, fields, wanted, stored, now_ms)


def merge_account_fields(record: Declared, wanted: Fields, stored: Fields) -> Fields:
    """Return the fields of an account by a declaration that was never applied before."""
    base = _last(record)
    teams, before, there = set(teams_in(wanted)), set(teams_in(base)), set(teams_in(stored))
    merged = three_way(_of_teams(base, teams), wanted, stored)
    return _of_teams(merged, (teams - before) | there)


def merge_key_fields(record: Declared, wanted: Fields, stored: Fields) -> Fields:
    """Return the fields of a key by a declaration that was never applied before; ``account`` is one of them."""
    merged = three_way(_last(record), wanted, stored)
    if "credentials" in merged:
        merged["credentials"] = _still_revoked(merged["credentials"], stored)
    return merged


def _merge_flat(stored: AccountPolicy | None, declared: KeyPolicy, now_ms: int) -> AccountPolicy:
    wanted = fields = declared_fields(declared, "")
    if stored is not None and stored.key is not None:
        fields = merge_key_fields(stored.key.declared, wanted, fields_of_key(stored.key))
    return flat_to_store(declared.kid, fields, wanted, stored, now_ms)


def _last(record: Declared) -> Fields:
    fields: Fields = json.loads(record.last) if record.last else {}
    return fields


def _of_teams(fields: Fields, teams: set[str]) -> Fields:
    """Return the fields of an account itself and of these teams."""
    return {name: value for name, value in fields.items() if (team := split_team_field(name)[0]) in teams or not team}


def _still_revoked(listed: list[Fields], stored: Fields) -> list[Fields]:
    revoked = {each["digest"] for each in stored.get("credentials", ()) if each.get("revoked")}
    return [{**each, "revoked": True} if each["digest"] in revoked else each for each in listed]


# ---- by a person's word ----------------------------------------------------------------------------------------------


def apply_account_fields(wanted: Fields, stored: Fields) -> Fields:
    """Return the fields of an account as it is declared; teams that aren't declared stay."""
    teams = set(teams_in(wanted))
    kept = {name: value for name, value in stored.items() if (team := split_team_field(name)[0]) and team not in teams}
    return {**wanted, **kept}


def apply_key_fields(wanted: Fields, stored: Fields) -> Fields:
    """Return the fields of a key as it is declared, with those that a file can't declare, or doesn't."""
    kept: Fields = {name: stored[name] for name in ("disabled", "credentials") if name in stored and name not in wanted}
    return {**wanted, **kept}


# ---- to be stored ----------------------------------------------------------------------------------------------------


def account_to_store(
    name: str,
    fields: Fields,
    wanted: Fields | None,
    stored: AccountPolicy | None,
    now_ms: int,
    tombstone: Tombstone | None = None,
) -> AccountPolicy:
    """Return the policy of an account with `fields`, by the declaration `wanted`, None if by none."""
    return _recorded(stored, account_from(name, fields, stored, now_ms), wanted, tombstone)


def key_to_store(
    kid: str,
    fields: Fields,
    wanted: Fields | None,
    stored: KeyPolicy | None,
    now_ms: int,
    tombstone: Tombstone | None = None,
) -> KeyPolicy:
    """Return the policy of a key of an account with `fields`, by the declaration `wanted`, None if by none."""
    key = key_from(kid, _with_revoked(fields, tombstone, kid), stored, now_ms)
    return _recorded(stored, key, wanted, tombstone)


def flat_to_store(
    kid: str,
    fields: Fields,
    wanted: Fields | None,
    stored: AccountPolicy | None,
    now_ms: int,
    tombstone: Tombstone | None = None,
) -> AccountPolicy:
    """Return the policy of a flat key with `fields`, by the declaration `wanted`, None if by none."""
    account = flat_account_from(kid, _with_revoked(fields, tombstone, kid), stored, now_ms)
    assert account.key is not None
    before = stored.key.declared if stored is not None and stored.key is not None else None
    declared = _declared(before, wanted, tombstone)
    if before == declared:
        return account
    revision = _next_revision(stored, tombstone)
    return replace(account, key=replace(account.key, declared=declared), revision=revision)


def _recorded(stored: _Policy | None, policy: _Policy, wanted: Fields | None, tombstone: Tombstone | None) -> _Policy:
    before = stored.declared if stored is not None else None
    declared = _declared(before, wanted, tombstone)
    if before == declared:
        return policy
    return replace(policy, declared=declared, revision=_next_revision(stored, tombstone))


def _declared(before: Declared | None, wanted: Fields | None, tombstone: Tombstone | None) -> Declared:
    record = before
    if record is None:
        record = NOTHING_DECLARED if tombstone is None else tombstone.declared
    return record if wanted is None else with_declaration(record, declaration_of(wanted))


def _next_revision(stored: AccountPolicy | KeyPolicy | None, tombstone: Tombstone | None) -> int:
    """Return the revision that follows: that of an item that was deleted goes on when it comes back."""
    if stored is not None:
        return stored.revision + 1
    return 1 if tombstone is None else tombstone.revision + 1


def _with_revoked(fields: Fields, tombstone: Tombstone | None, kid: str) -> Fields:
    """Return the fields of a key that comes back: what had been revoked of it stays so, unless it is listed."""
    if tombstone is None or not tombstone.revoked:
        return fields
    listed = fields.get("credentials", [{"digest": kid}] if kid not in tombstone.revoked else [])
    known = {each["digest"] for each in listed}
    revoked = [{"digest": each, "revoked": True} for each in tombstone.revoked if each not in known]
    return {**fields, "credentials": [*listed, *revoked]}
