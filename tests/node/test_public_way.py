"""The public way, in the suite: the tests of connections once more, in a process of their own that goes it.

`make test-aiohttp` runs all tests of HTTP that way.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from limiter_node.http.server.aiohttp_private import WAY, Way

ROOT = Path(__file__).parents[2]
SELECTION = (
    "tests/http/test_answer.py",
    "tests/http/test_serving.py",
    "tests/http/test_slow_readers.py",
    "tests/node/test_key_first.py",
    "tests/node/test_streaming.py",
    "tests/node/test_tiny_chunks.py",
)


@pytest.mark.skipif(WAY is Way.PUBLIC, reason="this process goes it already")
@pytest.mark.timeout(300)
def test_connections_are_served_by_the_public_api_alone() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *SELECTION]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"AIOHTTP_WAY": "public"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-8_000:] + done.stderr
    assert " passed" in done.stdout
