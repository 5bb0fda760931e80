"""How the tests call `decide_paths.lua` and `peek_paths.lua`: one account on a server, by the wire format alone.

Batches are packed here with `struct` and `int.to_bytes`, not by the node's own codec, so that the two can disagree.
Windows and paths are numbered from 1, as the scripts number them: the windows in the order of `windows`.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import redis
from script_driver import EPOCH_MS

from limiter_node.store.scripts import load_script

DECIDE_PATHS, PEEK_PATHS = load_script("decide_paths"), load_script("peek_paths")
NO_LIMIT = 2**53 - 1
NO_LIMITS = (NO_LIMIT,) * 4
DECIDED, REPLAYED, STALE, UNKNOWN_ACCOUNT, LOST = 0, 1, 2, 3, 4
NEVER = 8
"""Added to the unit; a plain rejection has 1 added."""
OLD_POLICY, UNKNOWN_KEY, ENDED = 16, 17, 18
SHARED = ""
"""Stands for the hash of the account and its teams where a key's hash is named by its kid."""
GROUP_BUCKETS, RING = 24, 32

Version = bytes
Triple = tuple[int, int, int]


class PathWindow(NamedTuple):
    """A window as a batch names it. `limits`: requests, input, output, tokens; `NO_LIMIT` where there is none."""

    id: bytes
    bucket_ms: int = 100
    buckets: int = 600
    limits: tuple[int, int, int, int] = NO_LIMITS


class Path(NamedTuple):
    """The windows of one kind of request, by number, and the kid of the key that it belongs to (empty: none).

    `ends_ms`: when its credential ends; 0 if it doesn't.
    """

    kid: str
    windows: tuple[int, ...]
    ends_ms: int = 0


class Admit(NamedTuple):
    """One request; `output` is the reservation."""

    path: int
    input: int = 0
    output: int = 0


class Settle(NamedTuple):
    """Give back what was admitted at `time_ms`; negative amounts add."""

    path: int
    time_ms: int
    requests: int = 0
    input: int = 0
    output: int = 0


class Charge(NamedTuple):
    """Count what was admitted elsewhere at `time_ms`, limit or not."""

    path: int
    time_ms: int
    requests: int = 0
    input: int = 0
    output: int = 0


class Meta(NamedTuple):
    """What the store keeps of a window apart from its older buckets. Bucket numbers are 0 where there is none."""

    head: int
    newest: int
    newest_in: Triple
    """The newest bucket with requests, with input, with output."""
    used: Triple
    cell: Triple
    """What the bucket `newest` holds."""


class PathsReply(NamedTuple):
    """A decoded reply. `metas` and `results` are in the order of the batch's windows and admits.

    `results`: verdict, window number, retry_ms of each admit. `policies`: by number of the key's hash, 0 for the
    account, each policy that was found old. Without a decision (`STALE`, `UNKNOWN_ACCOUNT`, `LOST`) both are empty.
    """

    state: int
    time_ms: int
    recorded: int
    metas: list[Meta | None]
    results: list[tuple[int, int, int]]
    policies: dict[int, bytes]
    skipped: tuple[int, ...] = ()
    """The places, from 0, of settles and charges whose key is not in the account."""

    def used(self, window: int) -> Triple:
        """Return what counts in the window of that number."""
        meta = self.metas[window - 1]
        return meta.used if meta else (0, 0, 0)


class PathUsage(NamedTuple):
    """What `peek_paths.lua` adds up for a window."""

    used: Triple
    newest_in: Triple


class PathsPeek(NamedTuple):
    """A decoded reply of `peek_paths.lua`. `key_versions`: None for a key that the account doesn't have."""

    time_ms: int
    account_version: Version
    key_versions: dict[str, Version | None]
    windows: list[PathUsage]


@dataclass
class PathsDriver:
    """One account on a server. `tag` is its hash tag.

    `account_version` and `versions` are the stored ones as `policy` wrote them last; `decide` calls under these unless
    it is told others.
    """

    client: redis.Redis
    tag: str
    decide_sha: str = DECIDE_PATHS.sha.decode()
    account_version: Version = b""
    versions: dict[str, Version] = field(default_factory=dict)
    numbers: dict[bytes, int] = field(default_factory=dict)

    @property
    def policy_key(self) -> str:
        return f"rl:{{{self.tag}}}:policy"

    @property
    def shared_key(self) -> str:
        return f"rl:{{{self.tag}}}:shared"

    def key_hash(self, kid: str) -> str:
        """Return the name of the hash that holds the windows of one key."""
        return f"rl:{{{self.tag}}}:key:{kid}"

    def keys(self, windows: Mapping[str, Sequence[PathWindow]]) -> list[str]:
        """Return the keys that a call on these windows names."""
        return [self.policy_key, self.shared_key, *(self.key_hash(kid) for kid in windows if kid != SHARED)]

    def policy(
        self, version: Version, versions: Mapping[str, Version] | None = None, moved: Collection[str] = ()
    ) -> None:
        """Store these versions of the account's policy and of its keys' policies, and no others.

        The bodies are ``body of `` and the version in hex digits. An empty `version` makes the account unknown.
        `moved`: keys that have left a forward mark.
        """
        self.account_version, self.versions = version, dict(versions or {})
        self.client.delete(self.policy_key)
        if not version:
            return
        fields: dict[str, bytes] = {"version": version, "account": body_of(version)}
        for kid, key_version in self.versions.items():
            fields |= {kid: key_version, f"k:{kid}": body_of(key_version)}
        fields |= {f"f:{kid}": b"{}" for kid in moved}
        self.client.hset(self.policy_key, mapping=fields)

    def decide(
        self,
        node: bytes,
        number: int | None,
        windows: Mapping[str, Sequence[PathWindow]],
        paths: Sequence[Path],
        others: Sequence[Settle | Charge] = (),
        admits: Sequence[Admit] = (),
        clock_ms: int = EPOCH_MS,
        *,
        resent: bool = False,
        expected: int = 0,
        version: Version | None = None,
        versions: Mapping[str, Version] | None = None,
    ) -> PathsReply:
        """Have a batch decided.

        `node`: 8 bytes. `number`: None for the node's next. `windows`: by the hash they are stored in, `SHARED` first
        (it may be left out), then by kid; a key without windows of its own is named with an empty list. `version`,
        `versions`: what the call is made under, where it differs from what is stored.
        """
        if number is None:
            number = self.numbers[node] = self.numbers.get(node, 0) + 1
        windows = with_shared(windows)
        kids = [kid for kid in windows if kid != SHARED]
        known = self.versions | dict(versions or {})
        batch = pack_paths_batch(
            number,
            windows,
            paths,
            others,
            admits,
            clock_ms,
            flags=int(resent),
            expected=expected,
            version=self.account_version if version is None else version,
            versions=[known.get(kid, bytes(8)) for kid in kids],
        )
        names = self.keys(windows)
        reply: Any = self.client.evalsha(self.decide_sha, len(names), *names, node, batch, *kids)
        return unpack_paths_reply(reply, sum(map(len, windows.values())), len(admits))

    def peek(self, windows: Mapping[str, Sequence[PathWindow]], clock_ms: int = EPOCH_MS) -> PathsPeek | None:
        """Read what counts in these windows, without counting; None if the account is unknown."""
        windows = with_shared(windows)
        kids = [kid for kid in windows if kid != SHARED]
        asked = clock_ms.to_bytes(8, "little")
        for found in windows.values():
            asked += bytes([len(found)])
            asked += b"".join(struct.pack("<6sIH", each.id, each.bucket_ms, each.buckets) for each in found)
        names = self.keys(windows)
        reply: Any = self.client.evalsha_ro(PEEK_PATHS.sha.decode(), len(names), *names, asked, *kids)
        return None if reply is None else unpack_paths_peek(reply, kids, sum(map(len, windows.values())))


def body_of(version: Version) -> bytes:
    """Return the body that `PathsDriver.policy` stores under a version."""
    return b"body of " + version.hex().encode()


def with_shared(windows: Mapping[str, Sequence[PathWindow]]) -> dict[str, Sequence[PathWindow]]:
    """Return the same windows with an entry for the shared hash, which comes first."""
    found = {SHARED: (), **windows}
    assert next(iter(windows), SHARED) == SHARED or SHARED not in windows, "the shared hash comes first"
    return found


def pack_paths_batch(
    number: int,
    windows: Mapping[str, Sequence[PathWindow]],
    paths: Sequence[Path],
    others: Sequence[Settle | Charge],
    admits: Sequence[Admit],
    clock_ms: int,
    *,
    flags: int,
    expected: int,
    version: Version,
    versions: Sequence[Version],
) -> bytes:
    """Return a batch as `decide_paths.lua` reads it; `versions` in the order of the keys' hashes."""
    kids = [kid for kid in windows if kid != SHARED]
    parts = [
        struct.pack("<QBQQ8sBHH", number, flags, expected, clock_ms, version, len(paths), len(others), len(admits)),
        *versions,
    ]
    for found in windows.values():
        parts.append(bytes([len(found)]))
        for each in found:
            parts.append(struct.pack("<6sIH", each.id, each.bucket_ms, each.buckets))
            parts += (limit.to_bytes(7, "little") for limit in each.limits)
    for path in paths:
        k = kids.index(path.kid) + 1 if path.kid else 0
        parts += (bytes([k, len(path.windows)]), path.ends_ms.to_bytes(6, "little"), bytes(path.windows))
    for other in others:
        parts.append(bytes([2 if isinstance(other, Settle) else 3, other.path]) + other.time_ms.to_bytes(6, "little"))
        parts.append(struct.pack("<qqq", other.requests, other.input, other.output))
    parts += (struct.pack("<BQQ", *admit) for admit in admits)
    return b"".join(parts)


def unpack_paths_reply(reply: bytes, windows: int, admits: int) -> PathsReply:
    """Read a reply of `decide_paths.lua` on that many windows and admits."""
    state = reply[0]
    if state in (8 + DECIDED, 8 + REPLAYED):
        (count,) = struct.unpack_from("<H", reply, 17)
        skipped = struct.unpack_from(f"<{count}H", reply, 19)
        rest = bytes([state - 8]) + reply[1:17] + reply[19 + 2 * count :]
        found = unpack_paths_reply(rest, windows, admits)
        return found._replace(skipped=tuple(each - 1 for each in skipped))
    if state in (STALE, UNKNOWN_ACCOUNT):
        assert len(reply) == 1
        return PathsReply(state, 0, 0, [], [], {})
    if state == LOST:
        return PathsReply(state, 0, struct.unpack("<Q", reply[1:])[0], [], [], {})
    _, time_ms, recorded = struct.unpack_from("<BQQ", reply)
    at = 17
    metas = [unpack_meta(reply[at + 63 * i : at + 63 * i + 63]) for i in range(windows)]
    at += 63 * windows
    results = [(0, 0, 0)] * admits
    policies = {}
    if at < len(reply):
        results = [
            (reply[i], reply[i + 1], int.from_bytes(reply[i + 2 : i + 7], "little"))
            for i in range(at, at + 7 * admits, 7)
        ]
        at += 7 * admits
    while at < len(reply):
        which, size = struct.unpack_from("<BI", reply, at)
        at += 5
        assert which not in policies
        assert at + size <= len(reply)
        policies[which] = reply[at : at + size]
        at += size
    assert at == len(reply)
    return PathsReply(state, time_ms, recorded, metas, results, policies)


def unpack_meta(value: bytes) -> Meta | None:
    """Read a window's meta; None if the window isn't stored."""
    assert len(value) == 63
    if not any(value):
        return None
    numbers = []
    for size in (5, 5, 5, 5, 5, 6, 7, 7, 4, 7, 7):
        numbers.append(int.from_bytes(value[:size], "little"))
        value = value[size:]
    head, newest, r, i, o, used_r, used_i, used_o, cell_r, cell_i, cell_o = numbers
    return Meta(head, newest, (r, i, o), (used_r, used_i, used_o), (cell_r, cell_i, cell_o))


def unpack_paths_peek(reply: list[bytes | None], kids: Sequence[str], windows: int) -> PathsPeek:
    """Read a reply of `peek_paths.lua` on these keys and that many windows."""
    account_version, *key_versions, packed = reply
    assert account_version is not None
    assert packed is not None
    assert len(packed) == 8 + 39 * windows
    usages = []
    for at in range(8, len(packed), 39):
        used = struct.unpack_from("<QQQ", packed, at)
        newest = tuple(int.from_bytes(packed[i : i + 5], "little") for i in range(at + 24, at + 39, 5))
        usages.append(PathUsage(used, newest))
    versions = dict(zip(kids, key_versions, strict=True))
    return PathsPeek(int.from_bytes(packed[:8], "little"), account_version, versions, usages)
