"""Decisions on paths, made by hand: the plans are compiled from policies, as a node does it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from limiter_node.decisions import Decision, Outcome, PathUsage
from limiter_node.limits import Amounts
from limiter_node.plans import Plan, plan_of
from limiter_node.policy import AUDIT, AccountPolicy, KeyPolicy, Limit, PolicyWindow, Subject

KID = "0123456789abcdef0123456789abcdef"
MINUTE_MS, DAY_MS = 60_000, 86_400_000
SINCE_MS = 1_763_900_000_000

ACME = AccountPolicy(
    "acme",
    (
        Subject(
            "",
            (
                PolicyWindow(MINUTE_MS, (), (Limit(0, 5_000), Limit(3, 200_000)), SINCE_MS),
                PolicyWindow(MINUTE_MS, ("o3*", "GPT-5*"), (Limit(2, 90_000, name="big models"),), SINCE_MS),
                PolicyWindow(1_000, (), (Limit(0, 10, AUDIT),), SINCE_MS),
            ),
        ),
        Subject("research", (PolicyWindow(DAY_MS, (), (Limit(0, 1_000), Limit(1, 500, AUDIT, "a, é")), SINCE_MS),)),
    ),
)
ALICE = KeyPolicy(
    KID, "alice", "research", (PolicyWindow(MINUTE_MS, (), (Limit(0, 60), Limit(1, 30_000)), SINCE_MS + 1_234),)
)
USED = (
    Amounts(4_950, 100_000, 60_000),
    Amounts(7, 700, 60_000),
    Amounts(3, 0, 0),
    Amounts(900, 100, 200),
    Amounts(13, 28_039, 4_711),
)
"""Of acme's minute, big models, second and research's day, then alice's minute."""
RESET_MS = (
    Amounts(60_000, 59_000, 58_000),
    Amounts(3_000, 3_000, 3_000),
    Amounts(900, 0, 0),
    Amounts(80_000_000, 70_000_000, 60_000_000),
    Amounts(12, 1_000, 60_050),
)


def acme_plan(show: str = "path", models: Sequence[str] = ("o3-mini",)) -> Plan:
    """Alice's plan: windows acme 1m, acme 1m for big models, acme 1s (audited), research 1d, alice 1m."""
    return plan_of(AccountPolicy("acme", ACME.subjects, show), ALICE, models, SINCE_MS)


def flat_plan(*windows: PolicyWindow, name: str = "alice", models: Sequence[str] = ()) -> Plan:
    key = KeyPolicy(KID, name, "", windows)
    return plan_of(AccountPolicy(key=key), key, models, SINCE_MS)


def on_path(
    plan: Plan,
    used: Sequence[Amounts],
    reset_ms: Sequence[Amounts] | None = None,
    *,
    exceeded: int = -1,
    **changes: Any,
) -> Decision:
    """A decision on the path of `plan`, an admission unless `changes` say otherwise."""
    zeros = Amounts(0, 0, 0)
    resets = tuple(reset_ms) if reset_ms is not None else (zeros,) * len(used)
    return Decision(
        outcome=Outcome.ADMITTED,
        dimension=-1,
        retry_after_ms=0,
        limits=zeros,
        used=zeros,
        reset_ms=zeros,
        need=Amounts(1, 25, 100),
        time_ms=1_763_916_000_123,
        name="",
        path=PathUsage(plan, tuple(used), resets, exceeded),
    )._replace(**changes)
