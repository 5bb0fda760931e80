"""The loads that `scaling` puts on a fleet, and what one of them gives: cost per request, calls, each shard's part.

A load runs in clients of its own processes. Nodes and store are counted from before it until after it, over all of its
requests; clients, and what else ran on the machine, over some seconds in its middle.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http.client import HTTPResponse
from pathlib import Path
from random import Random

from bench_client.servers.procfs import cpu_seconds
from benchmarks.lib.loads import CONNECTIONS, MAX_TOKENS, short_request, write_requests
from benchmarks.scale.key_skew import shard_of
from benchmarks.scale.scaling_sample import Sample
from benchmarks.scale.sharded_fleet import Counters, Fleet, machine_busy_s
from limiter_node.credentials import key_id
from limiter_node.keysfile.making import write_private

ZIPF = 1.0
CLOSED_REQUESTS = 20_000
"""Different requests that closed loops go round in."""
ONE_KEYS_REQUESTS = 1_000
"""The same of a single key."""
OPERATIONS_PER_REQUEST = 2.0
_ATTEMPTS = 3
"""At a load that must not be refused."""
LOADED_S = 0.1
"""CPU of the nodes by which a load is known to have begun."""


class Refused(SystemExit):
    """Raised when a node turned requests away, so that the load doesn't count: the machine was busy with other work."""


@dataclass(frozen=True, slots=True)
class _Result:
    """Hold what a load's clients report."""

    requests: int
    requests_per_s: float
    by_key: dict[str, float]
    """Weight of each kid."""
    latency_ms: dict[str, float]


@dataclass(frozen=True, slots=True)
class _Load:
    """Describe one load: its name and keys as in `Sample`, its clients' commands, and how to read what they printed."""

    name: str
    keys: int
    zipf: float
    in_flight: int | None
    commands: list[list[str]]
    result: Callable[[list[str]], _Result]


@dataclass(frozen=True, slots=True)
class _Middle:
    """Hold what was used in some seconds in the middle of a load."""

    elapsed_s: float
    fleet: Counters
    clients_cpu_s: float
    machine_cpu_s: float


class Loads:
    """Put loads on one running fleet: `names` are API keys in its keys file. `directory` is for files of the loads."""

    def __init__(
        self, fleet: Fleet, shards: int, directory: Path, names: list[str], seconds: float, qps: float
    ) -> None:
        self._fleet, self._shards, self._directory = fleet, shards, directory
        self._kids = [key_id(name) for name in names]
        self._names, self._seconds, self._qps = names, seconds, qps
        idle = fleet.counters()
        time.sleep(1.0)
        self._idle_store_cores = sum(fleet.counters().since(idle).shards_cpu_s)

    def samples(self) -> list[Sample]:
        """Return a sample of each load, in turn, without those that were refused."""
        loads: tuple[Callable[[], Sample], ...] = (
            lambda: self.at_rate("uniform", self._qps),
            lambda: self.at_rate("zipf", self._qps, ZIPF),
            lambda: self.saturated("uniform", self._names),
            lambda: self.saturated("one", self._names[:1]),
        )
        found = []
        for load in loads:
            try:
                found.append(load())
            except Refused as refused:
                print(f"{refused}; left out of this round", file=sys.stderr)
        return found

    def at_rate(self, name: str, qps: float, zipf: float = 0.0) -> Sample:
        """Return a sample of the open loop that offers `qps` requests/s of the fleet's keys."""
        return self._counted(self._open(name, qps, zipf))

    def saturated(self, name: str, names: Sequence[str], in_flight: int = CONNECTIONS) -> Sample:
        """Return a sample of the load that saturates the fleet with requests of these API keys."""
        # Drawn, not in turn: in turn, each key would come at even intervals, and find company always or never.
        drawn = Random(1).choices(names, k=CLOSED_REQUESTS if len(names) > 1 else ONE_KEYS_REQUESTS)
        requests = [short_request(each, number) for number, each in enumerate(drawn)]
        return self._counted(self._closed(name, requests, [key_id(each) for each in names], in_flight))

    def meet(self, names: Sequence[str]) -> None:
        """Let each node decide one request of each of these API keys, so that it knows them."""
        for port in self._fleet.node_ports:
            with socket.create_connection(("127.0.0.1", port)) as connection:
                for number, name in enumerate(names):
                    connection.sendall(short_request(name, number))
                    response = HTTPResponse(connection)
                    response.begin()
                    response.read()

    def _counted(self, load: _Load) -> Sample:
        for _ in range(_ATTEMPTS - 1):
            try:
                return self._sample(load)
            except Refused as refused:
                print(f"{load.name}: {refused}; once more", file=sys.stderr)
        return self._sample(load)

    def _sample(self, load: _Load) -> Sample:
        fleet = self._fleet
        before = fleet.counters()
        clients = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in load.commands]
        try:
            while fleet.nodes_cpu_s() < sum(before.nodes_cpu_s) + LOADED_S:
                if any(client.poll() is not None for client in clients):
                    sys.exit("a load generator ended before its load began")
                time.sleep(0.05)
            # Within the load, so that the clients' start and their evaluation don't count as the cost of requests.
            pids = [client.pid for client in clients]
            first, theirs, machine = fleet.counters(), sum(map(cpu_seconds, pids)), machine_busy_s()
            start = time.perf_counter()
            time.sleep(self._seconds)
            middle = _Middle(
                time.perf_counter() - start,
                fleet.counters().since(first),
                sum(map(cpu_seconds, pids)) - theirs,
                machine_busy_s() - machine,
            )
            outputs = [client.communicate()[0] for client in clients]
        finally:
            for client in clients:
                client.kill()
                client.wait()
        if any(client.returncode for client in clients):
            sys.exit("a load generator failed")
        return self._evaluate(load, load.result(outputs), fleet.counters().since(before), middle)

    def _evaluate(self, load: _Load, sent: _Result, done: Counters, middle: _Middle) -> Sample:
        weights = [0.0] * self._shards
        for kid, weight in sent.by_key.items():
            weights[shard_of(kid, self._shards)] += weight
        nodes_s, store_s = sum(middle.fleet.nodes_cpu_s), sum(middle.fleet.shards_cpu_s)
        return Sample(
            nodes=len(self._fleet.node_pids),
            shards=self._shards,
            load=load.name,
            keys=load.keys,
            zipf=load.zipf,
            in_flight=load.in_flight,
            requests=sent.requests,
            requests_per_s=sent.requests_per_s,
            operations_per_request=OPERATIONS_PER_REQUEST,
            calls_per_request=sum(done.shards_calls) / sent.requests,
            reads_per_request=sum(done.shards_reads) / sent.requests,
            turns_per_request=sum(done.shards_turns) / sent.requests,
            node_us=sum(done.nodes_cpu_s) / sent.requests * 1e6,
            store_us=sum(done.shards_cpu_s) / sent.requests * 1e6,
            store_call_us=sum(done.shards_call_cpu_s) / sent.requests * 1e6,
            client_us=middle.clients_cpu_s / (sent.requests_per_s * middle.elapsed_s) * 1e6,
            shard_requests=_parts(weights),
            shard_calls=_parts(done.shards_calls),
            shard_cpu=_parts(done.shards_cpu_s),
            nodes_cores=nodes_s / middle.elapsed_s,
            store_cores=store_s / middle.elapsed_s,
            client_cores=middle.clients_cpu_s / middle.elapsed_s,
            other_cores=(middle.machine_cpu_s - nodes_s - store_s - middle.clients_cpu_s) / middle.elapsed_s,
            idle_store_cores=self._idle_store_cores,
            latency_p50_ms=sent.latency_ms.get("p50"),
            latency_p99_ms=sent.latency_ms.get("p99"),
        )

    # ---- the open loop: bench-client -------------------------------------------------------------------------------

    def _open(self, name: str, qps: float, zipf: float) -> _Load:
        targets = [word for port in self._fleet.node_ports for word in ("--target", f"http://127.0.0.1:{port}")]
        # Only these keys: the fleet's own file may have others.
        sent = self._directory / "sent.toml"
        write_private(sent, "\n".join(f'[keys."{each}"]' for each in self._names), overwrite=True)
        command = [
            sys.executable, "-m", "bench_client", "run", *targets, "--keys", str(sent),
            "--qps", str(qps), "--duration", str(self._seconds + 1), "--zipf", str(zipf),
            "--output-tokens", f"fixed:{MAX_TOKENS}", "--out", str(self._directory / "run"), "--force",
        ]  # fmt: skip
        return _Load(f"fixed {name}", len(self._kids), zipf, None, [command], self._open_result)

    def _open_result(self, _: list[str]) -> _Result:
        summary = json.loads((self._directory / "run" / "summary.json").read_text())
        total = summary["total"]
        if total["admitted"] != total["requests"]:
            raise Refused(f"{total['requests'] - total['admitted']} requests were not answered by 200")
        with (self._directory / "run" / "requests.jsonl").open() as lines:
            column = json.loads(next(lines))["columns"].index("key")
            ids = Counter(row[column] for row in map(json.loads, lines) if isinstance(row, list))  # the last is the end
        kids = {kid[:12]: kid for kid in self._kids}  # records name a key by the first 12 digits of the same digest
        by_key = {kids[identity]: float(count) for identity, count in ids.items()}
        return _Result(total["requests"], summary["achieved_qps"], by_key, total["latency_ms"])

    # ---- the closed loops ------------------------------------------------------------------------------------------

    def _closed(self, name: str, requests: Sequence[bytes], kids: Sequence[str], in_flight: int) -> _Load:
        file = write_requests(self._directory / "requests", requests)
        ports = self._fleet.node_ports
        connections, duration_s = in_flight // len(ports), self._seconds + 1
        module = [sys.executable, "-m", "benchmarks.lib.saturate"]
        commands = [[*module, str(port), str(duration_s), str(connections), str(file)] for port in ports]

        def result(outputs: list[str]) -> _Result:
            results = [json.loads(output) for output in outputs]
            if any(each["ok"] != each["answered"] for each in results):
                raise Refused("not all requests were answered by 200")
            return _Result(
                sum(int(each["total"]) for each in results),
                sum(each["answered"] / each["seconds"] for each in results),
                dict.fromkeys(kids, 1.0),
                {},
            )

        return _Load(f"saturate {name}", len(kids), 0.0, connections * len(ports), commands, result)


def _parts(amounts: Sequence[float]) -> list[float]:
    whole = sum(amounts) or 1.0
    return [amount / whole for amount in amounts]
