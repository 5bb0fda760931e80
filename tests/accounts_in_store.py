"""Accounts put into a store as bytes, for tests that need one without a keys file."""

from __future__ import annotations

import time
from collections.abc import Sequence

from store_tools import store_client

from limiter_node.plans import PlannedWindow
from limiter_node.policy import AccountPolicy, KeyPolicy
from limiter_node.policy_body import body_of, version_of
from limiter_node.store.accounts.codec import Layout, pack_charge
from limiter_node.store.keyspace import (
    ACCOUNT_FIELD,
    deleted_key,
    limits_key,
    member_key,
    policy_key,
    shared_key,
)
from limiter_node.store.scripts import load_script


def put_account(url: str, account: AccountPolicy, keys: Sequence[KeyPolicy] = ()) -> None:
    """Store an account and its keys, in the place of what is stored of them, with all credentials' pointers to it."""
    fields = {"version": version_of(body_of(account)), "account": body_of(account)}
    for key in keys:
        fields[key.kid] = version_of(body_of(key))
        fields[f"k:{key.kid}"] = body_of(key)
    with store_client(url) as client:
        client.hset(policy_key(account.tag), mapping=fields)
        for key in keys if account.key is None else [account.key]:
            for each in key.all_credentials:
                point(url, each.digest, key.kid, account.tag)


def point(url: str, cid: str, kid: str, tag: str) -> None:
    """Let a credential lead to a key of an account, whatever it led to before."""
    fields = {ACCOUNT_FIELD: tag} if cid == kid else {"tag": tag, "kid": kid}
    with store_client(url) as client:
        client.delete(deleted_key(cid))
        if client.type(limits_key(cid)) != b"hash":
            client.delete(limits_key(cid))
        client.hset(limits_key(cid), mapping=fields)


def charge(
    url: str,
    policy: AccountPolicy,
    windows: Sequence[PlannedWindow],
    amounts: Sequence[tuple[int, int, int, int]],
    *,
    key: KeyPolicy | None = None,
    clock_ms: int = 0,
) -> None:
    """Count usage: requests, input, output, so many seconds ago; by a node of its own, decided at `clock_ms`."""
    layout = Layout()
    number = layout.path("" if key is None else key.kid, windows)
    now_ms = int(time.time() * 1000)
    others = [pack_charge(number, now_ms - ago_s * 1000, *used) for *used, ago_s in amounts]
    batch = layout.pack(1, others, [], resent=False, clock_ms=clock_ms, key_versions=[bytes(8)] * len(layout.kids))
    tag, script = policy.tag, load_script("decide_paths")
    keys = [policy_key(tag), shared_key(tag), *(member_key(tag, kid) for kid in layout.kids)]
    with store_client(url) as client:
        node = f"n{time.monotonic_ns():x}"[-8:]
        reply = client.execute_command("EVAL", script.source, len(keys), *keys, node, batch, *layout.kids)
    assert reply[0] == 0, reply
