"""Script calls on their way to the shard that owns their slot, and what happens to those that don't get through.

All retry rules of decisions are here, and they are ours: redis-py retries a command up to ten times by itself, which
counts a request as often. A call given to the router ends exactly once, by `on_result` or by `on_failed`; until then it
is sent again as often as needed, which is safe because the script answers a batch it has decided from its record.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

import hiredis

from limiter_node.store.wire.commands import Asking, Command
from limiter_node.store.wire.script_target import ScriptTarget
from limiter_node.store.wire.store_connection import ServerConnection
from limiter_node.store.wire.topology import Topology

log = logging.getLogger(__name__)

_SOON_S, _LATER_S, _LAST_S = 0.005, 0.05, 0.5
_QUICK_TRIES = 5
_LOG_EVERY_S, _KINDS_LOGGED = 60.0, 100
_NO_REPLY = "the store did not reply"

# Error replies of a server that can decide nothing for now: the script has not run.
_TRY_LATER = frozenset(
    (
        *("CLUSTERDOWN", "LOADING", "MASTERDOWN", "READONLY", "BUSY", "NOREPLICAS", "UNBLOCKED", "OOM", "MISCONF"),
        *("NOPERM", "NOAUTH"),  # a login whose rights are being changed
    )
)
_ERROR_KINDS = {"NOSCRIPT": "reloaded", "MOVED": "redirected", "ASK": "redirected", "TRYAGAIN": "redirected"}


class RoutedCall:
    """A script call that the router sends until it has ended; subclasses give its arguments and handle its end."""

    __slots__ = ("_router", "resent", "since_s", "target", "tries", "trouble", "with_source")

    def __init__(self, router: Router, target: ScriptTarget, now_s: float) -> None:
        self._router = router
        self.target = target
        self.resent = False
        self.with_source = False
        self.tries = 0
        self.trouble = ""
        """The last error reply that its shard can't decide for now; empty if there was none."""
        self.since_s = now_s

    def arguments(self) -> bytes:
        """The arguments that this call adds to its target's, as bulk strings."""
        raise NotImplementedError

    def on_result(self, reply: Any) -> None:
        """Take the script's reply: it ran."""
        raise NotImplementedError

    def on_failed(self, reason: str) -> None:
        """End: the script did not run and will not, or that is unknown and no longer matters."""
        raise NotImplementedError

    def is_wanted(self) -> bool:
        """Whether anybody still needs the call to be sent (again)."""
        return True

    def on_held_up(self) -> None:
        """Note that its slot is moving, and the server has only some of its keys. The call is sent again."""

    def on_refused(self, reason: str) -> None:
        """End: the server refused the call itself. Nothing ran, and sending it again at once won't help."""
        self.on_failed(reason)

    def expects_error(self, kind: str) -> bool:
        """Whether an error reply of that kind tells this call something; `on_refused` then says what is wrong."""
        return False

    def on_unreadable(self) -> None:
        """Take a reply that isn't this script's: `on_result` couldn't read it and did nothing."""
        self.on_failed("the store's reply is not one of this script")

    # ---- store.wire.commands.Command -------------------------------------------------------------------------------

    def to_wire(self) -> bytes:
        target = self.target
        return (target.by_source if self.with_source else target.by_sha) + self.arguments()

    def on_reply(self, reply: Any) -> None:
        if isinstance(reply, hiredis.ReplyError):
            self._router.on_error(self, str(reply))
            return
        try:
            self.on_result(reply)
        except Exception as error:
            self._router.note_unreadable(reply, error)
            self.on_unreadable()  # a call that never ended would block its key for good

    def on_lost(self) -> None:
        self.resent = True
        self._router.on_lost(self)


class Router:
    """Send calls to the shard that owns their slot.

    `give_up_s`: how long a call that has not run is retried. A call that may have run is repeated until the store has
    replied: a server that stood still runs what lies in its buffers whenever it goes on.
    """

    def __init__(self, topology: Topology, give_up_s: float) -> None:
        self.loop = asyncio.get_running_loop()
        self._topology = topology
        self._give_up_s = give_up_s
        self._closed = False
        self.retries = 0
        self.errors: Counter[str] = Counter()
        """Calls without a plain reply: ``lost`` with their connection, ``refused``, ``redirected`` to
        another server, ``reloaded`` because the script was not there, ``unreadable`` where the reply made no sense."""
        self._silent_until_s: dict[str, float] = {}

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

    def on_lost(self, call: RoutedCall) -> None:
        """Send a call again, because its connection broke: whether the script ran is unknown."""
        self.errors["lost"] += 1
        self._topology.refresh_soon()
        self._again(call, 0)

    def on_error(self, call: RoutedCall, error: str) -> None:
        """Take an error reply: the script did not run, or changed nothing. What follows depends on the kind."""
        kind, _, rest = error.partition(" ")
        if call.expects_error(kind):
            call.on_refused(error[:200])
            return
        self.errors[_ERROR_KINDS.get(kind, "refused")] += 1
        if kind == "NOSCRIPT":
            call.with_source = True
            self._again(call, 0)
        elif kind == "MOVED":
            slot, _, address = rest.partition(" ")
            self._topology.on_moved(int(slot), address)
            self._again(call, 0)
        elif kind == "ASK":
            slot, _, address = rest.partition(" ")
            self._topology.connection_to(int(slot), address).send([Asking(), call])
            self.retries += 1
        elif kind == "TRYAGAIN":
            call.on_held_up()
            self._again(call, _SOON_S)
        elif kind in _TRY_LATER:
            call.trouble = error[:100]
            self._topology.refresh_soon()
            if call.is_wanted():
                self._again(call, _LATER_S)
            else:
                call.on_failed(call.trouble)
        else:
            self._log_refused(kind, error)
            call.on_refused(error[:200])

    def ask_again(self, call: RoutedCall) -> None:
        """Send a call again soon, because its reply made no sense: whether the script ran is unknown."""
        call.resent = True
        self._again(call, _SOON_S)

    def note_unreadable(self, reply: Any, error: Exception) -> None:
        """Count and log a reply that none of our scripts can have sent."""
        self.errors["unreadable"] += 1
        self._log("the store's reply is not one of the script", "store_reply_unreadable", f"{reply!r:.100} ({error})")

    def note_refused(self, error: str) -> None:
        """Count and log an error that a call expected, once it has turned out to be one."""
        self.errors["refused"] += 1
        self._log_refused(error.partition(" ")[0], error)

    def _log_refused(self, kind: str, error: str) -> None:
        self._log(f"store refused a script: {kind}", "store_refused", error)

    def _log(self, what: str, event: str, why: str) -> None:
        """Log an error, unless the same was logged within the last minute: each call could repeat it."""
        now_s = self.loop.time()
        if now_s >= self._silent_until_s.get(what, 0.0):
            if len(self._silent_until_s) >= _KINDS_LOGGED:
                self._silent_until_s.clear()
            self._silent_until_s[what] = now_s + _LOG_EVERY_S
            log.error("%s: %.200s", what, why, extra={"event": event})

    def _again(self, call: RoutedCall, delay_s: float) -> None:
        self.retries += 1
        call.tries += 1
        if call.tries > _QUICK_TRIES:  # for example two servers that refer to each other
            delay_s = max(delay_s, min(_LATER_S * (call.tries - _QUICK_TRIES), _LAST_S))
        if self._closed or self._is_too_old(call):
            call.on_failed(_NO_REPLY)
        elif delay_s:
            self.loop.call_later(delay_s, self._again_now, call)
        else:
            # Not at once: a connection loses all its commands before it is ready to take new ones.
            self.loop.call_soon(self._again_now, call)

    def send_again(self, commands: Sequence[Command]) -> None:
        """Send calls that a connection could not send, if anybody still wants them. Other commands are dropped."""
        calls = []
        for command in commands:
            if isinstance(command, RoutedCall):
                if self._is_over(command):
                    command.on_failed(_NO_REPLY)
                else:
                    calls.append(command)
        self.send(calls)

    def _is_over(self, call: RoutedCall) -> bool:
        return not call.is_wanted() or self._is_too_old(call)

    def _is_too_old(self, call: RoutedCall) -> bool:
        return not call.resent and self.loop.time() - call.since_s > self._give_up_s

    def _again_now(self, call: RoutedCall) -> None:
        if self._closed:
            call.on_failed("the node is stopping")
        elif self._is_over(call):
            call.on_failed(_NO_REPLY)
        else:
            self.send([call])

    def close(self) -> None:
        """Fail calls from now on instead of sending them again."""
        self._closed = True
