"""Patterns of models' names: ``*`` stands for any characters, or none. Without backtracking: O(length × stars)."""

from __future__ import annotations


def matches(pattern: str, text: str) -> bool:
    """Whether `pattern` matches all of `text`."""
    first, *others = pattern.split("*")
    if not others:
        return text == pattern
    last = others.pop()
    if len(text) < len(first) + len(last) or not text.startswith(first) or not text.endswith(last):
        return False
    # The text between two stars may match where it first occurs: that leaves most to the rest.
    start, end = len(first), len(text) - len(last)
    for each in others:
        found = text.find(each, start, end)
        if found < 0:
            return False
        start = found + len(each)
    return True


def starred(pattern: str, text: str) -> str:
    """Return the part of `text` that the one ``*`` of the matching `pattern` stands for."""
    first, _, last = pattern.partition("*")
    return text[len(first) : len(text) - len(last)]
