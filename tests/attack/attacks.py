"""The attacks: which bytes, how many at once, for how long, and what may come of them.

Each is an `Attack` that a process of its own carries out (`assailant`). Its twin is the same attack on another server
(a sink that takes any request, or the hostile service itself, without the node between), so that what the attacker's
own work costs on the same cores isn't laid on the node.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from limiter_node.settings import NodeSettings

from .bodies import KNOWN, MIB, UNKNOWN, WORST, bomb, chat, chunklets, empty_members, filled, head, request

ROUTES = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings")
REFUSED_CPU_MS = 5.0
"""What a refused request may cost: ten times what taking 1 MiB off a connection does."""
MAX_BODY: int = next(
    field.default for field in NodeSettings.__dataclass_fields__.values() if field.name == "max_body_bytes"
)
"""The default of ``--max-body-bytes``."""
SIZE = MIB - 1_024
"""Of the bodies of 1 MiB, so that a node that takes no more than 1 MiB reads them, too."""
HELD_MB = 268
"""What nodes may hold of bodies and answers by default (``--max-held-bytes``)."""
HEAP_MB = 150.0
"""The memory that a node may keep after hundreds of bodies of known keys at a time: see `limiter_node.malloc`."""


class Then(Enum):
    """What the attacker does when a request is sent."""

    READ = "read the answer"
    READ_ALL = "read until the connection is closed"
    LEAVE = "close without reading"
    HOLD = "neither read nor close"
    SLOWLY = "read 64 KiB every 2 s"


@dataclass(frozen=True)
class Attack:
    """One attack and its bounds; sizes in MB (10⁶ bytes)."""

    row: str
    """In the table of docs/failures.md: ``A1``, ``40``."""
    name: str
    shots: Callable[[], Sequence[bytes]]
    """The requests, which are taken in turn."""
    then: Then = Then.READ
    connections: int = 4
    """At once."""
    per_second: float = 1000.0
    """At most so many requests, of all connections."""
    at_most: int = 1_000_000
    """So many requests in one round."""
    seconds: float = 4.0
    """How long a round lasts."""
    gateway: bool = False
    """Whether the node stands in front of the hostile service."""
    peak_mb: float = 30.0
    """How much more memory the node and its helpers may have meanwhile."""
    after_mb: float = 30.0
    """… and afterwards."""
    more_p99_ms: float | None = None
    """How much later others may be answered (p99); None: twice their normal, see `bounds`."""
    cpu_each_ms: float | None = None
    """The CPU time that the node and its helpers may use for a request; None: any."""
    ends_within_s: float | None = None
    """The longest that an answer may take; None: any time."""

    @property
    def title(self) -> str:
        return f"{self.row} {self.name}"


def _bombs(key: str | None) -> list[bytes]:
    packed, lines = bomb(300), "Content-Encoding: gzip"
    routes = ["/nowhere", *ROUTES, "/v1/models", "/healthz", "/readyz", "/metrics", "/v1/rate_limits"]
    shots = [request(path, key, packed, lines) for path in routes]
    shots += [request("/nowhere", key, packed, lines, method=method) for method in ("GET", "PUT", "DELETE", "OPTIONS")]
    shots.append(request("/nowhere", key, bomb(300, "deflate"), "Content-Encoding: deflate"))
    shots.append(request("/v1/chat/completions", key, bomb(300, "deflate"), "Content-Encoding: deflate"))
    return shots


def _partial(key: str, count: int = 64) -> list[bytes]:
    body = filled("good", SIZE, b"[]")
    path = "/v1/chat/completions"
    return [head(path, key % number if "%d" in key else key, SIZE + 1) + body for number in range(count)]


def _unknown(body: bytes, count: int = 64, path: str = "/v1/chat/completions") -> list[bytes]:
    return [request(path, UNKNOWN % number, body) for number in range(count)]


def _pipelined(key: str | None, count: int = 5_000) -> list[bytes]:
    """Requests in one go, small ones; the last asks for the end of the connection."""
    one = head("/nowhere", key, 0, method="GET")
    return [one * count + one.replace(b"Host: node", b"Host: node\r\nConnection: close")]


def _expecting(key: str) -> list[bytes]:
    return [head(ROUTES[0], key, MIB, "Expect: 100-continue")]


def _members(key: str) -> list[bytes]:
    return [request(ROUTES[0], key, empty_members(size), "Content-Encoding: gzip") for size in (MIB, MAX_BODY - MIB)]


def _of_service(model: str, **fields: object) -> Callable[[], list[bytes]]:
    return lambda: [request("/v1/chat/completions", KNOWN, chat(model, **fields))]


def _refused() -> list[Attack]:
    noisy = filled("good", SIZE, b"[]", "documents")
    held = HELD_MB + 100  # with what the second process takes to read one
    free: dict[str, Any] = {"cpu_each_ms": REFUSED_CPU_MS}
    crowd: dict[str, Any] = {"connections": 10_000, "seconds": 12.0, "then": Then.HOLD}
    return [
        Attack("A1", "gzip bomb of 300 MB to /nowhere, no key", lambda: _bombs(None)[:1], connections=20, **free),
        Attack("A1", "bombs to every route, no key", lambda: _bombs(None), connections=20, **free),
        Attack("A1", "bombs to every route, unknown key", lambda: _bombs(UNKNOWN % 1), connections=20, **free),
        Attack("A1", "bombs to every route, known key", lambda: _bombs(KNOWN), connections=20, peak_mb=held),
        Attack(
            *("A2", "3,000 times 1 MiB of an unknown key, then gone", lambda: _unknown(b"x" * SIZE), Then.LEAVE),
            connections=1,
            at_most=1_000,
            **free,
        ),
        Attack(
            *("A2", "1 MiB of a known key, then gone", lambda: [request(ROUTES[0], KNOWN, noisy)], Then.LEAVE),
            connections=1,
            at_most=300,
            peak_mb=held,
            after_mb=HEAP_MB,
        ),
        Attack("38", "gzip of nothing, in members of 20 bytes, no key", lambda: _members(UNKNOWN % 1), **free),
        Attack("38", "gzip of nothing, in members of 20 bytes, known key", lambda: _members(KNOWN), peak_mb=held),
        Attack("38", "chunks of a byte, no key", lambda: [chunklets(ROUTES[0], None, b" " * SIZE)], **free),
        Attack(
            *("38", "chunks of a byte, known key", lambda: [chunklets(ROUTES[0], KNOWN, chat("good").ljust(SIZE))]),
            peak_mb=held,
        ),
        Attack(
            *("38", "4 MiB in chunks of two bytes, known key"),
            lambda: [chunklets(ROUTES[0], KNOWN, chat("good").ljust(4 * MIB), 2)],
            connections=8,
            seconds=8.0,
            peak_mb=held,
        ),
        Attack("39", "5,000 requests in one go, no key", lambda: _pipelined(None), Then.READ_ALL),
        Attack("39", "5,000 requests in one go, known key", lambda: _pipelined(KNOWN), Then.READ_ALL),
        Attack(
            *("39", "10,000 keys that nobody has", lambda: _unknown(chat("good"), 10_000)),
            connections=8,
            per_second=2_000.0,
            **free,
        ),
        Attack("39", "waits for 100 Continue, unknown key", lambda: _expecting(UNKNOWN % 1), connections=8, **free),
        Attack("A3", "1 MiB of [],[],… of an unknown key", lambda: _unknown(noisy), **free),
        Attack("A3", "1 MiB of a text of an unknown key", lambda: _unknown(WORST["words"]("good", SIZE)), **free),
        Attack(
            *("A4", "10,000 connections 1 MiB into a body, unknown key", lambda: _partial(UNKNOWN)),
            **crowd,
            peak_mb=300.0,
        ),
        Attack(
            *("A4", "10,000 connections 1 MiB into a body, known key", lambda: _partial(KNOWN)),
            **crowd,
            peak_mb=HELD_MB + 300,
            after_mb=HEAP_MB,
        ),
        Attack(
            *("39", "10,000 heads that don't end, unknown key", lambda: [head(ROUTES[0], UNKNOWN % 1, MIB)[:-2]]),
            **crowd,
            peak_mb=300.0,
        ),
    ]


def _worst(kind: str) -> Callable[[], list[bytes]]:
    return lambda: [request(ROUTES[0], KNOWN, WORST[kind]("good", MAX_BODY))]


def _admitted() -> list[Attack]:
    return [
        Attack(
            *("40", f"known key, bodies of {MAX_BODY // MIB} MiB: {kind}", _worst(kind)),
            connections=8,
            seconds=8.0,
            peak_mb=HELD_MB + 300,
            after_mb=60.0,
            more_p99_ms=20.0,
        )
        for kind in WORST
    ]


def _waiting() -> list[Attack]:
    return [
        Attack(
            "B1",
            '20 times 1 MiB of "x":[[],[],…] while the service thinks',
            lambda: [request(ROUTES[0], KNOWN, filled("thinks", SIZE, b"[]"))],
            connections=20,
            at_most=20,
            seconds=8.0,
            gateway=True,
            peak_mb=80.0,
        ),
        Attack(
            "B2",
            "50 whole answers of 100 MB, read at 64 KiB per 2 s",
            lambda: [request("/v1/embeddings", KNOWN, b'{"model":"large","input":"a"}')],
            Then.SLOWLY,
            connections=50,
            at_most=50,
            seconds=8.0,
            gateway=True,
            peak_mb=80.0,
        ),
        Attack(
            "B2",
            "50 whole answers of 100 MB, never read",
            lambda: [request(ROUTES[0], KNOWN, chat("large"))],
            Then.HOLD,
            connections=50,
            at_most=50,
            seconds=8.0,
            gateway=True,
            peak_mb=80.0,
        ),
        Attack(
            "B2",
            "50 streams of 100 MB, never read",
            _of_service("large stream", stream=True),
            Then.HOLD,
            connections=50,
            at_most=50,
            seconds=8.0,
            gateway=True,
            peak_mb=80.0,
        ),
    ]


def _hostile(name: str, model: str, *, stream: bool = False, ends_within_s: float | None = None) -> Attack:
    return Attack(
        "B3" if "bomb" in name else "B4",
        name,
        _of_service(model, **({"stream": True} if stream else {})),
        connections=8,
        per_second=20.0,
        seconds=10.0 if ends_within_s else 5.0,
        gateway=True,
        peak_mb=80.0,
        ends_within_s=ends_within_s,
    )


ENDS_S = 6.0
"""Longest time for an answer that never ends where it must: the nodes' patience with silence is 2 s here."""


def _services() -> list[Attack]:
    return [
        _hostile("gzip bomb of 1 GiB as a whole answer", "bomb"),
        _hostile("gzip bomb of 1 GiB as an error", "bomb error"),
        _hostile("gzip bomb of 1 GiB as a stream", "bomb stream", stream=True),
        _hostile("pings for ever after [DONE]", "pings after done", stream=True, ends_within_s=ENDS_S),
        _hostile("events for ever after [DONE]", "events after done", stream=True, ends_within_s=ENDS_S),
        _hostile("blanks for ever after a whole answer", "more after whole"),
        _hostile("103 for ever", "103s", ends_within_s=ENDS_S),
        _hostile("header fields for ever", "headers", ends_within_s=ENDS_S),
        _hostile("one header field that never ends", "one header", ends_within_s=ENDS_S),
        _hostile("a head that drips", "drips head", ends_within_s=ENDS_S),
        _hostile("trailers for ever", "trailers", stream=True, ends_within_s=ENDS_S),
        _hostile("an answer that drips", "drips"),
        _hostile("a stream that drips", "drips stream", stream=True),
        _hostile("10,000 chunks of a byte, whole", "tiny chunks"),
        _hostile("10,000 chunks of a byte, streamed", "tiny chunks stream", stream=True),
        _hostile("100,000 events in one go", "many events", stream=True),
        _hostile("100,000 usages in one go", "many usages", stream=True),
        _hostile("one event of 100 MB", "one event", stream=True),
        _hostile("a line that never ends", "one line", stream=True),
        _hostile("an error of 100 MB", "large error"),
        _hostile("chunk extensions for ever", "extensions", stream=True, ends_within_s=ENDS_S),
    ]


ATTACKS: list[Attack] = [*_refused(), *_admitted(), *_waiting(), *_services()]
