"""Credentials that are revoked, end, or belong to a disabled key: decided with the next request, by every node."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import pytest
from accounts_in_store import put_account
from dispatching import dispatching
from store_tools import new_api_key, store_client
from test_accounts import a_key, a_name, minute

from limiter_node.credentials import key_id
from limiter_node.decisions import Need, Outcome
from limiter_node.key_states import Credential, CredentialState
from limiter_node.limiter.admission import Limiter
from limiter_node.policy import REQUESTS, AccountPolicy, KeyPolicy, Limit, Subject
from limiter_node.policy_body import read_key
from limiter_node.store.decisions.dispatcher import Dispatcher
from limiter_node.store.keyspace import policy_key

ONE = Need(1, 1, 0)


def a_credential(**changes: Any) -> Credential:
    return Credential(key_id(new_api_key()), **changes)


def two_credentials(key: KeyPolicy) -> KeyPolicy:
    """The key with a second credential."""
    return replace(key, credentials=(Credential(key.kid), a_credential()))


def changed(key: KeyPolicy, at: int, **changes: Any) -> KeyPolicy:
    """The key with its credential number `at` changed."""
    credentials = list(key.all_credentials)
    credentials[at] = credentials[at]._replace(**changes)
    return replace(key, credentials=tuple(credentials))


class Kept:
    """A key in a store, in an account or, without one, as an account of its own; tests change it as a command would."""

    def __init__(self, url: str, key: KeyPolicy, account: AccountPolicy | None) -> None:
        self.url, self.key, self.account = url, key, account
        self.tag = key.kid if account is None else account.tag
        self.put(key)

    def put(self, key: KeyPolicy) -> None:
        self.key = key
        if self.account is None:
            put_account(self.url, AccountPolicy(key=replace(key, revision=0), revision=key.revision))
        else:
            put_account(self.url, self.account, [key])

    def fields(self) -> dict[bytes, bytes]:
        """All that the account's slot has of policies."""
        with store_client(self.url) as client:
            return {name: value for name, value in client.hgetall(policy_key(self.tag)).items() if name[:2] != b"n:"}

    def stored(self) -> KeyPolicy:
        """The key's policy, as it is stored in its account."""
        return read_key(self.fields()[b"k:" + self.key.kid.encode()])


@pytest.fixture(params=["of an account", "flat"])
def kept(request: pytest.FixtureRequest, url: str) -> Kept:
    account = None
    if request.param == "of an account":
        account = AccountPolicy(a_name(), (Subject("", (minute(Limit(REQUESTS, 100_000)),)),))
    return Kept(url, two_credentials(a_key("alice", minute(Limit(REQUESTS, 1_000)))), account)


@pytest.fixture
async def nodes(url: str) -> AsyncIterator[list[Dispatcher]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(dispatching(url)) for _ in range(2)]


async def ask(dispatcher: Dispatcher, cid: str) -> Outcome:
    """Decide one request as the node's HTTP side does."""
    limiter = Limiter(dispatcher)
    if not limiter.knows(cid) and (refusal := await limiter.find(cid)) is not None:
        return refusal.outcome
    return (await limiter.admit(cid, ONE)).outcome


async def admit(dispatcher: Dispatcher, cid: str) -> Outcome:
    """Decide one request that was found good before, such as one whose body has just arrived."""
    return (await dispatcher.admit(cid, ONE)).outcome


@pytest.fixture(params=[ask, admit], ids=["before its body", "after its body"])
def decide(request: pytest.FixtureRequest) -> Any:
    return request.param


def store_ms(url: str) -> int:
    with store_client(url) as client:
        seconds, microseconds = client.time()
        return int(seconds) * 1000 + int(microseconds) // 1000


async def test_each_credential_of_a_key_is_admitted_and_counts_in_its_windows(
    nodes: list[Dispatcher], kept: Kept
) -> None:
    first, second = (each.digest for each in kept.key.all_credentials)
    for node in nodes:
        assert {await ask(node, cid) for cid in (first, second, second)} == {Outcome.ADMITTED}
    for node in nodes:
        for cid in (first, second):
            usage = await node.peek(cid)
            assert not isinstance(usage, CredentialState)
            assert usage.path is not None
            assert [each.requests for each in usage.path.used] == [6] * len(usage.path.used)


async def test_a_revoked_credential_is_refused_at_once_and_the_other_one_is_not(
    nodes: list[Dispatcher], kept: Kept, decide: Any
) -> None:
    first, second = (each.digest for each in kept.key.all_credentials)
    for node in nodes:
        assert [await ask(node, cid) for cid in (first, second)] == [Outcome.ADMITTED] * 2
    kept.put(changed(kept.key, 0, is_revoked=True))
    for node in nodes:
        assert await decide(node, first) is Outcome.REVOKED_KEY
        assert not node.knows(first)
        assert await node.peek(first) is CredentialState.REVOKED
        assert await decide(node, second) is Outcome.ADMITTED


async def test_a_disabled_key_is_refused_at_once_and_admitted_at_once_when_enabled(
    nodes: list[Dispatcher], kept: Kept, decide: Any
) -> None:
    enabled = kept.key
    for node in nodes:
        assert [await ask(node, each.digest) for each in enabled.all_credentials] == [Outcome.ADMITTED] * 2
    for _ in range(2):
        kept.put(replace(enabled, is_disabled=True))
        for node in nodes:
            for each in enabled.all_credentials:
                assert await decide(node, each.digest) is Outcome.DISABLED_KEY
                assert not node.knows(each.digest)
                assert await node.peek(each.digest) is CredentialState.DISABLED
        kept.put(enabled)
        for node in nodes:
            for each in enabled.all_credentials:
                assert await decide(node, each.digest) is Outcome.ADMITTED


async def test_a_credential_and_a_key_that_have_ended_are_refused(
    nodes: list[Dispatcher], kept: Kept, decide: Any
) -> None:
    key, (first, second) = kept.key, (each.digest for each in kept.key.all_credentials)
    for node in nodes:
        assert [await ask(node, cid) for cid in (first, second)] == [Outcome.ADMITTED] * 2
    kept.put(changed(key, 0, ends_ms=store_ms(kept.url) - 1))
    for node in nodes:
        assert await decide(node, first) is Outcome.EXPIRED_KEY
        assert await node.peek(first) is CredentialState.EXPIRED
        assert await decide(node, second) is Outcome.ADMITTED
    kept.put(replace(key, expires_ms=store_ms(kept.url) - 1))
    for node in nodes:
        assert [await decide(node, cid) for cid in (first, second)] == [Outcome.EXPIRED_KEY] * 2
    kept.put(replace(key, expires_ms=store_ms(kept.url) + 3_600_000))
    for node in nodes:
        assert [await decide(node, cid) for cid in (first, second)] == [Outcome.ADMITTED] * 2


async def test_a_node_that_starts_refuses_what_the_store_says(url: str, kept: Kept) -> None:
    first, second = (each.digest for each in kept.key.all_credentials)
    kept.put(replace(changed(kept.key, 0, is_revoked=True), is_disabled=True))
    async with dispatching(url) as node:
        assert await node.find(first) is CredentialState.REVOKED
        assert await node.find(second) is CredentialState.DISABLED
        assert await node.peek(first) is CredentialState.REVOKED
        assert await node.find(key_id(new_api_key())) is CredentialState.UNKNOWN


async def test_a_credential_that_leads_to_a_key_without_it_is_unknown(nodes: list[Dispatcher], kept: Kept) -> None:
    """As while a key is rotated: the way is there first."""
    node, second, key = nodes[0], kept.key.all_credentials[1].digest, kept.key
    kept.put(replace(key, credentials=(Credential(key.kid),)))
    assert await ask(node, second) is Outcome.UNKNOWN_KEY
    assert await ask(node, key.kid) is Outcome.ADMITTED
    assert await ask(node, second) is Outcome.UNKNOWN_KEY
    kept.put(key)
    assert await ask(node, second) is Outcome.ADMITTED


async def test_a_request_that_nobody_has_looked_up_is_decided_by_the_state_of_its_credential(
    url: str, kept: Kept
) -> None:
    """As of a key that the node has forgotten while the request's body came."""
    key = changed(two_credentials(replace(kept.key, credentials=())), 1, is_revoked=True)
    key = replace(key, credentials=(*key.credentials, a_credential()))
    kept.put(replace(key, credentials=(*key.credentials, unknown := a_credential())))
    kept.put(key)
    async with dispatching(url) as node:
        first, revoked, further = (each.digest for each in key.credentials)
        for cid, outcome in (
            (further, Outcome.ADMITTED),
            (revoked, Outcome.REVOKED_KEY),
            (first, Outcome.ADMITTED),
            (unknown.digest, Outcome.UNKNOWN_KEY),
        ):
            assert await admit(node, cid) is outcome
        assert not any(node.state().errors.get(kind) for kind in ("refused", "unreadable", "failed"))


async def test_in_a_batch_of_two_credentials_only_the_revoked_one_is_refused(
    nodes: list[Dispatcher], kept: Kept
) -> None:
    node, (first, second) = nodes[0], (each.digest for each in kept.key.all_credentials)
    assert [await ask(node, cid) for cid in (first, second)] == [Outcome.ADMITTED] * 2
    kept.put(changed(kept.key, 1, is_revoked=True))
    number = node._batches.number
    decisions = await asyncio.gather(*(node.admit(cid, ONE) for cid in (first, second) * 5))
    assert Counter(each.outcome for each in decisions) == {Outcome.ADMITTED: 5, Outcome.REVOKED_KEY: 5}
    assert {each.outcome for each in decisions[::2]} == {Outcome.ADMITTED}
    assert node._batches.number == number + 2, "all of it took two batches"
