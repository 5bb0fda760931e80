"""What is remembered of counted texts, and what that may hold."""

from __future__ import annotations

from collections import Counter
from sys import getsizeof

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limiter_node.tokens import vocabulary
from limiter_node.tokens.cache import DIGEST_CHARS, MIN_CHARS, CountCache
from limiter_node.tokens.chat import count_chat, sum_chat


class Counted(Counter[str]):
    """A counter that notes what it was asked."""

    def __call__(self, text: str) -> int:
        self[text] += 1
        return len(text)


def texts_of(length: int, number: int) -> list[str]:
    return [f"{i:08d}".ljust(length, "x") for i in range(number)]


@pytest.mark.parametrize("length", [MIN_CHARS, DIGEST_CHARS, DIGEST_CHARS + 1, 100_000])
def test_a_long_text_is_counted_once(length: int) -> None:
    counted = Counted()
    cache = CountCache(counted)
    first, second = texts_of(length, 2)
    for text in (first, second, first, second, first):
        assert cache.count(str(text)) == length
    assert counted == {first: 1, second: 1}


def test_a_short_text_is_not_kept() -> None:
    counted = Counted()
    cache = CountCache(counted)
    for _ in range(3):
        cache.count("x" * (MIN_CHARS - 1))
    assert sum(counted.values()) == 3
    assert len(cache) == cache.held_bytes == 0


@pytest.mark.parametrize("length", [MIN_CHARS, 1_000, DIGEST_CHARS, 1_000_000])
def test_the_bytes_held_are_bounded(length: int) -> None:
    cache = CountCache(Counted(), max_bytes=20_000)
    for text in texts_of(length, 300 if length < 100_000 else 100):
        cache.count(text)
        assert cache.held_bytes <= 20_000
        assert cache.held_bytes >= sum(map(getsizeof, cache._entries))
    assert len(cache)
    cache.clear()
    assert len(cache) == cache.held_bytes == 0


def test_a_text_kept_twice_is_held_once() -> None:
    cache = CountCache(Counted())
    cache.keep("x" * 500, 1)
    held = cache.held_bytes
    cache.keep("x" * 500, 1)
    assert (cache.held_bytes, len(cache)) == (held, 1)


def test_a_text_larger_than_all_that_may_be_held_is_not_kept() -> None:
    cache = CountCache(Counted(), max_bytes=300)
    cache.count("x" * 1_000)
    assert len(cache) == cache.held_bytes == 0


def test_the_least_recently_used_makes_room() -> None:
    counted = Counted()
    first, *others = texts_of(1_000, 40)
    cache = CountCache(counted, max_bytes=10_000)
    for text in others:
        cache.count(first)
        cache.count(text)
    assert counted[first] == 1
    cache.count(others[0])
    assert counted[others[0]] == 2


def test_what_cannot_be_counted_is_not_kept() -> None:
    cache = CountCache(vocabulary.counter_of(vocabulary.O200K_BASE))
    for length in (MIN_CHARS, DIGEST_CHARS + 1):
        with pytest.raises(UnicodeEncodeError):
            cache.count("\ud800" * length)
    assert len(cache) == 0


@pytest.mark.parametrize("model", ["gpt-4o", "gpt-4"])
def test_a_growing_conversation_is_counted_by_its_last_message(model: str) -> None:
    cache = vocabulary.cache_of(vocabulary.encoding_name(model))
    cache.clear()
    messages = [{"role": "system", "content": f"You help with {model}. " * 50}]
    for turn in range(20):
        messages.append({"role": "user" if turn % 2 else "assistant", "content": f"Turn {turn} of {model}. " * 50})
        before = cache.misses
        total = count_chat(messages, model)
        assert cache.misses - before == (2 if turn == 0 else 1)
        assert total == sum_chat(messages, vocabulary.counter_of(vocabulary.encoding_name(model)))


def test_the_vocabularies_are_kept_apart() -> None:
    text = "お誕生日おめでとう" * 100
    assert vocabulary.count(text, "gpt-4o") != vocabulary.count(text, "gpt-4")
    assert vocabulary.count(text, "gpt-4o") == vocabulary.counter_of(vocabulary.O200K_BASE)(text)
    assert vocabulary.count(text, "gpt-4") == vocabulary.counter_of(vocabulary.CL100K_BASE)(text)


@given(st.lists(st.text(st.characters(), min_size=1, max_size=20), min_size=1, max_size=4), st.integers(1, 400))
def test_a_remembered_count_is_the_count(pieces: list[str], times: int) -> None:
    text = "".join(pieces) * times
    fresh = vocabulary.counter_of(vocabulary.O200K_BASE)(vocabulary.well_formed(text))
    assert vocabulary.count(text, "gpt-4o") == vocabulary.count(text, "gpt-4o") == fresh
