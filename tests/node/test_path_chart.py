"""The buckets of the window that `keys show` draws for a key of an account: what was counted, where it was counted."""

from __future__ import annotations

import random

import pytest
from accounts_in_store import charge, put_account
from hypothesis import given
from hypothesis import strategies as st
from store_tools import new_api_key

from limiter_node.credentials import key_id
from limiter_node.plans import stored_windows
from limiter_node.policy import AccountPolicy, KeyPolicy, Limit, PolicyWindow, Subject
from limiter_node.store.accounts.stored_window import unpack_buckets
from limiter_node.store.admin.store_admin import administering
from limiter_node.store.url import parse_store_url

MINUTE = PolicyWindow(60_000, limits=(Limit(0, 100), Limit(3, 2**50)), since_ms=1)


@pytest.mark.parametrize("is_own", [True, False])
@pytest.mark.parametrize("most", [9, 2**40])
@pytest.mark.parametrize("seed", range(3))
async def test_buckets_hold_what_was_counted(embedded_single: str, is_own: bool, most: int, seed: int) -> None:
    """Few and many buckets in use; small amounts, and such that a group needs wide cells."""
    dice = random.Random(seed)
    kid = key_id(new_api_key())
    key = KeyPolicy(kid, "alice", windows=(MINUTE,) if is_own else ())
    account = AccountPolicy(f"chart-{kid[:12]}", (Subject("", () if is_own else (MINUTE,)),))
    put_account(embedded_single, account, [key])
    windows = stored_windows(account, key) if is_own else stored_windows(account)
    charges = [
        (dice.randint(0, 9), dice.randint(0, most), dice.randint(0, most), dice.randint(0, 55))
        for _ in range(dice.choice((3, 50, 200)))
    ]
    for at in range(0, len(charges), 20):
        charge(embedded_single, account, windows, charges[at : at + 20], key=key if is_own else None)
    async with administering(parse_store_url(embedded_single)) as admin:
        usage = await admin.peek(kid)
    assert usage is not None
    assert usage.path is not None
    assert usage.charted == 0
    assert [sum(each) for each in list(zip(*usage.buckets, strict=True))[1:]] == list(usage.path.used[0])
    assert tuple(usage.path.used[0]) == tuple(sum(each[n] for each in charges) for n in range(3))
    numbers = [each.bucket for each in usage.buckets]
    assert numbers == sorted(set(numbers))
    now = usage.time_ms // 100
    assert {(now - each) // 10 for each in numbers} <= {ago + late for *_, ago in charges for late in range(20)}


@given(st.binary(min_size=63, max_size=63), st.dictionaries(st.integers(0, 31), st.binary(max_size=60), max_size=4))
def test_any_bytes_are_buckets_or_refused(meta: bytes, groups: dict[int, bytes]) -> None:
    now_ms = int.from_bytes(meta[5:10], "little") * 100
    try:
        found = unpack_buckets(meta, groups, now_ms, 100, 600)
    except ValueError:
        found = ()
    numbers = [each.bucket for each in found]
    assert numbers == sorted(set(numbers))
    assert all(now_ms // 100 - 600 <= each for each in numbers)
