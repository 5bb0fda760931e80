"""The account of a comparison: its limits follow from the load, so that some of them reject a part of it.

Two teams share the account's keys. Each has a limit per second that the chance of arrivals exceeds now and then. The
account has one per minute, a tenth below what its keys ask for and may use; one per hour, which only fills; and an
audited one.
"""

from __future__ import annotations

from math import ceil, sqrt

from bench_client.load.trace import read_trace
from bench_client.servers.limiter_under_test import GeneratedAccount
from bench_client.settings import WorkloadSettings

ACCOUNT = "acme"
TEAMS = ("research", "sales")
ADMITTED_SHARE = 0.9
"""Share of what the account's keys ask for, or may use themselves, that its limit per minute has room for."""
DEVIATIONS = 1.5
"""A team's limit per second is so many standard deviations of a Poisson distribution above its mean load."""
MINUTE_S = 60
MAX_AMOUNT = 999_999_999_999_999
"""The largest limit that a keys file can have."""


def account_for_load(
    workload: WorkloadSettings, keys: int, *, of: int, rpm: int, tokens_per_minute: int
) -> GeneratedAccount:
    """Return an account of ``keys`` keys, of the number ``of`` that share the workload.

    ``rpm`` and ``tokens_per_minute`` are what each key may use by its own limits. The account may use in an hour what
    its keys may use of tokens in a minute.
    """
    rate, seconds = _load(workload)
    per_s = rate * keys / of
    per_minute = min(per_s * min(seconds, MINUTE_S), keys * rpm)
    team_per_s = per_s / len(TEAMS)
    return GeneratedAccount(
        ACCOUNT,
        keys,
        TEAMS,
        (
            f"requests={_at_least_1(ADMITTED_SHARE * per_minute)}/1m",
            f"tokens={min(keys * tokens_per_minute, MAX_AMOUNT)}/1h",
            f"requests={_at_least_1(per_s)}/1s as burst audit",
        ),
        (f"requests={_at_least_1(team_per_s + DEVIATIONS * sqrt(team_per_s))}/1s",),
    )


def _load(workload: WorkloadSettings) -> tuple[float, float]:
    """Return the mean rate in requests/s, and the length in seconds."""
    if workload.trace is None:
        assert workload.qps is not None
        assert workload.duration_s is not None
        return workload.qps, workload.duration_s
    trace = read_trace(workload.trace)
    seconds = trace.seconds / workload.speed or 1.0
    return len(trace.arrival_ns) / seconds, min(seconds, workload.duration_s or seconds)


def _at_least_1(amount: float) -> int:
    return max(ceil(amount), 1)
