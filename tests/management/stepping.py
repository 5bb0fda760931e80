"""Stops, delays and loses single calls to the store, so that tests see what is between any two of them.

A step is one pipeline or transaction that is sent to a server; everything that writes is sent so.
"""

from __future__ import annotations

from collections.abc import Awaitable, Coroutine
from typing import Any, TypeVar

import pytest
from redis.asyncio.client import Pipeline
from redis.exceptions import ConnectionError as RedisConnectionError

_T = TypeVar("_T")
_execute = Pipeline.execute


class Stopped(BaseException):
    """Raised in the place of a step: the process ended there."""


class Steps:
    """Count the steps of one task, and act at one of them. `at`: the number of that step, from 0."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._patch = patch
        self.count = 0

    async def stopped_at(self, at: int, operation: Coroutine[Any, Any, _T]) -> _T | None:
        """Run an operation until it is about to do step `at`. Return its result; None if it was stopped."""

        async def step(pipeline: Any, *args: Any, **options: Any) -> Any:
            if self.count == at:
                raise Stopped
            self.count += 1
            return await _execute(pipeline, *args, **options)

        with self._patch.context() as patch:
            patch.setattr(Pipeline, "execute", step)
            try:
                return await operation
            except Stopped:
                return None

    async def reply_lost_at(self, at: int, operation: Coroutine[Any, Any, _T]) -> _T:
        """Run an operation, of which step `at` is done, but its reply is lost."""

        async def step(pipeline: Any, *args: Any, **options: Any) -> Any:
            mine, self.count = self.count, self.count + 1
            replies = await _execute(pipeline, *args, **options)
            if mine == at:
                raise RedisConnectionError("the reply is lost")
            return replies

        with self._patch.context() as patch:
            patch.setattr(Pipeline, "execute", step)
            return await operation

    async def with_other_at(
        self, at: int, operation: Coroutine[Any, Any, _T], other: Coroutine[Any, Any, object]
    ) -> tuple[_T | Exception, object]:
        """Run an operation, and all of `other` before its step `at`. Return both results, or their errors.

        None for `other` if the operation has no such step: then it isn't run.
        """
        found: list[object] = []

        async def step(pipeline: Any, *args: Any, **options: Any) -> Any:
            mine, self.count = self.count, self.count + 1
            if mine == at:
                with self._patch.context() as inner:
                    inner.setattr(Pipeline, "execute", _execute)
                    found.append(await _outcome(other))
            return await _execute(pipeline, *args, **options)

        with self._patch.context() as patch:
            patch.setattr(Pipeline, "execute", step)
            result = await _outcome(operation)
        other.close()
        return result, found[0] if found else None


async def _outcome(operation: Awaitable[_T]) -> _T | Exception:
    try:
        return await operation
    except Exception as error:
        return error
