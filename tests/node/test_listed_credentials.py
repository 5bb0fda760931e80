"""A keys file's list of credentials is the whole list, also where it leaves a key that would be plain with just one."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from store_tools import new_api_key

from limiter_node.credentials import key_id
from limiter_node.declarations import AccountKey, Declarations
from limiter_node.keysfile.reading import read_keys_text
from limiter_node.limits import KeyLimits
from limiter_node.management.manager import Manager
from limiter_node.store.admin.store_admin import StoreAdmin, administering
from limiter_node.store.url import parse_store_url


@pytest_asyncio.fixture
async def admin(embedded_single: str) -> AsyncIterator[StoreAdmin]:
    async with administering(parse_store_url(embedded_single)) as found:
        yield found


def listed(label: str, *secrets: str, more: str = "") -> Declarations:
    credentials = ", ".join(f'"{each}"' for each in secrets)
    return read_keys_text(f"[keys.{label}]\ncredentials = [{credentials}]\n{more}".encode(), "keys.toml")


async def revoked(admin: StoreAdmin, kid: str) -> dict[str, bool]:
    stored = await admin.get(kid)
    assert isinstance(stored, AccountKey), stored
    return {each.digest: each.is_revoked for each in stored.key.credentials}


@pytest.mark.parametrize("by_word", [True, False], ids=["apply", "a start"])
async def test_a_credential_that_leaves_the_list_is_revoked(admin: StoreAdmin, by_word: bool) -> None:
    first, second = new_api_key(), new_api_key()
    kid, label = key_id(first), f"ci-{key_id(first)[:8]}"
    change = admin.apply if by_word else admin.declare
    await change(listed(label, first, second))
    assert await revoked(admin, kid) == {kid: False, key_id(second): False}
    await change(listed(label, first))
    assert await revoked(admin, kid) == {kid: False, key_id(second): True}
    await change(listed(label, first))
    assert await revoked(admin, kid) == {kid: False, key_id(second): True}


async def test_a_start_leaves_a_rotated_secret_alone_and_apply_revokes_it(admin: StoreAdmin) -> None:
    first = new_api_key()
    kid, label = key_id(first), f"ci-{key_id(first)[:8]}"
    declared = listed(label, first)
    await admin.declare(declared)
    assert await admin.get(kid) == KeyLimits(name=label)
    made = await Manager(admin).rotate(f"sha256:{kid}", grace_ms=3_600_000)
    assert made.secret is not None
    new = key_id(made.secret)
    await admin.declare(declared)
    assert await revoked(admin, kid) == {kid: False, new: False}
    await admin.declare(listed(label, first, more="rpm = 7"))
    assert await revoked(admin, kid) == {kid: False, new: False}, "the list has not changed"
    await admin.apply(declared)
    assert await revoked(admin, kid) == {kid: False, new: True}
    await admin.declare(declared)
    assert await revoked(admin, kid) == {kid: False, new: True}


async def test_a_section_by_secret_says_nothing_of_credentials(admin: StoreAdmin) -> None:
    first = new_api_key()
    kid = key_id(first)
    declared = read_keys_text(f'[keys."{first}"]\nname = "by-{kid[:8]}"'.encode(), "keys.toml")
    await admin.apply(declared)
    made = await Manager(admin).rotate(f"sha256:{kid}", grace_ms=3_600_000)
    assert made.secret is not None
    await admin.apply(declared)
    assert await revoked(admin, kid) == {kid: False, key_id(made.secret): False}
