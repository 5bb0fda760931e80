"""Run directories without a run: records as an exact limiter under a seeded open-loop load would leave them."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from bench_fakes import DIMENSIONS, T0, run_info

from bench_client.audit import audit_directory
from bench_client.records.process_report import ProcessReport
from bench_client.records.record import Record
from bench_client.records.record_file import REQUESTS_NAME, write_records
from bench_client.records.run_directory import RunInfo, write_info, write_json
from bench_client.results.summary import summarize

BATCH_BOUNDS = [1, 2, 4, 8, 16, 32, 64]


@dataclass
class ExactKey:
    """One key's window in buckets of 100 ms. What was produced is known at once: settles need no time."""

    limits: tuple[int, int, int]
    admitted: deque[tuple[int, tuple[int, int, int]]] = field(default_factory=deque)
    used: list[int] = field(default_factory=lambda: [0, 0, 0])

    def expire(self, bucket: int) -> None:
        while self.admitted and self.admitted[0][0] < bucket - 600:
            for dimension, amount in enumerate(self.admitted.popleft()[1]):
                self.used[dimension] -= amount

    def over(self, need: tuple[int, int, int]) -> list[int]:
        return [d for d in range(3) if need[d] and self.used[d] + need[d] > self.limits[d]]

    def free_at(self, dimension: int, need: int) -> int:
        """The first bucket in which so much of the dimension is free."""
        used = self.used[dimension]
        for bucket, amounts in self.admitted:
            used -= amounts[dimension]
            if used + need <= self.limits[dimension]:
                return bucket + 601
        raise AssertionError("it never fits")


@dataclass
class Simulation:
    """A load and a limiter; ``records`` are what the client would have written, in order of the schedule."""

    qps: float = 20.0
    duration_s: float = 75.0
    limits: tuple[int, int, int] = (118, 4_150, 6_200)
    keys: int = 5
    zipf: float = 1.0
    seed: int = 1
    latency_ms: float = 4.0
    error_share: float = 0.0
    warmup_s: float = 0.0
    nodes: int = 2

    @property
    def key_ids(self) -> list[str]:
        return [hashlib.sha256(f"key-{index}".encode()).hexdigest()[:12] for index in range(self.keys)]

    def records(self) -> list[Record]:
        draw, windows, ids = Random(self.seed), [ExactKey(self.limits) for _ in range(self.keys)], self.key_ids
        weights = [rank**-self.zipf for rank in range(1, self.keys + 1)]
        records, at_s = [], draw.expovariate(self.qps)
        while at_s < self.duration_s + self.warmup_s:
            place = draw.choices(range(self.keys), weights)[0]
            records.append(self._record(draw, len(records), int(at_s * 1e6), windows[place], ids[place]))
            at_s += draw.expovariate(self.qps)
        return records

    def _record(self, draw: Random, request: int, due_us: int, window: ExactKey, key: str) -> Record:
        inputs, cap = draw.randint(10, 60), max(int(draw.lognormvariate(4.5, 0.6)), 1)
        took_ms = self.latency_ms * draw.lognormvariate(0, 0.5)
        values: dict[str, Any] = dict.fromkeys(Record._fields)
        values |= {
            "request": request,
            "due_us": due_us,
            "sent_us": due_us + 40,
            "done_us": due_us + 40 + int(took_ms * 1_000),
            "target": request % self.nodes,
            "key": key,
            "input_tokens": inputs,
            "max_tokens": cap,
            "never_fits": False,
            "has_other_limits": False,
        }
        if draw.random() < self.error_share:
            values |= {"error": "timeout", "done_us": due_us + 10_000_000}
            return Record(**values)
        time_ms = T0 + due_us // 1_000 + 1
        window.expire(time_ms // 100)
        need = (1, inputs, cap)
        if over := window.over(need):
            last = max(over, key=lambda d: window.free_at(d, need[d]))
            values |= {
                "status": 429,
                "exceeded": DIMENSIONS[last],
                "requested": need[last],
                "retry_after_ms": window.free_at(last, need[last]) * 100 - time_ms,
                "done_us": due_us + 40 + int(took_ms * 400),
            }
        else:
            output = draw.randint(1, cap)
            window.admitted.append((time_ms // 100, (1, inputs, output)))
            for dimension, amount in enumerate((1, inputs, output)):
                window.used[dimension] += amount
            values |= {"status": 200, "prompt_tokens": inputs, "completion_tokens": output}
        remaining = [limit - used for limit, used in zip(self.limits, window.used, strict=True)]
        values |= {
            "node": f"node-{request % self.nodes}",
            "time_ms": time_ms,
            "reserved_output": cap,
            **dict(zip(("limit_requests", "limit_input", "limit_output"), self.limits, strict=True)),
            **dict(zip(("remaining_requests", "remaining_input", "remaining_output"), remaining, strict=True)),
        }
        return Record(**values)

    def info(self, records: list[Record], **changes: Any) -> RunInfo:
        warmup = sum(record.due_us < self.warmup_s * 1e6 for record in records)
        values = {
            "settings": {
                "qps": self.qps,
                "duration_s": self.duration_s,
                "seed": self.seed,
                "arrivals": "poisson",
                "zipf": self.zipf,
                "input_tokens": "uniform:10:60",
                "output_tokens": "lognormal:90:0.6",
                "trace": None,
                "speed": 1.0,
                "cap_output": True,
                "warmup_s": self.warmup_s,
                "keys": "/home/somebody/secret-place/keys.toml",
                "connections": None,
                "timeout_s": 10.0,
                "model": "gpt-4o",
                "processes": 1,
            },
            "targets": [f"http://127.0.0.1:{8080 + node}" for node in range(self.nodes)],
            "keys": [(key_id, f"key-{index}") for index, key_id in enumerate(self.key_ids)],
            "planned": len(records),
            "planned_s": self.duration_s + self.warmup_s,
            "sending_s": self.duration_s + self.warmup_s,
            "dispatched": len(records),
            "warmup": warmup,
            "warmup_s": self.warmup_s,
            "processes": [ProcessReport(len(records), 0.12, 0.02, 0.4, 0)],
        }
        return run_info(**{**values, **changes})

    def write(self, directory: Path, *, audit: bool = True, servers: bool = True, **changes: Any) -> list[Record]:
        """The run's directory, as `bench-client run` (and `audit`) would have left it."""
        directory.mkdir(parents=True, exist_ok=True)
        records = self.records()
        info = self.info(records, **changes)
        write_info(directory, info)
        write_records(directory / REQUESTS_NAME, records)
        write_json(directory / "summary.json", summarize(records, info).as_dict())
        if audit:
            audit_directory(directory)
        if servers:
            (directory / "servers.json").write_text(json.dumps(self.servers()))
        return records

    def servers(self) -> dict[str, Any]:
        """The contents of ``servers.json``: batches of 1, of 2 and of more than 64, from two samples per node."""

        def sample(at_s: float, batches: list[int]) -> dict[str, Any]:
            counts = {"decisions": sum(batches), "batch_operations": batches}
            return {"at_s": at_s, "cpu_s": 1.0 + at_s / 10, "rss_bytes": 50_000_000, **counts}

        return {
            "format": "bench-client servers 1",
            "period_s": 1.0,
            "targets": [
                {
                    "url": f"http://127.0.0.1:{8080 + node}",
                    "node": f"node-{node}",
                    "samples": [
                        sample(-0.1, [5, 0, 0, 0, 0, 0, 0, 0]),
                        sample(self.duration_s, [75, 20, 0, 0, 0, 0, 0, 10]),
                    ],
                }
                for node in range(self.nodes)
            ],
            "batch_bounds": BATCH_BOUNDS,
            "processes": [
                *({"name": f"node {n}", "kind": "node", "cpu_s": 7.5, "cores": 0.1} for n in range(self.nodes)),
                {"name": "store 7001", "kind": "store", "cpu_s": 3.0, "cores": 0.04},
                {"name": "client", "kind": "client", "cpu_s": 9.0, "cores": 0.12},
            ],
        }


def write_comparison(directory: Path, simulation: Simulation | None = None) -> Path:
    """The directory of a comparison: the same load on two limiters that differ in latency."""
    load = simulation or Simulation()
    stores = {}
    for store, latency_ms in (("cluster", load.latency_ms), ("single", load.latency_ms * 0.8)):
        load.latency_ms = latency_ms
        load.write(directory / store)
        summary, audit = (json.loads((directory / store / f"{name}.json").read_text()) for name in ("summary", "audit"))
        stores[store] = {"summary": summary, "audit": audit}
    document = {"nodes": load.nodes, "keys_count": load.keys, "rpm": load.limits[0]}
    document |= {"input_tpm": load.limits[1], "output_tpm": load.limits[2], "stores": stores}
    (directory / "compare.json").write_text(json.dumps(document))
    return directory
