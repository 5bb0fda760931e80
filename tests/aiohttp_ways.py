"""Marks for tests of what a node has only by aiohttp's private names, or only by its own loop.

`make test-aiohttp` runs the tests both ways.
"""

from __future__ import annotations

import pytest

from limiter_node.http.server.aiohttp_private import WAY, Way


def needs_private_names(why: str) -> pytest.MarkDecorator:
    """Skip a test where the server works by aiohttp's public API alone; `why` that can't do it."""
    return pytest.mark.skipif(WAY is Way.PUBLIC, reason=why)


needs_slices = needs_private_names("nothing is parsed in slices: a read of 256 KB is parsed at once")
needs_early_400 = needs_private_names("aiohttp tells nobody that the framing of a body under way is broken")
needs_own_loop = pytest.mark.skipif(WAY is not Way.OWN_LOOP, reason="the own loop of connections isn't used")
