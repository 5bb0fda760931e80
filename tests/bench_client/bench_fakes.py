"""What the client's tests need: a server that answers as a script tells it, and a ledger that makes records as an exact
limiter would, or as a wrong one when told to."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from bench_client.records.record import Record
from bench_client.records.run_directory import RunInfo

T0 = 1_700_000_000_000
KEY = "0123456789ab"
DIMENSIONS = ("requests", "input_tokens", "output_tokens")
DECISION_FIELDS = (
    *("node", "time_ms", "limit_requests", "limit_input", "limit_output"),
    *("remaining_requests", "remaining_input", "remaining_output"),
)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Usage:
    """What one admission counts, from its bucket and before and after its settle."""

    bucket: int
    amounts: tuple[int, int, int]
    settled_ms: float
    output: int
    after_failure: tuple[int, int, int] | None = None
    """What is left of one that failed."""
    told_input: int = 0
    """What the service told, which counts from the settle on if it is more."""

    def at(self, time_ms: int) -> tuple[int, int, int]:
        requests, inputs, reserved = self.amounts
        if time_ms < self.settled_ms:
            return requests, inputs, reserved
        return self.after_failure or (requests, max(inputs, self.told_input), self.output)


@dataclass
class Ledger:
    """Makes records with the figures of an exact limiter. What is admitted or rejected is for the test to say."""

    limits: tuple[int, int, int] = (10, 1000, 1000)
    key: str = KEY
    window_ms: int = 60_000
    entries: list[Usage] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)

    def used(self, time_ms: int) -> tuple[int, int, int]:
        counting = [entry.at(time_ms) for entry in self.entries if entry.bucket >= (time_ms - self.window_ms) // 100]
        return tuple(sum(amounts) for amounts in zip(*counting, strict=True)) if counting else (0, 0, 0)  # type: ignore[return-value]

    def carry(self, at_ms: int, *amounts: int) -> None:
        """Usage from before the run."""
        self.entries.append(Usage((T0 + at_ms) // 100, tuple(amounts), 0, amounts[2]))  # type: ignore[arg-type]

    def admit(
        self,
        at_ms: int,
        *,
        inputs: int = 10,
        cap: int | None = 20,
        reserved: int | None = None,
        output: int = 20,
        told: int | None = None,
        took_ms: float = 5,
        **changes: Any,
    ) -> Record:
        """An admission at ``T0 + at_ms``, limit or not. The service tells ``told`` input tokens, or those counted."""
        time_ms = T0 + at_ms
        reserve = reserved if reserved is not None else cap or 0
        told = inputs if told is None else told
        self.entries.append(Usage(time_ms // 100, (1, inputs, reserve), time_ms + took_ms, output, told_input=told))
        values = {
            "status": 200,
            "input_tokens": inputs,
            "max_tokens": cap,
            "reserved_output": reserve,
            "prompt_tokens": inputs,
            "completion_tokens": output,
            "told_input": told,
            "told_input_at_most": told,
        }
        return self._record(at_ms, took_ms, **{**values, **changes})

    def fail(
        self,
        at_ms: int,
        status: int = 502,
        *,
        upstream_status: int | None = None,
        inputs: int = 10,
        cap: int = 20,
        took_ms: float = 5,
        refunded_ms: float = 0,
        leaves: tuple[int, int, int] = (1, 0, 0),
        **changes: Any,
    ) -> Record:
        """An admission whose upstream failed: ``refunded_ms`` after the response only ``leaves`` of it counts."""
        refunded_at_ms = T0 + at_ms + took_ms + refunded_ms
        self.entries.append(Usage((T0 + at_ms) // 100, (1, inputs, cap), refunded_at_ms, 0, leaves))
        values = {
            "status": status,
            "upstream_status": upstream_status,
            "input_tokens": inputs,
            "max_tokens": cap,
            "reserved_output": cap,
        }
        return self._record(at_ms, took_ms, **{**values, **changes})

    def fail_limited(self, at_ms: int, **changes: Any) -> Record:
        """An admission whose upstream had its own limit and told that one instead of ours."""
        foreign = {"limit_requests": 3, "remaining_requests": 0, "limit_input": 5, "remaining_input": 9}
        return self.fail(at_ms, 429, upstream_status=429, **{**foreign, "retry_after_ms": 20, **changes})

    def reject(
        self, at_ms: int, dimension: int, *, requested: int = 1, cap: int = 20, took_ms: float = 1, **changes: Any
    ) -> Record:
        """A rejection bound by ``dimension``, justified or not."""
        values = {
            "status": 429,
            "exceeded": DIMENSIONS[dimension],
            "requested": requested,
            "max_tokens": requested if dimension == 2 else cap,
            "reserved_output": requested if dimension == 2 else cap,
            "retry_after_ms": self.retry_after_ms(at_ms, dimension, requested),
        }
        return self._record(at_ms, took_ms, **{**values, **changes})

    def retry_after_ms(self, at_ms: int, dimension: int, requested: int) -> int:
        """The exact one: the start of the first bucket in which enough has left the window."""
        time_ms, width = T0 + at_ms, self.window_ms // 100
        used_in: dict[int, int] = {}
        for entry in self.entries:
            used_in[entry.bucket] = used_in.get(entry.bucket, 0) + entry.at(time_ms)[dimension]
        buckets = range(time_ms // 100 + 1, (time_ms + self.window_ms) // 100 + 2)
        used = sum(amount for bucket, amount in used_in.items() if bucket >= buckets[0] - width)
        for bucket in buckets:
            if used + requested <= self.limits[dimension]:
                return bucket * 100 - time_ms
            used -= used_in.get(bucket - width, 0)  # the next one begins without it
        return self.window_ms + 100

    def lose(
        self, at_ms: int, *, counted: tuple[int, int, int] | None = None, took_ms: float = 50, **changes: Any
    ) -> Record:
        """A request that got no answer; what it counted in the limiter, if it did."""
        if counted is not None:
            self.entries.append(Usage((T0 + at_ms) // 100, counted, float("inf"), 0))
        record = self._record(at_ms, took_ms, **{"error": "timeout", "status": None, "max_tokens": 20, **changes})
        self.records[-1] = record._replace(**dict.fromkeys(DECISION_FIELDS))
        return self.records[-1]

    def _record(self, at_ms: int, took_ms: float, **values: Any) -> Record:
        used = self.used(T0 + at_ms)
        remaining = [max(limit - amount, 0) for limit, amount in zip(self.limits, used, strict=True)]
        record = Record(
            **{
                "request": len(self.records),
                "due_us": at_ms * 1000,
                "sent_us": at_ms * 1000,
                "done_us": int((at_ms + took_ms) * 1000),
                "target": 0,
                "key": self.key,
                "input_tokens": 10,
                "max_tokens": None,
                "error": None,
                "status": None,
                "node": "n1",
                "time_ms": T0 + at_ms,
                "exceeded": None,
                "retry_after_ms": None,
                "limit_requests": self.limits[0],
                "limit_input": self.limits[1],
                "limit_output": self.limits[2],
                "remaining_requests": remaining[0],
                "remaining_input": remaining[1],
                "remaining_output": remaining[2],
                "reserved_output": None,
                "prompt_tokens": None,
                "completion_tokens": None,
                "requested": None,
                "never_fits": False,
                "degraded": None,
                "upstream_status": None,
                "told_input": None,
                "told_input_at_most": None,
                "has_other_limits": False,
                **dict.fromkeys(("model", "limit", "audited", "policies", "states")),
                **values,
            },
        )
        self.records.append(record)
        return record


def run_info(**changes: Any) -> RunInfo:
    values: dict[str, Any] = {
        "settings": {"timeout_s": 10.0, "models": {"m": 1}},
        "targets": ["http://127.0.0.1:1"],
        "keys": [(KEY, "alice")],
        "planned": 10,
        "planned_s": 10.0,
        "started_unix_ms": T0,
        "sending_s": 10.0,
        "dispatched": 10,
        "interrupted": False,
        "finished": True,
    }
    return RunInfo(**{**values, **changes})


class FakeLimiter:
    """An OpenAI-like server with an exact limiter per key; wrong in one of several ways when told to."""

    def __init__(
        self, limits: tuple[int, int, int] = (20, 100_000, 100_000), *, wrong: str = "", beyond: int = 0
    ) -> None:
        """``beyond``: input and output tokens that its service tells more than was admitted, each time."""
        self.limits = limits
        self.wrong = wrong
        self.beyond = beyond
        self.ledgers: dict[str, Ledger] = {}
        self.requests: list[dict[str, Any]] = []

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(body)
        key = request.headers["Authorization"].removeprefix("Bearer ")
        ledger = self.ledgers.setdefault(key, Ledger(self.limits))
        inputs = len(body["messages"][0]["content"].split()) + 7
        reserve = body.get("max_tokens", 256)
        now_ms = asyncio.get_running_loop().time() * 1000
        at_ms = int(now_ms)
        over = [
            d
            for d, need in enumerate((1, inputs, reserve))
            if ledger.used(T0 + at_ms)[d] + need > self.limits[d] + (5 if self.wrong == "admits too many" else 0)
        ]
        if self.wrong == "rejects early" and len(ledger.records) == 5:
            over = [0]
        if over:
            if self.wrong == "rejected ones count":
                ledger.carry(at_ms, 1, inputs, 0)
            record = ledger.reject(at_ms, over[0], requested=(1, inputs, reserve)[over[0]], cap=reserve)
            error = {"message": f"Rate limit reached for k: Limit 1, Used 1, Requested {record.requested}."}
            return web.json_response({"error": error}, status=429, headers=self._headers(record))
        told = inputs + self.beyond
        output = reserve + self.beyond if self.beyond else max(reserve // 2, 1)
        record = ledger.admit(at_ms, inputs=inputs, cap=reserve, told=told, output=output, took_ms=0.5)
        if self.wrong == "forgives overruns":
            ledger.entries[-1].told_input, ledger.entries[-1].output = inputs, reserve
        usage = {"prompt_tokens": told, "completion_tokens": record.completion_tokens}
        headers = {**self._headers(record), "x-limiter-input-tokens": str(inputs)}
        return web.json_response({"choices": [], "usage": usage}, headers=headers)

    def _headers(self, record: Record) -> dict[str, str]:
        headers = {
            "x-limiter-node": record.node,
            "x-limiter-time-ms": record.time_ms,
            "x-limiter-reserved-output": record.reserved_output,
            "x-limiter-exceeded": record.exceeded,
            "retry-after-ms": record.retry_after_ms,
            "x-ratelimit-limit-requests": record.limit_requests,
            "x-ratelimit-limit-input-tokens": record.limit_input,
            "x-ratelimit-limit-output-tokens": record.limit_output,
            "x-ratelimit-remaining-requests": record.remaining_requests,
            "x-ratelimit-remaining-input-tokens": record.remaining_input,
            "x-ratelimit-remaining-output-tokens": record.remaining_output,
        }
        return {name: str(value) for name, value in headers.items() if value is not None}


def application(chat: Handler) -> web.Application:
    async def ready(_: web.Request) -> web.StreamResponse:
        return web.Response(text="ready")

    async def models(_: web.Request) -> web.StreamResponse:
        return web.json_response({"object": "list", "data": [{"id": "first-model"}]})

    app = web.Application()
    app.router.add_post("/v1/chat/completions", chat)
    app.router.add_get("/readyz", ready)
    app.router.add_get("/v1/models", models)
    return app


def held_until(is_so: Callable[[], bool], chat: Handler) -> Handler:
    """Return a handler that answers as `chat` does, once something is so: a run then doesn't end before it."""

    async def held(request: web.Request) -> web.StreamResponse:
        async with asyncio.timeout(20):
            while not is_so():
                await asyncio.sleep(0.01)
        return await chat(request)

    return held


async def stop(runner: web.AppRunner) -> None:
    """End a server and leave no connection open, whether its client reads or not."""
    ports = {address[1] for address in runner.addresses}
    listening = [each for site in runner.sites for each in site._server.sockets]  # type: ignore[attr-defined]
    for each in listening:
        asyncio.get_running_loop().remove_reader(each.fileno())
    await several_turns()  # asyncio forgets connections that are accepted, but not set up, when a server closes
    for site in tuple(runner.sites):
        await site.stop()
    await runner.cleanup()
    await abort_connections(ports)


async def abort_connections(ports: set[int]) -> None:
    """Abort the connections that servers on these ports have accepted in this loop.

    Asked of the loop, because no server knows all of its connections: not those of which it has let go while their
    clients don't read, and not those whose TLS handshake is under way.
    """
    loop: Any = asyncio.get_running_loop()
    for transport in list(loop._transports.values()):
        if (transport.get_extra_info("sockname") or ("", 0))[1] in ports:
            transport.abort()
    await several_turns()


async def several_turns() -> None:
    """Let the loop do what it has to do by now."""
    for _ in range(5):
        await asyncio.sleep(0)


@contextmanager
def serving(app: web.Application, port: int = 0, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """Serves in a thread of its own, for what brings its own event loop; gives the URL."""
    loop = asyncio.new_event_loop()
    runner = web.AppRunner(app, shutdown_timeout=0.1)

    async def start() -> str:
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", port, ssl_context=tls)
        await site.start()
        return f"{'https' if tls else 'http'}://127.0.0.1:{runner.addresses[0][1]}"

    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield asyncio.run_coroutine_threadsafe(start(), loop).result(20)
    finally:
        asyncio.run_coroutine_threadsafe(stop(runner), loop).result(20)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def write_keys(path: Path, *names: str) -> Path:
    path.write_text("".join(f'[keys."sk-{name}"]\nname = "{name}"\n' for name in names))
    return path
