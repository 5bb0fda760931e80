"""Windows longer than a minute while the store is away: a node goes by the usage that the store has told last."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from accounts_in_store import put_account
from dispatching import dispatching
from fault_proxy import FaultProxy
from node_commands import eventually
from store_tools import new_api_key

from limiter_node.credentials import key_id
from limiter_node.decisions import Need, Outcome
from limiter_node.key_states import CredentialState
from limiter_node.limiter.policies import policy
from limiter_node.policy import REQUESTS, AccountPolicy, KeyPolicy, Limit, PolicyWindow, Subject
from limiter_node.store.decisions.dispatcher import Dispatcher
from limiter_node.store.url import parse_store_url

LIMIT = 10
TEN_MINUTES = PolicyWindow(600_000, (), (Limit(REQUESTS, LIMIT),))


def a_key_of_an_account(url: str) -> str:
    """Return the kid of a key whose account admits `LIMIT` requests in ten minutes."""
    key = KeyPolicy(key_id(new_api_key()), "alice")
    put_account(url, AccountPolicy(new_api_key().replace("sk-", "acme-"), (Subject("", (TEN_MINUTES,)),)), [key])
    return key.kid


async def outcomes(dispatcher: Dispatcher, kid: str, count: int) -> Counter[tuple[Outcome, str]]:
    decisions = await asyncio.gather(*(dispatcher.admit(kid, Need(0, 0, 0)) for _ in range(count)))
    return Counter((each.outcome, each.degraded) for each in decisions)


def alone(_: Any) -> Any:
    return policy("local", lambda: 1)


async def test_a_late_reply_does_not_forget_what_was_admitted_since(embedded_single: str) -> None:
    """The reply to a batch under way tells a usage without the requests that were admitted after the batch was sent."""
    kid = a_key_of_an_account(embedded_single)
    async with (
        FaultProxy(parse_store_url(embedded_single).endpoints[0][1]) as proxy,
        dispatching(
            f"redis://127.0.0.1:{proxy.port}", timeout_ms=300, stall_timeout_s=20.0, policy=alone
        ) as dispatcher,
    ):
        assert await dispatcher.find(kid) is CredentialState.VALID
        assert await outcomes(dispatcher, kid, 1) == {(Outcome.ADMITTED, ""): 1}
        proxy.delay_s = 1.0
        assert await outcomes(dispatcher, kid, 1) == {(Outcome.ADMITTED, "local"): 1}
        account = dispatcher._queues[kid].sender
        late = account.in_flight
        assert late is not None
        assert await outcomes(dispatcher, kid, 8) == {(Outcome.ADMITTED, "local"): 8}
        await eventually(lambda: account.in_flight is not late)
        assert await outcomes(dispatcher, kid, 5) == {(Outcome.REJECTED, "local"): 5}
        proxy.delay_s = 0.0
        await eventually(lambda: not dispatcher.outage.is_on)
        assert await dispatcher.drain(20)
        usage = await dispatcher.peek(kid)
        assert usage is not None
        assert usage.path is not None
        assert usage.path.used[0].requests == LIMIT


async def test_a_reply_from_the_record_tells_the_usage_too(embedded_single: str) -> None:
    """The batch was decided, its reply lost, and it is sent again within the budget of its requests."""
    kid = a_key_of_an_account(embedded_single)
    async with (
        FaultProxy(parse_store_url(embedded_single).endpoints[0][1]) as proxy,
        dispatching(f"redis://127.0.0.1:{proxy.port}", timeout_ms=2_000, policy=alone) as dispatcher,
    ):
        assert await dispatcher.find(kid) is CredentialState.VALID
        assert await outcomes(dispatcher, kid, 1) == {(Outcome.ADMITTED, ""): 1}
        proxy.pass_replies = False
        proxy.swallowed.clear()
        asked = asyncio.ensure_future(outcomes(dispatcher, kid, 6))
        await proxy.swallowed.wait()
        proxy.pass_replies = True
        proxy.reset_all()
        assert await asked == {(Outcome.ADMITTED, ""): 6}
        proxy.pass_requests = False
        assert await outcomes(dispatcher, kid, 10) == {(Outcome.ADMITTED, "local"): 3, (Outcome.REJECTED, "local"): 7}
