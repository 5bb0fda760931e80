"""Faults of the service behind the nodes, under load; a short run of it is in tests/gateway."""

from __future__ import annotations

from pathlib import Path

import pytest
from chaos_scene import Row, scene
from gateway.audited_run import NODE_OPTIONS, run_and_judge
from gateway.flaky_upstream import FlakyUpstream


@pytest.mark.chaos
async def test_30_the_service_behind_the_nodes_fails_in_every_way(
    directory: Path, binary: str | None, row: Row
) -> None:
    with FlakyUpstream(seed=30) as upstream:
        async with scene(directory, binary, "--upstream", upstream.url, *NODE_OPTIONS) as on:
            outcome = await run_and_judge(on, upstream, requests=200, qps=300, seconds=8)
            row("30", "the service behind the nodes fails in nine ways, and is killed for 0.7 s", outcome)
