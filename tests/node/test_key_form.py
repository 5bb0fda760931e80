"""A plain key that becomes an account's while nodes use it, or whose value is damaged: only the latter is an error."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from dispatching import dispatching
from store_tools import declare, new_api_key, store_client

from limiter_node.decisions import Need, Outcome
from limiter_node.errors import StoreUnavailable
from limiter_node.keysfile.reading import read_keys
from limiter_node.store.admin.store_admin import administering
from limiter_node.store.keyspace import limits_key
from limiter_node.store.url import parse_store_url

ONE = Need(1, 1, 0)


@pytest.fixture(params=["embedded_cluster", "system_cluster"])
def url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


@pytest.mark.parametrize("asks_first", ["admit", "peek"])
async def test_a_key_that_becomes_an_accounts_is_no_error(
    url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, asks_first: str
) -> None:
    api_key, file = new_api_key(), tmp_path / "keys.toml"
    kid = declare(url, api_key, rpm=5)
    file.write_text(f'[keys.{api_key}]\nrpm = 5\nlimits = [{{ requests = 4, per = "1d" }}]\n')
    async with dispatching(url) as dispatcher:
        for _ in range(2):
            assert (await dispatcher.admit(kid, ONE)).outcome is Outcome.ADMITTED
        async with administering(parse_store_url(url)) as admin:
            await admin.apply(read_keys(file))
        if asks_first == "peek":
            usage = await dispatcher.peek(kid)
            assert usage is not None
            assert usage.path is not None
            assert usage.path.used[0] == (2, 2, 2)
        found = [(await dispatcher.admit(kid, ONE)).outcome for _ in range(4)]
        assert found == [Outcome.ADMITTED] * 3 + [Outcome.REJECTED]
        errors = dispatcher.state().errors
        assert not any(errors.get(kind) for kind in ("refused", "unreadable", "failed")), errors
    assert not [each for each in caplog.records if each.levelno >= logging.ERROR]


async def test_a_damaged_value_is_counted_and_logged(url: str, caplog: pytest.LogCaptureFixture) -> None:
    kid = declare(url, new_api_key())
    async with dispatching(url) as dispatcher:
        assert (await dispatcher.admit(kid, ONE)).outcome is Outcome.ADMITTED
        with store_client(url) as client:
            client.delete(limits_key(kid))
            client.lpush(limits_key(kid), b"?")
            with pytest.raises(StoreUnavailable, match="WRONGTYPE"):
                await dispatcher.admit(kid, ONE)
            client.delete(limits_key(kid))  # other tests list the keys of this store
        assert dispatcher.state().errors["refused"] >= 1
    assert [each for each in caplog.records if "store refused a script: WRONGTYPE" in each.getMessage()]
