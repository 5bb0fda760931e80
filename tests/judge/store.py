"""The store under the nodes, and what the judge does to it with a plain client: never through the node's own code."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any
from unittest import mock

from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster

from limiter_node.store.embedded.server import EmbeddedServer
from limiter_node.store.embedded.stores import EmbeddedStore

from .account_store import AccountStore
from .records import NOTHING, Peek, Triple, plus

_PEEK = (files("lua") / "peek.lua").read_text()
_DUMP = "return { redis.call('DUMP', KEYS[1]), redis.call('DUMP', KEYS[2]) }"
_RESTORE = """
for i = 1, 2 do
    if ARGV[i] == '' then redis.call('DEL', KEYS[i])
    else redis.call('RESTORE', KEYS[i], ARGV[3], ARGV[i], 'REPLACE') end
end
return 1
"""
_KEPT_MS = 60_000
_NAME = "judge"
_MIGRATE = "restore-asking"
_BUCKET = struct.Struct("<QIII")
_LIBRARIES = [
    Path(os.environ.get("JUDGE_FAKETIME", "/nowhere")),
    *sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1")),
]
FAKETIME = next((path for path in _LIBRARIES if path.exists()), None)
"""Debian's package libfaketime: a clock that can be stepped. None where it isn't installed."""


def names(kid: str) -> tuple[str, str, str]:
    """Return the names of a key's limits, window and past in the store."""
    return f"rl:{{{kid}}}:limits", f"rl:{{{kid}}}:window", f"rl:{{{kid}}}:past"


class JudgedStore:
    """A running store. `commands` is held while no command can be answered, and during those that must not overlap."""

    def __init__(self, store: EmbeddedStore, clock: Path | None) -> None:
        self.embedded, self._clock = store, clock
        self.commands = asyncio.Lock()
        self._client: Any = None
        self._per_server: dict[int, Redis] = {}
        self._stopped: set[int] = set()

    @property
    def url(self) -> str:
        """What nodes are given that have no proxy."""
        return self.embedded.url

    @property
    def is_cluster(self) -> bool:
        """Whether it has several servers."""
        return self.embedded.mode == "cluster"

    @property
    def servers(self) -> list[EmbeddedServer]:
        """Its processes."""
        return self.embedded.servers

    @property
    def client(self) -> Any:
        """A client that finds the owner of a key."""
        if self._client is None:
            port = self.servers[0].port
            self._client = (
                RedisCluster(host="127.0.0.1", port=port, client_name=_NAME)
                if self.is_cluster
                else self.server_client(0)
            )
        return self._client

    def server_client(self, number: int) -> Redis:
        """A client of one server."""
        port = self.servers[number].port
        if port not in self._per_server:
            self._per_server[port] = Redis(port=port, client_name=_NAME)
        return self._per_server[port]

    async def close(self) -> None:
        """Close the clients."""
        self.go_on()
        if self.is_cluster and self._client is not None:
            await self._client.aclose()
        for client in self._per_server.values():
            await client.aclose()

    # ---- what is asked of it -----------------------------------------------------------------------------------------

    async def connections(self) -> list[str]:
        """Return what clients are connected, but for the judge's own and servers that migrate keys."""
        lists = [await self.server_client(number).client_list() for number in range(len(self.servers))]
        return [
            f"{client['addr']} {client['cmd']}"
            for clients in lists
            for client in clients
            if client["name"] != _NAME and client["cmd"] != _MIGRATE
        ]

    @property
    def accounts(self) -> AccountStore:
        """The accounts in it."""
        return AccountStore(self.client)

    async def peek(self, kid: str, window_buckets: int) -> Peek | None:
        """Return what the store counts of a key."""
        reply = await self.client.eval(_PEEK, 3, *names(kid), window_buckets, 0)
        if reply is None:
            return None
        time_ms, _, packed = reply
        buckets: dict[int, Triple] = {}
        for bucket, *amounts in _BUCKET.iter_unpack(packed):
            requests, input_tokens, output_tokens = amounts
            buckets[bucket] = plus(buckets.get(bucket, NOTHING), (requests, input_tokens, output_tokens))
        return Peek(time_ms, buckets)

    # ---- what is done to it ------------------------------------------------------------------------------------------

    def freeze(self, number: int) -> None:
        """Stop a server's process."""
        self._stopped.add(self.servers[number].pid)
        os.kill(self.servers[number].pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """Let all stopped processes go on."""
        while self._stopped:
            os.kill(self._stopped.pop(), signal.SIGCONT)

    async def lose(self, kid: str, *, with_limits: bool) -> None:
        """Delete all that is counted of a key, in one command."""
        limits, window, past = names(kid)
        await self.client.delete(*((limits,) if with_limits else ()), window, past)

    async def lose_all(self) -> None:
        """Delete everything."""
        for number in range(len(self.servers)):
            await self.server_client(number).flushall()

    async def dump(self, kid: str) -> list[bytes | None]:
        """Return window and past as they are, at one moment."""
        dumped: list[bytes | None] = await self.client.eval(_DUMP, 2, *names(kid)[1:])
        return dumped

    async def restore(self, kid: str, dumped: list[bytes | None]) -> None:
        """Put window and past back, at one moment."""
        await self.client.eval(_RESTORE, 2, *names(kid)[1:], *(each or b"" for each in dumped), _KEPT_MS)

    async def move_slot(self, keys: list[str], rng: random.Random) -> None:
        """Move the slot of these names to another master: a name at a time, in any order, with pauses."""
        clients = [self.server_client(number) for number in range(len(self.servers))]
        slot = await clients[0].execute_command("CLUSTER", "KEYSLOT", keys[0])
        ids = [(await client.execute_command("CLUSTER", "MYID")).decode() for client in clients]
        owner = await self._owner(slot)
        target = rng.choice([number for number in range(len(clients)) if number != owner])
        pause_s = rng.choice((0.0, 0.005, 0.05))
        await clients[target].execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[owner])
        await clients[owner].execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target])
        await asyncio.sleep(pause_s)
        rng.shuffle(keys)
        port = self.servers[target].port
        for key in keys:
            await clients[owner].execute_command("MIGRATE", "127.0.0.1", port, key, 0, 5000)
            await asyncio.sleep(pause_s)
        # What was made meanwhile, or belongs to another key of the slot.
        while left := await clients[owner].execute_command("CLUSTER", "GETKEYSINSLOT", slot, 10):
            await clients[owner].execute_command("MIGRATE", "127.0.0.1", port, "", 0, 5000, "KEYS", *left)
        for number in (target, owner):
            await clients[number].execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[target])

    async def _owner(self, slot: int) -> int:
        """Return the number of the server that owns it."""
        for first, last, (_, port, *_), *_ in await self.server_client(0).execute_command("CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return [server.port for server in self.servers].index(port)
        raise LookupError(slot)

    def step_clock(self, by_s: float) -> None:
        """Set how far the server's clock is off the machine's."""
        assert self._clock is not None
        self._clock.write_text(f"{by_s:+f}")

    async def time_ms(self) -> float:
        """Return the server's clock."""
        seconds, micros = await self.server_client(0).time()
        return float(seconds * 1000 + micros / 1000)


@asynccontextmanager
async def judged_store(kind: str, binary: str | None, *, steps_clock: bool = False) -> AsyncIterator[JudgedStore]:
    """Run a store: ``single`` or ``cluster``, by that server program; None is the one that is carried along."""
    faked = {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": "clock",  # each server has a directory of its own
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    embedded = EmbeddedStore("cluster" if kind == "cluster" else "single", binary=binary)
    with mock.patch.dict(os.environ, faked if steps_clock else {}):
        await embedded.start()
    store = JudgedStore(embedded, embedded.servers[0].directory / "clock" if steps_clock else None)
    try:
        yield store
    finally:
        await store.close()
        embedded.stop()
