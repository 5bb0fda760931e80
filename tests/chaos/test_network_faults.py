"""Faults between the nodes and a store, by a proxy; the numbers are those of the table in docs/failures.md."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from chaos_scene import IS_TIMED, RPM, Row, scene_behind_proxy
from fault_proxy import FaultProxy
from test_store_faults import assert_answered

Fault = Callable[[FaultProxy], Awaitable[None]]


async def drop_replies(proxy: FaultProxy) -> None:
    for _ in range(3):
        proxy.pass_replies = False
        await asyncio.sleep(0.05)
        proxy.reset_all()
        proxy.pass_replies = True
        await asyncio.sleep(0.3)


async def reset(proxy: FaultProxy) -> None:
    for _ in range(20):
        proxy.reset_all()
        await asyncio.sleep(0.1)


async def blackhole(proxy: FaultProxy) -> None:
    proxy.pass_requests = proxy.pass_replies = False
    await asyncio.sleep(2)
    proxy.reset_all()  # what was swallowed is missing from the stream: no TCP would go on
    proxy.pass_requests = proxy.pass_replies = True


async def slow(proxy: FaultProxy) -> None:
    proxy.delay_s = 0.2
    await asyncio.sleep(2)
    proxy.delay_s = 0


async def trickle(proxy: FaultProxy) -> None:
    proxy.piece_bytes, proxy.delay_s = 1, 0.05
    await asyncio.sleep(2)
    proxy.piece_bytes, proxy.delay_s = 0, 0
    proxy.reset_all()


async def garbage(proxy: FaultProxy) -> None:
    for _ in range(3):
        proxy.garbage = b"HTTP/1.1 400 Bad Request\r\n\r\n"
        await asyncio.sleep(0.3)
        proxy.garbage = b""
        await asyncio.sleep(0.3)


FAULTS: dict[str, Fault] = {
    "replies lost after the script ran, three times": drop_replies,
    "connections reset 10 times a second": reset,
    "half-open connections for 2 s": blackhole,
    "200 ms more latency for 2 s": slow,
    "replies at 20 bytes/s for 2 s": trickle,
    "garbage replies": garbage,
}
QUICK = "replies lost after the script ran, three times"


@pytest.mark.parametrize(
    "fault", [fault if fault == QUICK else pytest.param(fault, marks=pytest.mark.chaos) for fault in FAULTS]
)
async def test_12_the_network(directory: Path, binary: str | None, row: Row, fault: str) -> None:
    async with scene_behind_proxy(directory, binary) as (on, proxy):
        outcome = await on.under_load(lambda: FAULTS[fault](proxy), 8 if fault != QUICK else 5, after_s=1.5)
        row("12", fault, outcome)
        assert_answered(outcome)
        assert not IS_TIMED or outcome.last_s < 2 + 2 + 1.5
        assert outcome.counted == outcome.admitted, outcome
        assert outcome.proved or outcome.degraded, outcome.audit
        assert outcome.excess <= RPM
