"""The heat of keys and limits, which is the share of a limit that is used; and calls that read it.

Neighbours: `plain_heat` and `limit_heat`, which read it, and `hottest`, which names the keys.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from typing import Any, Protocol, TypeVar

from redis.asyncio import Redis
from redis.exceptions import AskError, MovedError, NoScriptError, ResponseError

from limiter_node.store.admin.script_calls import ScriptCall
from limiter_node.store.scripts import Script


class Heat(Protocol):
    """How near something is to its limit."""

    @property
    def heat(self) -> float:
        """The largest share of a limit that is used; above 1 where a limit was lowered."""

    @property
    def tie(self) -> tuple[int, str]:
        """The order among equals."""


_Heat = TypeVar("_Heat", bound=Heat)


def hottest(heats: Iterable[_Heat], most: int) -> list[_Heat]:
    """Return the `most` hottest, the hottest first; of equals, the one that uses more first."""
    return heapq.nsmallest(most, heats, key=lambda each: (-each.heat, each.tie))


async def call_read_only(client: Redis, script: Script, calls: Sequence[ScriptCall]) -> list[Any]:
    """Call a script that writes nothing, which needs no right to write. Return `checked` replies."""
    for command, named in (("EVALSHA_RO", script.sha), ("EVAL_RO", script.source)):
        async with client.pipeline(transaction=False) as pipeline:
            for keys, arguments in calls:
                pipeline.execute_command(command, named, len(keys), *keys, *arguments)
            replies: list[Any] = await pipeline.execute(raise_on_error=False)
        if not any(isinstance(reply, NoScriptError) for reply in replies):
            break
    return checked(replies)


def checked(replies: list[Any]) -> list[Any]:
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
