"""Scripts called through redis-py, for administration: one at a time, or many of one server in pipelines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from redis.asyncio import Redis
from redis.exceptions import NoScriptError, ResponseError

from limiter_node.store.scripts import Script

CHUNK = 500
"""Calls or commands per pipeline."""


class ScriptCall(NamedTuple):
    """The keys and the arguments of one call."""

    keys: Sequence[str]
    arguments: Sequence[str | bytes | int]


async def call_script(client: Redis, script: Script, call: ScriptCall) -> Any:
    """Return the reply to one call."""
    [reply] = await call_scripts(client, script, [call])
    return reply


async def call_scripts(client: Redis, script: Script, calls: Sequence[ScriptCall]) -> list[Any]:
    """Return the replies to many calls of one script on one server; raise the first error."""
    replies: list[Any] = []
    for start in range(0, len(calls), CHUNK):
        chunk = calls[start : start + CHUNK]
        found = await _call(client, "EVALSHA", script.sha, chunk)
        missing = [at for at, reply in enumerate(found) if isinstance(reply, NoScriptError)]
        again = await _call(client, "EVAL", script.source, [chunk[at] for at in missing])
        for at, reply in zip(missing, again, strict=True):
            found[at] = reply
        for reply in found:
            if isinstance(reply, Exception):
                raise reply
        replies += found
    return replies


async def run_commands(client: Redis, commands: Sequence[tuple[str | bytes, ...]]) -> list[Any]:
    """Return the replies to many commands on one server, among them errors for values of another type.

    Raises the first other error.
    """
    replies: list[Any] = []
    for start in range(0, len(commands), CHUNK):
        async with client.pipeline(transaction=False) as pipeline:
            for command in commands[start : start + CHUNK]:
                pipeline.execute_command(*command)
            replies += await pipeline.execute(raise_on_error=False)
    for reply in replies:
        if isinstance(reply, Exception) and not is_wrong_type(reply):
            raise reply
    return replies


def is_wrong_type(reply: object) -> bool:
    """Whether the reply to a command says that the value is of another type."""
    return isinstance(reply, ResponseError) and str(reply).startswith("WRONGTYPE")


async def _call(client: Redis, command: str, script: bytes, calls: Sequence[ScriptCall]) -> list[Any]:
    if not calls:
        return []
    async with client.pipeline(transaction=False) as pipeline:
        for keys, arguments in calls:
            pipeline.execute_command(command, script, len(keys), *keys, *arguments)
        replies: list[Any] = await pipeline.execute(raise_on_error=False)
    return replies
