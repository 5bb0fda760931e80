"""``limiter-node serve`` as a real process."""

from __future__ import annotations

from pathlib import Path

import pytest
from node_commands import StartCommand, ask


async def test_a_node_serves_until_it_is_told_to_stop(
    limiter_node: StartCommand, embedded_single: str, keys_file: Path
) -> None:
    environment = {
        "LIMITER_STORE": embedded_single,
        "LIMITER_NODE_ID": "me",
        # What Kubernetes sets for a Service called "limiter".
        "LIMITER_PORT": "tcp://10.0.0.1:8080",
    }
    command = await limiter_node("serve", "--port", 0, "--keys", keys_file, environment=environment)
    url = (await command.line(r"node me ready (\S+)"))[1]
    assert await ask(url, "sk-alice") == (200, "me")
    assert (await ask(url, "sk-unknown"))[0] == 401
    assert await command.stop() == 0


async def test_services_of_kubernetes_are_no_options(limiter_node: StartCommand) -> None:
    command = await limiter_node("serve", environment={"LIMITER_PORT": "tcp://10.0.0.1:8080"})
    assert await command.ended() == 2
    assert "Missing option '--store'" in await command.errors()


@pytest.mark.parametrize("store", ["cluster", "single"])
async def test_embedded_stores_are_for_up(limiter_node: StartCommand, store: str) -> None:
    command = await limiter_node("serve", "--store", store)
    assert await command.ended() == 2
    assert f"error: serve needs the URL of a running store: 'limiter-node up --store {store}'" in (
        await command.errors()
    )
