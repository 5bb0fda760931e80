"""What an answer costs: what services tell, whatever they tell, and else what they said."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from gateway_answers import counted
from hypothesis import given
from hypothesis import strategies as st

from limiter_node.tokens.vocabulary import CL100K_BASE, O200K_BASE, TokenCounter, counter_of
from limiter_node.upstream.gateway.cost.chunk_account import ChunkAccount
from limiter_node.upstream.gateway.cost.output_texts import MAX_COUNTED_CHARS, piece_tokens, text_tokens
from limiter_node.upstream.gateway.cost.usage import MOST_TOKENS, Usage, read_usage

_NAMES = """
    completion_tokens prompt_tokens output_tokens input_tokens total_tokens completion_tokens_details reasoning_tokens
    message choices output content summary tool_calls function_call function custom text reasoning_content reasoning
    refusal arguments input name delta
"""
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
)
any_json = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.sampled_from(_NAMES.split()), inner, max_size=6),
    ),
    max_leaves=25,
)


# Told


def told_tokens(usage: Any) -> int | None:
    """The output that `usage` tells."""
    told = read_usage(usage)
    return None if told is None else told.output_tokens


@given(any_json)
def test_any_json_tells_a_number_or_none(usage: Any) -> None:
    told = told_tokens(usage)
    assert told is None or (type(told) is int and 0 <= told <= MOST_TOKENS)


@given(st.integers(0, 2**40), st.integers(0, 2**40), st.integers(0, 2**41) | st.none())
def test_the_difference_to_the_total_is_output_where_it_is_more(prompt: int, output: int, total: int | None) -> None:
    expected: int | None = min(output if total is None else max(output, total - prompt), MOST_TOKENS)
    if not (prompt or output or total):
        expected = None  # zeros are what a service tells that doesn't count
    for before, after in (("prompt_tokens", "completion_tokens"), ("input_tokens", "output_tokens")):
        assert told_tokens({before: prompt, after: output, "total_tokens": total}) == expected


OPENAI = {
    "prompt_tokens": 2006,
    "completion_tokens": 300,
    "total_tokens": 2306,
    "prompt_tokens_details": {"cached_tokens": 1920, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 192, "accepted_prediction_tokens": 5, "audio_tokens": 0},
}
RESPONSES = {
    "input_tokens": 36,
    "input_tokens_details": {"cached_tokens": 30},
    "output_tokens": 87,
    "output_tokens_details": {"reasoning_tokens": 80},
    "total_tokens": 123,
}


@pytest.mark.parametrize(
    ("usage", "told"),
    [
        pytest.param(OPENAI, 300, id="reasoning is among the output, cached input is input"),
        pytest.param(RESPONSES, 87, id="the Responses API"),
        pytest.param(
            {
                "prompt_tokens": 32,
                "completion_tokens": 9,
                "total_tokens": 135,
                "completion_tokens_details": {"reasoning_tokens": 94},
            },
            103,
            id="reasoning beside the output, as xAI counts it",
        ),
        pytest.param(
            {"prompt_tokens": 8, "completion_tokens": 11, "total_tokens": 1_037},
            1_029,
            id="reasoning in the total only",
        ),
        pytest.param({"prompt_tokens": 8, "completion_tokens": 0, "total_tokens": 90}, 82, id="nothing but reasoning"),
        pytest.param({"prompt_tokens": 8, "completion_tokens": 5, "total_tokens": 0}, 5, id="a total of nothing"),
        pytest.param({"completion_tokens": 5, "total_tokens": 90}, 5, id="a total of nobody knows what"),
        pytest.param({"prompt_tokens": None, "completion_tokens": 5, "total_tokens": 90}, 5, id="input null"),
        pytest.param({"prompt_tokens": 8, "completion_tokens": 0}, 0, id="none"),
        pytest.param({"completion_tokens": 5, "output_tokens": 7}, 5, id="both names"),
        pytest.param({"completion_tokens": None, "output_tokens": 7, "input_tokens": 1}, 7, id="one of them null"),
        pytest.param(
            {"prompt_tokens": 1, "output_tokens": 7, "total_tokens": 20}, 7, id="the input of the other name is none"
        ),
        pytest.param({"completion_tokens": 2**31 + 1}, MOST_TOKENS, id="more than any answer"),
        pytest.param(
            {"prompt_tokens": 0, "completion_tokens": 1, "total_tokens": 2**63}, MOST_TOKENS, id="a total, too"
        ),
    ],
)
def test_what_services_tell(usage: dict[str, Any], told: int) -> None:
    assert told_tokens(usage) == told


@pytest.mark.parametrize(
    "usage",
    [
        None,
        5,
        "5",
        [],
        [{"completion_tokens": 5}],
        {},
        {"prompt_tokens": 5, "total_tokens": 5},
        {"completion_tokens": 0},
        {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
        *({"completion_tokens": value} for value in (None, True, False, -1, 5.0, "5", [5], {"value": 5})),
        *({"output_tokens": value} for value in (None, True, -1, 5.5, "5")),
    ],
)
def test_what_tells_nothing(usage: Any) -> None:
    assert told_tokens(usage) is None


@pytest.mark.parametrize("wrong", [True, -1, 90.0, "90", None, [90]])
def test_inputs_and_totals_that_are_no_counts_say_nothing(wrong: Any) -> None:
    assert told_tokens({"prompt_tokens": 8, "completion_tokens": 5, "total_tokens": wrong}) == 5
    assert told_tokens({"prompt_tokens": wrong, "completion_tokens": 5, "total_tokens": 90}) == 5


@given(any_json)
def test_any_json_tells_input_that_is_a_number(usage: Any) -> None:
    told = read_usage(usage)
    assert told is None or 0 <= told.input_tokens <= MOST_TOKENS


CACHED = {"prompt_tokens": 10, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 5_000}}
ANTHROPIC = {"input_tokens": 21, "output_tokens": 9, "cache_read_input_tokens": 400, "cache_creation_input_tokens": 60}


@pytest.mark.parametrize(
    ("usage", "output", "input_", "reported_reasoning"),
    [
        pytest.param(OPENAI, 300, 2_006, True, id="cached input in the prompt"),
        pytest.param(RESPONSES, 87, 36, True, id="the Responses API"),
        pytest.param({**CACHED, "total_tokens": 5_013}, 3, 5_010, False, id="cached input in the total only"),
        pytest.param({**CACHED, "total_tokens": 13}, 3, 5_010, False, id="cached input in nothing"),
        pytest.param(CACHED, 3, 5_010, False, id="more cached than the prompt, and no total"),
        pytest.param(
            {**CACHED, "total_tokens": 5_033, "completion_tokens_details": {"reasoning_tokens": 20}},
            23,
            5_010,
            True,
            id="cached input and reasoning in the total only",
        ),
        pytest.param({**CACHED, "total_tokens": 5_033}, 23, 5_010, True, id="and the reasoning isn't told"),
        pytest.param(
            {
                "prompt_tokens": 6_000,
                "completion_tokens": 3,
                "total_tokens": 6_503,
                "prompt_tokens_details": {"cached_tokens": 5_000},
            },
            503,
            6_000,
            True,
            id="cached input in the prompt, reasoning in the total",
        ),
        pytest.param(ANTHROPIC, 9, 481, False, id="Anthropic's names"),
        pytest.param({**ANTHROPIC, "total_tokens": 30}, 9, 481, False, id="and a total without them"),
        pytest.param({**ANTHROPIC, "total_tokens": 490}, 9, 481, False, id="and a total with them"),
        pytest.param({**ANTHROPIC, "total_tokens": 430}, 9, 421, False, id="and a total with one of them"),
        pytest.param(
            {"prompt_tokens": 481, "completion_tokens": 9, "total_tokens": 490, "cache_read_input_tokens": 400},
            9,
            481,
            False,
            id="Anthropic's names beside OpenAI's",
        ),
        pytest.param(
            {
                "prompt_tokens": 21,
                "completion_tokens": 9,
                "total_tokens": 430,
                "cache_read_input_tokens": 400,
                "prompt_tokens_details": {"cached_tokens": 400},
            },
            9,
            421,
            False,
            id="one thing under two names",
        ),
        pytest.param(
            {"prompt_tokens": 21, "completion_tokens": 9, "total_tokens": 94, "cache_creation": {"5m": 60, "1h": 4}},
            9,
            85,
            False,
            id="written by the time that it is kept",
        ),
        pytest.param(
            {
                "prompt_tokens": 21,
                "prompt_cache_hit_tokens": 20,
                "prompt_cache_miss_tokens": 1,
                "completion_tokens": 9,
                "total_tokens": 30,
            },
            9,
            21,
            False,
            id="DeepSeek's names",
        ),
        pytest.param(
            {"prompt_tokens": 21, "completion_tokens": 9, "total_tokens": 50, "tool_use_prompt_tokens": 20},
            9,
            41,
            False,
            id="what tools fetched",
        ),
        pytest.param({"prompt_tokens": 21, "completion_tokens": 9, "reasoning_tokens": 4}, 9, 21, True, id="beside"),
        pytest.param({"prompt_tokens": 2**40, "completion_tokens": 1}, 1, MOST_TOKENS, False, id="huge input"),
        pytest.param({"prompt_tokens": 7, "total_tokens": 7}, None, 7, False, id="embeddings"),
        pytest.param({"prompt_tokens": 8, "total_tokens": 90}, 82, 8, True, id="nothing but reasoning, in the total"),
        pytest.param(
            {"prompt_tokens": 7, "completion_tokens": 2, "cached_tokens": -5, "total_tokens": 9}, 2, 7, False, id="less"
        ),
        pytest.param(
            {"prompt_tokens": 7, "completion_tokens": 2, "prompt_tokens_details": [5_000], "total_tokens": 9},
            2,
            7,
            False,
            id="details of another form",
        ),
    ],
)
def test_cached_input_is_input(
    usage: dict[str, Any], output: int | None, input_: int, reported_reasoning: bool
) -> None:
    assert read_usage(usage) == Usage(output, input_, reported_reasoning)


def test_what_cannot_be_true_of_what_was_seen() -> None:
    assert Usage(300, 0, False).is_plausible(600)
    assert Usage(1, 0, False).is_plausible(len("token"))
    assert Usage(0, 5, False).is_plausible(0)
    assert not Usage(0, 5, False).is_plausible(1)
    assert not Usage(1, 5, False).is_plausible(2_000)
    assert not Usage(None, 5, False).is_plausible(0)


# Counted


CALL = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Ulm"}'}}
CUSTOM = {"id": "call_2", "type": "custom", "custom": {"name": "run_code", "input": "print(1)"}}


@pytest.mark.parametrize(
    ("answer", "texts"),
    [
        pytest.param(
            {
                "id": "chatcmpl-1",
                "object": "chat.completion",
                "model": "gpt-4o",
                "choices": [
                    {"index": 0, "message": {"role": "assistant", "content": "one two"}, "finish_reason": "stop"},
                    {"index": 1, "message": {"role": "assistant", "content": None, "refusal": "I can't."}},
                ],
                "system_fingerprint": "fp_1",
            },
            ["one two", "I can't."],
            id="a chat",
        ),
        pytest.param(
            {"choices": [{"message": {"reasoning_content": "hm hm", "reasoning": "hm hm", "content": "yes"}}]},
            ["hm hm", "yes"],
            id="reasoning",
        ),
        pytest.param(
            {"choices": [{"message": {"content": None, "tool_calls": [CALL, CUSTOM]}}]},
            ["get_weather", '{"city": "Ulm"}', "run_code", "print(1)"],
            id="calls of tools",
        ),
        pytest.param(
            {"choices": [{"message": {"function_call": {"name": "get_weather", "arguments": ""}}}]},
            ["get_weather"],
            id="a call of a function",
        ),
        pytest.param(
            {"object": "text_completion", "choices": [{"text": "one two", "logprobs": None}, {"text": "three"}]},
            ["one two", "three"],
            id="completions",
        ),
        pytest.param(
            {
                "object": "response",
                "instructions": "Be brief.",
                "text": {"format": {"type": "text"}},
                "reasoning": {"effort": "low", "summary": None},
                "tools": [{"type": "function", "name": "get_weather", "parameters": {"text": "no output"}}],
                "output": [
                    {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm hm"}]},
                    {"type": "function_call", "name": "get_weather", "arguments": "{}"},
                    {"type": "custom_tool_call", "name": "run_code", "input": "print(1)"},
                    {
                        "type": "message",
                        "content": [
                            {"type": "output_text", "text": "one two", "annotations": []},
                            {"type": "refusal", "refusal": "I can't."},
                        ],
                    },
                ],
            },
            ["hm hm", "get_weather", "{}", "run_code", "print(1)", "one two", "I can't."],
            id="a response",
        ),
        pytest.param(
            {"choices": [{"message": {"content": [{"type": "text", "text": "one"}, "two", {"type": "x"}]}}]},
            ["one", "two"],
            id="a list of parts",
        ),
        pytest.param(
            {
                "choices": [
                    {"message": {"content": [{"type": "thinking", "thinking": [{"text": "hm"}]}, {"text": "a"}]}}
                ]
            },
            ["hm", "a"],
            id="reasoning among the parts",
        ),
        pytest.param(
            {"choices": [{"message": {"content": None, "audio": {"data": "UklGRg==" * 99, "transcript": "one two"}}}]},
            ["one two"],
            id="audio",
        ),
        pytest.param(
            {
                "message": {
                    "reasoning": "hm hm hm",
                    "reasoning_details": [{"type": "reasoning.text", "text": "hm hm hm", "signature": "x" * 99}],
                }
            },
            ["hm hm hm"],
            id="reasoning in details, too",
        ),
        pytest.param(
            {"message": {"reasoning_content": None, "reasoning_details": [{"summary": "a b"}, {"data": "gAAAAB"}]}},
            ["a b"],
            id="reasoning in details only",
        ),
        pytest.param(
            {"message": {"thinking_blocks": [{"type": "thinking", "thinking": "hm hm", "signature": "x"}]}},
            ["hm hm"],
            id="thinking blocks",
        ),
        pytest.param(
            {"message": {"tool_calls": [{"function": {"name": "get", "arguments": {"city": "Ulm"}}}]}},
            ["get", '{"city":"Ulm"}'],
            id="arguments that are no text",
        ),
        pytest.param(
            {"message": {"tool_calls": [{"id": "1", "type": "web_search", "web_search": {"query": "what is it"}}]}},
            ['{"query":"what is it"}'],
            id="a call of web search",
        ),
        pytest.param(
            {"output": [{"type": "web_search_call", "id": "ws", "action": {"type": "search", "query": "what is it"}}]},
            ["what is it"],
            id="a response's call of web search",
        ),
        pytest.param(
            {"message": {"content": "one", "annotations": [{"url_citation": {"title": "no", "content": "output"}}]}},
            ["one"],
            id="annotations",
        ),
        pytest.param({"choices": [{"message": {"content": "a\ud800b"}}]}, ["a\ufffdb"], id="a lone surrogate"),
        pytest.param({"choices": [{"message": {"content": "", "name": "somebody"}}]}, [], id="nothing said"),
        pytest.param({"choices": []}, [], id="no choices"),
        pytest.param({"object": "list", "data": [{"embedding": [1, 2], "text": "no output"}]}, [], id="no answer"),
    ],
)
def test_what_is_said_is_counted(answer: Any, texts: list[str]) -> None:
    assert text_tokens(answer, O200K_BASE) == counted(*texts)
    assert text_tokens(answer, CL100K_BASE) == counted(*texts, encoding=CL100K_BASE)


@pytest.mark.parametrize("text", ["one two three ", "日本語 ", "\ud800 one "])
def test_of_long_texts_the_rest_is_counted_in_proportion(text: str) -> None:
    for encoding in (O200K_BASE, CL100K_BASE):
        long = text * (3 * MAX_COUNTED_CHARS // len(text))
        exact = counted(long, encoding=encoding)
        half = len(long) // 2
        for answer in ({"content": long}, {"content": [{"text": long[:half]}, {"text": long[half:]}]}):
            assert abs(text_tokens(answer, encoding) - exact) <= exact // 100
        assert abs(piece_tokens(counter_of(encoding), long) - exact) <= exact // 100
        short = long[:MAX_COUNTED_CHARS]
        assert text_tokens({"content": short}, encoding) == counted(short, encoding=encoding)
        assert piece_tokens(counter_of(encoding), short) == counted(short, encoding=encoding)


@given(any_json)
def test_any_json_has_a_count(answer: Any) -> None:
    tokens = text_tokens(answer, O200K_BASE)
    assert 0 <= tokens <= len(orjson.dumps(answer))


def test_nesting_has_no_end() -> None:
    answer: Any = "a"
    for _ in range(50_000):
        answer = {"content": [answer]}
    answer = {"output": [answer, {"text": "one two"}]}
    assert text_tokens(answer, O200K_BASE) == 3


@pytest.mark.parametrize(
    "answer",
    [
        {"content": ["a"] * 100_000},
        {"tool_calls": [{"x": "a"}] * 100_000},
        {"choices": [{"delta": {"content": "a"}}] * 100_000},
    ],
    ids=["parts", "calls", "choices"],
)
def test_of_many_tiny_texts_the_rest_is_counted_in_proportion(
    answer: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each takes the tokenizer a microsecond, however short it is."""
    asked: list[str] = []

    def counting(encoding: str) -> TokenCounter:
        def count(text: str) -> int:
            asked.append(text)
            return counter_of(encoding)(text)

        return count

    monkeypatch.setattr("limiter_node.upstream.gateway.cost.output_texts.counter_of", counting)
    monkeypatch.setattr("limiter_node.upstream.gateway.cost.account.counter_of", counting)
    account = ChunkAccount(O200K_BASE, hides_usage=True, choices=1)
    if "choices" in answer:
        account.note(answer)
    assert (account.output_tokens or text_tokens(answer, O200K_BASE)) == 100_000
    assert len(asked) < 10_000
