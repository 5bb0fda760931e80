"""Callers of a node in front of services: what they send, and what they get."""

from __future__ import annotations

import asyncio
import json
from io import BytesIO
from typing import Any

from in_process import Node

CHAT = "/v1/chat/completions"
INPUT = 8
"""Tokens of the message of `body`."""


def body(**fields: Any) -> bytes:
    """A chat of one short message."""
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": "Hi"}], **fields}).encode()


async def post(node: Node, api_key: str, data: bytes, *, path: str = CHAT, **headers: str) -> tuple[int, Any, bytes]:
    """Status, headers and body of the response, as it came."""
    given = {"Authorization": f"Bearer {api_key}", "Content-Type": "application/json", **headers}
    async with node.session.post(node.url + path, data=BytesIO(data), headers=given) as response:
        return response.status, response.headers, await response.read()


def raw_request(api_key: str, data: bytes) -> bytes:
    """A chat as it is on the wire."""
    lines = (f"POST {CHAT} HTTP/1.1", "Host: x", f"Authorization: Bearer {api_key}", f"Content-Length: {len(data)}")
    return "\r\n".join((*lines, "", "")).encode() + data


class Caller:
    """One request on a connection of its own."""

    def __init__(self, node: Node, api_key: str, data: bytes) -> None:
        self._port, self._node = int(node.url.rpartition(":")[2]), node
        self._request = raw_request(api_key, data)

    async def __aenter__(self) -> Caller:
        self.reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writer.write(self._request)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.leave()
        async with asyncio.timeout(10):
            while self._node.routes.under_way:
                await asyncio.sleep(0.002)

    def leave(self) -> None:
        self._writer.transport.abort()

    async def until(self, text: bytes) -> None:
        async with asyncio.timeout(10):
            await self.reader.readuntil(text)
