"""Accounts and their keys that the store has lost: nodes declare them again.

As `store.decisions.redeclare` for plain keys, but there are three things that can be lost, in two slots: the policy of
the account, that of the key, and the key's pointer to its account. The words on account and key are judged apart,
because replies of the store that confirm the one may say nothing of the other.

Each step is taken only over what the store has, so several nodes may take them at once. A key that is taken out of its
account (deleted, moved to another account) must not come back. So whoever takes it out leaves the mark of a deletion
first, and a node looks for the mark before it declares the key, and once more afterwards.

Weakness: as for plain keys; and only a node that knows a key finds out that its pointer is lost, so until a request of
the key reaches such a node, the others take the key for unknown.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any, NamedTuple

from limiter_node.declarations import AccountKey
from limiter_node.errors import StoreUnavailable
from limiter_node.policy import ACCOUNT_MARK, KeyPolicy
from limiter_node.policy_body import body_of, version_of
from limiter_node.store.accounts.accounts import Accounts
from limiter_node.store.accounts.member import Member
from limiter_node.store.accounts.queue import AccountQueue
from limiter_node.store.admin.merging import merge_account, merge_key
from limiter_node.store.decisions.declared_file import DeclaredFile
from limiter_node.store.decisions.redeclare import Done, Redeclared, RedeclaredCounts
from limiter_node.store.key_queue import KeyQueue
from limiter_node.store.keyspace import deleted_key, limits_key, policy_key, slot_of
from limiter_node.store.scripts import Script, load_script
from limiter_node.store.wire.commands import bulk
from limiter_node.store.wire.routing_and_retries import RoutedCall, Router
from limiter_node.store.wire.script_target import ScriptTarget

log = logging.getLogger(__name__)

_DELETED, _POINTED, _WAS_POINTED, _ELSEWHERE = range(4)
"""The replies of ``redeclare.lua`` about a key of an account."""
_ABSENT = b""
"""The version of a policy that isn't stored."""
_BEING_READ = "the keys file is being read"


class _Call(RoutedCall):
    """A call of a script whose reply a request waits for: it must not wait for a store that decides nothing."""

    __slots__ = ("_arguments", "future")

    def __init__(self, router: Router, target: ScriptTarget, arguments: tuple[bytes, ...]) -> None:
        super().__init__(router, target, monotonic())
        self._arguments = arguments
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


class _KeyWord(NamedTuple):
    """The latest word on a key: its account, the key as the file declares it, and who says so: "file" or "store".

    `declared` is None if the store's last reply counts.
    """

    tag: str
    declared: KeyPolicy | None
    source: str


class _Body(NamedTuple):
    """A policy to declare, and who says so: "file" or "store"."""

    body: bytes
    source: str


class AccountRedeclarer:
    """Declare missing accounts, keys of accounts and pointers for one node."""

    def __init__(self, router: Router, declared: DeclaredFile, accounts: Accounts, counts: RedeclaredCounts) -> None:
        self._router, self._declared, self._accounts, self._counts = router, declared, accounts, counts
        self._point_script, self._declare_script = load_script("redeclare"), load_script("declare")
        self._tasks: set[asyncio.Task[None]] = set()

    def close(self) -> None:
        """Stop declaring."""
        for task in self._tasks:
            task.cancel()

    # ---- what is missing -------------------------------------------------------------------------------------------

    async def resolve(self, kid: str, known: KeyQueue | Member | None, stale_tag: str = "") -> tuple[Redeclared, str]:
        """Declare a missing key of an account. Return the outcome, and the reason if that is `FAILED`.

        The outcome is `UNKNOWN` for a key that is nobody's, or a plain one by the latest word. `known`: the node's own
        place of the key, if it has met it. `stale_tag`: the hash tag of an account that the key leads to, and that
        doesn't have it; empty if the key leads nowhere.
        """
        try:
            if not await self._declared.read() and known is not None and known.exists:
                return Redeclared.FAILED, _BEING_READ
            return await self._declare_key(kid, known, stale_tag), ""
        except StoreUnavailable as error:
            return Redeclared.FAILED, str(error)

    def begin_account(self, account: AccountQueue, done: Done) -> None:
        """Declare an account that the store doesn't have; its keys follow as they are asked for."""

        async def declare() -> None:
            try:
                result = await self._resolve_account(account)
            except StoreUnavailable as error:
                done(Redeclared.FAILED, str(error))
            except Exception:  # a batch that never ended would block its account for good
                log.exception("failed to declare account %s", account.kid, extra={"event": "account_not_declared"})
                done(Redeclared.FAILED, "the node failed to declare the account")
            else:
                done(result, _BEING_READ if result is Redeclared.FAILED else "")

        self._begin(declare())

    async def _resolve_account(self, account: AccountQueue) -> Redeclared:
        if not await self._declared.read():
            return Redeclared.FAILED
        key = account.policy.key
        if key is not None:
            return await self._declare_key(key.kid, Member(account, key.kid, None), "")
        if (word := self._account_word(account.kid, 0)) is None:
            return Redeclared.UNKNOWN
        await self._declare_account(account.kid, word)
        return Redeclared.DECLARED

    def check_pointer(self, member: Member) -> None:
        """Mend the pointer of a key that the store has just decided for, if it is lost."""

        async def check() -> None:
            with suppress(StoreUnavailable):  # the next check comes soon
                found, _ = await self._point(member.kid, member.account.kid, "")
                if found == _POINTED:
                    self._counts.add("store")

        self._begin(check())

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        task = self._router.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ---- which word counts -----------------------------------------------------------------------------------------

    def _key_word(self, kid: str, known: KeyQueue | Member | None) -> _KeyWord | None:
        """Return the latest word on a key; None if it was revoked, nobody declared it, or it is a plain key."""
        in_file = self._declared.key(kid)
        by_file = _KeyWord(in_file.account.tag, in_file.key, "file") if isinstance(in_file, AccountKey) else None
        if isinstance(known, Member):
            heard_s_ago = monotonic() - known.confirmed_s
        elif known is None or known.knowledge.exists is None:
            return by_file
        else:
            heard_s_ago = known.knowledge.heard_s_ago()
        if in_file is not None and self._declared.is_later(kid, heard_s_ago):
            return by_file
        if not isinstance(known, Member) or self._declared.is_revoked(kid):
            return None
        return _KeyWord(known.account.kid, None, "store")

    def _account_word(self, tag: str, now_ms: int) -> _Body | None:
        """Return the latest word on an account; None if it was revoked or nobody declared it.

        A declared policy is merged into what the node was last told, as if it had been loaded before the loss.
        `now_ms`: the store's time, if the node doesn't know the account's.
        """
        known, declared = self._accounts.known(tag), self._declared.account(tag)
        if declared is not None:
            if known is None:
                return _Body(body_of(merge_account(None, declared, now_ms)), "file")
            if self._declared.is_later(tag, monotonic() - known.confirmed_s):
                merged = merge_account(known.policy, declared, known.knowledge.now_ms() or now_ms)
                return _Body(body_of(merged), "file")
        return None if known is None or self._declared.is_revoked(tag) else _Body(known.body, "store")

    def _key_body(self, word: _KeyWord, member: Member | None, now_ms: int) -> bytes:
        if word.declared is None:
            assert member is not None
            assert member.body is not None
            return member.body
        stored = member.policy if member is not None and member.account.kid == word.tag else None
        return body_of(merge_key(stored, word.declared, word.tag.removeprefix(ACCOUNT_MARK), now_ms))

    # ---- declaring -------------------------------------------------------------------------------------------------

    async def _declare_key(self, kid: str, known: KeyQueue | Member | None, stale_tag: str) -> Redeclared:
        word = self._key_word(kid, known)
        if word is None or self._account_word(word.tag, 0) is None:
            return Redeclared.UNKNOWN
        found, now_ms = await self._point(kid, word.tag, stale_tag)
        if found == _DELETED:
            return Redeclared.DELETED
        if found == _ELSEWHERE:  # declared otherwise meanwhile, where it will be found
            return Redeclared.DECLARED
        if (account := self._account_word(word.tag, now_ms)) is None:
            return Redeclared.UNKNOWN
        field, body = "", account.body
        is_written = await self._declare_account(word.tag, account)
        if word.tag != kid:
            field, body = kid, self._key_body(word, known if isinstance(known, Member) else None, now_ms)
            is_written = await self._declare(word.tag, field, body)
            if is_written or found == _POINTED:
                self._counts.add(word.source)
        left, _ = await self._point(kid, word.tag, "")
        if left in (_POINTED, _WAS_POINTED):
            return Redeclared.DECLARED
        if is_written:  # it was taken out meanwhile, and must not come back
            await self._call(self._declare_script, word.tag, (policy_key(word.tag),), (field, version_of(body), "", ""))
        return Redeclared.DELETED if left == _DELETED else Redeclared.DECLARED

    async def _declare_account(self, tag: str, word: _Body) -> bool:
        is_written = await self._declare(tag, "", word.body)
        if is_written:
            self._counts.add(word.source)
        return is_written

    async def _declare(self, tag: str, field: str, body: bytes) -> bool:
        """Write a policy that isn't there. Return whether this node did: if not, somebody else was first."""
        written = await self._call(
            self._declare_script, tag, (policy_key(tag),), (field, _ABSENT, version_of(body), body)
        )
        return bool(written == 1)

    async def _point(self, kid: str, tag: str, stale_tag: str) -> tuple[int, int]:
        """Point a key to its account. Return the reply, and the clock of the key's shard in ms."""
        keys = (limits_key(kid), deleted_key(kid))
        found, now_ms = await self._call(self._point_script, kid, keys, ("", tag, stale_tag))
        return int(found), int(now_ms)

    async def _call(self, script: Script, tag: str, keys: Sequence[str], arguments: Sequence[str | bytes]) -> Any:
        target = ScriptTarget(script, slot_of(tag), tuple(each.encode() for each in keys), (), len(arguments))
        call = _Call(
            self._router, target, tuple(each if isinstance(each, bytes) else each.encode() for each in arguments)
        )
        self._router.send([call])
        return await call.future
