"""One key as it is stored, of whichever form, and changes of it: written only over what was read.

A key is a plain one, an account of its own (a flat key with more than the plain form can hold), or one of an account.
A plain key becomes an account of its own when it has to; it never becomes a plain one again. Methods raise redis-py's
errors. Neighbours: `policies` and `adopting` write, `limiter_node.management` says what.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from limiter_node.declaration_merging import flat_to_store, key_to_store
from limiter_node.errors import ConfigError
from limiter_node.key_states import MAX_CREDENTIALS
from limiter_node.limits import KeyLimits
from limiter_node.plans import key_name, who
from limiter_node.policy import ACCOUNT_MARK, AccountPolicy, KeyPolicy
from limiter_node.policy_body import Tombstone, body_of, read_forward, version_of
from limiter_node.policy_fields import (
    Fields,
    fields_of_key,
    fields_of_plain,
    flat_account_from,
    plain_from,
)
from limiter_node.store.admin.adopting import Adopter, Adoption, plain_account
from limiter_node.store.admin.masters import Masters
from limiter_node.store.admin.plain_keys import PlainKeys, PlainWrite, PlainWritten
from limiter_node.store.admin.pointers import Pointer, Pointers
from limiter_node.store.admin.policies import NO_VERSION, Policies, Write, time_ms_of
from limiter_node.store.keyspace import declared_key, limits_key
from limiter_node.store.values import PlainRecord, pack_limits, unpack_limits, unpack_record
from limiter_node.store.written import Written

PLAIN: Final = ""
"""Stands for the hash tag of the account of a plain key, which has none."""


@dataclass(frozen=True, slots=True)
class KeyItem:
    """A key as it was read, or as it is to be written.

    `tag`: the hash tag of its account: `PLAIN`, its own ``kid``, or that of a named account. `version` stands for all
    that can change of it; empty if there is no such key. `limits`: of a plain key; `account` and `key`: of any other.
    """

    kid: str
    tag: str
    time_ms: int
    version: bytes = NO_VERSION
    limits: KeyLimits | None = None
    account: AccountPolicy | None = None
    key: KeyPolicy | None = None
    tombstone: Tombstone | None = None
    """The rest that is kept of it if it was deleted."""
    record: PlainRecord | None = None
    """The declarations of a plain key."""
    account_version: bytes = NO_VERSION
    """The version of its named account."""
    is_moving: bool = False
    """Whether its move away from `tag` was begun and isn't over."""
    forward: bytes = b""
    """The mark at `tag` of a move that is over, as stored."""
    last_revision: int = 0
    """The highest one that it had at `tag`, if it isn't there any more."""

    @property
    def exists(self) -> bool:
        """Whether there is such a key."""
        return self.version != NO_VERSION

    @property
    def is_flat(self) -> bool:
        """Whether the key belongs to no named account."""
        return self.tag in (PLAIN, self.kid)

    @property
    def account_name(self) -> str:
        """The name of the key's account; empty for a flat key."""
        return "" if self.is_flat else self.tag.removeprefix(ACCOUNT_MARK)

    @property
    def policy(self) -> KeyPolicy:
        """Return the key's policy; of a plain key, the one that it would have."""
        if self.key is not None:
            return self.key
        return plain_key(self.kid, self.limits or KeyLimits())

    @property
    def fields(self) -> Fields:
        """Return the key's fields."""
        return fields_of_key(self.key) if self.key is not None else fields_of_plain(self.limits or KeyLimits())

    @property
    def who(self) -> str:
        """Return the key's name for people."""
        if self.key is None or self.account is None:
            return key_name(self.limits.name if self.limits is not None else "", self.kid)
        return who(self.account, self.key)


def plain_key(kid: str, limits: KeyLimits) -> KeyPolicy:
    """Return the policy that a plain key would have."""
    key = flat_account_from(kid, fields_of_plain(limits), None, 0).key
    assert key is not None
    return key


class KeyItems:
    """Read and write single keys of one store."""

    def __init__(
        self, masters: Masters, policies: Policies, pointers: Pointers, plain: PlainKeys, adopter: Adopter
    ) -> None:
        self._masters, self._policies, self._pointers = masters, policies, pointers
        self._plain, self._adopter = plain, adopter

    async def read(self, kid: str, tag: str | None = None) -> KeyItem:
        """Return a key; with an empty version if there is none. `tag`: where it is, if that is known."""
        pointer: Pointer = None
        if tag is None or tag in (PLAIN, kid):
            client = self._masters.owner(limits_key(kid))
            pointer = (await self._pointers.read([kid]))[kid]
            if isinstance(pointer, bytes):
                record: Any = await client.get(declared_key(kid))
                time_ms, limits = await time_ms_of(client), _limits(kid, pointer)
                return KeyItem(kid, PLAIN, time_ms, pointer, limits, record=unpack_record(record))
            if pointer is not None and not isinstance(pointer, str):
                return KeyItem(kid, PLAIN, await time_ms_of(client))
            tag = pointer or kid  # without a way to it, the key may still be there, or what is left of it
        stored = await self._policies.read(tag, [kid])
        forward = stored.forwards.get(kid)
        is_moving = forward is not None and not read_forward(forward).is_over
        nothing = KeyItem(
            *(kid, tag, stored.time_ms),
            account=stored.policy,
            account_version=stored.version,
            is_moving=is_moving,
            forward=b"" if forward is None or is_moving else forward,
            last_revision=stored.last_revision(kid),
        )
        if tag == kid:
            if stored.policy is None or stored.policy.key is None:
                place = PLAIN if pointer is None else kid
                return replace(nothing, tag=place, tombstone=stored.tombstone, account=None)
            return replace(nothing, version=stored.version, key=stored.policy.key)
        if (found := stored.keys.get(kid)) is None:
            return replace(nothing, tombstone=stored.tombstones.get(kid))
        return replace(nothing, version=found.version, key=found.policy)

    def changed(self, item: KeyItem, fields: Mapping[str, Any]) -> KeyItem:
        """Return the key as it is to be written to have `fields`; with the same version if it has them."""
        if not item.exists or item.tag == PLAIN:  # nothing to enable; the plain form can't say so
            fields = {name: value for name, value in fields.items() if (name, value) != ("disabled", False)}
        if item.tag != PLAIN and item.tag != item.kid:
            assert item.account is not None
            key = key_to_store(item.kid, dict(fields), None, item.key, item.time_ms, item.tombstone)
            key = _trimmed(key, item.time_ms)
            if not item.exists:
                key = replace(key, revision=max(key.revision, item.last_revision + 1))
            return replace(item, key=key, version=version_of(body_of(key)))
        if item.tag == PLAIN and (limits := plain_from(fields)) is not None:
            return replace(item, limits=limits, version=pack_limits(limits))
        before = item.account
        if item.tag == PLAIN and item.exists:
            before = plain_account(item.kid, item.version, item.record or PlainRecord(), item.time_ms)
        account = flat_to_store(item.kid, dict(fields), None, before, item.time_ms, item.tombstone)
        assert account.key is not None
        account = replace(account, key=_trimmed(account.key, item.time_ms))
        if not item.exists:
            account = replace(account, revision=max(account.revision, item.last_revision + 1))
        version = version_of(body_of(account))
        return replace(item, tag=item.kid, limits=None, account=account, key=account.key, version=version)

    def adopted(self, item: KeyItem) -> KeyItem:
        """Return a plain key as an account of its own, with the same fields, as it is to be written."""
        account = plain_account(item.kid, item.version, item.record or PlainRecord(), item.time_ms)
        version = version_of(body_of(account))
        return replace(item, tag=item.kid, limits=None, account=account, key=account.key, version=version)

    async def write(self, before: KeyItem, after: KeyItem) -> Written:
        """Write a key over what was read. A key of an account that didn't exist needs its pointers besides."""
        if after.tag == PLAIN:
            written = await self._plain.write({before.kid: PlainWrite(before.version, after.version, is_back=True)})
            return Written.DONE if written[before.kid] is PlainWritten.DONE else Written.OTHER_VERSION
        if before.tag == PLAIN and before.exists:
            assert after.account is not None
            left = await self._adopter.adopt({before.kid: Adoption(after.account, before.version)})
            return Written.OTHER_VERSION if left else Written.DONE
        policy, kid = (after.account, "") if after.tag == after.kid else (after.key, after.kid)
        assert policy is not None
        former = before.key.name if before.key is not None else ""
        # A key of an account must not get into a team, or an account, that is being deleted.
        account = before.account_version if kid else NO_VERSION
        write = Write(after.tag, kid, before.version, policy, former, before.forward, account)
        [outcome] = await self._policies.write([write])
        return outcome


def _trimmed(key: KeyPolicy, now_ms: int) -> KeyPolicy:
    """Return a key with at most `MAX_CREDENTIALS`: the oldest that are good for nothing go, but never the first one.

    Their pointers go on leading to the key, so no other key can get them. The first one's digest names the key.
    """
    excess = len(key.credentials) - MAX_CREDENTIALS
    if excess <= 0:
        return key
    others = [each for each in key.credentials if each.digest != key.kid]
    ended = [each for each in others if each.is_revoked or 0 < each.ends_ms <= now_ms]
    return replace(key, credentials=tuple(each for each in key.credentials if each not in ended[:excess]))


def _limits(kid: str, packed: bytes) -> KeyLimits:
    try:
        return unpack_limits(packed)
    except ValueError:
        raise ConfigError(f"{limits_key(kid)} is damaged: declare the key in a keys file and apply that") from None
