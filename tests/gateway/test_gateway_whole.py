"""What a whole answer costs while it passes, in pieces of any size, however long it is, however broken."""

from __future__ import annotations

import json
import tracemalloc
from itertools import pairwise
from typing import Any

import pytest
from gateway_answers import counted
from hypothesis import given, settings
from hypothesis import strategies as st

from limiter_node.tokens.vocabulary import O200K_BASE
from limiter_node.upstream.gateway.cost.usage import MOST_TOKENS
from limiter_node.upstream.gateway.cost.whole_answer import MAX_READ_BYTES, WholeReader
from limiter_node.upstream.gateway.lenient_json import MAX_LENIENT_BYTES, read_json

TEXT = "one two three four"
USAGE = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}


def chat(text: str = TEXT, usage: Any = USAGE, choices: int = 1, **fields: Any) -> bytes:
    each = [{"index": index, "message": {"role": "assistant", "content": text}} for index in range(choices)]
    return json.dumps({"id": "c", "choices": each, "usage": usage, **fields}).encode()


def read(*pieces: bytes, **options: Any) -> WholeReader:
    reader = WholeReader(O200K_BASE, **options)
    for piece in pieces:
        reader.feed(piece)
    reader.finish()
    return reader


@settings(deadline=None)
@given(st.lists(st.integers(0, 300), max_size=8))
def test_it_costs_what_is_told_wherever_it_is_cut(places: list[int]) -> None:
    body = chat()
    at = [0, *sorted(places), len(body)]
    reader = read(*[body[start:end] for start, end in pairwise(at)])
    assert (reader.output_tokens, reader.input_tokens, reader.has_usage, reader.reported_reasoning) == (
        3,
        9,
        True,
        False,
    )


@pytest.mark.parametrize("usage", [None, {}, 5, {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}])
def test_without_a_usage_its_text_is_counted(usage: Any) -> None:
    reader = read(chat(usage=usage))
    assert (reader.output_tokens, reader.has_usage) == (counted(TEXT), False)
    assert read(chat(usage=usage), at_most=2).output_tokens == 2


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"prompt_tokens": 9, "completion_tokens": 0, "total_tokens": 9}, 4),
        ({"prompt_tokens": 9, "completion_tokens": -3, "total_tokens": 6}, 4),
        ({"prompt_tokens": 9, "completion_tokens": "3"}, 4),
        ({"prompt_tokens": 9, "completion_tokens": 2**50}, MOST_TOKENS),
        ({"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10}, 1),
        (
            {
                "prompt_tokens": 10,
                "completion_tokens": 3,
                "total_tokens": 5_013,
                "prompt_tokens_details": {"cached_tokens": 5_000},
            },
            3,
        ),
    ],
)
def test_usages_that_lie(usage: Any, tokens: int) -> None:
    assert read(chat(usage=usage)).output_tokens == tokens


def test_a_usage_that_cannot_be_true_of_a_long_text_is_none() -> None:
    text = TEXT * 500
    reader = read(chat(text, {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10}))
    assert reader.output_tokens == counted(text)
    assert reader.input_tokens == 9


def test_the_usage_of_one_of_several_choices_is_not_all() -> None:
    assert read(chat(choices=3), choices=3).output_tokens == 3 * counted(TEXT)
    assert read(chat(choices=3), choices=3, at_most=5).output_tokens == 5
    assert read(chat(choices=2, usage={"completion_tokens": 90}), choices=2).output_tokens == 90


def test_the_usage_may_stand_in_the_choice() -> None:
    body = json.dumps({"choices": [{"message": {"content": TEXT}, "usage": USAGE}]}).encode()
    assert (read(body).output_tokens, read(body).input_tokens) == (3, 9)


def test_reasoning_that_is_told_is_known() -> None:
    usage = {**USAGE, "completion_tokens_details": {"reasoning_tokens": 2}}
    assert read(chat(usage=usage)).reported_reasoning


@pytest.mark.parametrize(
    "broken", [b'"x": NaN', b'"x": -Infinity', b'"x": "\\ud800"', b'"x": "\xe6\x97"', b'"x": "\xed\xa0\x80"']
)
def test_what_is_no_json_to_the_letter_is_read(broken: bytes) -> None:
    told = chat().replace(b'"id"', broken + b', "id"')
    untold = chat(usage=None).replace(b'"id"', broken + b', "id"')
    assert (read(told).output_tokens, read(told).input_tokens) == (3, 9)
    assert read(untold).output_tokens == counted(TEXT)


def test_a_broken_text_is_counted() -> None:
    for written, text in (("a \\ud800 b", "a \ufffd b"), ("a \\ud83d", "a \ufffd")):
        body = chat("TEXT", None).replace(b"TEXT", written.encode())
        assert read(body).output_tokens == counted(text)


@pytest.mark.parametrize("body", [b"", b"{", b"{" * 50_000, chat()[:60], b"\x1f\x8b" * 50, b"[" * 20_000])
def test_what_cannot_be_read_costs_its_bytes(body: bytes) -> None:
    assert read(body).output_tokens == -(-len(body) // 4)
    assert read(body, at_most=7).output_tokens == min(7, -(-len(body) // 4))
    assert read(body, has_output=False).output_tokens == 0


def test_a_usage_is_found_in_what_cannot_be_read() -> None:
    body = b'{"choices": oops, "usage": %b}' % json.dumps(USAGE).encode()
    reader = read(body)
    assert (reader.output_tokens, reader.input_tokens, reader.has_usage) == (3, 9, True)
    too_long_to_read_leniently = chat("\\ud800 " + "a " * MAX_LENIENT_BYTES).replace(b"\\\\ud800", b"\\ud800")
    assert read(too_long_to_read_leniently).output_tokens == 3


def test_until_it_is_finished_it_costs_its_bytes() -> None:
    reader = WholeReader(O200K_BASE, at_most=50)
    assert reader.output_tokens == 0
    reader.feed(chat()[:40])
    assert reader.output_tokens == 10
    reader.feed(chat() * 10)
    assert reader.output_tokens == 50


# Long ones


def in_pieces(body: bytes, size: int = 65_536) -> list[bytes]:
    return [body[start : start + size] for start in range(0, len(body), size)]


@pytest.mark.parametrize("size", [1_000, 65_536, 10_000_000])
def test_of_a_long_answer_the_usage_at_its_end_counts(size: int) -> None:
    body = chat("x" * 2 * MAX_READ_BYTES)
    reader = read(*in_pieces(body, size))
    assert (reader.output_tokens, reader.input_tokens, reader.has_usage) == (3, 9, True)


def test_of_a_long_answer_the_usage_at_its_beginning_counts() -> None:
    body = json.dumps({"usage": USAGE, "choices": [{"message": {"content": "x" * 2 * MAX_READ_BYTES}}]}).encode()
    assert read(*in_pieces(body)).output_tokens == 3


def test_a_text_that_spells_a_usage_is_none() -> None:
    spelled = json.dumps({"usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}})
    body = chat("x" * 2 * MAX_READ_BYTES + spelled, None)
    assert not read(*in_pieces(body)).has_usage
    assert read(*in_pieces(body), at_most=1_000).output_tokens == 1_000


def test_a_long_answer_without_a_usage_costs_its_bytes() -> None:
    for usage in (None, {"prompt_tokens": 0, "completion_tokens": 0}, {"prompt_tokens": 9, "completion_tokens": 0}):
        body = chat("x" * 2 * MAX_READ_BYTES, usage)
        assert read(*in_pieces(body)).output_tokens == -(-len(body) // 4)
        assert read(*in_pieces(body), at_most=1_000).output_tokens == 1_000


def test_embeddings_cost_no_output_and_tell_their_input() -> None:
    data = [{"object": "embedding", "index": index, "embedding": [0.123456789] * 3_000} for index in range(50)]
    for body in (
        json.dumps({"object": "list", "data": data, "usage": {"prompt_tokens": 77, "total_tokens": 77}}).encode(),
        json.dumps({"usage": {"prompt_tokens": 77, "total_tokens": 77}, "data": data[:1]}).encode(),
    ):
        reader = read(*in_pieces(body), has_output=False)
        assert (reader.output_tokens, reader.input_tokens, reader.has_usage) == (0, 77, True)


@pytest.mark.parametrize("size", [997, 64 * 1024, 1024 * 1024])
def test_little_of_a_long_answer_is_kept(size: int) -> None:
    piece = b"x" * size
    reader = WholeReader(O200K_BASE)
    tracemalloc.start()
    try:
        for _ in range(32 * 1024 * 1024 // size):
            reader.feed(piece)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < MAX_READ_BYTES
    reader.finish()
    assert reader.output_tokens >= 8 * 1024 * 1024 - size


def test_json_of_very_many_values_is_not_read() -> None:
    body = b'{"choices": [%b[]], "usage": %b}' % (b"[]," * 250_000, json.dumps(USAGE).encode())
    assert len(body) < MAX_READ_BYTES
    with pytest.raises(ValueError, match="too many values"):
        read_json(body)
    assert read(*in_pieces(body)).output_tokens == 3
    assert read(*in_pieces(body[:-60]), at_most=1_000).output_tokens == 1_000


@pytest.mark.parametrize("inside", ['{"usage":', '{"usage": {"a": [', '"usage": {"a": 1} x'])
def test_of_what_spells_very_many_usages_the_last_count(inside: str) -> None:
    body = inside.encode() * 4_000
    assert not read(body).has_usage
    assert read(body + b'"usage": %b' % json.dumps(USAGE).encode()).output_tokens == 3


def test_a_usage_in_the_middle_of_a_long_answer_is_not_looked_for() -> None:
    around = b"x" * MAX_READ_BYTES
    body = b'{"x": "%b", "usage": %b, "y": "%b"}' % (around, json.dumps(USAGE).encode(), around)
    assert not read(*in_pieces(body)).has_usage
    assert read(*in_pieces(body), at_most=1_000).output_tokens == 1_000
