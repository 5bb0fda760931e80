"""The queues of the keys that a node deals with: keys that it has met, and keys that may be invented.

A key is met once the store has replied that it exists, or was deleted. It is kept until `MOST` others have been used
since. Then the least recently used one goes, with the node's knowledge of it, as soon as nothing that the node admitted
of it can be in the window. Beyond `MOST_OF_ALL` it goes sooner: in an outage the node may then admit its share of that
key again.

An unmet key is kept only as long as something of it waits or is under way, so that invented keys cost what their
requests cost.
"""

from __future__ import annotations

from collections import OrderedDict

from limiter_node.limits import bucket_life_ms
from limiter_node.store.accounts.member import FurtherCredential, Member
from limiter_node.store.batch import SendQueue
from limiter_node.store.key_queue import KeyQueue
from limiter_node.store.keyspace import decision_keys, slot_of
from limiter_node.store.knowledge import KeyKnowledge
from limiter_node.store.scripts import Script
from limiter_node.store.wire.script_target import ScriptTarget

MOST, MOST_OF_ALL = 20_000, 100_000
_LOOKED_AT = 64
"""The number of least recently used keys to check when a new one is met."""


class KeyQueues(OrderedDict[str, "KeyQueue | Member | FurtherCredential"]):
    """The met keys by the digest of the credential that leads to them, the least recently used first.

    Looking one up with ``[]`` makes the queue of any key. A plain key has one credential, whose digest is its `kid`.

    `incarnation` is this process's name in the store's records.
    """

    def __init__(self, decide: Script, incarnation: bytes, window_buckets: int) -> None:
        super().__init__()
        self._decide, self._incarnation, self._window_buckets = decide, incarnation, window_buckets
        self._window_s = bucket_life_ms(window_buckets) / 1000
        self.unmet: dict[str, KeyQueue] = {}
        """The unmet keys by `kid`."""

    def __missing__(self, kid: str) -> KeyQueue:
        queue = self.unmet.get(kid)
        if queue is None:
            target = ScriptTarget(
                self._decide,
                slot_of(kid),
                decision_keys(kid),
                (self._incarnation,),
                1,
            )
            queue = self.unmet[kid] = KeyQueue(kid, target, KeyKnowledge(self._window_buckets))
        return queue

    def meet_member(self, member: Member, cid: str) -> Member | FurtherCredential:
        """Keep a key of an account from now on, for requests with the credential `cid`."""
        asker = member if member.kid == cid else FurtherCredential(member, cid)
        self.unmet.pop(cid, None)
        self[cid] = asker
        self._make_room()
        return asker

    def find(self, cid: str) -> KeyQueue | Member | FurtherCredential | None:
        """Return the queue of a key if there is one."""
        return self.get(cid) or self.unmet.get(cid)

    def meet(self, queue: KeyQueue) -> None:
        """Keep a key from now on: the store has replied something about it."""
        if self.unmet.get(queue.kid) is not queue:
            return  # it was forgotten meanwhile
        queue.is_met = True
        del self.unmet[queue.kid]
        self[queue.kid] = queue
        self._make_room()

    def _make_room(self) -> None:
        """Forget idle keys, the least recently used first, while there are more than `MOST`."""
        for _ in range(min(len(self) - MOST, _LOOKED_AT)):
            cid, queue = next(iter(self.items()))
            if not queue.is_idle:
                self.move_to_end(cid)
            elif len(self) > MOST_OF_ALL or queue.heard_s_ago() > self._window_s:
                del self[cid]
            else:
                break  # this node may have used up the key's limit, and that of all keys used later

    def drop_unmet(self, queue: SendQueue) -> None:
        """Forget an unmet key once nothing of it waits."""
        if not queue.is_met and queue.is_idle:
            self.unmet.pop(queue.kid, None)

    def knows_any(self) -> bool:
        """Whether some key can be decided without the store."""
        return any(queue.is_valid for queue in self.values())
