"""Counts long texts without holding up the node: in slices, with other requests between them, or in the second process.

A text is sliced if it can be cut exactly (`limiter_node.tokens.slices`) and isn't very long. Sliced texts do not queue:
the longer turns of the event loop that they cause are the signal by which a node notices an overload
(`limiter_node.http.server.overload`). Handing a text to another process costs as much as counting it, so only texts
that can't be cut or would take many turns go there.

`TokenCounting` is the node's side; `count_frame` runs in the other process (`limiter_node.second_process`). A frame's
head is JSON, ``[encoding, [text, …]]`` one way and ``[count, …]`` the other.

Weakness: each node that meets a large request holds both vocabularies twice (some 60 MB).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import orjson

from limiter_node.second_process import Frame, SecondProcess
from limiter_node.tokens import vocabulary
from limiter_node.tokens.slices import slices
from limiter_node.tokens.vocabulary import TokenCounter

INLINE_CHARS = 8_192
"""Up to this length a request is counted at once: 0.12 ms for prose, 1.4 ms for the worst text known."""
SLICED_CHARS = 65_536
"""Up to this length a request is counted in slices of up to `INLINE_CHARS`."""
CHARS_PER_TURN = 16_384
"""Characters of slices per turn of the event loop: 0.25 ms for prose. More than one slice, because turns are long on a
busy node."""
COUNT = 1
"""The kind of a frame whose head holds texts or their counts."""

# The fixed cost of a text, in characters.
_TEXT_CHARS = 32


class TokenCounting:
    """Counts small requests at once, larger ones without holding up the event loop, and the largest in `worker`."""

    def __init__(self, worker: SecondProcess) -> None:
        self._worker = worker

    async def count(self, model: str, total: Callable[[TokenCounter], int]) -> int:
        """Return the sum that `total` makes: counts of texts, and amounts that it adds by itself.

        ``await counting.count(model, lambda counter: sum_chat(messages, counter))``. `total` is called once, with a
        counter that returns remembered counts, and 0 for the texts that are counted later.

        Raises:
            Overloaded: too many texts wait to be counted, or these texts killed the second process twice.
        """
        encoding = vocabulary.encoding_name(model)
        cache = vocabulary.cache_of(encoding)
        missing: list[str] = []
        find = vocabulary.once_each(cache.find)

        def known(text: str) -> int:
            found = find(text)
            if found is None:
                missing.append(text)
                return 0
            return found

        sum_known = total(known)
        if not missing:
            return sum_known
        # A text that occurs twice in one request is counted once.
        texts = list(dict.fromkeys(missing))
        chars = sum(map(len, texts)) + _TEXT_CHARS * len(texts)
        if chars <= INLINE_CHARS:
            counts = [vocabulary.count_anew(text, encoding) for text in texts]
        elif chars <= SLICED_CHARS and (sliced := _slices(texts)) is not None:
            counts = await self._count_in_slices(encoding, sliced)
        else:
            counts = await self._count_apart(encoding, texts)
        for text, count in zip(texts, counts, strict=True):
            cache.keep(text, count)
        if len(texts) == len(missing):
            return sum_known + sum(counts)
        return sum_known + sum(map(dict(zip(texts, counts, strict=True)).__getitem__, missing))

    @staticmethod
    async def _count_in_slices(encoding: str, texts: list[list[str]]) -> list[int]:
        counts, chars = [0] * len(texts), 0
        for number, sliced in enumerate(texts):
            for each in sliced:
                chars += len(each) + _TEXT_CHARS
                if chars > CHARS_PER_TURN:
                    chars = len(each) + _TEXT_CHARS
                    await asyncio.sleep(0)
                counts[number] += vocabulary.count_anew(each, encoding)
        return counts

    async def _count_apart(self, encoding: str, texts: list[str]) -> list[int]:
        answer = await self._worker.ask(Frame(COUNT, _texts_head(encoding, texts)))
        counts: list[int] = orjson.loads(answer.head)
        return counts


def _slices(texts: list[str]) -> list[list[str]] | None:
    """Return each text in slices that can be counted at once; None if one of them can't be cut so."""
    most_chars = INLINE_CHARS - _TEXT_CHARS
    sliced = [list(slices(text, most_chars)) for text in texts]
    return sliced if all(len(each[-1]) <= most_chars for each in sliced) else None


def _texts_head(encoding: str, texts: list[str]) -> bytes:
    try:
        return orjson.dumps([encoding, texts])
    except orjson.JSONEncodeError:  # lone surrogates
        return orjson.dumps([encoding, [vocabulary.well_formed(text) for text in texts]])


def count_frame(frame: Frame) -> Frame:
    """Return the answer to a frame of the kind `COUNT`. Called in the other process."""
    encoding, texts = orjson.loads(frame.head)
    counter = vocabulary.counter_of(encoding)
    return Frame(COUNT, orjson.dumps([counter(text) for text in texts]))
