"""Accounts put into a store as bytes, for tests that need one without a keys file."""

from __future__ import annotations

from collections.abc import Sequence

from store_tools import store_client

from limiter_node.policy import AccountPolicy, KeyPolicy
from limiter_node.policy_body import body_of, version_of
from limiter_node.store.keyspace import ACCOUNT_FIELD, deleted_key, limits_key, policy_key


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
