"""One shard core: a server that runs the scripts, the calls of plain keys on it, and the CPU that calls take.

Commands are sent on one connection in pipelines of 64, as a busy node does. Times are those of the *server's* CPU (INFO
cpu), so that the speed of this client doesn't count.
"""

from __future__ import annotations

import itertools
import socket
from collections.abc import Sequence

import hiredis
from redis import Redis

from limiter_node.limits import KeyLimits
from limiter_node.store.codec import DECIDED, pack_admit, pack_batch
from limiter_node.store.keyspace import limits_key, past_key, window_key
from limiter_node.store.scripts import Script, load_script
from limiter_node.store.values import pack_limits

PIPELINE = 64
UNLIMITED = 4_000_000_000
INPUT_TOKENS, OUTPUT_TOKENS = 25, 129
NODE = "0a1b2c3d"
_KEYS = (limits_key, window_key, past_key)


class Shard:
    """Hold a server and make the commands that decide on it."""

    def __init__(self, port: int) -> None:
        self.redis = Redis(port=port)
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._reader = hiredis.Reader()
        self.script = self.loaded(load_script("decide").source)
        self.numbers = itertools.count(1)

    def close(self) -> None:
        """Close the connections."""
        self.redis.close()
        self._socket.close()

    def loaded(self, source: bytes) -> Script:
        """Give a script to the server."""
        return Script(source, str(self.redis.script_load(source.decode())).encode())

    def declare(self, kid: str, rpm: int = UNLIMITED, tpm: int = UNLIMITED) -> None:
        """Set the limits of the key `kid` in the store."""
        self.redis.set(limits_key(kid), pack_limits(KeyLimits(rpm, tpm, UNLIMITED, 256, "a-key")))

    def memory(self, kid: str) -> float:
        """Return the bytes that all of a key takes: limits, window, past."""
        return float(sum(self.redis.memory_usage(key(kid), samples=0) or 0 for key in _KEYS))

    def keep(self, *keys: str) -> None:
        """Let these keys of the store outlast the benchmark, whose calls go by a clock of their own."""
        for key in keys:
            self.redis.persist(key)

    def command(
        self, kid: str, operations: list[bytes], clock_ms: int = 0, script: Script | None = None, *, node: str = NODE
    ) -> bytes:
        """Return one call of `node` that decides a batch of a plain key."""
        batch = pack_batch(next(self.numbers), operations, resent=False, clock_ms=clock_ms)
        keys = (key(kid) for key in _KEYS)
        sha = (script or self.script).sha
        command: bytes = hiredis.pack_command(("EVALSHA", sha, "3", *keys, node, batch))  # type: ignore[arg-type]
        return command

    def fill(self, kid: str, requests: int, end_ms: int) -> None:
        """Admit so many requests of a plain key, spread over the 60 s that end at `end_ms`."""
        batches = min(requests, 600)
        for i in range(batches):
            size = requests // batches
            clock_ms = end_ms - 60_000 + i * 60_000 // batches
            operations = [pack_admit(INPUT_TOKENS, OUTPUT_TOKENS, 0)] * size
            self.run([self.command(kid, operations[at : at + 2000], clock_ms) for at in range(0, size, 2000)])

    def run(self, commands: Sequence[bytes]) -> float:
        """Run calls that decide, in pipelines; return the server's CPU seconds."""
        before = self.cpu_s()
        for start in range(0, len(commands), PIPELINE):
            self.replies(commands[start : start + PIPELINE])
        return self.cpu_s() - before

    def replies(self, commands: Sequence[bytes]) -> list[bytes]:
        """Send calls that decide at once; return their replies. Raises RuntimeError if one wasn't decided."""
        replies: list[bytes] = []
        self._socket.sendall(b"".join(commands))
        while len(replies) < len(commands):
            self._reader.feed(self._socket.recv(1 << 20))
            while (reply := self._reader.gets()) is not False:
                if isinstance(reply, Exception):
                    raise reply
                if not isinstance(reply, bytes) or reply[0] != DECIDED:
                    raise RuntimeError(f"not decided: {reply!r}")
                replies.append(reply)
        return replies

    def cpu_s(self) -> float:
        """Return the CPU seconds that the server has used since its start."""
        cpu = self.redis.info("cpu")
        return float(cpu["used_cpu_user"]) + float(cpu["used_cpu_sys"])
