"""Calls about an account that count nothing: reads of its policies and of the usage of windows, and other scripts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from time import monotonic
from typing import Any, NamedTuple

from limiter_node.errors import StoreUnavailable
from limiter_node.store.accounts.codec import Layout, WindowUse
from limiter_node.store.accounts.peek_codec import pack_peek, unpack_peek
from limiter_node.store.wire.commands import bulk
from limiter_node.store.wire.routing_and_retries import RoutedCall, Router
from limiter_node.store.wire.script_target import ScriptTarget


class Policies(NamedTuple):
    """The stored policies of an account and of one of its keys; None where there is none.

    `forward`: the mark of a key that has moved to another account. `tombstone`: what is kept of a key that was deleted.
    """

    time_ms: int
    account: bytes | None
    key: bytes | None
    forward: bytes | None
    tombstone: bytes | None


class PolicyRead(RoutedCall):
    """A read of an account's policy and of one key's; `future` brings them."""

    __slots__ = ("_kid", "future")

    def __init__(self, router: Router, target: ScriptTarget, kid: str, now_s: float) -> None:
        super().__init__(router, target, now_s)
        self._kid = kid
        self.future: asyncio.Future[Policies] = router.loop.create_future()

    def arguments(self) -> bytes:
        return bulk((self._kid.encode(),))

    def is_wanted(self) -> bool:
        return not self.future.done()

    def on_result(self, reply: list[Any]) -> None:
        time_ms, _, account, account_tombstone, _, key, forward, key_tombstone = reply
        found = Policies(time_ms, account, key, forward, key_tombstone or account_tombstone)
        if not self.future.done():
            self.future.set_result(found)

    def on_failed(self, reason: str) -> None:
        if not self.future.done():
            self.future.set_exception(StoreUnavailable(reason))


class AwaitedCall(RoutedCall):
    """A call of a script whose reply a request waits for: it must not wait for a store that decides nothing."""

    __slots__ = ("_arguments", "future")

    def __init__(self, router: Router, target: ScriptTarget, arguments: Sequence[str | bytes]) -> None:
        super().__init__(router, target, monotonic())
        self._arguments = tuple(each if isinstance(each, bytes) else each.encode() for each in arguments)
        self.future: asyncio.Future[Any] = router.loop.create_future()

    def arguments(self) -> bytes:
        return bulk(self._arguments)

    def is_wanted(self) -> bool:
        return not (self.trouble or self.future.done())

    def on_result(self, reply: Any) -> None:
        if not self.future.done():
            self.future.set_result(reply)

    def on_failed(self, reason: str) -> None:
        if not self.future.done():
            self.future.set_exception(StoreUnavailable(reason))


class PathPeekReply(NamedTuple):
    """The usage of windows, and the versions of the policies in force."""

    account_version: bytes
    key_versions: list[bytes | None]
    time_ms: int
    windows: list[WindowUse]


class PathPeek(RoutedCall):
    """A read of the windows of a layout; `future` brings their usage, None if there is no such account."""

    __slots__ = ("_layout", "future")

    def __init__(self, router: Router, target: ScriptTarget, layout: Layout, now_s: float) -> None:
        super().__init__(router, target, now_s)
        self._layout = layout
        self.future: asyncio.Future[PathPeekReply | None] = router.loop.create_future()

    def arguments(self) -> bytes:
        return bulk((pack_peek(self._layout), *(kid.encode() for kid in self._layout.kids)))

    def is_wanted(self) -> bool:
        return not self.future.done()

    def on_result(self, reply: Sequence[object] | None) -> None:
        found = None
        if reply is not None:
            version, *keys, packed = reply
            assert isinstance(version, bytes)
            assert isinstance(packed, bytes)
            time_ms, windows = unpack_peek(packed)
            if len(windows) != len(self._layout.windows()) or len(keys) != len(self._layout.kids):
                raise ValueError(f"{len(windows)} windows of {len(keys)} keys")
            versions = [each if isinstance(each, bytes) else None for each in keys]
            found = PathPeekReply(version, versions, time_ms, windows)
        if not self.future.done():
            self.future.set_result(found)

    def on_failed(self, reason: str) -> None:
        if not self.future.done():
            self.future.set_exception(StoreUnavailable(reason))
