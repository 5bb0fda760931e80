"""The decisions that a node reads from a reply have all of their fields, although they are made without defaults."""

from __future__ import annotations

import pytest

from limiter_node.decisions import Decision, Need, Outcome
from limiter_node.limits import WINDOW_BUCKETS, Amounts, KeyLimits
from limiter_node.store import codec

REPLY = codec.pack_limits_reply(KeyLimits(60, 30_000, 9_000, 256), 1_763_916_000_123)
NEED = Need(25, 100, 2, ("gpt-4o",))
NEEDED = Amounts(1, 25, 612)


@pytest.mark.parametrize(
    ("verdicts", "outcomes"),
    [
        ([], [(Outcome.ADMITTED, -1, 0, "")]),
        ([(0, 0), (0, 0)], [(Outcome.ADMITTED, -1, 0, "")] * 2),
        (
            [(0, 0), (2, 3_890), (7, 0)],
            [(Outcome.ADMITTED, -1, 0, ""), (Outcome.REJECTED, 1, 3_890, "alice"), (Outcome.NEVER_FITS, 2, 0, "alice")],
        ),
    ],
)
def test_decisions_have_all_their_fields(
    verdicts: list[tuple[int, int]], outcomes: list[tuple[Outcome, int, int, str]]
) -> None:
    reply = REPLY + b"".join(codec._RESULT.pack(*each) for each in verdicts) + (b"alice" if verdicts else b"")
    needs = [NEED] * max(1, len(verdicts))
    _, decisions = codec.unpack_decisions(reply, len(needs), needs, WINDOW_BUCKETS)
    for decision, (outcome, dimension, retry_ms, name) in zip(decisions, outcomes, strict=True):
        assert len(decision) == len(Decision._fields)
        assert (decision.outcome, decision.dimension, decision.retry_after_ms) == (outcome, dimension, retry_ms)
        assert (decision.name, decision.need, decision.limits) == (name, NEEDED, Amounts(60, 30_000, 9_000))
        assert (decision.receipt is None) == (outcome is not Outcome.ADMITTED)
        assert (decision.degraded, decision.path) == ("", None)
