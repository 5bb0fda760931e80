"""What one node on one core answers: requests per second at saturation, and the CPU of node and store per request.

`limiter-node up --nodes 1` with the embedded cluster, the node on core 0, its store and the load on the other cores;
short prompts, every request admitted and settled. One round is one load of some seconds on all keys, then on one key.

    python -m benchmarks.node_speed [--rounds N] [--seconds S] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measuring import Row, cpu_seconds, interleaved, pin, row, show
from benchmarks.saturate import SEPARATOR

KEYS = 1000
CONNECTIONS = 64
PROMPT = "Write a short story about number {} and a friendly dog, please, in the style of a poet."


@dataclass(frozen=True, slots=True)
class Fleet:
    """A running `limiter-node up` with one node."""

    port: int
    node: int
    servers: tuple[int, ...]


def _children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(child) for child in (task / "children").read_text().split()]
    return found


@contextmanager
def running_fleet(keys: Path, *arguments: str) -> Iterator[Fleet]:
    """Start it pinned: the node on core 0, everything else on the others."""
    process = subprocess.Popen(
        [sys.executable, "-m", "limiter_node", "up", "--nodes", "1", "--port", "0", "--keys", str(keys), *arguments],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        port = 0
        for line in process.stdout:
            words = line.split()
            if words[:1] == ["node"]:
                port = int(words[3].rpartition(":")[2])
            elif words == ["ready"]:
                break
        if not port:
            sys.exit("limiter-node up did not start")
        commands = {pid: Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0") for pid in _children(process.pid)}
        node = next(pid for pid, words in commands.items() if b"serve" in words)
        servers = tuple(pid for pid in commands if pid != node)
        pin(node, {0})
        for pid in (*servers, process.pid, os.getpid()):
            pin(pid, set(range(1, os.cpu_count() or 2)) or {0})
        yield Fleet(port, node, servers)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def request(api_key: str, number: int) -> bytes:
    """A short chat completion, ready to send."""
    body = json.dumps(
        {
            "model": "gpt-4o",
            "max_tokens": 128,
            "messages": [{"role": "user", "content": PROMPT.format(number)}],
        }
    ).encode()
    return (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {api_key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body


def measure(rounds: int, seconds: float) -> list[Row]:
    """All rows of this benchmark."""
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
        spread, single = Path(directory) / "spread", Path(directory) / "single"
        spread.write_bytes(SEPARATOR.join(request(name, number) for number, name in enumerate(names)))
        single.write_bytes(SEPARATOR.join(request(names[0], number) for number in range(KEYS)))
        node_us: list[float] = []
        store_us: list[float] = []

        with running_fleet(keys) as fleet:

            def load(requests: Path, *, note: bool) -> float:
                before = [cpu_seconds(pid) for pid in (fleet.node, *fleet.servers)]
                output = subprocess.run(
                    [sys.executable, "-m", "benchmarks.saturate", str(fleet.port), str(seconds), str(CONNECTIONS),
                     str(requests)],
                    check=True,
                    capture_output=True,
                    text=True,
                ).stdout  # fmt: skip
                node, *servers = (
                    cpu_seconds(pid) - was for pid, was in zip((fleet.node, *fleet.servers), before, strict=True)
                )
                result = json.loads(output)
                if result["ok"] != result["answered"]:
                    sys.exit(f"{result['answered'] - result['ok']} requests were not answered by 200")
                if note:
                    node_us.append(node / result["total"] * 1e6)
                    store_us.append(sum(servers) / result["total"] * 1e6)
                return float(result["answered"]) / float(result["seconds"])

            many, one = interleaved(rounds, [lambda: load(spread, note=True), lambda: load(single, note=False)])
    return [
        row(f"requests/s of a node on one core, {KEYS} keys", "1/s", many, "≥ 8,000"),
        row("requests/s of a node on one core, one key", "1/s", one),
        row(f"CPU of the node per request, {KEYS} keys", "µs", node_us),
        row(f"CPU of the store per request, {KEYS} keys", "µs", store_us),
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--json", help="write the rows there, too")
    options = parser.parse_args()
    show("A node on one core", measure(options.rounds, options.seconds), json_path=options.json)


if __name__ == "__main__":
    main()
