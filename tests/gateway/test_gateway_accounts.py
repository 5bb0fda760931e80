"""What a stream costs so far: told and counted, finished or not, read in full or only where it differs."""

from __future__ import annotations

import json
from typing import Any

import pytest
from gateway_answers import chunk_account, counted, event
from hypothesis import given, settings
from hypothesis import strategies as st

from limiter_node.tokens.vocabulary import O200K_BASE
from limiter_node.upstream.gateway.cost.account import Account
from limiter_node.upstream.gateway.cost.responses_api_account import ResponsesApiAccount
from limiter_node.upstream.gateway.passing.event_reader import EventReader
from limiter_node.upstream.gateway.sse import first_data, looks_like_stream

ZEROS = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


def said(text: str | None = None, finish: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"id": "c", "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}], **fields}


def told(tokens: int, prompt: int = 5, **usage: Any) -> dict[str, Any]:
    counts = {"prompt_tokens": prompt, "completion_tokens": tokens, "total_tokens": prompt + tokens, **usage}
    return {"id": "c", "choices": [], "usage": counts}


def noted(account: Account, *fields: Any) -> Account:
    reader = EventReader(account)
    for each in fields:
        reader.feed(event(each))
    return account


# Usages


def test_zeros_beside_a_text_are_no_usage() -> None:
    account = noted(chunk_account(), said("one two three"), {"choices": [], "usage": ZEROS})
    assert (account.output_tokens, account.has_usage) == (3, False)
    account = noted(chunk_account(), said("one two three"), told(0))
    assert (account.output_tokens, account.has_usage, account.input_tokens) == (3, False, 5)


@pytest.mark.parametrize("tokens", [-3, None, "3", 3.0, True, [3]])
def test_counts_that_are_none_are_no_usage(tokens: Any) -> None:
    usage = {"prompt_tokens": 5, "completion_tokens": tokens}
    account = noted(chunk_account(), said("one two three"), {"choices": [], "usage": usage})
    assert (account.output_tokens, account.has_usage) == (3, False)


def test_usage_per_piece_is_less_than_was_seen() -> None:
    pieces = [said(f" word{number}", usage=told(1)["usage"]) for number in range(40)]
    account = noted(chunk_account(), *pieces)
    assert account.output_tokens == counted(*[f" word{number}" for number in range(40)])


def test_the_greatest_usage_counts() -> None:
    account = noted(chunk_account(), told(1), said("one two three"), told(100), told(3))
    assert account.output_tokens == 100
    account = noted(chunk_account(), said("one"), told(4), said(" two" * 20), told(0), told(3))
    assert account.output_tokens == counted("one", " two" * 20)


def test_a_usage_holds_until_more_is_said() -> None:
    account = noted(chunk_account(), said("one two"), told(2))
    assert account.has_usage
    noted(account, said(" three"))
    assert not account.has_usage
    noted(account, told(9))
    assert account.has_usage


def test_what_is_told_of_cached_input_is_input() -> None:
    usage = told(3, 10, total_tokens=5_013, prompt_tokens_details={"cached_tokens": 5_000})
    account = noted(chunk_account(), said("one"), usage)
    assert (account.output_tokens, account.input_tokens, account.reported_reasoning) == (3, 5_010, False)


def test_reasoning_that_was_told_is_known() -> None:
    assert noted(chunk_account(), told(90, completion_tokens_details={"reasoning_tokens": 80})).reported_reasoning
    usage = {"input_tokens": 4, "output_tokens": 21, "output_tokens_details": {"reasoning_tokens": 19}}
    account = noted(ResponsesApiAccount(O200K_BASE), {"type": "response.completed", "response": {"usage": usage}})
    assert (account.reported_reasoning, account.input_tokens, account.has_usage) == (True, 4, True)


@pytest.mark.parametrize(
    "fields",
    [
        {"choices": [{"delta": {"content": ""}, "finish_reason": "stop", "usage": told(9)["usage"]}]},
        {"choices": [{"delta": {}, "finish_reason": "stop"}], "x_groq": {"usage": told(9)["usage"]}},
        {"choices": [], "usage": told(9)["usage"]},
    ],
)
def test_places_of_a_usage(fields: dict[str, Any]) -> None:
    account = noted(chunk_account(hides_usage=True), said("one"), fields)
    assert (account.output_tokens, account.input_tokens) == (9, 5)


@pytest.mark.parametrize(
    "other", [{"citations": ["https://a.example"]}, {"timings": {"predicted_ms": 1.5}}, {"x": "\ud800"}]
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_of_a_chunk_that_says_more_only_the_usage_is_taken_out(other: dict[str, Any], end: str) -> None:
    written = f": hi{end}id: 7{end}data: {json.dumps({**told(3), **other})}{end}{end}".encode()
    reader = EventReader(chunk_account(hides_usage=True))
    passed = reader.feed(written)
    assert b"usage" not in passed
    assert json.loads(first_data(passed)) == {"id": "c", "choices": [], **other}
    assert passed.startswith(f": hi{end}id: 7{end}data: ".encode())
    assert passed.endswith(f"{end}{end}".encode())
    assert EventReader(chunk_account()).feed(written) == written


def test_of_a_chunk_that_is_nothing_but_a_usage_nothing_passes() -> None:
    envelope = {"object": "chat.completion.chunk", "created": 1, "model": "m", "system_fingerprint": None, "x": None}
    assert EventReader(chunk_account(hides_usage=True)).feed(event({**told(3), **envelope})) == b""


def test_a_usage_that_cannot_be_taken_out_passes() -> None:
    written = b'data: {"choices": [], "usage": {"completion_tokens": 3}, "x": %b1%b}\n\n' % (b"[" * 500, b"]" * 500)
    account = chunk_account(hides_usage=True)
    passed = EventReader(account).feed(written)
    assert b'"choices"' in passed
    assert account.output_tokens == 3


def test_several_events_at_once_pass_without_the_usage() -> None:
    parts = [event(said("one")), event({**told(3), "timings": {}}), event(told(3)), event(said("", "stop"))]
    passed = EventReader(chunk_account(hides_usage=True)).feed(b"".join(parts))
    assert passed == parts[0] + event({"id": "c", "choices": [], "timings": {}}, separators=(",", ":")) + parts[3]


# What follows the output


def test_only_the_usage_is_to_come() -> None:
    account = chunk_account()
    noted(account, said("one"))
    assert not account.is_finished
    noted(account, said("", "stop"))
    assert (account.is_finished, account.is_whole, account.is_done, account.has_usage) == (True, True, False, False)
    noted(account, told(4))
    assert account.has_usage


def response(kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": f"response.{kind}", **fields}


def test_only_a_responses_usage_is_to_come() -> None:
    account = ResponsesApiAccount(O200K_BASE)
    message = {"type": "message", "content": [{"type": "output_text", "text": "one two"}]}
    steps = [
        (response("output_item.added", output_index=0, item={"type": "reasoning"}), False),
        (response("output_item.done", output_index=0, item={"type": "reasoning", "summary": []}), False),
        (response("output_item.added", output_index=1, item={"type": "message", "content": []}), False),
        (response("output_text.delta", output_index=1, delta="one two"), False),
        (response("output_text.done", output_index=1, text="one two"), True),
        (response("output_item.done", output_index=1, item=message), True),
        (response("output_item.added", output_index=2, item={"type": "function_call", "name": "get"}), False),
        (response("function_call_arguments.done", output_index=2, arguments="{}"), True),
    ]
    for fields, is_finished in steps:
        noted(account, fields)
        assert account.is_finished is is_finished, fields
    assert not account.is_whole
    noted(account, response("completed", response={"usage": {"output_tokens": 9}}))
    assert account.is_whole
    assert account.has_usage


# Streams of the Responses API without a usage


def test_the_name_of_a_called_function_is_counted() -> None:
    call = {"type": "function_call", "name": "get_weather", "arguments": ""}
    parts = [
        response("output_item.added", output_index=0, item=call),
        response("function_call_arguments.delta", output_index=0, delta='{"city":'),
        response("function_call_arguments.delta", output_index=0, delta='"Ulm"}'),
        response("function_call_arguments.done", output_index=0, arguments='{"city":"Ulm"}'),
        response("output_item.done", output_index=0, item={**call, "arguments": '{"city":"Ulm"}'}),
    ]
    pieces = counted("get_weather", '{"city":', '"Ulm"}')
    assert noted(ResponsesApiAccount(O200K_BASE), *parts).output_tokens == pieces
    end = response("completed", response={"output": [{**call, "arguments": '{"city":"Ulm"}'}]})
    assert noted(ResponsesApiAccount(O200K_BASE), *parts, end).output_tokens == pieces


def test_items_that_come_without_deltas_are_counted_once() -> None:
    call = {"type": "function_call", "name": "get_weather", "arguments": "{}"}
    message = {"type": "message", "content": [{"type": "output_text", "text": "one two"}]}
    parts = [
        response("output_item.added", output_index=0, item=call),
        response("output_item.done", output_index=0, item=call),
        response("output_item.done", output_index=1, item=message),
        response("output_item.done", output_index=1, item=message),
    ]
    assert noted(ResponsesApiAccount(O200K_BASE), *parts).output_tokens == counted("get_weather", "{}", "one two")


def test_a_text_that_comes_without_deltas_is_counted_once() -> None:
    item = {"type": "message", "content": [{"type": "output_text", "text": "one two"}]}
    text = response("output_text.done", output_index=0, text="one two")
    done = response("output_item.done", output_index=0, item=item)
    assert noted(ResponsesApiAccount(O200K_BASE), text, done).output_tokens == counted("one two")
    for index in ({}, {"output_index": 0}):
        delta = response("output_text.delta", delta="one two", **index)
        assert noted(ResponsesApiAccount(O200K_BASE), delta, text, done).output_tokens == counted("one two")


def test_a_response_that_comes_at_once_is_counted() -> None:
    message = {"type": "message", "content": [{"type": "output_text", "text": "one two"}]}
    end = response("completed", response={"instructions": "no output", "output": [message], "usage": None})
    assert noted(ResponsesApiAccount(O200K_BASE), end).output_tokens == counted("one two")


@pytest.mark.parametrize(
    ("fields", "texts"),
    [
        (response("audio.transcript.delta", delta="one two"), ["one two"]),
        (response("audio.delta", delta="UklGRg=="), []),
        (response("output_audio.delta", delta="UklGRg=="), []),
        (response("code_interpreter_call_code.delta", delta="x = 1"), ["x = 1"]),
        (response("output_text.delta", delta={"text": "one"}), ["one"]),
        (response("output_text.delta", delta=["one", 1]), ["one"]),
        (response("output_text.delta"), []),
        (response("output_item.added", item={"type": "custom_tool_call", "name": "run"}), ["run"]),
        (response("output_item.added", item={"type": "message"}), []),
        (response("output_item.added", item=[1]), []),
        (
            response("output_item.done", output_index=0, item={"type": "web_search_call", "action": {"query": "a b"}}),
            ["a b"],
        ),
    ],
)
def test_what_is_output_in_a_response(fields: dict[str, Any], texts: list[str]) -> None:
    assert noted(ResponsesApiAccount(O200K_BASE), fields).output_tokens == counted(*texts)


def test_usages_of_responses_that_lie() -> None:
    delta = response("output_text.delta", delta="one two three")
    for usage, tokens in (
        ({"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}, 3),
        ({"input_tokens": 9, "output_tokens": 0, "total_tokens": 9}, 3),
        ({"input_tokens": 9, "output_tokens": -1}, 3),
        ({"input_tokens": 9, "output_tokens": 2}, 2),
    ):
        end = response("completed", response={"usage": usage})
        assert noted(ResponsesApiAccount(O200K_BASE), delta, end).output_tokens == tokens


# The beginning of a stream


def test_a_byte_order_mark_is_no_part_of_the_first_event() -> None:
    for end in (b"\n", b"\r\n"):
        stream = b"\xef\xbb\xbf" + (event(said("one two")) + event(said(" three"))).replace(b"\n", end)
        for at in range(len(stream)):
            account = chunk_account()
            reader = EventReader(account)
            assert reader.feed(stream[:at]) + reader.feed(stream[at:]) + reader.rest() == stream
            assert account.output_tokens == 3


STREAMS = [b"data: {}", b"data:", b"event: x", b": ping", b":", b"id: 1", b"retry: 10", b"\n\r\n\ndata: x", b"data\n"]


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_stream_is_known_by_its_first_bytes(mark: bytes) -> None:
    for start in STREAMS:
        for end in range(len(mark + start) + 1):
            assert looks_like_stream((mark + start)[:end]) in (None, True)
        assert looks_like_stream(mark + start) is True
        assert looks_like_stream(mark + start + b"\n\n{") is True


@pytest.mark.parametrize(
    "first", [b"{", b"[", b" {", b"\n{", b"<html>", b"dat{", b"datum", b"x", b"\xef\xbb{", b"\xff"]
)
def test_anything_else_is_none(first: bytes) -> None:
    assert looks_like_stream(first) is False
    assert looks_like_stream(first + b"data: x\n\n") is False


@pytest.mark.parametrize("first", [b"", b"\n", b"  ", b"\xef\xbb\xbf", b"\xef", b"d", b"retr", b"\r\n"])
def test_too_little_says_nothing(first: bytes) -> None:
    assert looks_like_stream(first) is None


def test_an_event_of_very_many_values_passes_and_costs_its_bytes() -> None:
    stream = b'data: {"choices": [{"delta": {"content": "one"}}], "x": [%b1]}\n\n' % (b"1," * 250_000)
    account = chunk_account(at_most=100)
    assert EventReader(account).feed(stream) == stream
    assert account.output_tokens == 100


def test_very_many_empty_lines_pass() -> None:
    for lines in (b"\n\n" * 5_000, b"\r\n" * 5_000, b"\r\r" * 5_000):
        account = chunk_account()
        reader = EventReader(account)
        assert reader.feed(lines + event(said("one"))) == lines + event(said("one"))
        assert account.output_tokens == 1
        assert reader.feed(event({"error": "x"}) + lines) == b""


# Events that differ in nothing but their text

texts = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
    st.sampled_from(
        ["one", " two", '"', "\\", '\\"', "\n", "\r", "\x00", "é", "\u2028", '","finish_reason":"stop', "data: "]
    ),
)
makers = [
    said,
    lambda text: said(text, "stop"),
    lambda text: said(text, usage=told(1)["usage"]),
    lambda text: {**said(text), "choices": [{"index": 1, "delta": {"content": text}}]},
    lambda text: {"id": "c", "choices": [{"delta": {"content": text, "reasoning": text}}]},
    lambda text: {"id": "c", "choices": [{"delta": {"content": "one"}, "content": text}]},
    lambda text: {"id": "c", "choices": [{"delta": {"reasoning_content": text}}]},
    lambda text: {"id": "c", "choices": [{"delta": {"content": "", "reasoning": text}}]},
    lambda text: {"id": "c", "choices": [{"delta": {"content": None, "refusal": text}}]},
    lambda text: {"choices": [{"delta": {"tool_calls": [{"function": {"arguments": text}}]}}]},
    lambda text: {"choices": [{"delta": {"tool_calls": [{"function": {"name": text, "arguments": ""}}]}}]},
    lambda text: {"choices": [{"delta": {"tool_calls": [{"function": {"arguments": text}, "custom": {}}]}}]},
    lambda text: {"choices": [{"delta": {"arguments": text}}]},
    lambda text: {"choices": [{"delta": {"content": ""}, "text": text, "message": {"content": text}}]},
]
some_texts = st.lists(texts, max_size=6)
alike = st.builds(lambda make, some: [make(text) for text in some], st.sampled_from(makers), some_texts)
parts = st.lists(alike | st.sampled_from([[told(7)], [{"error": "x"}]]), max_size=4)
streams = parts.map(lambda parts: [fields for part in parts for fields in part])


@settings(max_examples=300, deadline=None)
@given(streams, st.booleans(), st.booleans(), st.booleans())
def test_reading_only_the_text_says_the_same(stream: list[Any], ascii_: bool, spaces: bool, is_joined: bool) -> None:
    separators = (", ", ": ") if spaces else (",", ":")
    written = [event(fields, ensure_ascii=ascii_, separators=separators) for fields in stream]
    quick, plain = chunk_account(hides_usage=True, choices=2), chunk_account(hides_usage=True, choices=2)
    reader = EventReader(quick)
    passed = reader.feed(b"".join(written)) if is_joined else b"".join([reader.feed(each) for each in written])
    expected = b"".join([EventReader(plain).feed(each) for each in written])
    assert passed == expected
    for name in ("output_tokens", "has_usage", "is_whole", "is_finished", "error", "input_tokens"):
        assert getattr(quick, name) == getattr(plain, name)


def test_bytes_that_are_no_text_are_read_in_full() -> None:
    before, after = event(said("TEXT")).split(b"TEXT")
    for text, tokens in (
        (b"\xff", counted("\ufffd")),
        (b"a\\", None),
        (b"\\ud800", counted("\ufffd")),
        (b"a\nb", None),
        (b"\\x", None),
    ):
        quick, plain = chunk_account(), chunk_account()
        reader = EventReader(quick)
        reader.feed(event(said("one")))
        written = before + text + after
        assert reader.feed(written) + reader.rest() == written
        EventReader(plain).feed(written)
        assert quick.output_tokens == counted("one") + plain.output_tokens
        assert tokens is None or plain.output_tokens == tokens


def test_an_event_that_is_shorter_than_what_it_resembles() -> None:
    account = chunk_account()
    reader = EventReader(account)
    reader.feed(b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n')
    short = b'data: {"choices":[{"delta":{"content":"}}]}\n\n'
    assert reader.feed(short) == short
    assert account.output_tokens == 1 + -(-len(short[6:-2]) // 4)
