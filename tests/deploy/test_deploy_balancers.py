"""The shipped HAProxy and nginx configurations pass on all that a node says, as it says it, and spare it nothing."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from aiohttp import ClientError, ClientResponse, ClientSession
from balancers import Balancer, haproxy, nginx, node_process, runs
from fleet import Fleet, chat, many_connections, rate_limits

LENGTH, RESERVED = 20, 1_000
KINDS = {"haproxy": haproxy, "nginx": nginx}


@pytest.fixture(scope="module", params=list(KINDS))
def balancer(
    request: pytest.FixtureRequest, streaming_fleet: Fleet, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Balancer]:
    kind: Callable[[Fleet, Path], AbstractContextManager[Balancer]] = KINDS[request.param]
    with kind(streaming_fleet, tmp_path_factory.mktemp(request.param)) as running:
        yield running


def raw_stream(api_key: str) -> bytes:
    body = json.dumps(
        {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": RESERVED, "stream": True}
    )
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api_key}\r\n"
    return f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


async def token_piece(reader: asyncio.StreamReader) -> int:
    """Read what has come, until a token is in it; how many are."""
    while data := await reader.read(65_536):
        if tokens := data.count(b'"delta":{"content":'):
            return tokens
    raise AssertionError("the stream ended early")


async def used_output(session: ClientSession, fleet: Fleet, api_key: str) -> int:
    return int((await rate_limits(session, fleet.nodes[0], api_key))["used"]["output_tokens"])


async def test_a_limit_is_exact_through_it_and_both_nodes_answer(balancer: Balancer, streaming_fleet: Fleet) -> None:
    api_key = streaming_fleet.new_key(rpm=40, name="exact")
    async with many_connections() as session, asyncio.timeout(20):
        answers = await asyncio.gather(*(chat(session, balancer.url, api_key, max_tokens=1) for _ in range(70)))
        direct, _ = await chat(session, streaming_fleet.nodes[0], api_key, max_tokens=1)
    assert Counter(response.status for response, _ in answers) == {200: 40, 429: 30}
    assert {response.headers["x-limiter-node"] for response, _ in answers} == {"1", "2"}
    assert len({response.headers["x-request-id"] for response, _ in answers}) == 70
    rejected = next(response for response, _ in answers if response.status == 429)
    assert {"retry-after-ms", "x-limiter-exceeded", "x-ratelimit-reset-requests", "ratelimit-policy"} <= {
        name.lower() for name in rejected.headers
    }
    assert names(direct) <= names(rejected), "a header of the node's is lost"


def names(response: ClientResponse) -> set[str]:
    return {name.lower() for name in response.headers}


async def test_a_stream_is_not_held_back_and_a_client_that_leaves_is_noticed(
    balancer: Balancer, streaming_fleet: Fleet
) -> None:
    """Tokens are there while the node has not yet produced the rest: it settles when it has, or when its client left,
    also before the first token."""

    async def leave(session: ClientSession, *, after_pieces: int) -> None:
        api_key = streaming_fleet.new_key()
        reader, writer = await asyncio.open_connection(*balancer.address)
        writer.write(raw_stream(api_key))
        pieces = [await token_piece(reader) for _ in range(after_pieces)]
        assert sum(pieces) < 3 * after_pieces or not pieces, "several tokens came at a time"
        while await used_output(session, streaming_fleet, api_key) != RESERVED:
            assert not pieces, "the first tokens came with the last"
        writer.transport.abort()
        while (charged := await used_output(session, streaming_fleet, api_key)) == RESERVED:
            await asyncio.sleep(0.01)
        assert sum(pieces) <= charged < LENGTH if pieces else charged == 0

    async with ClientSession() as session, asyncio.timeout(20):
        await asyncio.gather(leave(session, after_pieces=0), leave(session, after_pieces=5))


async def test_bodies_and_paths_beyond_the_api_go_no_further(balancer: Balancer, streaming_fleet: Fleet) -> None:
    async with ClientSession() as session, asyncio.timeout(20):
        reader, writer = await asyncio.open_connection(*balancer.address)
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 20971521\r\n\r\n")
        answer = await reader.readuntil(b"}}")
        assert b" 413 " in answer
        assert b'"code":"request_too_large"' in answer
        assert b"x-limiter-node" not in answer
        writer.close()
        for path in ("/metrics", "/readyz", "/healthz", "/%6detrics"):
            async with session.get(f"{balancer.url}{path}") as response:
                assert response.status == 404
                assert (await response.json(content_type=None))["error"]["code"] == "unknown_url"
        async with session.get(f"{balancer.url}/lb-health") as response:
            assert response.status == 200
        api_key = streaming_fleet.new_key()
        response, _ = await chat(session, balancer.url, api_key, content="x" * 1_000_000, max_tokens=1)
        assert response.status == 200, "a body that a node takes is taken"
        response, body = await chat(session, balancer.url, "sk-nobody")
        assert response.status == 401, body


class Callers:
    """Clients that ask again and again until they are told to stop: what they were answered, and by whom."""

    def __init__(self, balancer: Balancer, api_key: str) -> None:
        self.url, self.api_key = balancer.url, api_key
        self.outcomes: Counter[object] = Counter()
        self.nodes: list[str] = []
        self.stopping = False

    async def run(self) -> None:
        async with many_connections() as session:
            await asyncio.gather(*(self._ask(session) for _ in range(2)))

    async def _ask(self, session: ClientSession) -> None:
        while not self.stopping:
            try:
                response, _ = await chat(session, self.url, self.api_key, max_tokens=1)
            except ClientError as error:
                self.outcomes[repr(error)] += 1
            else:
                self.outcomes[response.status] += 1
                self.nodes.append(response.headers.get("x-limiter-node", ""))
            await asyncio.sleep(0.005)  # these clients share two cores with all that they ask

    async def until(self, seen: set[str], last: int) -> None:
        """Until the last so many answers came from these nodes and no others."""
        start = len(self.nodes)
        while len(self.nodes) < start + last or set(self.nodes[-last:]) != seen:
            await asyncio.sleep(0.01)


async def begun_stream(
    balancer: Balancer, api_key: str
) -> tuple[Balancer, str, asyncio.StreamReader, asyncio.StreamWriter]:
    """A stream of which the head has come, and the node that answers it."""
    reader, writer = await asyncio.open_connection(*balancer.address)
    writer.write(raw_stream(api_key))
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    return balancer, head.partition("x-limiter-node: ")[2].partition("\r\n")[0], reader, writer


async def test_a_node_that_is_stopped_fails_no_request(streaming_fleet: Fleet, tmp_path: Path) -> None:
    (_, second), (_, second_admin) = streaming_fleet.nodes, streaming_fleet.admin
    pid = node_process(streaming_fleet, second)
    api_key = streaming_fleet.new_key()
    directories = [tmp_path / name for name in ("a", "b", "c", "d")]
    for directory in directories:
        directory.mkdir()
    async with many_connections() as session, asyncio.timeout(30):
        with haproxy(streaming_fleet, directories[0]) as one, nginx(streaming_fleet, directories[1]) as other:
            callers = [Callers(balancer, api_key) for balancer in (one, other)]
            asking = [asyncio.create_task(each.run()) for each in callers]
            streams = await asyncio.gather(*(begun_stream(each, api_key) for each in (one, other) for _ in range(4)))
            assert {balancer for balancer, node, *_ in streams if node == "2"} == {one, other}
            for each in callers:
                await each.until({"1", "2"}, 10)
            os.kill(pid, signal.SIGTERM)

            while (await session.get(f"{second_admin}/readyz")).status != 503:
                await asyncio.sleep(0.01)
            response, _ = await chat(session, second, api_key, max_tokens=1)
            assert response.status == 200, "a node goes on while it tells balancers to leave"
            await callers[0].until({"1"}, 20)
            assert runs(pid), "taken out because it was gone, not because it said so"
            for _, _, reader, writer in streams:
                assert (await reader.readuntil(b"data: [DONE]")).count(b'"delta":{"content":') == LENGTH
                writer.close()
            while runs(pid):
                await asyncio.sleep(0.01)
            for each in callers:
                await each.until({"1"}, 10)
                each.stopping = True
            await asyncio.gather(*asking)
        assert set(callers[0].outcomes) == {200}, callers[0].outcomes
        # nginx is not told that a node stops: a connection made in the moment in which it stops listening is lost.
        assert set(callers[1].outcomes) <= {200, 502}, callers[1].outcomes
        assert callers[1].outcomes[502] <= 1, callers[1].outcomes

        # A node that is gone without notice, as it is for those who have not heard of it yet: the other is asked.
        for kind, directory in zip((haproxy, nginx), directories[2:], strict=True):
            with kind(streaming_fleet, directory) as fresh:
                answers = await asyncio.gather(*(chat(session, fresh.url, api_key, max_tokens=1) for _ in range(10)))
                assert {response.status for response, _ in answers} == {200}
