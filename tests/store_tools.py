"""What tests do to a store behind the node's back: declare limits, look at the raw bytes, count."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from redis import Redis
from redis.cluster import RedisCluster
from redis.exceptions import MovedError

from limiter_node.credentials import key_id
from limiter_node.declarations import AccountKey, Declarations
from limiter_node.limits import KeyLimits
from limiter_node.policy import AccountPolicy
from limiter_node.store.keyspace import limits_key, past_key, window_key
from limiter_node.store.url import parse_store_url
from limiter_node.store.values import pack_limits

_names = itertools.count()


@contextmanager
def store_client(url: str) -> Iterator[Any]:
    """A plain redis-py client of the store at `url`."""
    address = parse_store_url(url)
    host, port = address.endpoints[0]
    client: Any = RedisCluster(host=host, port=port) if address.cluster else Redis(host=host, port=port)
    try:
        yield client
    finally:
        client.close()


def new_api_key() -> str:
    """A key that no other test uses: stores are shared by the session."""
    return f"sk-test-{next(_names)}"


def declare(
    url: str,
    api_key: str,
    *,
    rpm: int = 1_000_000,
    input_tpm: int = 1_000_000_000,
    output_tpm: int = 1_000_000_000,
    output_reserve: int = 256,
    name: str = "tester",
) -> str:
    """Set a key's limits, out of reach unless given; its kid."""
    kid = key_id(api_key)
    limits = KeyLimits(rpm, input_tpm, output_tpm, output_reserve, name)
    _execute(url, "SET", limits_key(kid), pack_limits(limits))
    return kid


def raw_counters(url: str, kid: str) -> list[bytes | None]:
    """The serialized bytes of everything that is stored of the key."""
    return [_execute(url, "DUMP", key(kid)) for key in (limits_key, window_key, past_key)]


def _execute(url: str, *command: str | bytes) -> Any:
    """Return the reply to a command on one key; a cluster's client would first ask for its map, for 30 ms of CPU."""
    host, port = parse_store_url(url).endpoints[0]
    with Redis(host=host, port=port) as client:
        try:
            return client.execute_command(*command)
        except MovedError as error:
            moved = error
    with Redis(host=moved.host, port=moved.port) as owner:
        return owner.execute_command(*command)


class Declared:
    """A keys file in memory, as `limiter_node.keysfile.watching.KeysFile` is one on disk; see
    `store.decisions.declared_file.DeclaredKeys`.

    It is an hour old at first. `keys` are plain ones, `members` those of accounts, `accounts` the named ones; all may
    be changed at any time. `error` is raised instead of an answer.
    """

    def __init__(
        self,
        keys: Mapping[str, KeyLimits] | None = None,
        error: Exception | None = None,
        *,
        accounts: Sequence[AccountPolicy] = (),
        members: Sequence[AccountKey] = (),
    ) -> None:
        self.keys, self.error = dict(keys or {}), error
        self.accounts = {each.name: each for each in accounts}
        self.members = {each.key.kid: each for each in members}
        self.reads = 0
        self._read = Declarations()
        self._changed_s: dict[str, float] = {}

    def declarations(self) -> Declarations:
        self.reads += 1
        if self.error is not None:
            raise self.error
        now = Declarations(dict(self.keys), dict(self.accounts), dict(self.members))
        for name in now.names():
            if self._read.entry(name) != now.entry(name):
                self._changed_s[name] = time.monotonic() - (3_600 if self.reads == 1 else 0)
        self._read = now
        return now

    def changed_s_ago(self, name: str) -> float:
        return time.monotonic() - self._changed_s[name]

    def was_declared(self, name: str) -> bool:
        return name in self._changed_s
