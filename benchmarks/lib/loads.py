"""Closed-loop loads: requests rendered beforehand, sent by `saturate` in a process of its own, and what they took."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.lib.saturate import SEPARATOR
from benchmarks.lib.servers import KEY_COUNT, Server

CONNECTIONS = 64
MAX_TOKENS = 128
_SHORT = "Write a short story about number {} and a friendly dog, please, in the style of a poet."


def render(api_key: str, **body: Any) -> bytes:
    """Return a chat completion, ready to send."""
    packed = json.dumps({"model": "gpt-4o", "max_tokens": MAX_TOKENS, **body}).encode()
    return (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {api_key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(packed)}\r\n\r\n"
    ).encode() + packed


def short_request(api_key: str, number: int) -> bytes:
    """Return a request with a prompt of some 25 tokens."""
    return render(api_key, messages=[{"role": "user", "content": _SHORT.format(number)}])


def write_requests(path: Path, requests: Iterable[bytes]) -> Path:
    """Write the file that `saturate` reads; return its path."""
    path.write_bytes(SEPARATOR.join(requests))
    return path


def write_short_requests(path: Path, keys: list[str]) -> Path:
    """Write short requests of these keys in turn; return the file's path."""
    return write_requests(path, (short_request(keys[n % len(keys)], n) for n in range(max(KEY_COUNT, len(keys)))))


class Load(NamedTuple):
    """Say what one load took."""

    per_second: float
    admitted: float
    """The share that was answered by 200."""
    server_us: float
    """CPU of the server's process per request."""
    store_us: float
    """CPU of all of the store's servers per request."""
    busy: float
    """The share of its core that the server's process used: if it is far below 1, something else was the limit."""
    answer_bytes: float


def saturate(
    server: Server, requests: Path, seconds: float, *, connections: int = CONNECTIONS, all_admitted: bool = True
) -> Load:
    """Ask for as much as the server can answer. Ends the benchmark if a request is refused that must not be."""
    pids = (server.pid, *server.store_pids)
    command = [sys.executable, "-m", "benchmarks.lib.saturate", str(server.port), str(seconds), str(connections)]
    done = subprocess.run([*command, str(requests), *map(str, pids)], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit("the load failed")
    result = json.loads(done.stdout)
    answered, (server_s, *store_s) = result["answered"], result["cpu_s"]
    if not answered:
        sys.exit("no request was answered")
    if all_admitted and result["ok"] != answered:
        sys.exit(f"{answered - result['ok']} of {answered} requests were not answered by 200")
    return Load(
        answered / result["seconds"],
        result["ok"] / answered,
        server_s / answered * 1e6,
        sum(store_s) / answered * 1e6,
        server_s / result["seconds"],
        result["bytes"] / answered,
    )
