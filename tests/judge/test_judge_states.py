"""A short selection of the runs in which states of keys change under faults; `make judge` makes more."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from judge.states import run_states
from judge.store import JudgedStore, judged_store


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def store() -> AsyncIterator[JudgedStore]:
    async with judged_store("single", None) as running:
        yield running


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.asyncio(loop_scope="module")
async def test_states_change_under_faults(store: JudgedStore, seed: int) -> None:
    found = await run_states(seed, store, 1.0, changes=6)
    assert not found.violations, found.line
    assert sum(found.changes.values()) > 5
    assert found.outcomes["admitted"]
