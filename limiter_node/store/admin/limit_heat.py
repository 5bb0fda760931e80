"""The heat of accounts, teams, and keys with policies: the limit of each of which the largest share is used.

As for plain keys, the running sums of a window come first: never too low, and exact unless something has left the
window since the last decision. Where they aren't exact and the limit could be among the tightest, ``peek_paths.lua``
adds up that window. Only limits that reject are looked at. Neighbour: `hottest`, the walk that names the keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from redis.asyncio import Redis

from limiter_node.limits import Amounts
from limiter_node.plans import NO_LIMIT, PlannedWindow, stored_windows, text_within_subject
from limiter_node.policy import ACCOUNT_MARK, TOKENS, AccountPolicy
from limiter_node.policy_body import read_account, read_key
from limiter_node.store.accounts.codec import Layout
from limiter_node.store.accounts.peek_codec import pack_peek, unpack_peek
from limiter_node.store.accounts.stored_window import unpack_clock, unpack_path_sums
from limiter_node.store.admin.heat import call_read_only, checked, hottest
from limiter_node.store.admin.script_calls import ScriptCall
from limiter_node.store.keyspace import CLOCK_FIELD, member_key, policy_key, shared_key
from limiter_node.store.scripts import load_script

MAX_WINDOWS = 3_000
"""Windows per look and shard whose sums are read, besides those of candidates: some 3 ms. An account has up to 32 for
itself and for each of its teams."""
MAX_PEEKED = 50
"""Windows per look and shard that are added up: some 100 µs each, if they are full."""

# As of plain keys: a piece keeps a server for a fraction of a millisecond.
_SURVEY_PIECE, _SURVEY_WINDOWS = 50, 500
_PEEK_PIECE = 5


class HashPlace(NamedTuple):
    """A hash with windows: those of an account, or of one of its keys. `tag`: the account's; `kid` empty: its own."""

    tag: str
    kid: str = ""


class LimitHeat(NamedTuple):
    """The tightest limit of an account, a team or a key. `name`: ``acme/research``; `limit`: ``requests/1d``."""

    place: HashPlace
    name: str
    limit: str
    used: int
    amount: int
    is_exact: bool
    """Whether `used` is exact; else it may be less."""

    @property
    def kid(self) -> str:
        """The key whose limit it is; empty for an account or a team."""
        tag, kid = self.place
        return kid or ("" if tag.startswith(ACCOUNT_MARK) else tag)

    @property
    def heat(self) -> float:
        """The share of the limit that is used; above 1 where the limit was lowered."""
        return _share(self.used, self.amount)

    @property
    def tie(self) -> tuple[int, str]:
        """The order among limits that are equally tight."""
        return -self.used, self.name


@dataclass(slots=True)
class _Reading:
    """A window, and what is known of its usage."""

    window: PlannedWindow
    used: Amounts
    is_exact: bool


@dataclass(slots=True, eq=False)
class _Subject:
    """An account, a team or a key, with all of its windows; `tightest` is its tightest limit by what is known."""

    place: HashPlace
    readings: Sequence[_Reading]
    tightest: LimitHeat
    of: _Reading

    def rank(self) -> None:
        """Find the tightest limit anew."""
        _, used, unit, reading = max(self._limits(), key=lambda each: each[0])
        window, self.of = reading.window, reading
        text, amount = text_within_subject(window, unit), window.enforced[unit]
        self.tightest = LimitHeat(self.place, window.subject, text, used, amount, reading.is_exact)

    def _limits(self) -> Iterator[tuple[float, int, int, _Reading]]:
        """Yield each limit: the share that is used, the usage, its unit and its window."""
        for reading in self.readings:
            used = reading.used
            for unit, amount in enumerate(reading.window.enforced):
                if amount != NO_LIMIT:
                    count = used.input_tokens + used.output_tokens if unit == TOKENS else used[unit]
                    yield _share(count, amount), count, unit, reading

    @property
    def heat(self) -> float:
        """As that of the tightest limit."""
        return self.tightest.heat

    @property
    def tie(self) -> tuple[int, str]:
        """As that of the tightest limit."""
        return self.tightest.tie


class LimitHeats:
    """Read the tightest limits of accounts of one shard, of which the `most` tightest are wanted."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._script = load_script("peek_paths")
        self.peeks = 0
        """Windows added up in the last look."""
        self.unread: Sequence[HashPlace] = ()
        """Places for which the last look had no room."""

    async def look(
        self, client: Redis, candidates: Sequence[HashPlace], others: Sequence[HashPlace]
    ) -> tuple[list[LimitHeat], list[LimitHeat]]:
        """Return the tightest limits of keys, and those of accounts and teams: one each, at most twice `most`.

        The tightest come first; the first `most` of each are exact. Of `others` some may be left `unread`.
        """
        self.peeks = 0
        found = await self._survey(client, candidates, len(candidates) * MAX_WINDOWS)
        self.unread = ()
        found += await self._survey(client, others, MAX_WINDOWS)
        keys = await self._made_exact(client, [each for each in found if each.tightest.kid])
        return keys, await self._made_exact(client, [each for each in found if not each.tightest.kid])

    async def _survey(self, client: Redis, places: Sequence[HashPlace], most_windows: int) -> list[_Subject]:
        subjects: list[_Subject] = []
        count = 0
        for start in range(0, len(places), _SURVEY_PIECE):
            if count >= most_windows:
                self.unread = places[start:]
                break
            piece: dict[HashPlace, list[PlannedWindow]] = {}
            for place, windows in (await self._windows_of(client, places[start : start + _SURVEY_PIECE])).items():
                if piece and sum(map(len, piece.values())) + len(windows) > _SURVEY_WINDOWS:
                    subjects += await self._read(client, piece)
                    piece = {}
                piece[place] = windows
                count += len(windows)
            subjects += await self._read(client, piece)
        return subjects

    async def _windows_of(self, client: Redis, places: Sequence[HashPlace]) -> dict[HashPlace, list[PlannedWindow]]:
        """Return the windows with limits that reject. Places whose policy has gone, or can't be read, are missing."""
        async with client.pipeline(transaction=False) as pipeline:
            for tag, kid in places:
                pipeline.hget(policy_key(tag), f"k:{kid}" if kid else "account")
            bodies = checked(await pipeline.execute(raise_on_error=False))
        found = {}
        for place, body in zip(places, bodies, strict=True):
            if body is not None:
                with suppress(ValueError):  # damaged, or of a later version
                    found[place] = [each for each in _stored(place, body) if min(each.enforced) != NO_LIMIT]
        return {place: windows for place, windows in found.items() if windows}

    async def _read(self, client: Redis, windows: dict[HashPlace, list[PlannedWindow]]) -> list[_Subject]:
        async with client.pipeline(transaction=False) as pipeline:
            pipeline.time()
            for (tag, kid), wanted in windows.items():
                ids = [each.id for each in wanted]
                pipeline.hmget(shared_key(tag), [CLOCK_FIELD] if kid else [CLOCK_FIELD, *ids])
                if kid:
                    pipeline.hmget(member_key(tag, kid), ids)
            (seconds, micros), *found = checked(await pipeline.execute(raise_on_error=False))
        clock_ms, replies = int(seconds) * 1000 + int(micros) // 1000, iter(found)
        subjects: list[_Subject] = []
        for place, wanted in windows.items():
            clock, *metas = next(replies) or [None] * (1 + len(wanted))
            if place.kid:
                metas = next(replies) or [None] * len(wanted)
            with suppress(ValueError):  # damaged, or not ours
                subjects += _subjects(place, wanted, metas, unpack_clock(clock, clock_ms))
        return subjects

    async def _made_exact(self, client: Redis, subjects: list[_Subject]) -> list[LimitHeat]:
        """Add up windows, those of the seemingly tightest limits first, until the `most` tightest are known."""
        while True:
            subjects = hottest([each for each in subjects if each.heat > 0], len(subjects))
            unsure = [each for each in subjects[: self._most] if not each.of.is_exact][: MAX_PEEKED - self.peeks]
            if not unsure:
                return [each.tightest for each in subjects[: 2 * self._most]]
            self.peeks += len(unsure)
            for start in range(0, len(unsure), _PEEK_PIECE):
                await self._peek(client, unsure[start : start + _PEEK_PIECE])

    async def _peek(self, client: Redis, subjects: Sequence[_Subject]) -> None:
        calls = []
        for each in subjects:
            tag, kid = each.place
            layout = Layout()
            layout.path(kid, [each.of.window])
            members = [member_key(tag, kid)] if kid else []
            calls.append(ScriptCall((policy_key(tag), shared_key(tag), *members), (pack_peek(layout), *layout.kids)))
        for each, reply in zip(subjects, await call_read_only(client, self._script, calls), strict=True):
            # Without a reply the account was deleted meanwhile.
            each.of.used = unpack_peek(reply[-1])[1][0].used if reply else Amounts(0, 0, 0)
            each.of.is_exact = True
            each.rank()


def _share(used: int, amount: int) -> float:
    return used / amount if amount else float(used > 0)


def _stored(place: HashPlace, body: bytes) -> list[PlannedWindow]:
    if place.kid:
        return stored_windows(AccountPolicy(place.tag.removeprefix(ACCOUNT_MARK)), read_key(body))
    return stored_windows(read_account(body))


def _subjects(
    place: HashPlace, windows: Sequence[PlannedWindow], metas: Sequence[bytes | None], now_ms: int
) -> Iterator[_Subject]:
    readings = [
        _Reading(window, *unpack_path_sums(meta, now_ms, window.bucket_ms, window.buckets))
        for window, meta in zip(windows, metas, strict=True)
    ]
    for _, found in groupby(readings, key=lambda each: each.window.subject):
        own = list(found)
        subject = _Subject(place, own, LimitHeat(place, "", "", 0, 1, True), own[0])
        subject.rank()
        yield subject
