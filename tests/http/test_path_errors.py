"""The messages of rejections on paths, literally, and what they hide."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from path_decisions import DAY_MS, KID, MINUTE_MS, RESET_MS, USED, acme_plan, flat_plan, on_path

from limiter_node.decisions import Outcome
from limiter_node.http.responses import errors
from limiter_node.limits import Amounts
from limiter_node.policy import Limit, PolicyWindow

RETRY = " Please try again in 3.89s."


def message_and_type(show: str, **changes: Any) -> tuple[str, str]:
    reply = errors.rate_limited(on_path(acme_plan(show), USED, RESET_MS, **changes), KID)
    error = orjson.loads(reply.body)["error"]
    assert (reply.status, error["param"], error["code"]) == (429, None, "rate_limit_exceeded")
    return error["message"], error["type"]


@pytest.mark.parametrize(
    ("exceeded", "dimension", "on", "numbers", "kind"),
    [
        (0, 0, "requests per min (RPM) of acme", "Limit 5000, Used 4950, Requested 1", "requests"),
        (0, 3, "tokens per min (TPM) of acme", "Limit 200000, Used 160000, Requested 125", "tokens"),
        (
            *(1, 2, "output tokens per min (output TPM) for o3*, GPT-5* of acme"),
            *("Limit 90000, Used 60000, Requested 100", "tokens"),
        ),
        (3, 0, "requests per 1d of acme/research", "Limit 1000, Used 900, Requested 1", "requests"),
        (4, 0, "requests per min (RPM)", "Limit 60, Used 13, Requested 1", "requests"),
        (4, 1, "input tokens per min (input TPM)", "Limit 30000, Used 28039, Requested 25", "tokens"),
    ],
)
def test_a_message_names_subject_unit_and_window(
    exceeded: int, dimension: int, on: str, numbers: str, kind: str
) -> None:
    rejection = {"dimension": dimension, "exceeded": exceeded, "retry_after_ms": 3_890}
    told = message_and_type("path", outcome=Outcome.REJECTED, **rejection)
    assert told == (f"Rate limit reached for acme/alice on {on}: {numbers}.{RETRY}", kind)
    limit, _, requested = numbers.split(", ")
    told = message_and_type("path", outcome=Outcome.NEVER_FITS, **rejection)
    assert told == (f"Request too large for acme/alice on {on}: {limit}, {requested}.", kind)


@pytest.mark.parametrize(
    ("exceeded", "dimension", "on", "kind"),
    [
        (0, 0, "requests of its account: Requested 1.", "requests"),
        (0, 3, "tokens of its account: Requested 125.", "tokens"),
        (1, 2, "output tokens of its account: Requested 100.", "tokens"),
        (3, 0, "requests of its account: Requested 1.", "requests"),
    ],
)
def test_callers_who_see_their_own_alone_get_no_names_and_numbers_above_their_key(
    exceeded: int, dimension: int, on: str, kind: str
) -> None:
    rejection = {"dimension": dimension, "exceeded": exceeded, "retry_after_ms": 3_890}
    told = message_and_type("own", outcome=Outcome.REJECTED, **rejection)
    assert told == (f"Rate limit reached for alice on {on}{RETRY}", kind)
    told = message_and_type("own", outcome=Outcome.NEVER_FITS, **rejection)
    assert told == (f"Request too large for alice on {on}", kind)


def test_their_own_limits_have_numbers() -> None:
    told = message_and_type("own", outcome=Outcome.REJECTED, dimension=1, exceeded=4, retry_after_ms=86_400_000)
    assert told[0] == (
        "Rate limit reached for alice on input tokens per min (input TPM): Limit 30000, Used 28039, Requested 25. "
        "Please try again in 24h0m0s."
    )


@pytest.mark.parametrize(
    ("window", "dimension", "on"),
    [
        (PolicyWindow(MINUTE_MS, (), (Limit(3, 50),)), 3, "tokens per min (TPM): Limit 50, Used 7"),
        (PolicyWindow(DAY_MS, (), (Limit(2, 50),)), 2, "output tokens per 1d: Limit 50, Used 4"),
        (PolicyWindow(10_000, ("o3*",), (Limit(0, 5),)), 0, "requests per 10s for o3*: Limit 5, Used 1"),
    ],
)
def test_a_flat_key_is_its_own_subject(window: PolicyWindow, dimension: int, on: str) -> None:
    decision = on_path(
        flat_plan(window, name="", models=("o3",)),
        [Amounts(1, 3, 4)],
        outcome=Outcome.REJECTED,
        dimension=dimension,
        exceeded=0,
        retry_after_ms=12,
    )
    message = orjson.loads(errors.rate_limited(decision, KID).body)["error"]["message"]
    needed = (1, 25, 100, 125)[dimension]
    assert message == (f"Rate limit reached for 0123456789ab on {on}, Requested {needed}. Please try again in 12ms.")
