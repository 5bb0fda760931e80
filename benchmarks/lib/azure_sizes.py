"""Sizes of real conversations: quantiles of the Azure LLM inference trace, conversations of November 2023.

From AzureLLMInferenceTrace_conv.csv (19,366 requests) of github.com/Azure/AzurePublicDataset, CC-BY: Patel et al.,
"Splitwise: Efficient generative LLM inference using phase splitting", ISCA 2024. Between the quantiles sizes are drawn
evenly, which gives means of 1,167 and 213 tokens where the trace has 1,155 and 211.
"""

from __future__ import annotations

from bisect import bisect_right
from random import Random

_SHARES = (0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99, 0.995, 1)

PROMPT_TOKENS = (
    *(2, 181, 207, 387, 403, 703, 984, 1_020, 1_071),
    *(1_130, 1_315, 1_876, 2_734, 4_083, 4_098, 4_142, 4_831, 14_050),
)
ANSWER_TOKENS = (7, 41, 54, 77, 91, 103, 113, 129, 177, 384, 400, 411, 424, 451, 540, 601, 643, 1_000)


def draw(quantiles: tuple[int, ...], rng: Random) -> int:
    """Return one size in tokens."""
    share = rng.random()
    above = bisect_right(_SHARES, share)
    start, end = _SHARES[above - 1], _SHARES[above]
    low, high = quantiles[above - 1], quantiles[above]
    return round(low + (high - low) * (share - start) / (end - start))
