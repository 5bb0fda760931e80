"""A short selection of the runs in which keys move between accounts under faults; `make judge` makes more."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from judge.moves import run_moves
from judge.store import JudgedStore, judged_store


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def store() -> AsyncIterator[JudgedStore]:
    async with judged_store("single", None) as running:
        yield running


@pytest.mark.parametrize("seed", [7, 14, 18])
@pytest.mark.asyncio(loop_scope="module")
async def test_keys_move_under_faults(store: JudgedStore, seed: int) -> None:
    found = await run_moves(seed, store, 1.0)
    assert not found.violations, found.line
    assert found.moves
