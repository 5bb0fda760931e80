"""Slices of a text count what the text counts, in both vocabularies, wherever they are cut."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limiter_node.tokens import vocabulary
from limiter_node.tokens.slices import slices

ENCODINGS = (vocabulary.O200K_BASE, vocabulary.CL100K_BASE)
# What the vocabularies' expressions treat apart, close to the places that may be cut.
_WORDS = [
    "a",
    "I",
    "the",
    "don't",
    "we'LL",
    "Ünder",
    "日本",
    "x1",
    "3",
    "éa",
    "aé",
    "ſ",
    "İ",
    "HTTPServer",
    "s",
    "'s",
    "/",
]
_GAPS = [" ", "  ", "\n", " \n ", "\t", "\u00a0", "\r\n", ", ", ".", " 's ", "  's ", "/\n"]
texts = st.lists(st.tuples(st.sampled_from(_WORDS), st.sampled_from(_GAPS)), max_size=80).map(
    lambda pairs: "".join(word + gap for word, gap in pairs)
)


def total(text: str, most_chars: int, encoding: str) -> int:
    return sum(vocabulary.count_anew(each, encoding) for each in slices(text, most_chars))


@pytest.mark.parametrize("encoding", ENCODINGS)
@given(text=texts, most_chars=st.integers(3, 40))
def test_counts_add_up(encoding: str, text: str, most_chars: int) -> None:
    assert "".join(slices(text, most_chars)) == text
    assert total(text, most_chars, encoding) == vocabulary.count_anew(text, encoding)


@pytest.mark.parametrize("encoding", ENCODINGS)
@given(text=st.text(max_size=300), most_chars=st.integers(3, 40))
def test_counts_of_any_text_add_up(encoding: str, text: str, most_chars: int) -> None:
    assert "".join(slices(text, most_chars)) == text
    assert total(text, most_chars, encoding) == vocabulary.count_anew(text, encoding)


def test_prose_is_cut_into_slices_that_are_nearly_full() -> None:
    rng = random.Random(1)
    text = " ".join("".join(rng.choices("abcdefgh", k=rng.randrange(1, 12))) for _ in range(20_000))
    lengths = [len(each) for each in slices(text, 1_000)]
    assert max(lengths) <= 1_000
    assert min(lengths[:-1]) > 980


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("x" * 5_000, id="no space"),
        pytest.param("1 2 " * 1_000, id="no letters"),
        pytest.param("日本 語 " * 1_000, id="no ASCII letters"),
        pytest.param("a  b  " * 1_000, id="no single space"),
    ],
)
def test_what_has_no_place_to_cut_is_one_slice(text: str) -> None:
    assert list(slices(text, 100)) == [text]


def test_what_cannot_be_cut_any_further_is_the_last_slice() -> None:
    tail = "y" * 500
    *cut, last = slices("some words and more of them and " * 10 + tail, 100)
    assert all(len(each) <= 100 for each in cut)
    assert last.endswith(tail)
    assert len(last) > 500


def test_a_short_text_is_its_only_slice() -> None:
    assert list(slices("two words", 100)) == ["two words"]
    assert list(slices("", 100)) == [""]
