"""How cost scales: CPU per request of nodes, store and client, and requests/s, for 1, 2, 4 nodes on 1, 3, 6 shards.

All processes share this machine's cores, so requests/s say what the machine does, not what a fleet would; CPU per
request is what carries over. Each fleet gets four loads: 1,000 keys uniform and by Zipf 1.0 at a fixed rate from
`bench-client run` (open loop), 1,000 keys and one key from closed loops that saturate it (`benchmarks.saturate`).
Requests per script call, calls per socket read and each shard's part come from the servers' own counters. One node on
30 shards, and 100 connections on one shard (`shard_calls`), measure the two ends of a large fleet that fit on a small
machine. `benchmarks.capacity` makes its model from the JSON.

    python -m benchmarks.scaling [--rounds N] [--seconds S] [--qps RATE] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import shard_calls
from benchmarks.key_skew import shard_of
from benchmarks.measuring import Row, cpu_seconds, machine, row, show
from benchmarks.saturate import SEPARATOR
from benchmarks.sharded_fleet import MAX_TOKENS, Counters, Fleet, machine_busy_s, request, running
from limiter_node.store.keyspace import key_id

CONFIGURATIONS = tuple((nodes, shards) for nodes in (1, 2, 4) for shards in (1, 3, 6))
WIDEST = (1, 30)
KEYS = 1000
ZIPF = 1.0
CONNECTIONS = 64
OPERATIONS_PER_REQUEST = 2.0


@dataclass(frozen=True, slots=True)
class Sample:
    """One load on one fleet. Everything "per request" is over all requests of the load, the client's cost excepted."""

    nodes: int
    shards: int
    load: str
    """`fixed` (open loop at a rate) or `saturate` (closed loop), and over which keys: `uniform`, `zipf`, `one`."""
    keys: int
    zipf: float
    requests: int
    requests_per_s: float
    operations_per_request: float
    calls_per_request: float
    """Script calls; fewer than operations where requests share them."""
    reads_per_request: float
    """Reads from sockets by all shards; fewer than calls where one write carries several."""
    turns_per_request: float
    """Turns of all shards' event loops; fewer than reads where several sockets were ready at once."""
    node_us: float
    store_us: float
    store_call_us: float
    """The part of `store_us` within script calls."""
    client_us: float
    shard_requests: list[float]
    """Each shard's part of the requests, from the keys that were sent and their slots."""
    shard_calls: list[float]
    shard_cpu: list[float]
    nodes_cores: float
    store_cores: float
    client_cores: float
    other_cores: float
    """What else ran on the machine meanwhile: above some hundredths, it wasn't quiet."""
    idle_store_cores: float
    """What the store uses without any request."""
    latency_p50_ms: float | None = None
    latency_p99_ms: float | None = None


@dataclass(frozen=True, slots=True)
class _Load:
    """What a load's client reports."""

    requests: int
    requests_per_s: float
    by_key: dict[str, float]
    """Weight of each kid."""
    latency_ms: dict[str, float]


class _Bench:
    """The loads on one running fleet."""

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
        """All loads in turn."""
        uniform = [request(name, number) for number, name in enumerate(self._names)]
        return [
            self._sample("fixed uniform", 0.0, KEYS, self._fixed_command(0.0), self._fixed_result),
            self._sample("fixed zipf", ZIPF, KEYS, self._fixed_command(ZIPF), self._fixed_result),
            self._sample("saturate uniform", 0.0, KEYS, self._saturate_commands(uniform), self._saturate_result),
            self._sample(
                "saturate one",
                0.0,
                1,
                self._saturate_commands([request(self._names[0], number) for number in range(KEYS)]),
                lambda outputs: self._saturate_result(outputs, one=True),
            ),
        ]

    def _sample(
        self, load: str, zipf: float, keys: int, commands: list[list[str]], result: Callable[[list[str]], _Load]
    ) -> Sample:
        fleet = self._fleet
        before = fleet.counters()
        clients = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
        while sum(fleet.counters().since(before).shards_calls) < self._qps * 0.4:
            if any(client.poll() for client in clients):
                sys.exit("a load generator failed")
            time.sleep(0.05)
        # Within the load, so that the clients' start and their evaluation don't count as the cost of requests.
        pids = [client.pid for client in clients]
        busy, ours, theirs, start = machine_busy_s(), fleet.cpu_s(), sum(map(cpu_seconds, pids)), time.perf_counter()
        first = fleet.counters()
        time.sleep(self._seconds)
        last = fleet.counters().since(first)
        theirs, ours = sum(map(cpu_seconds, pids)) - theirs, fleet.cpu_s() - ours
        busy, elapsed = machine_busy_s() - busy, time.perf_counter() - start
        outputs = [client.communicate()[0] for client in clients]
        if any(client.returncode for client in clients):
            sys.exit("a load generator failed")
        done = fleet.counters().since(before)
        return self._evaluate(load, zipf, keys, result(outputs), done, last, (busy, ours, theirs, elapsed))

    def _evaluate(
        self,
        load: str,
        zipf: float,
        keys: int,
        sent: _Load,
        done: Counters,
        window: Counters,
        busy_ours_theirs_elapsed: tuple[float, float, float, float],
    ) -> Sample:
        busy_s, ours_s, theirs_s, elapsed_s = busy_ours_theirs_elapsed
        weights = [0.0] * self._shards
        for kid, weight in sent.by_key.items():
            weights[shard_of(kid, self._shards)] += weight
        return Sample(
            nodes=len(self._fleet.node_pids),
            shards=self._shards,
            load=load,
            keys=keys,
            zipf=zipf,
            requests=sent.requests,
            requests_per_s=sent.requests_per_s,
            operations_per_request=OPERATIONS_PER_REQUEST,
            calls_per_request=sum(done.shards_calls) / sent.requests,
            reads_per_request=sum(done.shards_reads) / sent.requests,
            turns_per_request=sum(done.shards_turns) / sent.requests,
            node_us=sum(done.nodes_cpu_s) / sent.requests * 1e6,
            store_us=sum(done.shards_cpu_s) / sent.requests * 1e6,
            store_call_us=sum(done.shards_call_cpu_s) / sent.requests * 1e6,
            client_us=theirs_s / (sent.requests_per_s * elapsed_s) * 1e6,
            shard_requests=_parts(weights),
            shard_calls=_parts(done.shards_calls),
            shard_cpu=_parts(done.shards_cpu_s),
            nodes_cores=sum(window.nodes_cpu_s) / elapsed_s,
            store_cores=sum(window.shards_cpu_s) / elapsed_s,
            client_cores=theirs_s / elapsed_s,
            other_cores=(busy_s - ours_s - theirs_s) / elapsed_s,
            idle_store_cores=self._idle_store_cores,
            latency_p50_ms=sent.latency_ms.get("p50"),
            latency_p99_ms=sent.latency_ms.get("p99"),
        )

    # ---- the open loop: bench-client -------------------------------------------------------------------------------

    def _fixed_command(self, zipf: float) -> list[list[str]]:
        targets = [word for port in self._fleet.node_ports for word in ("--target", f"http://127.0.0.1:{port}")]
        return [
            [sys.executable, "-m", "bench_client", "run", *targets, "--keys", str(self._directory / "keys.toml"),
             "--qps", str(self._qps), "--duration", str(self._seconds + 1), "--zipf", str(zipf),
             "--output-tokens", f"fixed:{MAX_TOKENS}", "--out", str(self._directory / "run")]
        ]  # fmt: skip

    def _fixed_result(self, _: list[str]) -> _Load:
        summary = json.loads((self._directory / "run" / "summary.json").read_text())
        total = summary["total"]
        if total["admitted"] != total["requests"]:
            sys.exit(f"{total['requests'] - total['admitted']} requests were not answered by 200")
        with (self._directory / "run" / "requests.jsonl").open() as lines:
            column = json.loads(next(lines))["columns"].index("key")
            ids = Counter(json.loads(line)[column] for line in lines)
        kids = {kid[:12]: kid for kid in self._kids}  # records name a key by the first 12 digits of the same digest
        return _Load(
            total["requests"],
            summary["achieved_qps"],
            {kids[identity]: count for identity, count in ids.items()},
            total["latency_ms"],
        )

    # ---- the closed loops ------------------------------------------------------------------------------------------

    def _saturate_commands(self, requests: Sequence[bytes]) -> list[list[str]]:
        file = self._directory / "requests"
        file.write_bytes(SEPARATOR.join(requests))
        ports = self._fleet.node_ports
        return [
            [sys.executable, "-m", "benchmarks.saturate", str(port), str(self._seconds + 1),
             str(CONNECTIONS // len(ports)), str(file)]
            for port in ports
        ]  # fmt: skip

    def _saturate_result(self, outputs: list[str], *, one: bool = False) -> _Load:
        results = [json.loads(output) for output in outputs]
        if any(result["ok"] != result["answered"] for result in results):
            sys.exit("not all requests were answered by 200")
        return _Load(
            sum(int(result["total"]) for result in results),
            sum(result["answered"] / result["seconds"] for result in results),
            dict.fromkeys(self._kids[:1] if one else self._kids, 1.0),
            {},
        )


def _parts(amounts: Sequence[float]) -> list[float]:
    whole = sum(amounts) or 1.0
    return [amount / whole for amount in amounts]


def measure(rounds: int, seconds: float, qps: float) -> list[Sample]:
    """Every load on every fleet, round by round, so that the machine's drift hits all alike."""
    samples = []
    with tempfile.TemporaryDirectory() as directory:
        keys = Path(directory) / "keys.toml"
        limit = "4000000000"
        subprocess.run(
            [sys.executable, "-m", "limiter_node", "keys", "generate", "--count", str(KEYS), "--rpm", limit,
             "--input-tpm", limit, "--output-tpm", limit, "--out", str(keys)],
            check=True,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        names = list(tomllib.loads(keys.read_text())["keys"])
        for number in range(rounds):
            for nodes, shards in (*CONFIGURATIONS, WIDEST):
                print(f"round {number + 1}: {nodes} nodes, {shards} shards", file=sys.stderr)
                with running(nodes, shards, keys) as fleet:
                    samples += _Bench(fleet, shards, Path(directory), names, seconds, qps).samples()
    return samples


def rows(samples: Sequence[Sample], calls: Sequence[shard_calls.CallCost]) -> list[Row]:
    """The figures for people: one per load and fleet."""
    table = []
    fleets = dict.fromkeys((sample.nodes, sample.shards) for sample in samples)
    for load in dict.fromkeys(sample.load for sample in samples):
        for nodes, shards in fleets:
            mine = [s for s in samples if (s.nodes, s.shards, s.load) == (nodes, shards, load)]
            name = f"{load}, {nodes} × {shards}"
            if load.startswith("saturate"):
                table.append(row(f"{name}: requests/s", "1/s", [s.requests_per_s for s in mine]))
            table += [
                row(f"{name}: node CPU", "µs/request", [s.node_us for s in mine]),
                row(f"{name}: store CPU", "µs/request", [s.store_us for s in mine]),
                row(f"{name}: client CPU", "µs/request", [s.client_us for s in mine]),
                row(f"{name}: script calls", "1/request", [s.calls_per_request for s in mine]),
            ]
    table += [
        row(
            f"fullest shard under Zipf, {nodes} × {shards}: its calls ÷ its part of the requests",
            "ratio",
            [_fullest(s) for s in samples if (s.nodes, s.shards, s.load) == (nodes, shards, "fixed zipf")],
        )
        for nodes, shards in fleets
        if shards > 1
    ]
    for nodes, operations in dict.fromkeys((cost.nodes, cost.operations) for cost in calls):
        mine_us = [c.call_us for c in calls if (c.nodes, c.operations) == (nodes, operations)]
        table.append(row(f"a shard with {nodes} nodes, a call of {operations} operations", "µs", mine_us))
    return table


def _fullest(sample: Sample) -> float:
    fullest = max(range(sample.shards), key=sample.shard_requests.__getitem__)
    return sample.shard_calls[fullest] / sample.shard_requests[fullest]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3, help="seconds of each load")
    parser.add_argument("--qps", type=float, default=1500, help="the fixed rate of all nodes together")
    parser.add_argument("--json", help="write rows and samples there, too: what benchmarks.capacity reads")
    options = parser.parse_args()
    samples = measure(options.rounds, options.seconds, options.qps)
    calls = shard_calls.measure(options.rounds)
    title, table = "Scaling: nodes × shards", rows(samples, calls)
    show(title, table)
    if options.json:
        path = Path(options.json)
        path.parent.mkdir(parents=True, exist_ok=True)
        document = {
            "title": title,
            "machine": machine(),
            "rows": [asdict(each) for each in table],
            "samples": [asdict(sample) for sample in samples],
            "shard_calls": [asdict(cost) for cost in calls],
        }
        path.write_text(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
