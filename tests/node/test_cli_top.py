"""``limiter-node top`` as a real process: beside a node and its store, on a terminal and off it."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from node_commands import StartCommand, ask, eventually
from ports import free_port, free_ports
from store_tools import declare

from limiter_node.cli import run

# A terminal of its own for the process, as a login has: only then does Ctrl-C make a signal of it.
ON_A_TERMINAL = "import os, sys; os.login_tty(0); os.execv(sys.executable, [sys.executable, '-m', *sys.argv[1:]])"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "nothing to watch: give --target URL for each node, --store URL for the store, or both"),
        ("--target nowhere", "--target must be the base URL of a node, as http://host:port"),
        ("--target http://a --target http://a/", "--target names the same node twice"),
        ("--store single", "--store must be a URL"),
        ("--store redis://:secret@h --keys 1000", "Invalid value for '--keys'"),
        ("--target http://a --interval 0", "Invalid value for '--interval'"),
        ("--store rediss://h?ssl_ca_certs=/nowhere", "ssl_ca_certs /nowhere: No such file"),
    ],
)
def test_wrong_usage_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: str, message: str
) -> None:
    monkeypatch.delenv("LIMITER_STORE", raising=False)
    monkeypatch.setenv("LIMITER_KEYS", "keys.toml")  # that is for nodes
    assert run(["top", *arguments.split()]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1
    assert "secret" not in err


async def test_lines_and_a_snapshot_of_a_node_under_load(limiter_node: StartCommand, embedded_single: str) -> None:
    kid = declare(embedded_single, "sk-top", name="top of all")
    node = await limiter_node("serve", "--store", embedded_single, "--port", free_port())
    base = (await node.line(r"node \S+ ready (\S+)"))[1]
    address = base.removeprefix("http://")
    (free,) = free_ports(1)
    for _ in range(20):
        await ask(base, "sk-top")
    # It has used far more than its limit now: no key of another test is hotter.
    declare(embedded_single, "sk-top", rpm=1, name="top of all")
    stop = asyncio.Event()

    async def load() -> None:
        while not stop.is_set():
            await ask(base, "sk-top")

    loading = asyncio.create_task(load())
    sources = ["--store", embedded_single, "--target", base, "--target", f"http://127.0.0.1:{free}"]
    lines = await limiter_node("top", *sources, "--keys", 100, "--interval", 0.4, "--count", 2)
    once = await limiter_node("top", *sources, "--keys", 100, "--interval", 0.4, "--once")
    try:
        texts = []
        for command in (lines, once):
            assert command.process.stdout is not None
            texts.append((await asyncio.wait_for(command.process.stdout.read(), 20)).decode())
            assert await command.ended() == 0
            assert await command.errors() == ""
    finally:
        stop.set()
        await loading

    by_kind: dict[str, list[str]] = {}
    for line in texts[0].splitlines():
        by_kind.setdefault(line.split()[0], []).append(line)
    assert len(by_kind["top"]) == 2
    for line in by_kind["top"]:
        told = dict(re.findall(r"(\S+)=(\S+)", line))
        assert (told["nodes"], told["shards"], told["cut_off"]) == ("1/2", "1/1", "0")
        assert float(told["decisions/s"]) == float(told["rejected/s"]) > 0
        assert float(told["requests/s"]) > 0
        assert int(told["seen_keys"]) >= 1
    assert by_kind["down"] == [f'down node=127.0.0.1:{free} reason="connection refused"'] * 2
    assert any(line.startswith('key name="top of all" heat=2000% requests=20/1 ') for line in by_kind["key"])

    (row,) = re.findall(rf"^{re.escape(address)} +([\d.,]+) +([\d.,]+) .*", texts[1], re.MULTILINE)
    assert all(float(number.replace(",", "")) > 0 for number in row)
    assert re.search(rf"^127\.0\.0\.1:{free} +down: connection refused$", texts[1], re.MULTILINE)
    assert re.search(r"^top of all +█+ +20/1 ", texts[1], re.MULTILINE)
    assert "\x1b" not in texts[1]
    assert not any("sk-top" in text or kid in text for text in texts)
    assert await node.stop() == 0


@contextmanager
def terminal_of(width: int, height: int) -> Iterator[tuple[int, int]]:
    """The two ends of a terminal: ours, and the one a process gets."""
    ours, theirs = os.openpty()
    try:
        termios.tcsetwinsize(theirs, (height, width))
        os.set_blocking(ours, False)
        yield ours, theirs
    finally:
        os.close(ours)
        os.close(theirs)


class Watched:
    """`top` on a terminal, and what it has written there."""

    def __init__(self, ours: int, process: subprocess.Popen[bytes]) -> None:
        self.ours, self.process, self.written = ours, process, b""

    def has_written(self, text: bytes, times: int = 1) -> bool:
        has_ended = self.has_ended()
        assert not has_ended or text in self.written, self.written
        return self.written.count(text) >= times

    def has_ended(self) -> bool:
        code = self.process.poll()
        with suppress(BlockingIOError):
            while True:
                self.written += os.read(self.ours, 1 << 16)
        return code is not None


@contextmanager
def top_on(ours: int, theirs: int, *arguments: object, **environment: str) -> Iterator[Watched]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    process = subprocess.Popen(
        [sys.executable, "-c", ON_A_TERMINAL, "limiter_node", "top", *map(str, arguments)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**kept, "TERM": "xterm-256color", "LANG": "C.UTF-8", **environment},
    )
    try:
        yield Watched(ours, process)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


@pytest.mark.parametrize("end", [b"\x03", b"q", signal.SIGTERM], ids=["ctrl-c", "q", "sigterm"])
async def test_a_terminal_is_drawn_on_and_given_back(end: bytes | signal.Signals) -> None:
    (free,) = free_ports(1)
    with terminal_of(80, 24) as (ours, theirs):
        before = termios.tcgetattr(theirs)
        arguments = ("--target", f"http://127.0.0.1:{free}", "--store", f"redis://127.0.0.1:{free}", "--interval", 0.1)
        with top_on(ours, theirs, *arguments) as top:
            await eventually(lambda: top.has_written(b"down: connection refused", 4), 20)
            assert top.written.startswith(b"\x1b[?1049h")
            assert termios.tcgetattr(theirs) != before
            if isinstance(end, bytes):
                os.write(ours, end)
            else:
                top.process.send_signal(end)
            await eventually(top.has_ended, 20)
        assert top.process.returncode == 0
        assert termios.tcgetattr(theirs) == before
    assert top.written.count(b"\x1b[?1049h") == top.written.count(b"\x1b[?1049l") == 1
    rest = top.written.partition(b"\x1b[?1049l")[2]
    assert not rest.replace(b"\x1b[?25h", b"").strip()
    assert top.written.rindex(b"\x1b[?25h") > top.written.rindex(b"\x1b[?25l")
    assert b"Traceback" not in top.written


async def test_a_resize_is_drawn_without_colours_where_none_are_wanted() -> None:
    (free,) = free_ports(1)
    with terminal_of(80, 24) as (ours, theirs):
        with top_on(ours, theirs, "--target", f"http://127.0.0.1:{free}", "--interval", 600, NO_COLOR="1") as top:
            await eventually(lambda: top.has_written(b"p99ms"), 20)
            termios.tcsetwinsize(theirs, (40, 140))
            top.process.send_signal(signal.SIGWINCH)
            await eventually(lambda: top.has_written(b"decisions/s  p50 ms"), 20)
            os.write(ours, b"q")
            await eventually(top.has_ended, 20)
        assert top.process.returncode == 0
    assert not re.search(rb"\x1b\[[\d;]*3[0-7]", top.written)
