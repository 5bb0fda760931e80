"""The units let their programs make the system calls that they make: traced on a node and on a server at work."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from aiohttp import ClientSession
from balancers import DEPLOY, program
from fleet import chat
from ports import free_ports
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from limiter_node.store.embedded.binary import server_binary
from limiter_node.store.embedded.stores import EmbeddedStore

_MADE = re.compile(r"(?m)^(?:\d+ +)?(?:<\.\.\. )?(\w+)(?:\(| resumed>)")
_BEFORE_THE_FILTER = {"execve", "exit", "exit_group", "rt_sigreturn", "getrlimit"}
"""Which systemd allows in any case."""


def group(name: str, seen: frozenset[str] = frozenset()) -> set[str]:
    """The system calls of one of systemd's groups, those of the groups in it among them."""
    command = [program("systemd-analyze"), "syscall-filter", "--no-pager", name]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    names = {line.strip() for line in listed[1:] if line.strip() and not line.strip().startswith("#")}
    inner = {each for each in names if each.startswith("@") and each not in seen}
    found = {each for each in names if not each.startswith("@")}
    for each in inner:
        found |= group(each, seen | inner)
    return found


def let_through(unit: str) -> set[str]:
    calls: set[str] = set()
    for line in re.findall(r"(?m)^SystemCallFilter=(.*)$", (DEPLOY / unit).read_text()):
        for name in line.removeprefix("~").split():
            calls = calls - group(name) if line.startswith("~") else calls | group(name)
    return calls | _BEFORE_THE_FILTER


@contextmanager
def traced(trace: Path, *command: str) -> Iterator[subprocess.Popen[str]]:
    """Run a command of which each system call is written down; skips the test where nobody may trace."""
    strace = [program("strace"), "-f", "-qq", "-o"]
    if subprocess.run([*strace, "/dev/null", "true"], capture_output=True).returncode:
        pytest.skip("no tracing on this machine")
    tracing = [*strace, str(trace), *command]
    with subprocess.Popen(tracing, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # who traces and who is traced


def child(process: subprocess.Popen[str]) -> int:
    """What strace has started first."""
    return int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])


def made(trace: Path) -> set[str]:
    calls = set(_MADE.findall(trace.read_text("utf-8", "replace")))
    assert {"mmap", "write", "close"} <= calls, "nothing was traced"
    return calls


async def test_a_node_makes_no_others(tmp_path: Path) -> None:
    """Small and large requests, the second process, a drain."""
    keys, trace = tmp_path / "keys.toml", tmp_path / "trace"
    keys.write_text('[keys."sk-traced"]\ninput_tpm = 1_000_000_000\n')
    async with EmbeddedStore("single") as store:
        node = [sys.executable, "-m", "limiter_node", "serve", "--port", "0", "--store", store.url, "--keys", str(keys)]
        with traced(trace, *node) as process:
            assert process.stdout is not None
            (url,) = re.findall(r"http://\S+", await asyncio.to_thread(process.stdout.readline))
            async with ClientSession() as session, asyncio.timeout(60):
                while (await session.get(f"{url}/readyz")).status != 200:
                    await asyncio.sleep(0.05)
                for text in ("Hello", "x" * 400_000):
                    response, body = await chat(session, url, "sk-traced", content=text, max_tokens=5)
                    assert response.status == 200, body
            os.kill(child(process), signal.SIGTERM)
            assert await asyncio.to_thread(process.wait, 30) == 0
    assert made(trace) - let_through("limiter-node@.service") == set()


async def test_a_server_makes_no_others(tmp_path: Path) -> None:
    """Scripts aside, what it does by itself: write its file, write it anew in a child, end."""
    trace = tmp_path / "trace"
    port, bus_port = free_ports(2)
    server = [str(server_binary(None, tmp_path)), str(DEPLOY / "valkey.conf"), "--dir", str(tmp_path)]
    with traced(trace, *server, "--port", str(port), "--cluster-port", str(bus_port)) as process:
        async with asyncio.timeout(60), Redis(port=port, retry=Retry(NoBackoff(), 0)) as client:
            while True:
                try:
                    await client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
                    break
                except (RedisError, OSError):
                    assert process.poll() is None
                    await asyncio.sleep(0.05)
            while (await client.cluster("INFO"))["cluster_state"] != "ok":
                await asyncio.sleep(0.05)
            await client.set("x", "y")
            await client.execute_command("BGREWRITEAOF")
            while (await client.info("persistence"))["aof_rewrite_in_progress"]:
                await asyncio.sleep(0.05)
            assert await client.eval("return 1", 0) == 1
            await client.shutdown()
        await asyncio.to_thread(process.wait, 30)
    assert made(trace) - let_through("valkey@.service") == set()
