"""The keys, accounts and teams nearest to their limits: a walk through one shard, a bounded piece of it at a time.

No list of hot keys is kept anywhere, and decisions don't pay for one. Each look continues where the last one stopped:

1. SCAN names the next hashes with windows, `MAX_SCANNED` keys of the store at most;
2. for these, and for the earlier candidates, the limits and the running sums are read: two cheap commands a key,
   `MAX_SURVEYED` keys and accounts at most. The sums are never too low, and exact unless something has left the window
   since the last decision;
3. where they aren't exact and the limit could be among the tightest, a script adds up the window: so many at most as
   `plain_heat` and `limit_heat` say, because a full one costs some 100 µs.

A key that cools down drops out, because candidates are read again each time. Weakness: a key that has become hot after
the walk passed it is found in the next round; an idle key that has partly cooled down may rank too high as long as more
windows than may be added up could be hotter. A key without limits of its own has no windows, and isn't seen.
Neighbour: `store.admin.watch`, which has one of these per shard.
"""

from __future__ import annotations

from collections import deque
from re import compile as pattern
from typing import NamedTuple

from redis.asyncio import Redis

from limiter_node.limits import WINDOW_BUCKETS
from limiter_node.policy import ACCOUNT_MARK
from limiter_node.store.admin.heat import hottest
from limiter_node.store.admin.limit_heat import HashPlace, LimitHeat, LimitHeats
from limiter_node.store.admin.plain_heat import KeyHeat, PlainHeats

MAX_SCANNED = 10_000
MAX_SURVEYED = 500
"""Keys and accounts per look and shard: a shard takes 4 ms for plain keys, some more for others."""

_SCAN_COUNT = 500
_WITH_WINDOWS = "rl:{*}:[wsk]*"
_NAMED = pattern(rb"rl:\{([^{}]+)\}:(?:(window)|(shared)|key:([0-9a-f]{32}))\Z")


class Walk(NamedTuple):
    """The progress of a walk through a shard's keys."""

    seen: int
    """Keys with a window: those of the last complete walk, or until there is one, those seen so far."""
    share: float
    """The share of the shard's keys that the current walk has seen, from 0 to 1."""
    is_whole: bool
    """Whether all of the shard has been seen at least once."""
    accounts: int = 0
    """Accounts with a window, likewise."""


NOT_WALKED = Walk(0, 0.0, False)


class Hottest(NamedTuple):
    """The keys, and the accounts and teams, nearest to their limits, the nearest first."""

    keys: list[KeyHeat | LimitHeat]
    accounts: list[LimitHeat]


class HottestKeys:
    """The walk through one shard for its hottest `most` keys, accounts and teams. Methods raise redis-py's errors."""

    def __init__(self, most: int, window_buckets: int = WINDOW_BUCKETS) -> None:
        self._most = most
        self._plain, self._limits = PlainHeats(most, window_buckets), LimitHeats(most)
        self._cursor = 0
        self._is_named = False
        self._named: deque[HashPlace] = deque()
        self._candidates: list[HashPlace] = []
        self._scanned = 0
        self._seen = self._seen_before = (0, 0)
        self._is_whole = False
        self.walk = NOT_WALKED

    @property
    def peeks(self) -> int:
        """Windows added up in the last look."""
        return self._plain.peeks + self._limits.peeks

    async def look(self, client: Redis) -> Hottest:
        """Walk on for one piece. Return the hottest seen, at most twice `most`. `client`: the shard's master."""
        size = int(await client.dbsize())
        await self._name_more(client)
        new = [self._named.popleft() for _ in range(min(len(self._named), MAX_SURVEYED - len(self._candidates)))]
        # SCAN may name a key twice, and a candidate again.
        others = [each for each in dict.fromkeys(new) if each not in self._candidates]
        plain = await self._plain.look(client, [kid for tag, kid in (*self._candidates, *others) if tag == _PLAIN])
        known, unknown = ([each for each in places if each.tag != _PLAIN] for places in (self._candidates, others))
        keys, accounts = await self._limits.look(client, known, unknown)
        self._named.extendleft(self._limits.unread)
        unread = set(self._limits.unread)
        self._note_seen([each for each in new if each not in unread])
        candidates = (*(HashPlace(_PLAIN, each.kid) for each in plain), *(each.place for each in (*keys, *accounts)))
        self._candidates = list(dict.fromkeys(candidates))
        self._note_progress(size)
        return Hottest(hottest([*plain, *keys], 2 * self._most), accounts)

    def _note_seen(self, new: list[HashPlace]) -> None:
        accounts = sum(is_account(each) for each in new)
        keys_before, accounts_before = self._seen
        self._seen = keys_before + len(new) - accounts, accounts_before + accounts

    def _note_progress(self, size: int) -> None:
        share = min(self._scanned / size, 1.0) if size else 1.0
        if self._is_named and not self._named:  # the walk is whole: the next one begins
            share, self._is_whole, self._seen_before = 1.0, True, self._seen
            self._is_named, self._scanned, self._seen = False, 0, (0, 0)
        keys, accounts = self._seen_before if self._is_whole else self._seen
        self.walk = Walk(keys, share, self._is_whole, accounts)

    async def _name_more(self, client: Redis) -> None:
        begin = self._scanned
        while not self._is_named and len(self._named) < MAX_SURVEYED and self._scanned - begin < MAX_SCANNED:
            self._cursor, keys = await client.scan(self._cursor, match=_WITH_WINDOWS, count=_SCAN_COUNT)
            self._scanned += _SCAN_COUNT
            for key in keys:
                assert isinstance(key, bytes)
                if match := _NAMED.match(key):
                    tag, is_plain, _, member = match.groups()
                    name = tag.decode("ascii", "replace")
                    kid = member.decode() if member else ""
                    self._named.append(HashPlace(_PLAIN, name) if is_plain else HashPlace(name, kid))
            self._is_named = self._cursor == 0


_PLAIN = ""
"""Stands for the account of a plain key, which has none."""


def is_account(place: HashPlace) -> bool:
    """Whether a place holds the windows of a named account, not those of a key."""
    return not place.kid and place.tag.startswith(ACCOUNT_MARK)
