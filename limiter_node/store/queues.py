"""The queues of the keys that a node has to do with: a bounded cache of their commands' bytes and of what is known of
them.

Bounded by forgetting idle ones, a tenth of all at a time: of those made longest ago, what the store has told nothing of
for a window's length; where there are none such, any.
"""

from __future__ import annotations

import asyncio
from binascii import crc_hqx
from itertools import islice

from limiter_node.store.batch import KeyQueue
from limiter_node.store.codec import BUCKET_MS, Script
from limiter_node.store.keyspace import limits_key, past_key, window_key
from limiter_node.store.own_window import OwnWindow
from limiter_node.store.routing import ScriptTarget

MOST = 20_000


class KeyQueues(dict[str, KeyQueue]):
    """By `kid`; looking one up with ``[]`` makes it. `incarnation` is this process's name in the store's records.

    `remembers`: whether what this node had admitted is kept, for a policy that decides without the store.
    """

    def __init__(self, decide: Script, incarnation: bytes, window_buckets: int, *, remembers: bool) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._decide, self._incarnation = decide, incarnation
        self._window_buckets, self._remembers = window_buckets, remembers

    def __missing__(self, kid: str) -> KeyQueue:
        if len(self) >= MOST:
            self._forget_some()
        target = ScriptTarget(
            self._decide,
            crc_hqx(kid.encode(), 0) % 16384,
            (limits_key(kid).encode(), window_key(kid).encode(), past_key(kid).encode()),
            (self._incarnation,),
            1,
        )
        queue = self[kid] = KeyQueue(kid, target, OwnWindow(self._window_buckets) if self._remembers else None)
        return queue

    def knows_any(self) -> bool:
        """Whether the store has told of any key."""
        return any(queue.told is not None for queue in self.values())

    def drop_unknown(self, queue: KeyQueue) -> None:
        """Forget a key that may be invented: such keys must not drive out those that are known."""
        if queue.is_idle and queue.told is None:
            self.pop(queue.kid, None)

    def _forget_some(self) -> None:
        front = [self[kid] for kid in islice(self, MOST // 10)]
        idle = [queue for queue in front if queue.is_idle]
        before_s = self._loop.time() - self._window_buckets * BUCKET_MS / 1000
        forgotten = [queue for queue in idle if queue.told is None or queue.told_s < before_s] or idle
        for queue in front:
            del self[queue.kid]
        gone = set(forgotten)
        self.update((queue.kid, queue) for queue in front if queue not in gone)  # to the end of the line
