"""Where aiohttp doesn't have a name that the node uses: it serves by the public API, and says so once."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import aiohttp
from node_commands import Command
from store_tools import declare, new_api_key

ROOT = Path(__file__).parents[2]
RENAMED = """
import runpy
from aiohttp.base_protocol import BaseProtocol
if hasattr(BaseProtocol, "_pause_reading_for_buffer"):  # the oldest that is allowed doesn't have it
    BaseProtocol._hold_reading_for_buffer = BaseProtocol._pause_reading_for_buffer
    del BaseProtocol._pause_reading_for_buffer
runpy.run_module("limiter_node", run_name="__main__", alter_sys=True)
"""
"""A node with an aiohttp in which one method has another name."""


async def test_a_node_without_a_private_name_says_so_once_and_serves(embedded_single: str) -> None:
    api_key = new_api_key()
    declare(embedded_single, api_key)
    options = ("serve", "--port", "0", "--store", embedded_single, "--log-format", "json")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LIMITER_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", RENAMED, *options, stdout=PIPE, stderr=PIPE, env=environment, cwd=ROOT
    )
    node = Command(process)
    try:
        url = (await node.line(r"node \S+ ready (\S+)"))[1]
        body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {api_key}"}) as session:
            for _ in range(2):
                async with session.post(f"{url}/v1/chat/completions", json=body) as response:
                    assert response.status == 200
                    assert (await response.text()).endswith("data: [DONE]\n\n")
        assert await node.stop() == 0
        assert process.stderr is not None
        events = [json.loads(line) for line in (await process.stderr.read()).splitlines()]
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
    told = [event for event in events if event["event"] == "aiohttp_unknown"]
    assert [event["aiohttp"] for event in told] == [aiohttp.__version__]
    assert "RequestHandler._pause_reading_for_buffer" in told[0]["missing"]
    assert told[0]["level"].lower() == "warning"
