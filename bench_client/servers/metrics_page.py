"""A node's ``/metrics``: fetched by blocking I/O within a time, kept as it came, and read after the run.

What fetches shares an interpreter with the sending, so it is httptools that reads responses here, too: it does in C
what ``http.client`` does with the interpreter's lock held, and lets the deadline be looked at between any two bytes.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable
from contextlib import suppress
from time import monotonic
from typing import NamedTuple

import httptools
from prometheus_client.parser import text_string_to_metric_families

from bench_client.clock import NS_PER_S, clock_ns
from bench_client.servers.servers_file import BATCH_BOUNDS, Sample, TargetSamples
from bench_client.servers.targets import LoadTarget

FETCH_TIMEOUT_S = 2.0
MAX_PAGE_BYTES = 1 << 20
MAX_VALUE = 1 << 53
"""Above this value, a double is no longer exact."""
_CPU, _MEMORY = "process_cpu_seconds_total", "process_resident_memory_bytes"
_DECISIONS, _BATCHES, _NODE = "limiter_decisions_total", "limiter_batch_operations_bucket", "limiter_build_info"
_LINES_READ = re.compile(rf"^(?:{'|'.join((_CPU, _MEMORY, _DECISIONS, _BATCHES, _NODE))})[ {{].*$", re.MULTILINE)


class Page(NamedTuple):
    """Hold a response with status 200, and when it was complete, in ``clock_ns``."""

    at_ns: int
    body: bytes

    @property
    def is_a_nodes(self) -> bool:
        """Return whether it is a node's page. Cheap: the page isn't parsed."""
        return _DECISIONS.encode() in self.body


class Scraper:
    """Fetch one target's page over a connection that stays open between fetches. ``abort`` is for another thread."""

    def __init__(self, target: LoadTarget) -> None:
        self._target = target
        self._request = (
            f"GET {target.path}/metrics HTTP/1.1\r\nHost: {target.authority}\r\nAccept: text/plain\r\n\r\n"
        ).encode()
        self._socket: socket.socket | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._aborted = False
        self._begin()

    def fetch(self) -> Page | None:
        """Return the page; None if the target didn't answer with 200 and at most 1 MiB within two seconds."""
        deadline = monotonic() + FETCH_TIMEOUT_S
        was_open = self._socket is not None
        page = self._attempt(deadline)
        if page is None and was_open and not self._aborted:  # the target may have closed what was idle
            page = self._attempt(deadline)
        return page

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def abort(self) -> None:
        """Make a fetch that is under way fail at once."""
        self._aborted = True
        connection = self._socket
        if connection is not None:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def on_body(self, part: bytes) -> None:
        """Take a part of the body; for httptools."""
        self._size += len(part)
        if self._size > MAX_PAGE_BYTES:
            raise ValueError("larger than any node's")
        self._parts.append(part)

    def on_message_complete(self) -> None:
        self._is_complete = True
        self._status = self._parser.get_status_code()
        self._stays_open = self._parser.should_keep_alive()

    def _begin(self) -> None:
        self._parts: list[bytes] = []
        self._size = self._status = 0
        self._is_complete = self._stays_open = False

    def _attempt(self, deadline: float) -> Page | None:
        self._begin()
        try:
            self._exchange(deadline)
        except (OSError, UnicodeError, httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._stays_open = False
        if not self._stays_open:
            self.close()
        return Page(clock_ns(), b"".join(self._parts)) if self._is_complete and self._status == 200 else None

    def _exchange(self, deadline: float) -> None:
        """Return when the response is complete. Raises an error of the socket's or the parser's."""
        if self._socket is None:
            self._socket = self._connect(deadline)
            self._parser = httptools.HttpResponseParser(self)
        connection = self._socket
        connection.settimeout(_left(deadline))
        connection.sendall(self._request)
        while not self._is_complete:
            connection.settimeout(_left(deadline))
            data = connection.recv(65_536)
            if not data:
                raise ConnectionResetError
            self._parser.feed_data(data)

    def _connect(self, deadline: float) -> socket.socket:
        target = self._target
        connection = socket.create_connection((target.host, target.port), _left(deadline))
        context = target.tls_context()
        if context is None:
            return connection
        try:
            return context.wrap_socket(connection, server_hostname=target.host)
        except BaseException:
            connection.close()
            raise


def read_pages(url: str, pages: Iterable[Page], start_ns: int) -> TargetSamples:
    """Return what the pages say; incomplete pages are left out."""
    node, samples = "", []
    for page in pages:
        try:
            node, sample = _read(page.body.decode(), round((page.at_ns - start_ns) / NS_PER_S, 6))
        except (ValueError, LookupError):
            continue
        samples.append(sample)
    return TargetSamples(url, node, tuple(samples))


def _read(text: str, at_s: float) -> tuple[str, Sample]:
    """Return the node and its sample. Raises ValueError or LookupError when something is missing or can't be right."""
    values: dict[str, float] = {}
    batches: dict[float, int] = {}
    node, decisions = "", 0.0
    for family in text_string_to_metric_families("\n".join(_LINES_READ.findall(text)) + "\n"):
        for sample in family.samples:
            if sample.name == _BATCHES:
                batches[float(sample.labels["le"])] = _whole(sample.value)
            elif sample.name == _DECISIONS:
                decisions += sample.value
            elif sample.name == _NODE:
                node = sample.labels["node"]
            else:
                values[sample.name] = sample.value
    cumulative = [batches[bound] for bound in (*BATCH_BOUNDS, float("inf"))]
    counts = [count - below for below, count in zip([0, *cumulative], cumulative, strict=False)]
    if min(counts) < 0 or not 0 <= values[_CPU] < MAX_VALUE:
        raise ValueError
    return node, Sample(at_s, round(values[_CPU], 6), _whole(values[_MEMORY]), _whole(decisions), tuple(counts))


def _left(deadline: float) -> float:
    left_s = deadline - monotonic()
    if left_s <= 0:
        raise TimeoutError
    return left_s


def _whole(value: float) -> int:
    """Return a count. Raises ValueError for fractions, negative or too large values, and what is not a number."""
    if not 0 <= value < MAX_VALUE or value != int(value):
        raise ValueError
    return int(value)
