"""Prompts of a given length, which no server has seen before."""

from __future__ import annotations

from random import Random

from bench_client.load.prompts import WORDS
from benchmarks.lib.saturate import STAMP

_STAMP_TOKENS = 6  # 16 digits
# Half of the words are these: nouns alone would make 6.3 characters per token, prose has 4 to 5.
_SHORT_WORDS = ("the", "of", "and", "to", "in", "a", "is", "it", "for", "on", "that", "with", "as", "at", "by", "was")


def text_of(tokens: int, rng: Random) -> str:
    """Return a text of about that many tokens that is new to every server, in whatever load it is sent."""
    words = [*rng.choices(WORDS, k=tokens), *rng.choices(_SHORT_WORDS, k=tokens)]
    rng.shuffle(words)
    return " ".join((STAMP, *words[: max(tokens - _STAMP_TOKENS, 1)]))
