"""Requests of a key of an account over HTTP, decided by hand: the responses that its callers get."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from in_process import serving
from path_decisions import ACME, ALICE, RESET_MS, SINCE_MS, USED, on_path
from yarl import URL

from benchmarks.peers.admit_all import AdmitAll
from limiter_node.decisions import REFUSALS, Decision, Need, Outcome, PathUsage, Usage
from limiter_node.key_states import CredentialState
from limiter_node.limits import Amounts
from limiter_node.plans import plan_of
from limiter_node.telemetry import Telemetry
from limiter_node.upstream.gateway.service import Service
from limiter_node.upstream.gateway.upstream import Gateway

EVERY_MODEL = ("o3",)
RENAMED = Service(name="s", urls=(URL("http://127.0.0.1:1/v1"),), rename=(("big", "o3-mini"),))


class RejectsOnPath(AdmitAll):
    """Rejects every request by the limit of research's day, and keeps the models that it is asked about."""

    def __init__(self) -> None:
        self.models: list[tuple[str, ...] | None] = []

    def admit(self, kid: str, need: Need) -> asyncio.Future[Decision]:
        self.models.append(need.models)
        plan = plan_of(ACME, ALICE, EVERY_MODEL, SINCE_MS)
        needed = Amounts(1, need.input_tokens, need.output_tokens)
        rejected = {"outcome": Outcome.REJECTED, "dimension": 0, "exceeded": 3, "retry_after_ms": 70_001}
        verdict = asyncio.get_running_loop().create_future()
        verdict.set_result(on_path(plan, USED, RESET_MS, need=needed, **rejected))
        return verdict

    async def peek(self, kid: str, models: tuple[str, ...] | None = None) -> Usage | CredentialState:
        self.models.append(models)
        plan, zeros = plan_of(ACME, ALICE, EVERY_MODEL if models is None else models, SINCE_MS), Amounts(0, 0, 0)
        usage = PathUsage(plan, USED[: len(plan.windows)], RESET_MS[: len(plan.windows)])
        return Usage(zeros, zeros, zeros, 256, 5, "", (), path=usage)


async def test_a_rejection_on_a_path(embedded_single: str) -> None:
    decider = RejectsOnPath()
    async with serving(embedded_single, decider=decider) as node:
        chat = {"model": "o3", "max_tokens": 100, "messages": [{"role": "user", "content": "Hi"}]}
        headers = {"Authorization": "Bearer sk-alice"}
        async with node.session.post(f"{node.url}/v1/chat/completions", json=chat, headers=headers) as response:
            assert response.status == 429
            told, error = response.headers, (await response.json())["error"]
    assert (told["retry-after-ms"], told["retry-after"]) == ("70001", "71")
    assert (told["x-limiter-exceeded"], told["x-limiter-limit"]) == ("requests", "acme/research requests/1d")
    assert told["x-ratelimit-remaining-requests"] == "47"
    assert told["RateLimit"].startswith('"acme requests/1m";r=50;t=60, ')
    assert (error["type"], error["code"]) == ("requests", "rate_limit_exceeded")
    assert error["message"] == (
        "Rate limit reached for acme/alice on requests per 1d of acme/research: Limit 1000, Used 900, Requested 1. "
        "Please try again in 1m10.001s."
    )
    assert decider.models == [("o3",)]


class Refuses(AdmitAll):
    """Has no good credential. `is_late`: that turns out when the request's body is there."""

    def __init__(self, state: CredentialState, *, is_late: bool) -> None:
        self.state_of_all, self.is_late = state, is_late

    def knows(self, kid: str) -> bool:
        return self.is_late

    async def find(self, kid: str) -> CredentialState:
        return self.state_of_all

    def admit(self, kid: str, need: Need) -> asyncio.Future[Decision]:
        assert self.is_late
        verdict = asyncio.get_running_loop().create_future()
        verdict.set_result(REFUSALS[self.state_of_all])
        return verdict

    async def peek(self, kid: str, models: tuple[str, ...] | None = None) -> Usage | CredentialState:
        return self.state_of_all


@pytest.mark.parametrize("is_late", [False, True])
@pytest.mark.parametrize(
    ("state", "message"),
    [
        (CredentialState.UNKNOWN, "Incorrect API key provided."),
        (CredentialState.REVOKED, "This API key has been revoked."),
        (CredentialState.EXPIRED, "This API key has expired."),
        (CredentialState.DISABLED, "This API key is disabled."),
    ],
)
async def test_a_credential_that_is_not_good_gets_a_401_that_says_why(
    embedded_single: str, state: CredentialState, message: str, is_late: bool
) -> None:
    async with serving(embedded_single, decider=Refuses(state, is_late=is_late)) as node:
        chat = {"model": "o3", "max_tokens": 100, "messages": [{"role": "user", "content": "Hi"}]}
        headers = {"Authorization": "Bearer sk-alice"}
        asked = [
            node.session.post(f"{node.url}/v1/chat/completions", json=chat, headers=headers),
            node.session.get(f"{node.url}/v1/rate_limits", headers=headers),
            node.session.get(f"{node.url}/v1/models", headers=headers),
            node.session.get(f"{node.url}/v1/models/o3", headers=headers),
        ]
        for each in asked:
            async with each as response:
                assert response.status == 401
                error = (await response.json())["error"]
                assert not any(name.lower().startswith(("x-ratelimit", "ratelimit")) for name in response.headers)
            assert (error["message"], error["code"], error["type"]) == (
                message,
                "invalid_api_key",
                "invalid_request_error",
            )


@pytest.mark.parametrize(
    ("query", "models", "limit"),
    [
        ("", None, None),
        ("?model=big", ("big", "o3-mini"), 90_000),  # by the service's name
        ("?model=O3%2Da", ("O3-a",), 90_000),
        ("?model=gpt-4o", ("gpt-4o",), None),
        ("?model=", ("",), None),
        ("?other=x", None, None),
    ],
)
async def test_limits_of_a_model(
    embedded_single: str, query: str, models: tuple[str, ...] | None, limit: int | None
) -> None:
    decider = RejectsOnPath()

    def upstream_of(telemetry: Telemetry) -> Gateway:
        return Gateway([RENAMED], telemetry)

    async with serving(embedded_single, decider=decider, upstream_of=upstream_of) as node:
        url = URL(f"{node.url}/v1/rate_limits{query}", encoded=True)
        async with node.session.get(url, headers={"Authorization": "Bearer sk-alice"}) as response:
            assert response.status == 200
            body: dict[str, Any] = await response.json()
    assert decider.models == [models]
    assert body["limits"]["output_tokens"] == limit
    is_listed = any(each["name"] == "big models" for each in body["limits_on_path"])
    assert is_listed == (models is None or limit is not None)
