"""The heat of plain keys: how much of their limits is used, first by their running sums, then exactly where it matters.

Neighbour: `hottest`, the walk that names the keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from redis.asyncio import Redis

from limiter_node.limits import WINDOW_BUCKETS, Amounts
from limiter_node.store import keyspace
from limiter_node.store.admin.heat import call_read_only, checked, hottest
from limiter_node.store.admin.script_calls import ScriptCall
from limiter_node.store.keyspace import META_FIELD
from limiter_node.store.scripts import load_script
from limiter_node.store.values import unpack_limits, unpack_sums, unpack_usage

MAX_PEEKED = 100
"""Windows per look and shard that are added up: some milliseconds, 10 at the very worst."""

# A server runs a whole piece before it serves other clients; a piece takes a fraction of a millisecond.
_SURVEY_PIECE = 100
_PEEK_PIECE = 5


class KeyHeat(NamedTuple):
    """A plain key and its usage."""

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

    @property
    def tie(self) -> tuple[int, str]:
        """The order among keys that are equally hot."""
        return -self.used.requests, self.kid


class PlainHeats:
    """Read the heat of plain keys of one shard, of which the `most` hottest are wanted."""

    def __init__(self, most: int, window_buckets: int = WINDOW_BUCKETS) -> None:
        self._most, self._window_buckets = most, window_buckets
        self._script = load_script("peek")
        self.peeks = 0
        """Windows added up in the last look."""

    async def look(self, client: Redis, kids: Sequence[str]) -> list[KeyHeat]:
        """Return the hottest of `kids`, at most twice `most`; the first `most` are exact."""
        return await self._made_exact(client, await self._survey(client, kids))

    async def _survey(self, client: Redis, kids: Sequence[str]) -> list[KeyHeat]:
        heats = []
        for start in range(0, len(kids), _SURVEY_PIECE):
            piece = kids[start : start + _SURVEY_PIECE]
            async with client.pipeline(transaction=False) as pipeline:
                pipeline.time()
                for kid in piece:
                    pipeline.get(keyspace.limits_key(kid))
                    pipeline.hget(keyspace.window_key(kid), META_FIELD)
                (seconds, micros), *values = checked(await pipeline.execute(raise_on_error=False))
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
            kids = [each.kid for each in piece]
            keys = [(keyspace.limits_key(kid), keyspace.window_key(kid), keyspace.past_key(kid)) for kid in kids]
            calls = [ScriptCall(each, (self._window_buckets, 0)) for each in keys]
            replies = await call_read_only(client, self._script, calls)
            for each, reply in zip(piece, replies, strict=True):
                usage = unpack_usage(reply, self._window_buckets)
                used = usage.used if usage is not None else Amounts(0, 0, 0)  # deleted meanwhile
                found[each.kid] = each._replace(used=used, is_exact=True)
        return found
