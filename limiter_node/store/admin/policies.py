"""The policies of one account in the store: read, and written only over the version that was read.

All of it lies in the account's slot. Methods raise redis-py's errors. Neighbours: `declaration_merging` makes the
policies to write, `loading` and `store_admin` say when.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from redis.asyncio import Redis
from redis.exceptions import WatchError

from limiter_node.errors import DamagedValue, StoreUnavailable
from limiter_node.policy import ACCOUNT_MARK, AccountPolicy, KeyPolicy, tag_text
from limiter_node.policy_body import (
    Tombstone,
    body_of,
    read_account,
    read_forward,
    read_key,
    read_tombstone,
    tombstone_of,
    version_of,
)
from limiter_node.store.admin.masters import Masters
from limiter_node.store.admin.script_calls import ScriptCall, call_script, call_scripts
from limiter_node.store.keyspace import policy_key
from limiter_node.store.scripts import load_script
from limiter_node.store.written import ATTEMPTS, Written

NO_VERSION: Final = b""
"""Expected where nothing may be stored yet; as a new version, it deletes."""


class StoredKey(NamedTuple):
    """The policy of a key of an account, with its version."""

    version: bytes
    policy: KeyPolicy


class StoredAccount(NamedTuple):
    """An account as stored. `policy` is None if there is no such account; then there are no keys either.

    `keys`: those that were asked for and that the account has. `tombstone`: what is kept of the account if it was
    deleted, `tombstones` the same of its keys. `forwards`: the forward marks of keys that have moved away, as stored.
    """

    time_ms: int
    version: bytes
    policy: AccountPolicy | None
    keys: Mapping[str, StoredKey]
    tombstone: Tombstone | None = None
    tombstones: Mapping[str, Tombstone] = MappingProxyType({})
    forwards: Mapping[str, bytes] = MappingProxyType({})

    def last_revision(self, kid: str) -> int:
        """Return the highest revision that is left here of a key that was deleted, or has moved away; else 0.

        If it is made anew, it has to have a higher one: nodes take a lower one for that of an older policy.
        """
        gone = self.tombstones.get(kid, self.tombstone)
        forward = read_forward(self.forwards[kid]) if kid in self.forwards else None
        return max(0 if gone is None else gone.revision, 0 if forward is None else forward.revision)


class Write(NamedTuple):
    """A policy to write: of the account with the hash tag `tag`, or of its key `kid`.

    `expected`: the version that was read. `former`: the name of the key as it was read. `forward`: the forward mark of
    a key that isn't where the mark says, over which it comes back. `account`: the version that a key's account must
    have, because the key depends on it, say on a team; empty: any.
    """

    tag: str
    kid: str
    expected: bytes
    policy: AccountPolicy | KeyPolicy
    former: str = ""
    forward: bytes = b""
    account: bytes = b""

    def arguments(self) -> list[str | bytes | int]:
        """Return the arguments of ``declare.lua``."""
        body, name = body_of(self.policy), self.policy.name if self.kid else ""
        return [self.kid, self.expected, version_of(body), body, name, self.former, b"", self.forward, self.account]


class Policies:
    """Read and write the policies of accounts, by the hash tag of the account."""

    def __init__(self, masters: Masters) -> None:
        self._masters = masters
        self._read, self._declare = load_script("policy"), load_script("declare")

    async def read(self, tag: str, kids: Sequence[str] = ()) -> StoredAccount:
        """Return the account's policy, and those of its keys among `kids`, of which `CHUNK` are possible."""
        reply = await call_script(self._owner(tag), self._read, ScriptCall([policy_key(tag)], kids))
        return _stored(tag, reply, kids)

    async def read_all(self, tags: Iterable[str], *, skips_damaged: bool = False) -> dict[str, StoredAccount]:
        """Return the policies of many accounts, without those of their keys.

        With the marks of a key that was an account of its own, and of which the hash tag is the ``kid``. An account
        that can't be read raises DamagedValue, or is left out if `skips_damaged`.
        """
        found: dict[str, StoredAccount] = {}
        for client, owned in self._masters.by_owner(tags, policy_key).items():
            calls = [ScriptCall([policy_key(tag)], _kids_of(tag)) for tag in owned]
            for tag, reply in zip(owned, await call_scripts(client, self._read, calls), strict=True):
                try:
                    found[tag] = _stored(tag, reply, _kids_of(tag))
                except DamagedValue:
                    if not skips_damaged:
                        raise
        return found

    async def write(self, writes: Sequence[Write]) -> list[Written]:
        """Write policies over those that were read, in pipelines; return the outcome of each."""
        replies = [Written.OTHER_VERSION] * len(writes)
        places = {str(at): write for at, write in enumerate(writes)}
        for client, owned in self._masters.by_owner(places, lambda at: policy_key(places[at].tag)).items():
            calls = [ScriptCall([policy_key(places[at].tag)], places[at].arguments()) for at in owned]
            for at, reply in zip(owned, await call_scripts(client, self._declare, calls), strict=True):
                replies[int(at)] = Written(reply)
        return replies

    async def delete_account(self, tag: str) -> AccountPolicy | None:
        """Delete the account's policy with those of its keys, and keep what `Tombstone` holds. Return the policy."""
        for _ in range(ATTEMPTS):
            stored = (await self.read_all([tag]))[tag]
            if stored.policy is None or await self.delete_version(tag, "", stored.version, stored.policy):
                return stored.policy
        raise _contended(tag)

    async def delete_key(self, tag: str, kid: str) -> KeyPolicy | None:
        """Delete the policy of a key of an account, and keep what `Tombstone` holds. Return the policy."""
        for _ in range(ATTEMPTS):
            found = (await self.read(tag, [kid])).keys.get(kid)
            if found is None or await self.delete_version(tag, kid, found.version, found.policy):
                return None if found is None else found.policy
        raise _contended(tag)

    async def delete_version(self, tag: str, kid: str, version: bytes, policy: AccountPolicy | KeyPolicy) -> bool:
        """Delete a policy if that version of it is still stored. Return whether it was. `kid`: "" for the account."""
        call = ScriptCall([policy_key(tag)], _deletion(kid, version, policy))
        return bool(await call_script(self._owner(tag), self._declare, call) == Written.DONE)

    async def put_if_unchanged(
        self, tag: str, version: bytes, after: AccountPolicy | None, is_right: Callable[[], Awaitable[bool]]
    ) -> bool:
        """Write an account over a version, or delete it (None), if `is_right` says so and none of its keys changes.

        Return whether that was done. `is_right` may read all of the account.
        """
        client = self._owner(tag)
        async with client.pipeline(transaction=True) as pipeline:
            await pipeline.watch(policy_key(tag))
            before = await self.read(tag)
            if before.version != version or before.policy is None or not await is_right():
                return False
            arguments = _deletion("", version, before.policy)
            if after is not None:
                arguments = Write(tag, "", version, after).arguments()
            pipeline.multi()  # type: ignore[no-untyped-call]
            pipeline.execute_command("EVAL", self._declare.source, 1, policy_key(tag), *arguments)
            try:
                [reply] = await pipeline.execute()
            except WatchError:
                return False
        return bool(reply == Written.DONE)

    def _owner(self, tag: str) -> Redis:
        return self._masters.owner(policy_key(tag))


def _deletion(kid: str, version: bytes, policy: AccountPolicy | KeyPolicy) -> list[str | bytes | int]:
    """Return the arguments of ``declare.lua`` to delete a policy, and to keep what `Tombstone` holds."""
    return [kid, version, NO_VERSION, b"", "", policy.name if kid else "", tombstone_of(policy)]


def _kids_of(tag: str) -> Sequence[str]:
    """Return the key of an account that may be a flat key's."""
    return () if tag.startswith(ACCOUNT_MARK) else (tag,)


def _stored(tag: str, reply: Sequence[Any], kids: Sequence[str]) -> StoredAccount:
    time_ms, version, body, tombstone, *found = reply
    keys, forwards, tombstones = {}, {}, {}
    try:
        for at, kid in enumerate(kids):
            key_version, key_body, forward, key_tombstone = found[4 * at : 4 * at + 4]
            if key_version is not None and version is not None:
                keys[kid] = StoredKey(key_version, read_key(key_body))
            if forward is not None:
                forwards[kid] = forward
            if key_tombstone is not None:
                tombstones[kid] = read_tombstone(key_tombstone)
        return StoredAccount(
            time_ms,
            version or NO_VERSION,
            None if version is None else read_account(body),
            keys,
            None if tombstone is None else read_tombstone(tombstone),
            tombstones,
            forwards,
        )
    except (ValueError, LookupError, TypeError):
        raise DamagedValue(
            f"{policy_key(tag)} is damaged, or was written by a later version: use that version, or delete this value "
            "and load the keys file"
        ) from None


async def time_ms_of(client: Redis) -> int:
    seconds, micros = await client.time()
    return int(seconds) * 1000 + int(micros) // 1000


def _contended(tag: str) -> StoreUnavailable:
    return StoreUnavailable(f"the policy of {tag_text(tag)} keeps being changed by others: try again")
