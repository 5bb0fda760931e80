"""The policies of one account in the store: read, and written only over the version that was read.

All of it lies in the account's slot. Methods raise redis-py's errors. Neighbours: `merging` makes the policies to
write, `loading` and `store_admin` say when.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from redis.asyncio import Redis

from limiter_node.errors import ConfigError, StoreUnavailable
from limiter_node.policy import AccountPolicy, KeyPolicy, read_account, read_key, version_of
from limiter_node.store.admin.masters import Masters
from limiter_node.store.admin.script_calls import CHUNK, ScriptCall, call_script, call_scripts
from limiter_node.store.keyspace import policy_key
from limiter_node.store.scripts import load_script

NO_VERSION: Final = b""
"""Expected where nothing may be stored yet; as a new version, it deletes."""
_ANY_VERSION: Final = b"*"
_ATTEMPTS = 100
"""Another process wrote in between each of them: of that many, one has succeeded each time."""


class StoredKey(NamedTuple):
    """The policy of a key of an account, with its version."""

    version: bytes
    policy: KeyPolicy


class StoredAccount(NamedTuple):
    """What the store has of an account. `policy` is None if there is no such account; then there are no keys either."""

    time_ms: int
    version: bytes
    policy: AccountPolicy | None
    keys: Mapping[str, StoredKey]


class Policies:
    """Read and write the policies of accounts, by the hash tag of the account."""

    def __init__(self, masters: Masters) -> None:
        self._masters = masters
        self._read, self._declare = load_script("policy"), load_script("declare")

    async def read(self, tag: str, kids: Sequence[str] = ()) -> StoredAccount:
        """Return the account's policy, and those of its keys among `kids`, of which `CHUNK` are possible."""
        client = self._owner(tag)
        reply = await call_script(client, self._read, ScriptCall([policy_key(tag)], kids))
        if reply is None:
            return StoredAccount(await time_ms_of(client), NO_VERSION, None, {})
        time_ms, version, body, *found = reply
        try:
            keys = {
                kid: StoredKey(key_version, read_key(key_body))
                for kid, key_version, key_body in zip(kids, found[::2], found[1::2], strict=True)
                if key_version is not None
            }
            return StoredAccount(time_ms, version, read_account(body), keys)
        except (ValueError, LookupError, TypeError):
            raise ConfigError(f"{policy_key(tag)} is damaged, or was written by a later version") from None

    async def declare_account(self, tag: str, merged: Callable[[StoredAccount], AccountPolicy]) -> bool:
        """Write what `merged` makes of the stored account. Return whether that was a change."""
        for _ in range(_ATTEMPTS):
            stored = await self.read(tag)
            body = merged(stored).to_body()
            if version_of(body) == stored.version:
                return False
            if (await self._declare_all(tag, [("", stored.version, body)])) == [1]:
                return True
        raise _contended(tag)

    async def declare_keys(
        self, tag: str, kids: Sequence[str], merged: Callable[[str, StoredAccount], KeyPolicy]
    ) -> None:
        """Write what `merged` makes of each stored key of the account."""
        for start in range(0, len(kids), CHUNK):
            left = kids[start : start + CHUNK]
            for _ in range(_ATTEMPTS):
                stored = await self.read(tag, left)
                changes = []
                for kid in left:
                    before = stored.keys[kid].version if kid in stored.keys else NO_VERSION
                    body = merged(kid, stored).to_body()
                    if version_of(body) != before:
                        changes.append((kid, before, body))
                replies = await self._declare_all(tag, changes)
                left = [kid for (kid, _, _), reply in zip(changes, replies, strict=True) if reply != 1]
                if not left:
                    break
            else:
                raise _contended(tag)

    async def delete_account(self, tag: str) -> bool:
        """Delete the account's policy with those of its keys. Return whether it existed."""
        existed = (await self.read(tag)).policy is not None
        await self._delete(tag, "")
        return existed

    async def delete_key(self, tag: str, kid: str) -> bool:
        """Delete the policy of a key of an account. Return whether it existed."""
        existed = kid in (await self.read(tag, [kid])).keys
        await self._delete(tag, kid)
        return existed

    async def _delete(self, tag: str, kid: str) -> None:
        call = ScriptCall([policy_key(tag)], [kid, _ANY_VERSION, NO_VERSION, b""])
        await call_script(self._owner(tag), self._declare, call)

    async def _declare_all(self, tag: str, changes: Sequence[tuple[str, bytes, bytes]]) -> list[Any]:
        calls = [
            ScriptCall([policy_key(tag)], [kid, expected, version_of(body), body]) for kid, expected, body in changes
        ]
        return await call_scripts(self._owner(tag), self._declare, calls)

    def _owner(self, tag: str) -> Redis:
        return self._masters.owner(policy_key(tag))


async def time_ms_of(client: Redis) -> int:
    """Return the server's clock in ms."""
    seconds, micros = await client.time()
    return int(seconds) * 1000 + int(micros) // 1000


def _contended(tag: str) -> StoreUnavailable:
    return StoreUnavailable(f"the policy of account {tag} keeps being changed by others: try again")
