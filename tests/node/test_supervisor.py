"""The supervisor, with small programs in the place of nodes."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Callable

import pytest
from node_commands import alive, eventually

from limiter_node import supervisor
from limiter_node.supervisor import NodeFailed, NodePlan, Supervisor

READY = "print('node x ready http://x', flush=True)\n"
SLEEP = "import time; time.sleep(60)\n"
MakeSupervisor = Callable[..., Supervisor]


class Seen:
    """What the supervisor has reported."""

    def __init__(self) -> None:
        self.ready: list[str] = []
        self.lines: list[str] = []

    def wrote(self, plan: NodePlan, line: str) -> None:
        self.lines.append(f"node {plan.name}: {line}")

    def pid(self, name: str) -> int:
        """The last process id that the node has printed as "pid N"."""
        return [int(line.split()[-1]) for line in self.lines if line.startswith(f"node {name}: pid ")][-1]


@pytest.fixture
def seen() -> Seen:
    return Seen()


def make(seen: Seen, *programs: str, drain_timeout_s: float = 10) -> Supervisor:
    return Supervisor(
        [
            NodePlan(str(number), [sys.executable, "-u", "-c", f"import os; print('pid', os.getpid())\n{program}"], {})
            for number, program in enumerate(programs, 1)
        ],
        drain_timeout_s=drain_timeout_s,
        on_ready=lambda plan: seen.ready.append(plan.name),
        on_line=seen.wrote,
    )


async def test_start_ends_when_all_are_ready_and_stop_ends_all(seen: Seen) -> None:
    async with make(seen, READY + SLEEP, READY + SLEEP) as nodes:
        await nodes.start()
        assert sorted(seen.ready) == ["1", "2"]
        pids = [seen.pid("1"), seen.pid("2")]
        assert all(map(alive, pids))
    assert not any(map(alive, pids))


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("import sys; sys.exit('error: port 1 is in use')", "port 1 is in use"),
        ("print('error: a'); print('error: b')", "b"),
        ("import sys; sys.exit(3)", "exit code 3"),
        ("import os; os.kill(os.getpid(), 9)", "SIGKILL"),
    ],
)
async def test_a_failed_start_has_the_nodes_reason_and_ends_the_others(seen: Seen, program: str, reason: str) -> None:
    with pytest.raises(NodeFailed, match=f"^node 2 could not start: {reason}$"):
        async with make(seen, READY + SLEEP, program) as nodes:
            await nodes.start()
    # It may have been ended before it could print its process id.
    assert not any("node 1: pid" in line for line in seen.lines) or not alive(seen.pid("1"))


async def test_a_command_that_does_not_exist_is_a_failed_start(seen: Seen) -> None:
    nodes = Supervisor(
        [NodePlan("1", ["/nowhere"], {})], drain_timeout_s=0, on_ready=lambda plan: None, on_line=seen.wrote
    )
    with pytest.raises(NodeFailed, match="node 1 could not start"):
        async with nodes:
            await nodes.start()


async def test_a_node_that_is_never_ready_fails_the_start(seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "START_TIMEOUT_S", 0.2)
    with pytest.raises(NodeFailed, match=r"not all nodes were ready within 0 s \(not ready: 1\)"):
        async with make(seen, SLEEP) as nodes:
            await nodes.start()
    assert not seen.lines or not alive(seen.pid("1"))


async def test_delays_double_up_to_the_longest(
    seen: Seen, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(supervisor, "FIRST_DELAY_S", 0.1)
    monkeypatch.setattr(supervisor, "LONGEST_DELAY_S", 0.4)
    with caplog.at_level(logging.INFO):
        async with make(seen, READY) as nodes:
            await nodes.start()
            await eventually(lambda: caplog.text.count("node 1 ended") >= 5)
    delays = [record.getMessage().split()[-2] for record in caplog.records if "ended" in record.getMessage()]
    assert delays[:5] == ["0.1", "0.2", "0.4", "0.4", "0.4"]
    assert "node 1 is ready again" in caplog.text
    assert seen.ready == ["1"]


async def test_a_long_life_resets_the_delay(
    seen: Seen, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(supervisor, "FIRST_DELAY_S", 0.1)
    monkeypatch.setattr(supervisor, "LONG_LIFE_S", 0)
    async with make(seen, READY) as nodes:
        await nodes.start()
        await eventually(lambda: caplog.text.count("restart in 0.1 s") >= 3)


async def test_stop_during_a_delay_is_at_once(
    seen: Seen, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(supervisor, "FIRST_DELAY_S", 60)
    async with asyncio.timeout(10), make(seen, READY) as nodes:
        await nodes.start()
        await eventually(lambda: "restart in 60.0 s" in caplog.text)


async def test_a_node_that_does_not_end_is_killed(
    seen: Seen, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(supervisor, "KILL_MARGIN_S", 0.2)
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    async with make(seen, deaf + READY + SLEEP, drain_timeout_s=0.1) as nodes:
        await nodes.start()
    assert "node 1 did not end in time and was killed" in caplog.text
    assert not alive(seen.pid("1"))


async def test_a_node_may_take_its_time_to_drain(seen: Seen) -> None:
    drain = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.3), print('drained'), sys.exit()))\n"
    )
    async with make(seen, drain + READY + SLEEP) as nodes:
        await nodes.start()
    assert "node 1: drained" in seen.lines


async def test_what_nodes_write_is_passed_on(seen: Seen) -> None:
    program = (
        "import sys\nprint('out')\nprint('err', file=sys.stderr)\nprint('x' * 200_000)\n"
        "sys.stdout.buffer.write(b'\\xff\\n\\n')\nprint('after')\n"
    )
    async with make(seen, program + READY + SLEEP) as nodes:
        await nodes.start()
        await eventually(lambda: "node 1: err" in seen.lines)
    assert {"node 1: out", "node 1: err", "node 1: �", "node 1: after"} <= set(seen.lines)


async def test_nodes_get_their_environment_only(seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "LIMITER_PORT", "1")
    async with make(seen, "import os; print('LIMITER_PORT' in os.environ)\n" + READY + SLEEP) as nodes:
        await nodes.start()
    assert "node 1: False" in seen.lines


async def test_stop_before_start_is_nothing(seen: Seen) -> None:
    async with make(seen, SLEEP):
        pass
    assert not seen.lines
