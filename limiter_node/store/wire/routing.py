"""Script calls on their way to the shard that owns their slot, and what happens to those that don't get through.

All retry rules of decisions are here, and they are ours: redis-py retries a command up to ten times by itself, which
counts a request as often. A call given to the router ends exactly once, by `resolved` or by `failed`; until then it is
sent again as often as needed, which is safe because the script answers a batch it has decided from its record.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

import hiredis

from limiter_node.store.scripts import Script
from limiter_node.store.wire.acknowledged import Command
from limiter_node.store.wire.store_connection import ServerConnection
from limiter_node.store.wire.topology import Topology

log = logging.getLogger(__name__)

_SOON_S, _LATER_S, _LAST_S = 0.005, 0.05, 0.5
_QUICK_TRIES = 5
_TELL_EVERY_S, _KINDS_TOLD = 60.0, 100
_NO_ANSWER = "the store did not answer"

# What a server replies while it decides nothing at all, for now: nothing has run then.
_TRY_LATER = frozenset(
    (
        *("CLUSTERDOWN", "LOADING", "MASTERDOWN", "READONLY", "BUSY", "NOREPLICAS", "UNBLOCKED", "OOM", "MISCONF"),
        *("NOPERM", "NOAUTH"),  # a login whose rights are being changed
    )
)
_ERROR_KINDS = {"NOSCRIPT": "reloaded", "MOVED": "redirected", "ASK": "redirected", "TRYAGAIN": "redirected"}


def bulk(words: Sequence[bytes]) -> bytes:
    """Words as RESP's bulk strings."""
    return b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in words])


class ScriptTarget:
    """A script with the keys of one slot: everything of its command that is the same each time, made once.

    The script's source, which is many times as long as the rest, is put in only where it is sent.
    """

    __slots__ = ("_keys_at", "_script", "_words", "by_sha", "slot")

    def __init__(self, script: Script, slot: int, keys: Sequence[bytes], arguments: Sequence[bytes], more: int) -> None:
        """`more` further arguments follow `arguments` with each call."""
        self.slot = slot
        self._script, self._words = script, 3 + len(keys) + len(arguments) + more
        head = self._head(b"EVALSHA", script.sha)
        self._keys_at = len(head)
        self.by_sha = head + bulk((b"%d" % len(keys), *keys, *arguments))

    @property
    def by_source(self) -> bytes:
        """The same with the script's source, for a server that doesn't have it."""
        return self._head(b"EVAL", self._script.source) + self.by_sha[self._keys_at :]

    def _head(self, command: bytes, script: bytes) -> bytes:
        return b"*%d\r\n" % self._words + bulk((command, script))


class RoutedCall:
    """A script call; subclasses say what it carries and what becomes of it."""

    __slots__ = ("_router", "resent", "since_s", "target", "tries", "trouble", "with_source")

    def __init__(self, router: Router, target: ScriptTarget, now_s: float) -> None:
        self._router = router
        self.target = target
        self.resent = False
        self.with_source = False
        self.tries = 0
        self.trouble = ""
        """What its shard said last that is the matter with it; empty if it said no such thing."""
        self.since_s = now_s

    def arguments(self) -> bytes:
        """The arguments that this call adds to its target's, as bulk strings."""
        raise NotImplementedError

    def resolved(self, reply: Any) -> None:
        """The script ran; this is its reply."""
        raise NotImplementedError

    def failed(self, reason: str) -> None:
        """The script did not run and will not, or nobody can tell any more and it no longer matters."""
        raise NotImplementedError

    def is_wanted(self) -> bool:
        """Whether anybody is served by sending it (again)."""
        return True

    def held_up(self) -> None:
        """Its slot is on the move, and the server has only some of the keys. It is tried again until it runs."""

    def refused(self, reason: str) -> None:
        """The server refused it for what it is, so that nothing ran: to send it again at once won't help."""
        self.failed(reason)

    def unreadable(self) -> None:
        """Something that isn't this script answered, or `resolved` couldn't read the reply and did nothing."""
        self.failed("the store answered what is no reply to a script")

    # ---- store.acknowledged.Command ----------------------------------------------------------------------------------

    def wire(self) -> bytes:
        target = self.target
        return (target.by_source if self.with_source else target.by_sha) + self.arguments()

    def replied(self, reply: Any) -> None:
        if isinstance(reply, hiredis.ReplyError):
            self._router.refused(self, str(reply))
            return
        try:
            self.resolved(reply)
        except Exception as error:
            self._router.note_unreadable(reply, error)
            self.unreadable()  # a call that never ended would block its key for good

    def lost(self) -> None:
        self.resent = True
        self._router.lost(self)


class _Asking:
    """Goes in front of a command that a shard answers for a slot it is about to own; in the same write, so in order."""

    __slots__ = ()

    def wire(self) -> bytes:
        return b"*1\r\n$6\r\nASKING\r\n"

    def replied(self, reply: Any) -> None:
        pass

    def lost(self) -> None:
        pass


class Router:
    """Sends calls to the shard that owns their slot.

    `give_up_s`: how long a call that has not run may go on being tried. One that may have run is asked about until the
    store has answered: a server that stood still runs what lies in its buffers whenever it goes on.
    """

    def __init__(self, topology: Topology, give_up_s: float) -> None:
        self.loop = asyncio.get_running_loop()
        self._topology = topology
        self._give_up_s = give_up_s
        self._closed = False
        self.retries = 0
        self.errors: Counter[str] = Counter()
        """Calls that the store did not simply answer: ``lost`` with their connection, ``refused``, ``redirected`` to
        another server, ``reloaded`` because the script was not there, ``unreadable`` where the reply made no sense."""
        self._told_until_s: dict[str, float] = {}
        topology.on_orphans = self._adopt

    def send(self, calls: Sequence[RoutedCall]) -> None:
        """Send calls: one write per shard."""
        by_connection: dict[ServerConnection, list[Command]] = {}
        for call in calls:
            connection = self._topology.owner(call.target.slot)
            if connection is None:
                self._again(call, _LATER_S)
            elif connection in by_connection:
                by_connection[connection].append(call)
            else:
                by_connection[connection] = [call]
        for connection, commands in by_connection.items():
            connection.send(commands)

    def lost(self, call: RoutedCall) -> None:
        """The connection broke under the call: whether it ran is unknown."""
        self.errors["lost"] += 1
        self._topology.refresh_soon()
        self._again(call, 0)

    def refused(self, call: RoutedCall, error: str) -> None:
        """The server answered with an error, which means that the script did not run or changed nothing."""
        kind, _, rest = error.partition(" ")
        self.errors[_ERROR_KINDS.get(kind, "refused")] += 1
        if kind == "NOSCRIPT":
            call.with_source = True
            self._again(call, 0)
        elif kind == "MOVED":
            slot, _, address = rest.partition(" ")
            self._topology.moved(int(slot), address)
            self._again(call, 0)
        elif kind == "ASK":
            slot, _, address = rest.partition(" ")
            self._topology.connection_to(int(slot), address).send([_Asking(), call])
            self.retries += 1
        elif kind == "TRYAGAIN":
            call.held_up()
            self._again(call, _SOON_S)
        elif kind in _TRY_LATER:
            call.trouble = error[:100]
            self._topology.refresh_soon()
            if call.is_wanted():
                self._again(call, _LATER_S)
            else:
                call.failed(call.trouble)
        else:
            self._tell(f"store refused a script: {kind}", "store_refused", error)
            call.refused(error[:200])

    def ask_again(self, call: RoutedCall) -> None:
        """Send a call again soon: nobody can tell whether it ran, since what came back made no sense."""
        call.resent = True
        self._again(call, _SOON_S)

    def note_unreadable(self, reply: Any, error: Exception) -> None:
        """Count a reply that no script of ours can have sent, and log it."""
        self.errors["unreadable"] += 1
        self._tell("the store sent what is no reply to a script", "store_reply_unreadable", f"{reply!r:.100} ({error})")

    def _tell(self, what: str, event: str, why: str) -> None:
        """Log an error, unless the same was logged within the last minute: each call could repeat it."""
        now_s = self.loop.time()
        if now_s >= self._told_until_s.get(what, 0.0):
            if len(self._told_until_s) >= _KINDS_TOLD:
                self._told_until_s.clear()
            self._told_until_s[what] = now_s + _TELL_EVERY_S
            log.error("%s: %.200s", what, why, extra={"event": event})

    def _again(self, call: RoutedCall, delay_s: float) -> None:
        self.retries += 1
        call.tries += 1
        if call.tries > _QUICK_TRIES:  # two servers that point at each other, for one
            delay_s = max(delay_s, min(_LATER_S * (call.tries - _QUICK_TRIES), _LAST_S))
        if self._closed or self._is_too_old(call):
            call.failed(_NO_ANSWER)
        elif delay_s:
            self.loop.call_later(delay_s, self._again_now, call)
        else:
            # Not at once: a connection tells all its commands that they are lost before it is ready to take new ones.
            self.loop.call_soon(self._again_now, call)

    def _adopt(self, commands: Sequence[Command]) -> None:
        calls = []
        for command in commands:
            if isinstance(command, RoutedCall):
                if self._is_over(command):
                    command.failed(_NO_ANSWER)
                else:
                    calls.append(command)
        self.send(calls)

    def _is_over(self, call: RoutedCall) -> bool:
        return not call.is_wanted() or self._is_too_old(call)

    def _is_too_old(self, call: RoutedCall) -> bool:
        return not call.resent and self.loop.time() - call.since_s > self._give_up_s

    def _again_now(self, call: RoutedCall) -> None:
        if self._closed:
            call.failed("the node is stopping")
        elif self._is_over(call):
            call.failed(_NO_ANSWER)
        else:
            self.send([call])

    def close(self) -> None:
        """From now on what is lost fails instead of being sent again."""
        self._closed = True
