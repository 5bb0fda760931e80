"""Where declared keys are: the way to each, what is stored of it, and what is left of one that was deleted or moved.

Reads many keys at once, in pipelines per master; writes nothing. Methods raise redis-py's errors, and ConfigError for
values that nobody can read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from limiter_node.policy import ACCOUNT_MARK, NOTHING_DECLARED, AccountPolicy, Declared, KeyPolicy
from limiter_node.policy_body import Forward, Tombstone, read_forward
from limiter_node.policy_fields import Fields, fields_of_key, fields_of_plain
from limiter_node.store.admin.adopting import declared_of
from limiter_node.store.admin.masters import Masters
from limiter_node.store.admin.pointers import Mark, Pointer, Way, mark_from, pointer_from, way_of
from limiter_node.store.admin.policies import NO_VERSION, Policies, StoredAccount
from limiter_node.store.admin.script_calls import CHUNK, ScriptCall, call_scripts
from limiter_node.store.keyspace import declared_key, deleted_key, limits_key
from limiter_node.store.scripts import load_script
from limiter_node.store.values import PlainRecord, unpack_limits, unpack_record


class Digest(NamedTuple):
    """All that the store has under the digest of a credential; `record` as stored."""

    pointer: Pointer
    mark: Mark | None
    record: bytes


class Sought(NamedTuple):
    """A key to look for: the digests of its credentials, the first one first, and the hash tag of its account.

    `tag`: empty if it shall be a flat key. `is_plain`: whether a plain key will do; then nothing else is read of one.
    """

    digests: tuple[str, ...]
    tag: str
    is_plain: bool


@dataclass(frozen=True, slots=True)
class KeyPlace:
    """One key as it is stored, or what is left of it.

    `tag`: the hash tag of the account that has the key; empty if none does. `account`, `key`, `version`: the policies
    there, and the version of the one that holds the key's. `plain`: the packed limits of a plain key; `damaged`: what
    can't be read as that, and counts as nothing. `record`: what was declared of a plain key, as stored. `forward`: the
    forward mark of the key, as stored, in the account where it is sought. `sealed`: the account that the key was to
    leave when its move was interrupted. `last_revision`: what is left of that where it is sought, if it isn't stored.
    """

    kid: str
    digests: Mapping[str, Digest]
    tag: str = ""
    account: AccountPolicy | None = None
    key: KeyPolicy | None = None
    version: bytes = NO_VERSION
    plain: bytes | None = None
    damaged: bytes = b""
    record: bytes = b""
    tombstone: Tombstone | None = None
    forward: bytes = b""
    sealed: str = ""
    time_ms: int = 0
    last_revision: int = 0

    @property
    def exists(self) -> bool:
        """Whether the key is stored."""
        return self.plain is not None or self.key is not None

    @property
    def leads_nowhere(self) -> bool:
        """Whether the key's first credential leads to no account, so that the key may be a plain one."""
        found = self.digests.get(self.kid)
        return found is not None and not isinstance(found.pointer, str | Way)

    @property
    def is_marked(self) -> bool:
        """Whether the key was deleted on purpose, or is just being deleted."""
        marks = (each.mark for each in self.digests.values())
        return any(each is not None and each.kid == self.kid for each in marks) or (
            self.tombstone is not None and not self.exists
        )

    @property
    def account_name(self) -> str:
        """The name of the account that has the key; empty for a flat key."""
        return self.tag.removeprefix(ACCOUNT_MARK) if self.tag.startswith(ACCOUNT_MARK) else ""

    @property
    def is_flat(self) -> bool:
        """Whether the key is an account of its own."""
        return self.key is not None and self.tag == self.kid

    @property
    def fields(self) -> Fields:
        """The stored fields of the key, its account among them; none if there is no such key."""
        if self.plain is not None:
            return fields_of_plain(unpack_limits(self.plain))
        if self.key is None:
            return {}
        fields = fields_of_key(self.key)
        return {**fields, "account": self.account_name} if self.account_name else fields

    @property
    def declared(self) -> Declared:
        """The record of what was declared of the key, also if it was deleted."""
        if self.key is not None:
            return self.key.declared
        if self.tombstone is not None:
            return self.tombstone.declared
        return declared_of(self.plain_record) if self.record else NOTHING_DECLARED

    @property
    def plain_record(self) -> PlainRecord:
        """The record of what was declared of the key as a plain one."""
        return unpack_record(self.record or None)


class KeyPlaces:
    """Find keys of one store."""

    def __init__(self, masters: Masters, policies: Policies) -> None:
        self._masters, self._policies = masters, policies
        self._locate = load_script("locate")

    async def find(self, sought: Mapping[str, Sought]) -> dict[str, KeyPlace]:
        """Return where each key is, under the name under which it is sought.

        A key is the one to which any of its credentials leads: so it may have another ``kid`` than its first one here.
        """
        digests = await self.read_digests(each for key in sought.values() for each in key.digests)
        mine = {name: {each: digests[each] for each in key.digests} for name, key in sought.items()}
        ways = {name: _way(found) for name, found in mine.items()}
        wanted: dict[str, set[str]] = defaultdict(set)
        for name, key in sought.items():
            for tag in self._likely(key, ways[name]):
                wanted[tag].add(_kid(key, ways[name]))
        seen = await self._read(wanted)
        # A key that isn't where it leads has been moved, or deleted, or is declared again elsewhere.
        rest: dict[str, set[str]] = defaultdict(set)
        for name, key in sought.items():
            kid, tags = _kid(key, ways[name]), self._likely(key, ways[name])
            if tags and not any(_found(seen[tag], tag, kid) for tag in tags):
                forwards = (_forward(seen[tag], kid) for tag in tags)
                for tag in (key.tag, kid, *(each.to for each in forwards if each is not None)):
                    if tag and tag not in tags:
                        rest[tag].add(kid)
        seen = _joined(seen, await self._read(rest))
        return {name: self._place(key, mine[name], ways[name], seen) for name, key in sought.items()}

    def _is_read(self, key: Sought, way: Way | None) -> bool:
        """Whether anything but the digests is read of a key."""
        return way is None or bool(way.tag) or not key.is_plain

    def _likely(self, key: Sought, way: Way | None) -> list[str]:
        """Return the accounts where to look for a key first."""
        if not self._is_read(key, way):
            return []
        if way is not None and way.tag:
            return [way.tag]
        return [each for each in (key.tag, _kid(key, way)) if each]

    def _place(
        self, key: Sought, digests: Mapping[str, Digest], way: Way | None, seen: Mapping[str, StoredAccount]
    ) -> KeyPlace:
        kid = _kid(key, way)
        own = digests.get(kid)
        record = own.record if own is not None else b""
        if own is not None and isinstance(own.pointer, bytes):
            time_ms = seen[kid].time_ms if kid in seen else 0
            if not _is_readable(own.pointer):
                return KeyPlace(kid, digests, damaged=own.pointer, record=record, time_ms=time_ms)
            return KeyPlace(kid, digests, plain=own.pointer, record=record, time_ms=time_ms)
        tags = [each for each in dict.fromkeys((way.tag if way is not None else "", key.tag, kid)) if each in seen]
        target = seen.get(key.tag or kid, _NOTHING)
        forward = target.forwards.get(kid, b"")
        forwards = [(tag, found) for tag in tags if (found := _forward(seen[tag], kid)) is not None]
        sealed = next((tag for tag, each in forwards if not each.is_over), "")
        for tag in (*tags, *(each.to for _, each in forwards)):
            if (stored := _found(seen.get(tag), tag, kid)) is not None:
                policy, version = stored
                return KeyPlace(
                    *(kid, digests, tag, seen[tag].policy, policy, version, None, b"", record),
                    forward=forward,
                    sealed=sealed,
                    time_ms=seen[tag].time_ms,
                )
        tombstones = [each for tag in tags if (each := _tombstone(seen[tag], tag, kid)) is not None]
        tombstone = max(tombstones, key=lambda each: each.revision, default=None)
        time_ms = max(seen[tag].time_ms for tag in tags)
        return KeyPlace(
            *(kid, digests, "", None, None, NO_VERSION, None, b"", record, tombstone, forward, sealed, time_ms),
            last_revision=target.last_revision(kid),
        )

    async def _read(self, wanted: Mapping[str, Iterable[str]]) -> dict[str, StoredAccount]:
        """Return accounts with these keys, by hash tag."""
        flat = [tag for tag in wanted if not tag.startswith(ACCOUNT_MARK)]
        found = await self._policies.read_all(flat)
        for tag, kids in wanted.items():
            if tag.startswith(ACCOUNT_MARK):
                found[tag] = await self._read_keys(tag, sorted(kids))
        return found

    async def _read_keys(self, tag: str, kids: Sequence[str]) -> StoredAccount:
        stored = await self._policies.read(tag, kids[:CHUNK])
        for start in range(CHUNK, len(kids), CHUNK):
            more = await self._policies.read(tag, kids[start : start + CHUNK])
            stored = _both(more, stored)
        return stored

    async def read_digests(self, digests: Iterable[str]) -> dict[str, Digest]:
        """Return what the store has under each digest."""
        found: dict[str, Digest] = {}
        for client, owned in self._masters.by_owner(dict.fromkeys(digests), limits_key).items():
            calls = [ScriptCall((limits_key(each), deleted_key(each), declared_key(each)), ()) for each in owned]
            for digest, reply in zip(owned, await call_scripts(client, self._locate, calls), strict=True):
                mark, record, limits, *way = reply
                pointer = limits if limits is not None else pointer_from(*way) if way else None
                found[digest] = Digest(pointer, mark_from(mark, digest), record or b"")
        return found


_NOTHING = StoredAccount(0, NO_VERSION, None, {})


def _way(digests: Mapping[str, Digest]) -> Way | None:
    """Return where the first digest that leads anywhere leads; a way without a tag to a plain key."""
    ways = (way_of(digest, found.pointer) for digest, found in digests.items())
    return next((each for each in ways if each is not None), None)


def _is_readable(limits: bytes) -> bool:
    try:
        unpack_limits(limits)
    except ValueError:
        return False
    return True


def _kid(key: Sought, way: Way | None) -> str:
    return key.digests[0] if way is None else way.kid


def _forward(stored: StoredAccount, kid: str) -> Forward | None:
    return read_forward(stored.forwards[kid]) if kid in stored.forwards else None


def _tombstone(stored: StoredAccount, tag: str, kid: str) -> Tombstone | None:
    return stored.tombstone if tag == kid else stored.tombstones.get(kid)


def _found(stored: StoredAccount | None, tag: str, kid: str) -> tuple[KeyPolicy, bytes] | None:
    """Return a key's policy in an account, and the version of the policy that holds it."""
    if stored is None or stored.policy is None:
        return None
    if tag == kid:
        return None if stored.policy.key is None else (stored.policy.key, stored.version)
    key = stored.keys.get(kid)
    return None if key is None else (key.policy, key.version)


def _both(one: StoredAccount, other: StoredAccount) -> StoredAccount:
    """Return an account that was read last as `one`, with the keys of both."""
    return one._replace(
        keys={**other.keys, **one.keys},
        tombstones={**other.tombstones, **one.tombstones},
        forwards={**other.forwards, **one.forwards},
    )


def _joined(one: dict[str, StoredAccount], other: Mapping[str, StoredAccount]) -> dict[str, StoredAccount]:
    return {**one, **{tag: _both(found, one[tag]) if tag in one else found for tag, found in other.items()}}
