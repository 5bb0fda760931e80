"""The keys nearest to their limits: a walk through the windows of one shard, a bounded piece of it at a time.

No list of hot keys is kept anywhere, and decisions don't pay for one. Each look continues where the last one stopped:

1. SCAN names the next windows, `MAX_SCANNED` keys of the store at most;
2. for these, and for the earlier candidates, the limits and the running sums are read: two cheap commands a key,
   `MAX_SURVEYED` keys at most. The sums are never too low, and exact unless something has left the window since the
   last decision;
3. where they aren't exact and the key could be among the hottest, ``peek.lua`` adds up the window: `MAX_PEEKED` keys at
   most, because a full one costs some 100 µs.

A key that cools down drops out, because candidates are read again each time. Weakness: a key that has become hot after
the walk passed it is found in the next round; an idle key that has partly cooled down may rank too high as long as more
than `MAX_PEEKED` keys could be hotter. Neighbour: `store.admin.watch`, which has one of these per shard.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from re import compile as pattern
from typing import Any, NamedTuple

from redis.asyncio import Redis
from redis.exceptions import AskError, MovedError, NoScriptError, ResponseError

from limiter_node.limits import WINDOW_BUCKETS, Amounts
from limiter_node.store import keyspace
from limiter_node.store.keyspace import META_FIELD
from limiter_node.store.scripts import load_script
from limiter_node.store.values import unpack_limits, unpack_sums, unpack_usage

MAX_SCANNED = 10_000
MAX_SURVEYED = 500
MAX_PEEKED = 100
"""Keys per look and shard. The survey takes a shard 4 ms, the peeks some milliseconds, 10 at the very worst."""

_SCAN_COUNT = 500
# A server runs a whole piece before it serves other clients; a piece takes a fraction of a millisecond.
_SURVEY_PIECE = 100
_PEEK_PIECE = 5
_WINDOW_KEY = pattern(rb"rl:\{([0-9a-f]{32})\}:window\Z")


class KeyHeat(NamedTuple):
    """A key and its usage."""

    kid: str
    name: str
    limits: Amounts
    used: Amounts
    is_exact: bool
    """Whether `used` is exact; else the key may use less."""

    @property
    def heat(self) -> float:
        """The largest share of a limit that is used; above 1 where a limit was lowered."""
        return max(
            used / limit if limit else float(used > 0) for used, limit in zip(self.used, self.limits, strict=True)
        )


class Walk(NamedTuple):
    """The progress of a walk through a shard's keys."""

    seen: int
    """Keys with a window: those of the last complete walk, or until there is one, those seen so far."""
    share: float
    """The share of the shard's keys that the current walk has seen, from 0 to 1."""
    is_whole: bool
    """Whether all of the shard has been seen at least once."""


NOT_WALKED = Walk(0, 0.0, False)


def hottest(heats: Sequence[KeyHeat], most: int) -> list[KeyHeat]:
    """Return the `most` hottest, the hottest first; of equals, the one with more requests first."""
    return heapq.nsmallest(most, heats, key=lambda each: (-each.heat, -each.used.requests, each.kid))


class HottestKeys:
    """The walk through one shard for its hottest `most` keys. Methods raise redis-py's errors."""

    def __init__(self, most: int, window_buckets: int = WINDOW_BUCKETS) -> None:
        self._most, self._window_buckets = most, window_buckets
        self._script = load_script("peek")
        self._cursor = 0
        self._is_named = False
        self._named: deque[str] = deque()
        self._candidates: list[str] = []
        self._scanned = self._seen = self._seen_before = 0
        self._is_whole = False
        self.walk = NOT_WALKED
        self.peeks = 0
        """Windows added up in the last look."""

    async def look(self, client: Redis) -> list[KeyHeat]:
        """Walk on for one piece. Return the hottest keys seen, at most twice `most`. `client`: the shard's master."""
        size = int(await client.dbsize())
        await self._name_more(client)
        new = [self._named.popleft() for _ in range(min(len(self._named), MAX_SURVEYED - len(self._candidates)))]
        self._seen += len(new)
        # SCAN may name a key twice, and a candidate again.
        heats = await self._survey(client, list(dict.fromkeys((*self._candidates, *new))))
        heats = await self._made_exact(client, heats)
        self._candidates = [each.kid for each in heats]
        share = min(self._scanned / size, 1.0) if size else 1.0
        if self._is_named and not self._named:  # the walk is whole: the next one begins
            share, self._is_whole, self._seen_before = 1.0, True, self._seen
            self._is_named, self._scanned, self._seen = False, 0, 0
        self.walk = Walk(self._seen_before if self._is_whole else self._seen, share, self._is_whole)
        return heats

    async def _name_more(self, client: Redis) -> None:
        begin = self._scanned
        while not self._is_named and len(self._named) < MAX_SURVEYED and self._scanned - begin < MAX_SCANNED:
            self._cursor, keys = await client.scan(self._cursor, match=keyspace.window_key("*"), count=_SCAN_COUNT)
            self._scanned += _SCAN_COUNT
            for key in keys:
                assert isinstance(key, bytes)
                if match := _WINDOW_KEY.match(key):
                    self._named.append(match[1].decode())
            self._is_named = self._cursor == 0

    async def _survey(self, client: Redis, kids: Sequence[str]) -> list[KeyHeat]:
        heats = []
        for start in range(0, len(kids), _SURVEY_PIECE):
            piece = kids[start : start + _SURVEY_PIECE]
            async with client.pipeline(transaction=False) as pipeline:
                pipeline.time()
                for kid in piece:
                    pipeline.get(keyspace.limits_key(kid))
                    pipeline.hget(keyspace.window_key(kid), META_FIELD)
                (seconds, micros), *values = _checked(await pipeline.execute(raise_on_error=False))
            clock_ms = int(seconds) * 1000 + int(micros) // 1000
            for kid, packed, meta in zip(piece, values[::2], values[1::2], strict=True):
                if packed is not None and meta is not None:
                    with suppress(ValueError):  # damaged, or not ours
                        limits = unpack_limits(packed)
                        used, is_exact = unpack_sums(meta, clock_ms, self._window_buckets)
                        amounts = Amounts(limits.rpm, limits.input_tpm, limits.output_tpm)
                        heats.append(KeyHeat(kid, limits.name, amounts, used, is_exact))
        return heats

    async def _made_exact(self, client: Redis, heats: list[KeyHeat]) -> list[KeyHeat]:
        """Peek at keys, the seemingly hottest first, until the `most` hottest are known. Return those."""
        self.peeks = 0
        while True:
            heats = hottest([each for each in heats if each.heat > 0], len(heats))
            unsure = [each for each in heats[: self._most] if not each.is_exact][: MAX_PEEKED - self.peeks]
            if not unsure:
                return heats[: 2 * self._most]
            self.peeks += len(unsure)
            exact = await self._peek(client, unsure)
            heats = [exact.get(each.kid, each) for each in heats]

    async def _peek(self, client: Redis, heats: Sequence[KeyHeat]) -> dict[str, KeyHeat]:
        found = {}
        for start in range(0, len(heats), _PEEK_PIECE):
            piece = heats[start : start + _PEEK_PIECE]
            replies = await self._call_script(client, [each.kid for each in piece])
            for each, reply in zip(piece, replies, strict=True):
                usage = unpack_usage(reply, self._window_buckets)
                used = usage.used if usage is not None else Amounts(0, 0, 0)  # deleted meanwhile
                found[each.kid] = each._replace(used=used, is_exact=True)
        return found

    async def _call_script(self, client: Redis, kids: Sequence[str]) -> list[Any]:
        for command, script in (("EVALSHA_RO", self._script.sha), ("EVAL_RO", self._script.source)):
            async with client.pipeline(transaction=False) as pipeline:
                for kid in kids:
                    keys = (keyspace.limits_key(kid), keyspace.window_key(kid), keyspace.past_key(kid))
                    pipeline.execute_command(command, script, len(keys), *keys, self._window_buckets, 0)
                replies: list[Any] = await pipeline.execute(raise_on_error=False)
            if not any(isinstance(reply, NoScriptError) for reply in replies):
                break
        return _checked(replies)


def _checked(replies: list[Any]) -> list[Any]:
    """Return the replies, None for keys that have moved or are of another type; raise other errors."""
    for at, reply in enumerate(replies):
        if isinstance(reply, Exception):
            if isinstance(reply, AskError | MovedError) or (
                isinstance(reply, ResponseError) and str(reply).startswith(("WRONGTYPE", "TRYAGAIN"))
            ):
                replies[at] = None
            else:
                raise reply
    return replies
