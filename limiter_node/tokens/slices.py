"""Cuts a text without changing its count: counted slice by slice, a long text does not hold up the event loop.

The regular expressions of both vocabularies cut a text into pieces, each tokenized by itself; so the counts of two
slices add up if the cut lies between two pieces. A single space between two letters is such a place: a piece of letters
ends before it, and the space can only begin the next one. Prose has such a place every few words; base64, minified JSON
and scripts without spaces have none.
"""

from __future__ import annotations

from collections.abc import Iterator

_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_MOST_TRIES = 64
"""Spaces to try for one cut. Only ASCII letters count as letters, because the vocabularies classify others."""


def slices(text: str, most_chars: int) -> Iterator[str]:
    """Cut `text` into slices of at most `most_chars` (3 at least) whose counts add up to its own.

    The text after the last place to cut is one slice, which may be longer: check its length.
    """
    start, length = 0, len(text)
    while length - start > most_chars:
        cut = _last_cut(text, start, start + most_chars)
        if cut < 0:
            break
        yield text[start:cut]
        start = cut
    yield text[start:] if start else text


def _last_cut(text: str, start: int, end: int) -> int:
    """Return the last cut in the second half of `start` to `end`; -1 if there is none."""
    low = start + (end - start) // 2
    for _ in range(_MOST_TRIES):
        end = text.rfind(" ", low, end)
        if end <= start:
            return -1
        if text[end - 1] in _LETTERS and text[end + 1 : end + 2] in _LETTERS:
            return end
    return -1
