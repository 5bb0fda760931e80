"""Bodies whose clients leave, by the hundred: the node's memory stays where it was."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from fleet import Fleet, running_fleet
from test_hostile_http import resident_kib

BODY_BYTES = 1_048_576
BODIES = 300

pytestmark = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads /proc")


MORE_KIB = {False: 40 * 1024, True: 150 * 1024}
"""Bodies of strangers leave nothing; of those of known keys the heap may keep some: see `limiter_node.malloc`."""


@pytest.fixture(params=[False, True], ids=["unknown", "known"], scope="module")
def is_known(request: pytest.FixtureRequest) -> bool:
    """Whether the clients' key is known."""
    return bool(request.param)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, is_known: bool) -> Iterator[Fleet]:
    """One node for each kind of key: what others leave behind doesn't count here."""
    with running_fleet(tmp_path_factory.mktemp("node"), "--store", "single", nodes=1) as running:
        yield running


def leave(fleet: Fleet, api_key: str, sent_bytes: int) -> None:
    """Send so much of a body, and go without reading."""
    host, _, port = fleet.nodes[0].removeprefix("http://").rpartition(":")
    lines = ("POST /v1/chat/completions HTTP/1.1", "Host: n", f"Authorization: Bearer {api_key}")
    head = "\r\n".join((*lines, f"Content-Length: {BODY_BYTES}", "", "")).encode()
    with socket.create_connection((host, int(port)), timeout=20) as client, suppress(ConnectionError):
        client.sendall(head + b"[" * sent_bytes)


@pytest.mark.parametrize("sent_bytes", [BODY_BYTES, BODY_BYTES - 500])
def test_bodies_whose_clients_leave(node: Fleet, is_known: bool, sent_bytes: int) -> None:
    """Reading a body that is cut off once left a cycle that held it: 340 MB of these."""
    api_key = node.new_key() if is_known else "sk-nobody"
    leave(node, api_key, sent_bytes)
    before = resident_kib(node)
    for _ in range(BODIES):
        leave(node, api_key, sent_bytes)
    until_s = time.monotonic() + 20  # the last ones may still be on their way through the node
    while (more_kib := resident_kib(node) - before) >= MORE_KIB[is_known] and time.monotonic() < until_s:
        time.sleep(0.1)
    assert more_kib < MORE_KIB[is_known]
