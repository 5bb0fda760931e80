"""Token counts: which vocabulary, what texts, the chat formula, the estimates."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limiter_node.tokens import vocabulary
from limiter_node.tokens.chat import count_chat

O200K, CL100K = "gpt-4o", "gpt-4"


@pytest.mark.parametrize(
    ("model", "encoding"),
    [
        ("gpt-4o", "o200k_base"),
        ("gpt-4o-mini", "o200k_base"),
        ("gpt-4.1", "o200k_base"),
        ("gpt-4.5-preview", "o200k_base"),
        ("gpt-5", "o200k_base"),
        ("o3-mini", "o200k_base"),
        ("chatgpt-4o-latest", "o200k_base"),
        ("gpt-40", "o200k_base"),
        ("llama-3", "o200k_base"),
        ("", "o200k_base"),
        ("ft:gpt-4o-mini:org::id", "o200k_base"),
        ("gpt-4", "cl100k_base"),
        ("gpt-4-turbo", "cl100k_base"),
        ("gpt-4-0613", "cl100k_base"),
        ("gpt-3.5-turbo", "cl100k_base"),
        ("gpt-35-turbo", "cl100k_base"),
        ("text-embedding-3-small", "cl100k_base"),
        ("ft:gpt-4:org::id", "cl100k_base"),
        ("ft:gpt-3.5-turbo-0125:org::id", "cl100k_base"),
    ],
)
def test_vocabulary_of_a_model(model: str, encoding: str) -> None:
    assert vocabulary.encoding_name(model) == encoding


@pytest.mark.parametrize(
    ("text", "o200k", "cl100k"),
    [
        ("", 0, 0),
        ("hello world", 2, 2),
        ("tiktoken is great!", 6, 6),
        ("antidisestablishmentarianism", 6, 6),
        ("2 + 2 = 4", 7, 7),
        ("お誕生日おめでとう", 8, 9),
        ("<|endoftext|>", 7, 7),
        ("\ud800", 1, 1),
        ("a\ud800b", 3, 3),
        ("\ud83d\ude00", 1, 2),
    ],
)
def test_count_literal(text: str, o200k: int, cl100k: int) -> None:
    assert (vocabulary.count(text, O200K), vocabulary.count(text, CL100K)) == (o200k, cl100k)


def test_a_surrogate_pair_counts_as_the_character_and_a_lone_one_as_the_replacement_character() -> None:
    assert vocabulary.count("\ud83d\ude00", O200K) == vocabulary.count("\U0001f600", O200K)
    assert vocabulary.count("x\udfffy", CL100K) == vocabulary.count("x\ufffdy", CL100K)


def test_a_text_of_over_a_million_characters_is_counted() -> None:
    assert vocabulary.count(" the" * 300_000, O200K) == 300_000


@given(st.text(st.characters()))
def test_any_text_has_a_count(text: str) -> None:
    for model in (O200K, CL100K):
        counted = vocabulary.count(text, model)
        assert 0 <= counted <= 4 * len(text)
        assert count_chat([{"role": "user", "content": text}], model) == 7 + counted


@pytest.mark.parametrize("model", [O200K, CL100K])
@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant", "tool", "function"])
def test_every_role_is_one_token(role: str, model: str) -> None:
    assert vocabulary.count(role, model) == 1


@pytest.mark.parametrize("encoding", [vocabulary.O200K_BASE, vocabulary.CL100K_BASE])
@pytest.mark.parametrize(
    "piece",
    [
        "a",
        "A",
        "aA",
        " ",
        "\n",
        " \n",
        "\r\n",
        "0",
        "'",
        "'s",
        "/",
        "!",
        "ab ",
        "日",
        "\u0300",
        "a\u0300",
        "😀",
        "<|endoftext|>",
    ],
)
def test_no_text_takes_more_than_its_length(piece: str, encoding: str) -> None:
    """By processor time: four times the text takes four times as long, where a quadratic counter took sixteen."""
    counter = vocabulary.counter_of(encoding)

    def taken_s(length: int) -> float:
        text, times = piece * (length // len(piece)), []
        for _ in range(5):
            before = time.thread_time()
            counter(text)
            times.append(time.thread_time() - before)
        return min(times)

    assert taken_s(200_000) < 10 * taken_s(50_000)


def test_chat_formula_as_published() -> None:
    # The example of OpenAI's cookbook, for which it gives 129 (gpt-4 and gpt-3.5-turbo) and 124 (gpt-4o).
    system, user = (
        "You are a helpful, pattern-following assistant that translates corporate jargon into plain English.",
        "This late pivot means we don't have time to boil the ocean for the client deliverable.",
    )
    messages = [
        {"role": "system", "content": system},
        {"role": "system", "name": "example_user", "content": "New synergies will help drive top-line growth."},
        {
            "role": "system",
            "name": "example_assistant",
            "content": "Things working well together will increase revenue.",
        },
        {
            "role": "system",
            "name": "example_user",
            "content": "Let's circle back when we have more bandwidth to touch base on opportunities "
            "for increased leverage.",
        },
        {
            "role": "system",
            "name": "example_assistant",
            "content": "Let's talk later when we're less busy about how to do better.",
        },
        {"role": "user", "content": user},
    ]
    assert count_chat(messages, "gpt-4") == 129
    assert count_chat(messages, "gpt-3.5-turbo") == 129
    assert count_chat(messages, "gpt-4o") == 124


BASE = 3 + 3 + 1
"""One message without content."""


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"role": "user", "content": ""}, BASE),
        ({"role": "user", "content": "hello world"}, BASE + 2),
        ({"role": "user", "content": "hello world", "name": "bob"}, BASE + 2 + 1 + 1),
        ({"role": "user", "content": "hello world", "name": None}, BASE + 2),
        ({"role": "assistant", "content": None, "refusal": "hello world"}, BASE + 2),
        ({"role": "assistant", "function_call": {"name": "hello", "arguments": "{}"}}, BASE + 2),
        (
            {
                "role": "assistant",
                "tool_calls": [
                    {"type": "function", "function": {"name": "hello", "arguments": "hello world"}},
                    {"type": "custom", "custom": {"name": "hello", "input": "hello world"}},
                ],
            },
            BASE + 3 + 3,
        ),
        ({"role": "assistant", "content": "hello world", "tool_calls": None}, BASE + 2),
        ({"role": "tool", "content": "hello world", "tool_call_id": "call_1"}, BASE + 2),
        ({"role": "user", "content": [{"type": "text", "text": "hello world"}]}, BASE + 2),
        ({"role": "assistant", "content": [{"type": "refusal", "refusal": "hello world"}]}, BASE + 2),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u", "detail": "low"}}]}, BASE + 85),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u", "detail": "high"}}]}, BASE + 765),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u"}}]}, BASE + 765),
        ({"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "A" * 2500}}]}, BASE + 3),
        ({"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}, BASE + 765),
        ({"role": "user", "content": [{"type": "file", "file": {"file_data": "A" * 32_000}}]}, BASE + 2_000),
    ],
)
def test_count_chat_literal(message: dict[str, object], expected: int) -> None:
    assert count_chat([message], O200K) == expected


def test_surrogates_anywhere_in_a_chat_are_counted() -> None:
    parts = [{"type": "text", "text": "\ud800"}, {"type": "text", "text": "hello world"}]
    assert count_chat([{"role": "user", "content": parts, "name": "\udfff"}], O200K) == BASE + 1 + 2 + 1 + 1


def test_warm_loads_both_vocabularies() -> None:
    vocabulary.warm()
    assert vocabulary.count("warm", O200K) == vocabulary.count("warm", CL100K) == 1
