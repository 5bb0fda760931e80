"""The packed form of a batch of one account and of its reply, as ``lua/decide_paths.lua`` reads and writes them.

A batch names each window once, however many of its operations touch it; an operation names its path, which is a list of
windows. The layouts are documented in the script's header; tests hold the two together.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from limiter_node.limits import Amounts
from limiter_node.plans import PlannedWindow
from limiter_node.store.accounts import costs
from limiter_node.store.codec import DECIDED, LOST, REPLAYED, STALE, UnreadableReply
from limiter_node.store.codec import UNKNOWN_KEY as NO_ACCOUNT

_HEADER = struct.Struct("<QBQQ8sBHH")
WINDOW_HEAD = struct.Struct("<6sIH")
"""A window: its id, the width of a bucket in ms, the number of buckets."""
_PATH = struct.Struct("<BBIH")  # the time has 6 bytes, as in the next one
_OTHER = struct.Struct("<BBIHqqq")
_ADMIT = struct.Struct("<BQQ")
_REPLY = struct.Struct("<BQQ")
_LOST = struct.Struct("<BQ")
_SETTLE, _CHARGE = 2, 3
_LIMIT_BYTES = 7
_META_SIZE = 63
_RESULT_SIZE = 7
_HAS_SKIPPED = 8
"""Added to the state of a reply that names settles and charges whose key has moved to another account."""

NEVER = 8
"""Added to a verdict's unit (1 to 4) if the request can never fit."""
POLICY_OLD, NO_SUCH_KEY, ENDED = 16, 17, 18
"""Verdicts on requests that weren't decided: made under an old policy, of a key that the account doesn't have, or with
a credential that has ended."""
_WITHOUT_WINDOW = frozenset((0, POLICY_OLD, NO_SUCH_KEY, ENDED))
_VERDICTS = _WITHOUT_WINDOW | {1, 2, 3, 4} | {NEVER + 1, NEVER + 2, NEVER + 3, NEVER + 4}

_MOST_PATHS = 255
_NO_VERSION = bytes(8)
_M32, _M40, _M48, _M56 = 2**32 - 1, 2**40 - 1, 2**48 - 1, 2**56 - 1


class WindowUse(NamedTuple):
    """A window's counters after a batch; `newest`: the newest bucket in use in each dimension, 0 = none."""

    used: Amounts
    newest: Amounts


class PathResult(NamedTuple):
    """The verdict on one admit: 0 admitted; 1 to 4 rejected by that unit; 9 to 12 never fits; `window` from 0."""

    verdict: int
    window: int
    retry_ms: int


class PathsReply(NamedTuple):
    """The script's reply. Of `STALE` and `NO_ACCOUNT` only `state` means anything, of `LOST` also `recorded`."""

    state: int
    time_ms: int
    recorded: int
    windows: list[WindowUse]
    """In the order of the batch's windows."""
    results: list[PathResult]
    """Per admit."""
    policies: list[tuple[int, bytes]]
    """The bodies of policies that the batch was too old for: 0 and the account's, or the number of a key and its."""
    skipped: Sequence[int] = ()
    """The places of settles and charges whose key has moved to another account: not counted in its own windows."""


def pack_settle(path: int, time_ms: int, requests: int, input_tokens: int, output_tokens: int) -> bytes:
    """Pack an operation that gives back amounts admitted at `time_ms` in the windows of path number `path`."""
    return _OTHER.pack(_SETTLE, path, time_ms & _M32, time_ms >> 32, requests, input_tokens, output_tokens)


def pack_charge(path: int, time_ms: int, requests: int, input_tokens: int, output_tokens: int) -> bytes:
    """Pack an operation that counts usage of `time_ms` in the windows of a path, limit or not."""
    return _OTHER.pack(_CHARGE, path, time_ms & _M32, time_ms >> 32, requests, input_tokens, output_tokens)


def pack_admit(path: int, input_tokens: int, output_tokens: int) -> bytes:
    """Pack an operation that admits one request if each window of its path has room."""
    return _ADMIT.pack(path, input_tokens, output_tokens)


class Layout:
    """The windows and paths of one batch, numbered as its operations refer to them.

    `kids` are the keys whose hashes the batch touches. A path belongs to one of them; the paths of a flat key, whose
    `kid` is given as "", to none.
    """

    __slots__ = ("_cost", "_entries", "_hashes", "_paths", "kids")

    def __init__(self) -> None:
        self.kids: list[str] = []
        self._hashes: list[dict[bytes, PlannedWindow]] = [{}]
        self._paths: dict[tuple[str, int, int], int] = {}
        self._entries: list[tuple[int, Sequence[PlannedWindow], int]] = []
        self._cost = 0

    def path(
        self,
        kid: str,
        windows: Sequence[PlannedWindow],
        *,
        ends_ms: int = 0,
        is_current: bool = False,
        cost: int = costs.ADMIT,
        most: int = costs.BUDGET,
    ) -> int:
        """Return the number of the path of these windows, from 1, for one more operation; 0 if there is no room for it.

        `ends_ms`: when the credential of a request ends, which belongs to its path; 0 if it doesn't.
        `cost`: of the operation per window, as in ``costs``; all of the batch may cost `most`. An empty batch has room
        for any path. Windows are the same if they have the same id in the same hash; their limits are those of the path
        that `is_current`: a settle may bring windows of an older policy.
        """
        known = self._paths.get((kid, id(windows), ends_ms))
        if known is None:
            known = self._add(kid, windows, ends_ms, cost, most)
        elif self._cost + len(windows) * cost > most:
            return 0
        else:
            self._cost += len(windows) * cost
        if is_current and known:
            shared, own = self._hashes[0], self._hashes[self._entries[known - 1][0]]
            for each in windows:
                (own if each.is_own else shared)[each.id] = each
        return known

    def _add(self, kid: str, windows: Sequence[PlannedWindow], ends_ms: int, cost: int, most: int) -> int:
        at = self.kids.index(kid) + 1 if kid in self.kids else 0
        own, shared = self._hashes[at] if at else {}, self._hashes[0]
        new = [each for each in windows if each.id not in (own if each.is_own else shared)]
        cost = self._cost + len(new) * costs.WINDOW + len(windows) * cost
        if self._entries and not (cost <= most and len(self._entries) < _MOST_PATHS):
            return 0
        if not at and kid:
            self.kids.append(kid)
            self._hashes.append(own)
            at = len(self.kids)
        for each in new:
            (own if each.is_own else shared)[each.id] = each
        self._cost = cost
        self._entries.append((at, windows, ends_ms))
        self._paths[kid, id(windows), ends_ms] = len(self._entries)
        return len(self._entries)

    def places(self) -> list[list[int]]:
        """Return the positions, in the batch's windows, of the windows of each path."""
        position: list[dict[bytes, int]] = []
        count = 0
        for found in self._hashes:
            position.append({id_: count + at for at, id_ in enumerate(found)})
            count += len(found)
        return [[position[at if each.is_own else 0][each.id] for each in windows] for at, windows, _ in self._entries]

    def hashes(self) -> list[list[PlannedWindow]]:
        """Return the windows of each hash: the shared one first, then those of `kids`."""
        return [list(found.values()) for found in self._hashes]

    def all_places(self) -> list[tuple[str, bytes]]:
        """Return the key that each window belongs to, empty for the account's own, and its id, in the batch's order."""
        return [(kid, id_) for kid, found in zip(("", *self.kids), self._hashes, strict=True) for id_ in found]

    def windows(self) -> list[PlannedWindow]:
        """Return the windows in the batch's order."""
        return [window for found in self._hashes for window in found.values()]

    def pack(
        self,
        number: int,
        others: Sequence[bytes],
        admits: Sequence[bytes],
        *,
        resent: bool,
        expected: int = 0,
        version: bytes = _NO_VERSION,
        key_versions: Sequence[bytes] = (),
        clock_ms: int = 0,
    ) -> bytes:
        """Pack the batch. `key_versions` are those of `kids`; `clock_ms`: 0 for the store's own clock."""
        head = _HEADER.pack(number, resent, expected, clock_ms, version, len(self._entries), len(others), len(admits))
        words = [head, *key_versions]
        for found in self._hashes:
            words.append(bytes((len(found),)))
            words += [packed_window(each) for each in found.values()]
        for (at, _, ends_ms), places in zip(self._entries, self.places(), strict=True):
            words.append(_PATH.pack(at, len(places), ends_ms & _M32, ends_ms >> 32))
            words.append(bytes([place + 1 for place in places]))
        return b"".join((*words, *others, *admits))


_packed: dict[tuple[bytes, int, int, int, int], bytes] = {}
_MOST_PACKED = 20_000


def packed_window(window: PlannedWindow) -> bytes:
    """Return a window and its limits as a batch has them. Cached, because batches repeat them."""
    found = _packed.get((window.id, *window.enforced))
    if found is None:
        if len(_packed) >= _MOST_PACKED:
            _packed.clear()
        head = WINDOW_HEAD.pack(window.id, window.bucket_ms, window.buckets)
        found = head + b"".join(each.to_bytes(_LIMIT_BYTES, "little") for each in window.enforced)
        _packed[(window.id, *window.enforced)] = found
    return found


_ADMITTED = PathResult(0, 0, 0)
_NONE = WindowUse(Amounts(0, 0, 0), Amounts(0, 0, 0))
_NO_META = bytes(_META_SIZE)


def _use(meta: bytes) -> WindowUse:
    """Read a window's stored meta: see lua/README.md for its layout."""
    if meta == _NO_META:
        return _NONE
    newest = int.from_bytes(meta[10:25], "little")
    used = int.from_bytes(meta[25:45], "little")
    return WindowUse(
        Amounts(used & _M48, used >> 48 & _M56, used >> 104),
        Amounts(newest & _M40, newest >> 40 & _M40, newest >> 80),
    )


def unpack_reply(reply: bytes, windows: int, admits: int, keys: int = 0, others: int = 0) -> PathsReply:
    """Read the reply to a batch with that many windows, admits, keys, and settles and charges.

    Raises:
        UnreadableReply: `reply` is not such a reply.
    """
    if reply and reply[0] in (_HAS_SKIPPED + DECIDED, _HAS_SKIPPED + REPLAYED):
        skipped, rest = _take_skipped(reply, others)
        return unpack_reply(rest, windows, admits, keys)._replace(skipped=skipped)
    size, state = len(reply), reply[0] if reply else -1
    if size == 1 and state in (STALE, NO_ACCOUNT):
        return PathsReply(state, 0, 0, [], [], [])
    if size == _LOST.size and state == LOST:
        return PathsReply(state, 0, _LOST.unpack(reply)[1], [], [], [])
    end = _REPLY.size + windows * _META_SIZE
    if state not in (DECIDED, REPLAYED) or not (size == end or (admits and size >= end + admits * _RESULT_SIZE)):
        raise UnreadableReply(f"{size} bytes, state {state}, for {windows} windows and {admits} admits")
    _, time_ms, recorded = _REPLY.unpack_from(reply)
    metas = [_use(reply[at : at + _META_SIZE]) for at in range(_REPLY.size, end, _META_SIZE)]
    if size == end:
        return PathsReply(state, time_ms, recorded, metas, [_ADMITTED] * admits, [])
    results = []
    for _ in range(admits):
        verdict, place = reply[end], reply[end + 1] - 1
        if verdict not in _VERDICTS or not (0 <= place < windows or verdict in _WITHOUT_WINDOW):
            raise UnreadableReply(f"verdict {verdict} by window {place + 1} of {windows}")
        results.append(PathResult(verdict, place, int.from_bytes(reply[end + 2 : end + _RESULT_SIZE], "little")))
        end += _RESULT_SIZE
    return PathsReply(state, time_ms, recorded, metas, results, _policies(reply, end, keys))


def _take_skipped(reply: bytes, others: int) -> tuple[list[int], bytes]:
    """Return the list that follows the header, as places from 0, and the reply without it."""
    at = _REPLY.size + 2
    end = at + 2 * int.from_bytes(reply[_REPLY.size : at], "little")
    skipped = [int.from_bytes(reply[each : each + 2], "little") - 1 for each in range(at, end, 2)]
    is_rising = all(each < following for each, following in zip([-1, *skipped], skipped, strict=False))
    if end > len(reply) or not skipped or not is_rising or skipped[-1] >= others:
        raise UnreadableReply(f"{len(skipped)} of {others} settles and charges skipped, in {len(reply)} bytes")
    return skipped, bytes((reply[0] - _HAS_SKIPPED,)) + reply[1 : _REPLY.size] + reply[end:]


def _policies(reply: bytes, at: int, keys: int) -> list[tuple[int, bytes]]:
    """Read the policies at the end of a reply: the account's, or those of some of `keys` keys, each once."""
    policies: list[tuple[int, bytes]] = []
    while at < len(reply):
        which, length = reply[at], int.from_bytes(reply[at + 1 : at + 5], "little")
        end = at + 5 + length
        if end > len(reply) or which > keys or (policies and which <= policies[-1][0]):
            raise UnreadableReply(f"policy {which} of {keys} at {at}, {length} bytes, in {len(reply)} bytes")
        policies.append((which, reply[at + 5 : end]))
        at = end
    return policies
