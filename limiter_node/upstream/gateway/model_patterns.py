"""Patterns of models' names: ``*`` stands for any characters, or none. Nothing is tried twice: O(length × stars)."""

from __future__ import annotations


def matches(pattern: str, text: str) -> bool:
    """Whether `pattern` stands for all of `text`."""
    first, *others = pattern.split("*")
    if not others:
        return text == pattern
    last = others.pop()
    if len(text) < len(first) + len(last) or not text.startswith(first) or not text.endswith(last):
        return False
    # What stands between two stars may as well be where it comes first: that leaves most to what follows.
    start, end = len(first), len(text) - len(last)
    for each in others:
        found = text.find(each, start, end)
        if found < 0:
            return False
        start = found + len(each)
    return True


def starred(pattern: str, text: str) -> str:
    """Return what the one ``*`` of `pattern`, which matches `text`, stands for."""
    first, _, last = pattern.partition("*")
    return text[len(first) : len(text) - len(last)]
