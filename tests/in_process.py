"""A node in the test's own process, so that a test can give it an upstream and look inside; real HTTP, a real store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiohttp import ClientSession, web
from store_tools import declare, new_api_key

from limiter_node.credentials import key_id
from limiter_node.held import HeldBytes
from limiter_node.http.cors import Cors
from limiter_node.http.requests.reader import RequestReader
from limiter_node.http.routes import Routes
from limiter_node.http.server.client_connection import Deadlines
from limiter_node.http.server.http_server import HttpServer
from limiter_node.limiter.admission import Decider, Limiter
from limiter_node.limiter.fallback import Fallback
from limiter_node.limits import Amounts
from limiter_node.store.decisions.dispatcher import Dispatcher
from limiter_node.store.fleet import Fleet
from limiter_node.store.url import parse_store_url
from limiter_node.store.wire.topology import Topology
from limiter_node.telemetry import Telemetry
from limiter_node.upstream.interface import Upstream
from limiter_node.upstream.rendered import RenderedUpstream
from limiter_node.upstream.requests import ChatRequest, CompletionRequest, EmbeddingRequest, ResponsesApiRequest
from limiter_node.upstream.source import Completion, Deltas, Embeddings

Answer = Callable[[ChatRequest, int], Awaitable[Completion]]


class ScriptedUpstream:
    """Does what a test tells it."""

    system_fingerprint: str | None = "fp_test"

    def __init__(self) -> None:
        self.answer: Answer = self.whole
        self.deltas: Callable[[], Deltas]
        self.caps: list[int] = []
        self.request_ids: list[str] = []

    @staticmethod
    async def whole(request: ChatRequest, cap: int) -> Completion:
        return Completion(("Hello",), ("stop",), (1,), 1, "fp_test")

    async def chat(self, request: ChatRequest, cap_per_choice: int, request_id: str) -> Completion:
        self.caps.append(cap_per_choice)
        self.request_ids.append(request_id)
        return await self.answer(request, cap_per_choice)

    async def complete(self, request: CompletionRequest, cap_per_choice: int, request_id: str) -> Completion:
        self.caps.append(cap_per_choice)
        return Completion(("Hello",) * request.n, ("stop",) * request.n, (1,) * request.n, request.n, "fp_test")

    async def respond(self, request: ResponsesApiRequest, cap: int, request_id: str) -> Completion:
        self.caps.append(cap)
        return Completion(("Hello",), ("stop",), (1,), 1, "fp_test")

    async def embed(self, request: EmbeddingRequest, request_id: str) -> Embeddings:
        return Embeddings((b"[1.0]",) * len(request.inputs))

    def stream(self, request: ChatRequest, cap_per_choice: int, request_id: str) -> Deltas:
        self.caps.append(cap_per_choice)
        return self.deltas()

    async def models(self) -> tuple[str, ...]:
        return ("m",)

    async def close(self) -> None:
        pass


@dataclass
class Node:
    upstream: ScriptedUpstream
    dispatcher: Dispatcher
    url: str
    session: ClientSession
    routes: Routes
    server: HttpServer
    reader: RequestReader

    async def chat(self, api_key: str, **fields: Any) -> tuple[int, dict[str, Any]]:
        body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], **fields}
        headers = {"Authorization": f"Bearer {api_key}"}
        async with self.session.post(f"{self.url}/v1/chat/completions", json=body, headers=headers) as response:
            return response.status, await response.json()

    async def used(self, api_key: str) -> Amounts:
        assert await self.dispatcher.drain(20)
        usage = await self.dispatcher.peek(key_id(api_key))
        assert usage is not None
        return usage.used


@asynccontextmanager
async def serving(
    store: str,
    timeout_ms: int = 20_000,
    policy: Callable[[Fleet], Fallback | None] | None = None,
    upstream_of: Callable[[Telemetry], Upstream] | None = None,
    read_on_s: float = 2.0,
    deadlines: Deadlines = Deadlines(),  # noqa: B008 - a NamedTuple of numbers
    cors: Cors = Cors(),  # noqa: B008 - it doesn't change
    max_body_bytes: int = 10_000,
    decider: Decider | None = None,
) -> AsyncIterator[Node]:
    """A node in this process. It asks a `ScriptedUpstream` unless another is made. `decider` replaces the store."""
    topology = Topology(parse_store_url(store))
    telemetry = Telemetry()
    dispatcher = Dispatcher(topology, timeout_ms=timeout_ms, policy=policy, telemetry=telemetry)
    await dispatcher.start()
    scripted = ScriptedUpstream()
    upstream = RenderedUpstream(scripted) if upstream_of is None else upstream_of(telemetry)
    reader, held = RequestReader(upstream), HeldBytes(4 * max_body_bytes)
    routes = Routes(
        limiter=Limiter(decider or dispatcher, telemetry),
        upstream=upstream,
        reader=reader,
        node_id="n",
        max_body_bytes=max_body_bytes,
        held=held,
        window_ms=60_000,
        read_on_s=read_on_s,
        cors=cors,
    )
    server = HttpServer(routes.answer, keepalive_s=75, deadlines=deadlines, last_lines=cors.last_lines)
    runner = web.ServerRunner(server, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with ClientSession() as session:
            yield Node(
                scripted, dispatcher, f"http://127.0.0.1:{runner.addresses[0][1]}", session, routes, server, reader
            )
    finally:
        await runner.cleanup()
        await reader.close()
        await dispatcher.close()
        await upstream.close()


def api_key_on(store: str, **limits: Any) -> str:
    api_key = new_api_key()
    declare(store, api_key, **limits)
    return api_key
