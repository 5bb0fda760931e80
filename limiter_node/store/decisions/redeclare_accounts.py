"""Accounts and their keys that the store has lost: nodes declare them again.

As `store.decisions.redeclare` for plain keys, but there are three things that can be lost, in two slots: the policy of
the account, that of the key, and the key's pointer to its account. The words on account and key are judged apart,
because replies of the store that confirm the one may say nothing of the other.

Each step is taken only over what the store has, so several nodes may take them at once. A key that is taken out of its
account (deleted, moved to another account) must not come back. So whoever takes it out leaves the mark of a deletion
first, and a node looks for the mark before it declares the key, and once more afterwards.

Weakness: as for plain keys. Neighbour: `store.decisions.key_pointers` checks and mends pointers.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from enum import Enum, auto
from time import monotonic
from typing import Any, NamedTuple

from limiter_node.declaration_merging import merge_account, merge_key
from limiter_node.declarations import AccountKey
from limiter_node.errors import StoreUnavailable
from limiter_node.policy import ACCOUNT_MARK, KeyPolicy, tag_fields, tag_text
from limiter_node.policy_body import body_of, read_account, read_key, version_of
from limiter_node.store.accounts.accounts import Accounts
from limiter_node.store.accounts.member import FurtherCredential, Member
from limiter_node.store.accounts.queue import AccountQueue
from limiter_node.store.decisions.declared_file import DeclaredFile
from limiter_node.store.decisions.key_pointers import (
    DELETED,
    ELSEWHERE,
    POINTED,
    WAS_POINTED,
    KeyPointers,
    call_script,
)
from limiter_node.store.decisions.redeclare import Done, Redeclared, RedeclaredCounts
from limiter_node.store.key_queue import KeyQueue
from limiter_node.store.keyspace import policy_key
from limiter_node.store.scripts import load_script
from limiter_node.store.wire.routing_and_retries import Router
from limiter_node.store.written import Written

log = logging.getLogger(__name__)

_ABSENT, _LOST = b"", b"!"
"""Stand for the version of a policy that isn't stored; `_LOST`: and that was not deleted on purpose."""
_BEING_READ = "the keys file is being read"

Known = KeyQueue | Member | FurtherCredential | None
"""The place in the node of the key that a credential leads to, if the node has met it."""


class _Writer(Enum):
    """Who has written a policy that was missing."""

    BY_THIS_NODE = auto()
    IS_THERE = auto()
    """Somebody else was first."""
    WAS_DELETED = auto()
    """Nobody: it was deleted on purpose."""


class _KeyWord(NamedTuple):
    """The latest word on a key: its account, the key as the file declares it, and who says so: "file" or "store".

    `declared` is None if the store's last reply counts.
    """

    kid: str
    tag: str
    declared: KeyPolicy | None
    source: str


class _Body(NamedTuple):
    """A policy to declare, and who says so: "file" or "store"."""

    body: bytes
    source: str


class AccountRedeclarer:
    """Declare missing accounts and keys of accounts for one node; `pointers` are the ways to them.

    `on_elsewhere` is called with a key that its pointer says is deleted, or in another account.
    """

    def __init__(
        self,
        router: Router,
        declared: DeclaredFile,
        accounts: Accounts,
        counts: RedeclaredCounts,
        on_elsewhere: Callable[[Member], None],
    ) -> None:
        self._router, self._declared, self._accounts, self._counts = router, declared, accounts, counts
        self.pointers = KeyPointers(router, counts, on_elsewhere)
        self._script = load_script("declare")
        self._tasks: set[asyncio.Task[None]] = set()

    def close(self) -> None:
        """Stop declaring."""
        self.pointers.close()
        for task in self._tasks:
            task.cancel()

    # ---- what is missing -------------------------------------------------------------------------------------------

    async def resolve(self, cid: str, known: Known, stale_tag: str = "") -> tuple[Redeclared, str]:
        """Declare the key of an account that a credential led to, and that is missing.

        Return the outcome; with it the reason if that is `FAILED`, the content of the mark if it is `DELETED`. It is
        `UNKNOWN` for a key that is nobody's, or a plain one by the latest word.

        `known`: the node's own place of the key, if it has met it. `stale_tag`: the hash tag of an account that the
        credential leads to, and that doesn't have the key; empty if it leads nowhere.
        """
        is_known = isinstance(known, Member | FurtherCredential) or (known is not None and known.is_valid)
        try:
            if not await self._declared.read() and is_known:
                return Redeclared.FAILED, _BEING_READ
            return await self._declare_key(cid, known, stale_tag)
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
                event = {"event": "account_not_declared", **tag_fields(account.kid)}
                log.exception("failed to declare %s", tag_text(account.kid), extra=event)
                done(Redeclared.FAILED, "the node failed to declare the account")
            else:
                done(result, _BEING_READ if result is Redeclared.FAILED else "")

        self._begin(declare())

    async def _resolve_account(self, account: AccountQueue) -> Redeclared:
        if not await self._declared.read():
            return Redeclared.FAILED
        key = account.policy.key
        if key is not None:
            result, _ = await self._declare_key(key.kid, Member(account, key.kid, None), "")
            return result
        if (word := self._account_word(account.kid, 0)) is None:
            return Redeclared.UNKNOWN
        written = await self._declare_account(account.kid, word, account.policy.revision)
        return Redeclared.DELETED if written is _Writer.WAS_DELETED else Redeclared.DECLARED

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        task = self._router.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ---- which word counts -----------------------------------------------------------------------------------------

    def _key_word(self, cid: str, known: Known) -> _KeyWord | None:
        """Return the latest word on the key that a credential led to.

        None if it was revoked, nobody declared it, or it is a plain key.
        """
        member = known.member if isinstance(known, Member | FurtherCredential) else None
        kid = self._declared.kid_of(cid) if member is None else member.kid
        in_file = self._declared.key(kid)
        by_file = _KeyWord(kid, in_file.account.tag, in_file.key, "file") if isinstance(in_file, AccountKey) else None
        if member is not None:
            heard_s_ago = monotonic() - member.confirmed_s
        elif not isinstance(known, KeyQueue) or known.knowledge.exists is None:
            return by_file
        else:
            heard_s_ago = known.knowledge.heard_s_ago()
        if in_file is not None and self._declared.is_later(kid, heard_s_ago):
            return by_file
        if member is None or self._declared.is_revoked(kid):
            return None
        return _KeyWord(kid, member.account.kid, None, "store")

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

    async def _declare_key(self, cid: str, known: Known, stale_tag: str) -> tuple[Redeclared, str]:
        word = self._key_word(cid, known)
        if word is None or self._account_word(word.tag, 0) is None:
            return Redeclared.UNKNOWN, ""
        kid, tag = word.kid, word.tag
        found, now_ms, mark = await self.pointers.point(cid, kid, tag, stale_tag)
        if found == DELETED:
            return Redeclared.DELETED, mark
        if found == ELSEWHERE:
            return Redeclared.ELSEWHERE, ""
        if (account := self._account_word(tag, now_ms)) is None:
            return Redeclared.UNKNOWN, ""
        member = known.member if isinstance(known, Member | FurtherCredential) else None
        known_account = self._accounts.known(tag)
        revision = -1 if member is None or known_account is None else known_account.policy.revision
        field, body = "", account.body
        written = await self._declare_account(tag, account, revision)
        if tag != kid and written is not _Writer.WAS_DELETED:
            field, body = kid, self._key_body(word, member, now_ms)
            revision = -1 if member is None or member.policy is None else member.policy.revision
            written = await self._declare(tag, field, body, revision)
            if written is _Writer.BY_THIS_NODE or (written is _Writer.IS_THERE and found == POINTED):
                self._counts.add(word.source)
        if written is _Writer.WAS_DELETED:
            return Redeclared.DELETED, kid
        left, _, mark = await self.pointers.point(cid, kid, tag, "")
        if left in (POINTED, WAS_POINTED):
            self.pointers.mend(kid, _others(cid, field, body), tag, stale_tag)
            return Redeclared.DECLARED, ""
        if written is _Writer.BY_THIS_NODE:  # it was taken out meanwhile, and must not come back
            await self._call(tag, (field, version_of(body), "", ""))
        return (Redeclared.DELETED, mark) if left == DELETED else (Redeclared.ELSEWHERE, "")

    async def _declare_account(self, tag: str, word: _Body, revision: int) -> _Writer:
        written = await self._declare(tag, "", word.body, revision)
        if written is _Writer.BY_THIS_NODE:
            self._counts.add(word.source)
        return written

    async def _declare(self, tag: str, field: str, body: bytes, revision: int) -> _Writer:
        """Write a policy that isn't there. `revision`: that of the policy which the store told this node; -1: none."""
        name = read_key(body).name if field else ""
        reply = await self._write(tag, field, _LOST, body, name)
        if reply == Written.WAS_DELETED:
            last = await self._accounts.revision_of_deleted(field, tag)
            if last is not None and last >= revision:
                return _Writer.WAS_DELETED
            reply = await self._write(tag, field, _ABSENT, body, name)  # it had been made anew since
        if reply == Written.NAME_TAKEN:  # then the key is left out of the index of names
            reply = await self._write(tag, field, _ABSENT, body, "")
        return _Writer.BY_THIS_NODE if reply == Written.DONE else _Writer.IS_THERE

    async def _write(self, tag: str, field: str, expected: bytes, body: bytes, name: str) -> object:
        arguments = (field, expected, version_of(body), body, name)
        return await self._call(tag, arguments)

    async def _call(self, tag: str, arguments: Sequence[str | bytes]) -> Any:
        return await call_script(self._router, self._script, tag, (policy_key(tag),), arguments)


def _others(cid: str, field: str, body: bytes) -> list[str]:
    """Return the credentials of a key beside `cid`, by its policy or by that of its account, if `field` is empty."""
    key = read_key(body) if field else read_account(body).key
    return [] if key is None else [each.digest for each in key.all_credentials if each.digest != cid]
