"""An OpenAI-compatible service that misbehaves for a share of its requests, as a process of its own.

    python tests/gateway/flaky_upstream.py --port 0 --seed 1 --mix 500=0.05,cut=0.05

says ``ready http://127.0.0.1:PORT/v1`` when it is. Chats are answered as JSON or as a stream, of as many tokens as the
seed says and the cap allows, with a usage that is exact: by this project's tokenizer, by which nodes count input, too.
``GET /counts`` tells how many requests it has met in each way. It has one model and looks at no key.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any, Self
from urllib.request import urlopen

from aiohttp import web

from limiter_node.tokens.chat import count_chat
from limiter_node.tokens.vocabulary import count

MODEL = "flaky-1"
WORD = " time"
"""One token, also behind another."""
ANSWER_S = 0.02
SLOW_S = (0.8, 0.2)
"""How long slow heads take, in turn."""
WAIT_WORD, WAIT_S = "Wait.", 0.3
"""A prompt that begins with it is answered, well or badly, so much later, so that whoever asks can leave before. It is
well within the read timeout of the nodes in front."""

UNCOUNTED_INPUT = 3
"""Input tokens that it tells beyond what a node counts."""

OK = "ok"
OWN_LIMIT = {
    "x-ratelimit-limit-requests": "3",
    "x-ratelimit-remaining-requests": "0",
    "x-ratelimit-limit-input-tokens": "7",
    "x-ratelimit-reset-requests": "17ms",
    "retry-after-ms": "17",
    "retry-after": "1",
}
"""Looks like a limiter's, and is about none of its callers' keys."""


class FlakyService:
    """The service; `shares` says which share of requests meets which of `KINDS`."""

    def __init__(self, seed: int, shares: dict[str, float]) -> None:
        self.counts: Counter[str] = Counter()
        self._draw = Random(seed)
        self._kinds = [*shares, OK]
        self._weights = [*shares.values(), 1 - sum(shares.values())]

    def application(self) -> web.Application:
        """Its routes."""
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self.chat)
        app.router.add_get("/v1/models", self.models)
        app.router.add_get("/counts", self.told_counts)
        return app

    async def models(self, _request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": MODEL, "object": "model"}]})

    async def told_counts(self, _request: web.Request) -> web.Response:
        return web.json_response(self.counts)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """One chat, answered or not."""
        asked = await request.json()
        (kind,) = self._draw.choices(self._kinds, self._weights)
        cap = asked.get("max_completion_tokens") or asked.get("max_tokens") or 16
        words, slow_s = self._draw.randint(1, cap), SLOW_S[self.counts["slow"] % 2]
        self.counts[kind] += 1
        waits = str(asked["messages"][0]["content"]).startswith(WAIT_WORD)
        await asyncio.sleep(WAIT_S if waits else slow_s if kind == "slow" else ANSWER_S)
        if kind in KINDS:
            return await KINDS[kind](request, asked, words)
        return await (_stream if asked.get("stream") else _whole)(request, asked, words)


Kind = Callable[[web.Request, dict[str, Any], int], Awaitable[web.StreamResponse]]


def _completion(asked: dict[str, Any], words: int) -> dict[str, Any]:
    text = WORD * words
    message = {"role": "assistant", "content": text}
    return {
        "id": "chatcmpl-flaky",
        "object": "chat.completion",
        "created": 1,
        "model": asked["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": _usage(asked, text),
    }


def _usage(asked: dict[str, Any], text: str) -> dict[str, int]:
    # Input as a model with a tokenizer and a chat template of its own would count it.
    before, after = count_chat(asked["messages"], asked["model"]) + UNCOUNTED_INPUT, count(text, asked["model"])
    return {"prompt_tokens": before, "completion_tokens": after, "total_tokens": before + after}


async def _whole(_request: web.Request, asked: dict[str, Any], words: int) -> web.StreamResponse:
    return web.json_response(_completion(asked, words))


async def _stream(request: web.Request, asked: dict[str, Any], words: int, *, cut: bool = False) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    head = {"id": "chatcmpl-flaky", "object": "chat.completion.chunk", "created": 1, "model": asked["model"]}

    async def send(**fields: Any) -> None:
        await response.write(b"data: %b\n\n" % json.dumps({**head, **fields}).encode())

    for _ in range(words):
        await send(choices=[{"index": 0, "delta": {"content": WORD}, "finish_reason": None}])
        if cut:
            return _hung_up(request)
    await send(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}])
    if (asked.get("stream_options") or {}).get("include_usage"):
        await send(choices=[], usage=_usage(asked, WORD * words))
    await response.write(b"data: [DONE]\n\n")
    await response.write_eof()
    return response


def _hung_up(request: web.Request, last: bytes = b"") -> web.StreamResponse:
    transport = request.transport
    if transport is not None:
        transport.write(last)
        transport.close()
    return web.Response()  # nobody gets it


def _refuses(status: int, message: str, headers: dict[str, str] | None = None) -> Kind:
    async def refuse(_request: web.Request, _asked: dict[str, Any], _words: int) -> web.StreamResponse:
        error = {"message": message, "type": "server_error", "param": None, "code": None}
        return web.json_response({"error": error}, status=status, headers=headers)

    return refuse


async def _close(request: web.Request, _asked: dict[str, Any], _words: int) -> web.StreamResponse:
    return _hung_up(request)


async def _cut(request: web.Request, asked: dict[str, Any], words: int) -> web.StreamResponse:
    if asked.get("stream"):
        return await _stream(request, asked, words, cut=True)
    body = json.dumps(_completion(asked, words)).encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    return _hung_up(request, head + body[: len(body) // 2])


async def _garbage(request: web.Request, _asked: dict[str, Any], _words: int) -> web.StreamResponse:
    return _hung_up(request, b"\x16\x03\x01 HTTP/9 what?\r\n\r\n\x00\x00")


async def _html(_request: web.Request, _asked: dict[str, Any], _words: int) -> web.StreamResponse:
    return web.Response(text="<h1>It works!</h1>", content_type="text/html")


async def _empty(_request: web.Request, _asked: dict[str, Any], _words: int) -> web.StreamResponse:
    return web.Response(body=b"", content_type="application/json")


async def _slow(request: web.Request, asked: dict[str, Any], words: int) -> web.StreamResponse:
    return await (_stream if asked.get("stream") else _whole)(request, asked, words)


KINDS: dict[str, Kind] = {
    "500": _refuses(500, "The server had an error."),
    "503": _refuses(503, "Overloaded."),
    "429": _refuses(429, "Rate limit reached for org-1: Limit 3, Used 3, Requested 1. Please wait.", OWN_LIMIT),
    "close": _close,
    "cut": _cut,
    "garbage": _garbage,
    "slow": _slow,
    "html": _html,
    "empty": _empty,
}
"""``close``: before any byte. ``cut``: within the body. ``garbage``: no HTTP. ``slow``: a good answer, late."""


class FlakyUpstream:
    """The service's process, which can be killed and started again on its port; a context manager."""

    def __init__(self, *, seed: int = 1, share: float = 0.04) -> None:
        """`share` of requests meet each kind."""
        self.url = ""
        self._seed, self._port = seed, 0
        self._mix = ",".join(f"{kind}={share}" for kind in KINDS)
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Returns when it is ready."""
        arguments = ["--port", str(self._port), "--seed", str(self._seed), "--mix", self._mix]
        command = [sys.executable, __file__, *arguments]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        said = self._process.stdout.readline().split()
        if said[:1] != ["ready"]:
            self.kill()
        assert said[:1] == ["ready"], said
        self.url = said[1]
        self._port = int(self.url.split(":")[2].split("/")[0])
        self._seed += 1

    def kill(self) -> None:
        """At once, with all that is under way."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()

    def counts(self) -> Counter[str]:
        """What it has done since it was started."""
        with urlopen(self.url.removesuffix("/v1") + "/counts", timeout=10) as response:
            return Counter(json.load(response))


def _shares(text: str) -> dict[str, float]:
    shares = {}
    for part in filter(None, text.split(",")):
        kind, _, share = part.partition("=")
        if kind not in KINDS:
            raise argparse.ArgumentTypeError(f"{kind!r} is none of {', '.join(KINDS)}")
        shares[kind] = float(share)
    if sum(shares.values()) > 1:
        raise argparse.ArgumentTypeError("the shares are more than all requests")
    return shares


async def _serve(port: int, service: FlakyService) -> None:
    runner = web.AppRunner(service.application(), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    print(f"ready http://127.0.0.1:{runner.addresses[0][1]}/v1", flush=True)
    await asyncio.Event().wait()


def main() -> None:
    """Serves until it is ended."""
    parser = argparse.ArgumentParser(description="An OpenAI-compatible service that misbehaves.")
    parser.add_argument("--port", type=int, default=0, help="0: any")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--mix", type=_shares, default={}, help="KIND=SHARE,…; kinds: " + ", ".join(KINDS))
    arguments = parser.parse_args()
    asyncio.run(_serve(arguments.port, FlakyService(arguments.seed, arguments.mix)))


if __name__ == "__main__":
    main()
