"""Pseudo-prose of an exact number of tokens, the same in ``o200k_base`` and ``cl100k_base``.

Both vocabularies split text before letters' runs (with the space before them) and around punctuation, and never merge
across such a split. So a text of commas, full stops, and words that are one token each with a leading space has as
many tokens as pieces, and so has every prefix that ends with a piece: a text of N tokens is a slice. The first piece
loses its leading space; the words that open sentences are one token without it, too. Tests check all of this with the
tokenizers.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

_WORDS = (
    "the of and to in is that it was for on are as with they be at one have this from by hot word but what some "
    "we can out other were all there when up use your how said an each she which do their time if will way about "
    "many then them write would like so these her long make thing see him two has look more day could go come did "
    "number sound no most people my over know water than call first who may down side been now find any new work "
    "part take get place made live where after back little only round man year came show every good me give our "
    "under name very through just form sentence great think say help low line turn cause much mean before move "
    "right boy old too same tell does set three want air well also play small end put home read hand port large "
    "spell add even land here must big high such follow act why ask men change went light kind off need house "
    "picture try us again animal point mother world near build self earth father head stand own page should "
    "country found answer school grow study still learn plant cover food sun four between state keep eye never "
    "last let thought city tree cross farm hard start might story saw far sea draw left late run while press "
    "close night real life few north open together next white children begin got walk example ease paper group "
    "always music those both mark often letter until mile river car feet care second book carry took science eat "
    "room friend idea fish mountain stop once base hear horse cut sure watch color face wood main "
)
_OPENERS = (
    "the one this what some we all there when your how each she which their about many then these her two more "
    "people my over water first who now any new after every our under through before three also here such why "
    "still four between never while few together next children always those both often until once "
)

PERIOD_TOKENS = 4_096
"""The period of the prose, in tokens."""
_BUILT_PERIODS = 8
_PIECE = r"(?:\s?\w+|\W)"
_COMMA_PROBABILITY = 0.08
_SEED = 1


def _pieces() -> list[str]:
    """Return one period: sentences of 5 to 16 words, ending with a full stop, since a sentence opens the next one."""
    rng = random.Random(_SEED)
    words, openers = _WORDS.split(), _OPENERS.split()
    pieces: list[str] = []
    while (left := PERIOD_TOKENS - len(pieces)) > 0:
        # The last sentence takes the rest, so that none is shorter than a word and its full stop.
        length = rng.randint(5, 16) if left > 34 else left - 1
        sentence = [" " + rng.choice(openers).capitalize()]
        while len(sentence) < length:
            if sentence[-1] != "," and length - len(sentence) > 1 and rng.random() < _COMMA_PROBABILITY:
                sentence.append(",")
            else:
                sentence.append(" " + rng.choice(words))
        pieces += [*sentence, "."]
    return pieces


class MockText:
    """Hand out prefixes of the prose. Built once (some ms, 200 KB); a prefix costs one copy of itself."""

    __slots__ = ("_ends", "_period", "_text")

    def __init__(self) -> None:
        self._ends = [0]
        pieces = _pieces()
        for piece in pieces:
            self._ends.append(self._ends[-1] + len(piece))
        self._period = "".join(pieces)
        self._text = self._period * _BUILT_PERIODS

    def prefix(self, tokens: int) -> str:
        """Return the first `tokens` tokens of the prose, for any number from 0 on."""
        periods, rest = divmod(tokens, PERIOD_TOKENS)
        end = periods * len(self._period) + self._ends[rest]
        text = self._text if periods < _BUILT_PERIODS else self._period * (periods + 1)
        return text[1:end]


def pieces(text: str, at_once: int = 1) -> Iterator[str]:
    """Cut a text, lazily, into pieces of `at_once` words or marks; joined they are the text, whatever it is.

    A word or mark of the prose is one token.
    """
    return (match[0] for match in re.finditer(f"{_PIECE}{{1,{at_once}}}", text))
