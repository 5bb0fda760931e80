"""The allocator gives large blocks back to the system, whatever lives on behind them."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Coroutine
from pathlib import Path

import pytest

from limiter_node import node_process
from limiter_node.declarations import Declarations
from limiter_node.settings import NodeSettings
from limiter_node.store.admin.preparation import Preparation
from limiter_node.store.url import parse_store_url

_SCRIPT = """
import sys
from limiter_node import malloc

def resident_kib():
    line = next(line for line in open("/proc/self/status") if line.startswith("VmRSS"))
    return int(line.split()[1])

if "give" in sys.argv:
    assert malloc.give_memory_back()
size = int(sys.argv[1])
larger = b"x" * (1 << 21)
del larger  # by freeing it, glibc learns to keep blocks of up to its size
before, large, small = resident_kib(), [], []
for _ in range(100 * (1 << 20) // size):
    large.append(b"x" * size)
    small.append(b"x" * (size // 50))
large.clear()
print(resident_kib() - before)
"""


def left_kib(*arguments: str) -> int:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, "-c", _SCRIPT, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True, timeout=60)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc" or not Path("/proc/self/status").exists(), reason="not glibc")
def test_large_blocks_are_given_back() -> None:
    size = str(1 << 20)
    assert left_kib(size) > 50_000, "as glibc is by itself"
    assert left_kib(size, "give") < 15_000, "the small ones alone are 2,000"


def test_a_node_does_so_before_it_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    def run(serving: Coroutine[object, object, None]) -> None:
        serving.close()
        done.append("served")

    monkeypatch.setattr(node_process.malloc, "give_memory_back", lambda: done.append("set"))
    monkeypatch.setattr(node_process.uvloop, "run", run)
    store = "redis://127.0.0.1:1"
    node_process.run_node(NodeSettings(store=store), Preparation(parse_store_url(store), Declarations()))
    assert done == ["set", "served"]
