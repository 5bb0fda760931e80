"""Accounts put into a store as bytes, for tests that need one without a keys file."""

from __future__ import annotations

from collections.abc import Sequence

from store_tools import store_client

from limiter_node.policy import AccountPolicy, KeyPolicy
from limiter_node.policy_body import body_of, version_of
from limiter_node.store.keyspace import ACCOUNT_FIELD, deleted_key, limits_key, policy_key


def put_account(url: str, account: AccountPolicy, keys: Sequence[KeyPolicy] = ()) -> None:
    """Store an account and its keys, in the place of what is stored of them, with the keys' pointers to it."""
    fields = {"version": version_of(body_of(account)), "account": body_of(account)}
    for key in keys:
        fields[key.kid] = version_of(body_of(key))
        fields[f"k:{key.kid}"] = body_of(key)
    kids = [key.kid for key in keys] if account.key is None else [account.key.kid]
    with store_client(url) as client:
        client.hset(policy_key(account.tag), mapping=fields)
        for kid in kids:
            client.delete(deleted_key(kid))
            if client.type(limits_key(kid)) != b"hash":
                client.delete(limits_key(kid))
            client.hset(limits_key(kid), ACCOUNT_FIELD, account.tag)
