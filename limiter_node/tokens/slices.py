"""Where a text can be cut without changing its count: slice by slice, a long one does not hold up the event loop.

Both vocabularies tokenize pieces that their regular expressions cut a text into, each by itself; so what two slices
count adds up wherever the cut lies between two pieces. That is so in front of a single space between two letters: a
piece of letters ends there, and the space can only begin the next one. Prose has such a place every few words; base64,
minified JSON and scripts without spaces have none.
"""

from __future__ import annotations

from collections.abc import Iterator

_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_MOST_TRIES = 64
"""Spaces looked at for one cut. Only ASCII letters are taken for letters: what others are is for the vocabulary."""


def slices(text: str, most_chars: int) -> Iterator[str]:
    """Cut `text` into slices of at most `most_chars` (3 at least) whose counts add up to its own.

    What follows the last place to cut is one slice, which may be longer: check its length.
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
    """The last cut in the second half of what lies between; -1 if none was found."""
    low = start + (end - start) // 2
    for _ in range(_MOST_TRIES):
        end = text.rfind(" ", low, end)
        if end <= start:
            return -1
        if text[end - 1] in _LETTERS and text[end + 1 : end + 2] in _LETTERS:
            return end
    return -1
