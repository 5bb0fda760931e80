"""A scene for faults: a store as deploy/ configures it, real nodes, open-loop load, and what came of it.

Everything runs on loopback, for seconds, and ends with its scene.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import tomllib
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

from aiohttp import ClientSession
from fault_proxy import FaultProxy
from fleet import Fleet, running_fleet
from redis import Redis

from bench_client.records.record import Record
from bench_client.records.run_directory import open_records, read_info
from limiter_node.credentials import key_id
from limiter_node.decisions import Usage
from limiter_node.keysfile.reading import read_keys
from limiter_node.limits import BUCKET_MS
from limiter_node.store.admin.store_admin import administering
from limiter_node.store.embedded.server import EmbeddedServer
from limiter_node.store.embedded.stores import EmbeddedStore
from limiter_node.store.url import parse_store_url

ROOT = Path(__file__).parents[2]
KEYS, RPM, QPS = 20, 150, 400
"""More than the keys' limits allow, so that they are reached within some seconds."""
Row = Callable[..., None]
"""See the fixture `row`."""
BEFORE_S = 1.5
"""How long all is well before a fault."""
IS_TIMED = bool(os.environ.get("CHAOS"))
"""Whether times are bounded, and nodes must not be overloaded: where nothing else runs, as beside `make chaos`."""

# What a scene decides by itself, and what its machine has.
_OWN = {"port", "cluster-config-file", "cluster-enabled", "maxmemory", "dir", "bind", "protected-mode"}


def production_config() -> dict[str, str]:
    """The settings of deploy/valkey.conf, but for addresses and sizes."""
    lines = (ROOT / "deploy" / "valkey.conf").read_text().splitlines()
    settings = dict(line.split(maxsplit=1) for line in lines if line.strip() and not line.startswith("#"))
    return {name: value.strip('"') for name, value in settings.items() if name not in _OWN}


@dataclass
class Outcome:
    """What a load saw."""

    requests: int = 0
    admitted: int = 0
    rejected: int = 0
    degraded: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    shed: int = 0
    """Requests that the nodes say they turned away because their machine had no time for them; see `IS_TIMED`."""
    outage_ms: int = 0
    """From the first to the last request that was degraded, failed or turned away."""
    slowest_ms: int = 0
    """Of those that were answered, from when they were due."""
    proved: bool = False
    excess: int = 0
    """The most requests that any 60 s window held above its limit, those admitted without the store included."""
    counted: int = 0
    """Requests in the store's windows afterwards."""
    last_s: float = 0.0
    """When the last of what `outage_ms` counts was due, from the start of the load."""
    took_s: float = 0.0
    audit: str = ""
    held: int = 0
    """The most requests that any window of a key must have held: admitted between a time and a window later, by the
    client's clock, so whatever the limiter told of its own."""
    told_ahead_ms: int = -(10**9)
    """By how much the latest of the times told was ahead of this machine's clock, which the stores share."""
    records: list[Record] = field(default_factory=list, repr=False)

    @property
    def most_excess(self) -> int:
        """The bound of `excess` where no store fails: none.

        Where tests run side by side, nodes may get too little time of the machine to decide within the budget. Requests
        are decided without the store then, as `degraded` says, and windows hold less than twice their limits.
        """
        return 0 if IS_TIMED or not self.degraded else RPM


class Scene:
    """Nodes on a store."""

    def __init__(
        self, directory: Path, fleet: Fleet, store: EmbeddedStore, keys: Path, window_ms: int = 60_000
    ) -> None:
        self.directory, self.fleet, self.store, self.keys = directory, fleet, store, keys
        self.window_ms = window_ms
        self._runs = 0

    @property
    def masters(self) -> list[EmbeddedServer]:
        """The servers that are masters at the start."""
        return [server for server in self.store.servers if server.master_port is None]

    def replica_of(self, master: EmbeddedServer) -> EmbeddedServer:
        return next(server for server in self.store.servers if server.master_port == master.port)

    @contextmanager
    def client(self, server: EmbeddedServer) -> Iterator[Redis]:
        with Redis(port=server.port, socket_timeout=5) as client:
            yield client

    async def declare(self, keys: Path) -> None:
        """Make the keys of that file known."""
        async with administering(parse_store_url(self.store.url)) as admin:
            await admin.apply(read_keys(keys))

    async def under_load(
        self,
        fault: Callable[[], Awaitable[None]],
        seconds: float,
        *,
        qps: int = QPS,
        before_s: float = BEFORE_S,
        after_s: float = 0,
        arguments: Sequence[str] = (),
    ) -> Outcome:
        """Offer load, let the fault happen `before_s` after its first answers, and look at what came of it.

        A node decides without the store only for keys that it has met, so that load has to come before the fault.
        """
        self._runs += 1
        out = self.directory / f"run-{self._runs}"

        async def has_answers() -> bool:
            return any(spool.stat().st_size for spool in out.glob("responses.*.spool"))

        async with self.load(self.keys, out, qps, seconds, *arguments):
            await eventually(has_answers)
            await asyncio.sleep(before_s)
            await fault()
        await asyncio.sleep(after_s)
        return await self.judged(out)

    @asynccontextmanager
    async def load(self, keys: Path, out: Path, qps: int, seconds: float, *arguments: str) -> AsyncIterator[None]:
        """Load on all nodes, which has ended when the block has."""
        command = [sys.executable, "-m", "bench_client", "run", "--keys", str(keys), "--out", str(out)]
        for node in self.fleet.nodes:
            command += ["--target", node]
        command += ["--qps", str(qps), "--duration", str(seconds), "--seed", str(self._runs), "--timeout", "5"]
        load = await asyncio.create_subprocess_exec(
            *command, "--output-tokens", "fixed:5", *arguments, stdout=asyncio.subprocess.PIPE
        )
        try:
            yield
            async with asyncio.timeout(seconds + 30):
                await load.communicate()
        finally:
            if load.returncode is None:
                load.kill()
                await load.wait()

    async def judged(self, out: Path) -> Outcome:
        """The records of a run, and the audit's word on them."""
        audit = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bench_client", "audit", str(out), "--window-ms", str(self.window_ms)),
            stdout=asyncio.subprocess.PIPE,
        )
        said, _ = await audit.communicate()
        info = read_info(out)
        records = list(open_records(out, info))
        outcome = Outcome(proved=audit.returncode == 0, audit=said.decode(), records=records)
        outcome.held = _most_held(records, self.window_ms * 1000)
        told = [r.time_ms - info.started_unix_ms - r.done_us // 1000 for r in records if r.time_ms is not None]
        outcome.told_ahead_ms = max(told, default=outcome.told_ahead_ms)
        for record in records:
            _add(outcome, record)
        odd = [record.due_us for record in records if _is_odd(record)]
        if odd:
            outcome.outage_ms, outcome.last_s = (max(odd) - min(odd)) // 1000, max(odd) / 1e6
        report = json.loads((out / "audit.json").read_text())
        for worst in (report["worst_fill"], report["worst_fill_with_degraded"]):
            if (fill := worst.get("requests")) is not None:
                outcome.excess = max(outcome.excess, fill["used"] - fill["limit"])
        outcome.counted = await self.counted()
        outcome.shed = 0 if IS_TIMED else await self._shed()
        return outcome

    async def nodes_know_of_each_other(self) -> bool:
        """Whether each node counts all of them, so that its share without the store is no larger than it should be."""
        return set(await self._metrics("limiter_live_nodes")) == {len(self.fleet.nodes)}

    async def _shed(self) -> int:
        return sum(await self._metrics("limiter_shed_requests_total"))

    async def _metrics(self, name: str) -> list[int]:
        """Return a metric of each node."""
        pages = []
        async with ClientSession() as session:
            for node in self.fleet.nodes:
                async with session.get(f"{node}/metrics") as response:
                    pages.append(await response.text())
        return [int(float(value)) for value in re.findall(rf"(?m)^{name} (\S+)$", "\n".join(pages))]

    async def counted(self) -> int:
        """Requests in all windows."""
        return sum(usage.used.requests for usage in await self.usages())

    async def usages(self, keys: Path | None = None) -> list[Usage]:
        """The windows of the keys of that file (the load's) that the store knows."""
        async with administering(parse_store_url(self.store.url)) as admin:
            declared = tomllib.loads((keys or self.keys).read_text())["keys"]
            usages = [await admin.peek(key_id(key), self.window_ms // BUCKET_MS) for key in declared]
        return [usage for usage in usages if usage]


def _add(outcome: Outcome, record: Record) -> None:
    outcome.requests += 1
    if record.error is not None:
        outcome.errors[record.error] += 1
        return
    outcome.slowest_ms = max(outcome.slowest_ms, (record.done_us - record.due_us) // 1000)
    outcome.admitted += record.status == 200
    outcome.rejected += record.status == 429
    outcome.degraded += record.degraded is not None
    if record.status not in (200, 429):
        outcome.errors[str(record.status)] += 1


def _most_held(records: Sequence[Record], window_us: int) -> int:
    admitted: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        if record.status == 200 and record.sent_us is not None:
            admitted[record.key].append(record)
    most = 0
    for of_key in admitted.values():
        for first in of_key:
            begin_us = first.sent_us or 0
            # It was admitted after it was sent and before it was done: both in the window, so it was in the window.
            within = [r for r in of_key if (r.sent_us or 0) >= begin_us and r.done_us <= begin_us + window_us]
            most = max(most, len(within))
    return most


def _is_odd(record: Record) -> bool:
    return record.error is not None or record.degraded is not None or record.status not in (200, 429)


def write_keys(path: Path, rpm: int = RPM, name: str = "chaos", keys: int = KEYS) -> Path:
    """A keys file."""
    sections = [f'[keys."sk-{name}-{number}"]\nname = "{name}-{number}"\n' for number in range(keys)]
    path.write_text(f"[defaults]\nrpm = {rpm}\ninput_tpm = 10_000_000\noutput_tpm = 10_000_000\n" + "\n".join(sections))
    return path


@asynccontextmanager
async def scene(
    directory: Path,
    binary: str | None,
    *arguments: str,
    replicas: int = 0,
    rpm: int = RPM,
    window_ms: int = 60_000,
    login: str = "",
    server_environment: Mapping[str, str] | None = None,
    nodes: int = 2,
) -> AsyncIterator[Scene]:
    """Nodes, started with `arguments`, on a cluster of that server program, started with `server_environment`.

    With `login` the nodes log in as that user, whose password is "pw" and who may do everything at first.
    """
    keys = write_keys(directory / "keys.toml", rpm)
    store = EmbeddedStore("cluster", replicas=replicas, binary=binary, extra_config=production_config())
    with mock.patch.dict(os.environ, server_environment or {}):
        await store.start()
    url = store.url
    if login:
        url = url.replace("://", f"://{login}:pw@")
        for server in store.servers:
            with Redis(port=server.port) as client:
                client.execute_command("ACL", "SETUSER", login, "on", ">pw", "~*", "&*", "+@all")
    try:
        options = ("--store", url, "--keys", str(keys), "--mock-length", "fixed:5", "--window-ms", str(window_ms))
        with running_fleet(directory, *options, *arguments, nodes=nodes) as fleet:
            on = Scene(directory, fleet, store, keys, window_ms)
            await eventually(on.nodes_know_of_each_other)
            yield on
    finally:
        store.stop()


@asynccontextmanager
async def scene_behind_proxy(
    directory: Path,
    binary: str | None,
    *,
    replace_bulk: Callable[[bytes], bytes | None] | None = None,
    nodes: int = 2,
) -> AsyncIterator[tuple[Scene, FaultProxy]]:
    """Nodes whose single store is behind a proxy; what is counted is asked of the store itself."""
    keys = write_keys(directory / "keys.toml")
    async with EmbeddedStore("single", binary=binary) as store, FaultProxy(store.servers[0].port) as proxy:
        proxy.replace_bulk = replace_bulk
        options = ("--store", f"redis://127.0.0.1:{proxy.port}", "--keys", str(keys), "--mock-length", "fixed:5")
        # Started in a thread: the proxy has to run meanwhile.
        running = running_fleet(directory, *options, nodes=nodes)
        fleet = await asyncio.to_thread(running.__enter__)
        try:
            on = Scene(directory, fleet, store, keys)
            await eventually(on.nodes_know_of_each_other)
            yield on, proxy
        finally:
            await asyncio.to_thread(running.__exit__, None, None, None)


async def no_fault() -> None:
    """Nothing happens."""


async def eventually(condition: Callable[[], Awaitable[bool]], timeout_s: float = 20) -> None:
    """Wait for something that becomes true."""
    async with asyncio.timeout(timeout_s):
        while not await condition():
            await asyncio.sleep(0.05)
