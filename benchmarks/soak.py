"""Half of peak load with a master failover every minute: memory and open files stay flat, and the audit is clean.

Two nodes on an embedded cluster with a replica each, 200 keys whose limits are reached. Load comes in runs of a few
minutes, each audited and then deleted, so that the records of half an hour don't fill a disk. A sample of each node is
taken every five seconds: resident memory, open files. Judged by the medians of the run's second and its last fifth:
the first one is for warming up.

    python -m benchmarks.soak [--minutes N] [--qps RATE] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from bench_client.servers.procfs import children
from limiter_node.keysfile.making import write_private
from limiter_node.store.embedded.stores import EmbeddedStore

KEYS, RUN_S, SAMPLE_S, FAILOVER_S = 200, 120, 5.0, 60.0
GROWTH = 1.1
"""Memory may end at so many times of what it was after warming up: allocators keep what a peak once took."""


def sample(pids: list[int]) -> dict[str, float]:
    """Return what the nodes hold, together."""
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
    files = sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids)
    return {"at_s": time.monotonic(), "resident_mb": pages * resource.getpagesize() / 1e6, "files": files}


async def run(*arguments: str) -> tuple[int, str]:
    """Run a command of the client; return its exit code and its output."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench_client", *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    said, _ = await process.communicate()
    return process.returncode or 0, said.decode()


async def fail_over(store: EmbeddedStore, until_s: float) -> int:
    """Make a replica the master of its shard, once a minute, in turn; return how often that was."""
    done = 0
    while time.monotonic() + FAILOVER_S < until_s:
        await asyncio.sleep(FAILOVER_S)
        for server in store.servers[done % 3 :: 3]:
            with Redis(port=server.port, socket_timeout=5) as client:
                try:
                    if client.info("replication")["role"] == "slave":
                        client.execute_command("CLUSTER FAILOVER")
                        break
                except RedisError:
                    continue
        done += 1
    return done


async def soak(minutes: float, qps: float, directory: Path) -> dict[str, Any]:
    """Run the whole soak; return its figures."""
    keys = directory / "keys.toml"
    sections = "\n".join(f'[keys."sk-soak-{number}"]' for number in range(KEYS))
    rpm = int(qps * 60 / KEYS * 0.8)
    defaults = f"[defaults]\nrpm = {rpm}\ninput_tpm = 100_000_000\noutput_tpm = 100_000_000\n"
    write_private(keys, f"{defaults}{sections}\n", overwrite=True)
    async with EmbeddedStore("cluster", replicas=1) as store:
        command = [sys.executable, "-m", "limiter_node", "up", "--port", "0", "--store", store.url, "--keys", str(keys)]
        up = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        assert up.stdout is not None
        targets: list[str] = []
        async for line in up.stdout:
            words = line.decode().split()
            if words[:1] == ["node"]:
                targets += ["--target", words[3]]
            if words == ["ready"]:
                break
        samples: list[dict[str, float]] = []
        verdicts: list[str] = []
        errors = requests = 0
        until_s = time.monotonic() + minutes * 60

        async def watch() -> None:
            while True:
                samples.append(sample(children(up.pid)))
                await asyncio.sleep(SAMPLE_S)

        watching = asyncio.create_task(watch())
        failing = asyncio.create_task(fail_over(store, until_s))
        try:
            number = 0
            while (left_s := until_s - time.monotonic()) > 5:
                number += 1
                out = directory / f"run-{number}"
                load = ["run", *targets, "--keys", str(keys), "--out", str(out), "--seed", str(number)]
                code, _ = await run(*load, "--qps", str(qps), "--duration", str(int(min(RUN_S, left_s))))
                audited, said = await run("audit", str(out))
                summary = json.loads((out / "summary.json").read_text())["total"]
                errors, requests = errors + summary["errors_total"], requests + summary["requests"]
                verdicts.append(said.strip().splitlines()[-1])
                print(f"run {number}: exit {code}, {verdicts[-1]}", flush=True)
                if audited:
                    print(said, file=sys.stderr)
                shutil.rmtree(out)
            failovers = await failing
        finally:
            failing.cancel()
            watching.cancel()
            up.send_signal(signal.SIGTERM)
            exit_code = await up.wait()
    return judged(samples, verdicts, errors=errors, requests=requests, failovers=failovers, exit_code=exit_code)


def judged(samples: list[dict[str, float]], verdicts: list[str], **counts: int) -> dict[str, Any]:
    """Return the figures, and whether all is well."""
    fifth = max(len(samples) // 5, 1)
    figures: dict[str, Any] = {**counts, "runs": len(verdicts), "proved": sum("PROVED" in each for each in verdicts)}
    is_flat = True
    for what in ("resident_mb", "files"):
        early, late = (
            median(each[what] for each in part) for part in (samples[fifth : 2 * fifth + 1], samples[-fifth:])
        )
        figures[what] = {"second fifth": round(early, 1), "last fifth": round(late, 1)}
        is_flat = is_flat and late <= early * GROWTH + 5
    figures["passed"] = is_flat and figures["proved"] == figures["runs"] and not counts["exit_code"]
    return figures


def main() -> int:
    """Run the soak and print its figures; return 1 if one of them is bad."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--qps", type=float, default=2_500, help="half of what two nodes carry on two cores")
    parser.add_argument("--json", type=Path, default=Path("results/soak.json"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        figures = asyncio.run(soak(options.minutes, options.qps, Path(directory)))
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures, indent=1))
    print("soak: PASSED" if figures["passed"] else "soak: FAILED")
    return 0 if figures["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
