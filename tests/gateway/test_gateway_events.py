"""Event streams while they pass: the same bytes and the same cost wherever they are cut, and nothing but that."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import pytest
from gateway_answers import chunk_account, counted, event
from hypothesis import example, given, settings
from hypothesis import strategies as st

from limiter_node.tokens.vocabulary import CL100K_BASE, O200K_BASE, count_anew
from limiter_node.upstream.gateway.cost.account import Account
from limiter_node.upstream.gateway.cost.chunk_account import ChunkAccount
from limiter_node.upstream.gateway.cost.output_texts import text_tokens
from limiter_node.upstream.gateway.cost.responses_api_account import ResponsesApiAccount
from limiter_node.upstream.gateway.cost.usage import MOST_TOKENS
from limiter_node.upstream.gateway.passing import event_reader
from limiter_node.upstream.gateway.passing.event_reader import EventReader, TooLong

ENCODING = O200K_BASE


class Outcome(NamedTuple):
    """What came of a stream."""

    passed: bytes
    tokens: int
    is_whole: bool
    is_done: bool
    error: Any


def read(account: Account, *pieces: bytes) -> Outcome:
    """What comes of a stream that arrives in `pieces`."""
    reader = EventReader(account)
    passed = b"".join([*[reader.feed(piece) for piece in pieces], reader.rest()])
    return Outcome(passed, account.output_tokens, account.is_whole, account.is_done, account.error)


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    """`stream`, cut at `places`; none of the pieces is empty."""
    at = sorted({place % len(stream) for place in places} - {0}) if stream else []
    return [stream[start:end] for start, end in zip([0, *at], [*at, len(stream)], strict=True) if start < end]


def chunk(content: str | None = None, *, usage: Any = None, finish: str | None = None, **delta: Any) -> dict[str, Any]:
    fields = {"choices": [{"index": 0, "delta": {"content": content, **delta}, "finish_reason": finish}]}
    return fields if usage is None else {**fields, "usage": usage}


def usage_chunk(tokens: int) -> dict[str, Any]:
    return {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": tokens, "total_tokens": 5 + tokens}}


# Streams of any form, and what they mean

ENDS = [
    *((end, end) for end in (b"\n", b"\r\n", b"\r")),
    *((b"\n", b"\r\n"), (b"\n", b"\r"), (b"\r\n", b"\n"), (b"\r\n", b"\r")),
]
"""How a line ends, and how the empty one after it does."""


class Event(NamedTuple):
    """One event as it is written."""

    data: bytes
    """Its data, in one line or more, parted by ``\\n``."""
    before: bytes
    """A line that precedes the data, if any."""
    prefix: bytes
    ends: tuple[bytes, bytes]

    def written(self) -> bytes:
        line_end, empty = self.ends
        lines = [self.before] if self.before else []
        lines += [self.prefix + line for line in self.data.split(b"\n")]
        return b"".join(line + line_end for line in lines) + empty


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
counts = st.integers(0, 50)
chunks = st.one_of(
    st.builds(chunk, texts),
    st.builds(chunk, texts, reasoning=texts, refusal=texts),
    st.builds(lambda text, tokens: chunk(text, usage={"completion_tokens": tokens}), texts, counts),
    st.builds(usage_chunk, counts),
    st.just(chunk("", finish="stop")),
    st.just({"choices": [], "prompt_filter_results": []}),
)
lines_of_json = st.one_of(
    st.builds(lambda fields, indent: json.dumps(fields, indent=indent).encode(), chunks, st.sampled_from([None, 1])),
    st.builds(
        lambda fields: json.dumps(fields, ensure_ascii=False).encode(), st.builds(chunk, texts.filter(str.isalnum))
    ),
    st.sampled_from([b"[DONE]", b"not JSON", b"[1]", b"7", b"", b'{"choices": \xff}', b'{"x": "\\ud800"}']),
)
any_events = st.builds(
    Event,
    lines_of_json,
    st.sampled_from([b"", b"", b": a comment", b":", b"event: message", b"id: 7", b"retry: 1000"]),
    st.sampled_from([b"data: ", b"data:"]),
    st.sampled_from(ENDS),
)
places = st.lists(st.integers(0, 10_000), max_size=40)
EACH_BYTE = list(range(10_000))


class Meaning:
    """What a stream of `Event` means, told plainly: one event after the other, with nothing cut."""

    def __init__(self, stream: list[Event], *, hides_usage: bool, is_ended: bool) -> None:
        self.passed = b""
        self.is_done = self.is_finished = False
        text_tokens, told = 0, None
        for each in stream:
            try:
                fields = json.loads(each.data.decode("utf-8", "replace"))
            except ValueError:
                fields = None
                self.is_done |= each.data == b"[DONE]"
            hidden = False
            if not isinstance(fields, dict):
                # What nobody can read costs a token per four bytes, unless it may be the beginning of an event.
                is_counted = each.data != b"[DONE]" and (is_ended or each is not stream[-1])
                text_tokens += -(-len(each.data) // 4) if is_counted else 0
            else:
                for choice in fields.get("choices") or ():
                    text_tokens += counted(*[text for text in choice["delta"].values() if text])
                    self.is_finished |= choice.get("finish_reason") is not None
                if any(fields.get("usage", {}).values()):
                    now = fields["usage"]["completion_tokens"]
                    told = (now, text_tokens) if told is None or now >= told[0] else told
                    hidden = hides_usage and not fields["choices"]
            if not hidden:
                self.passed += each.written()
        if told is None:
            self.tokens = text_tokens
        else:
            is_believed = told[1] == text_tokens and told[0] * 8 >= text_tokens
            self.tokens = told[0] if is_believed else max(told[0], text_tokens)


@settings(max_examples=150, deadline=None)  # the first one loads a vocabulary
@given(st.lists(any_events, max_size=8), places, st.booleans(), st.booleans())
@example([Event(b'{"choices": [{"delta": {"content": "a"}}]}', b"", b"data: ", ENDS[0])], [1], False, False)
@example([Event(b'{"choices":\n[]}', b"", b"data: ", ENDS[2])] * 2, EACH_BYTE, True, True)
def test_what_passes_and_what_it_costs_is_the_same_wherever_it_is_cut(
    stream: list[Event], at: list[int], hides_usage: bool, is_ended: bool
) -> None:
    meaning = Meaning(stream, hides_usage=hides_usage, is_ended=is_ended)
    written, expected = b"".join(each.written() for each in stream), meaning.passed
    if stream and not is_ended:  # without the last empty line
        ending = stream[-1].ends[1]
        written = written.removesuffix(ending)
        if meaning.passed.endswith(stream[-1].written()):
            expected = expected.removesuffix(ending)
    for pieces in (cut(written, at), cut(written, EACH_BYTE), [written]):
        outcome = read(chunk_account(hides_usage=hides_usage), *pieces)
        assert outcome.passed == expected
        assert outcome.tokens == meaning.tokens
        assert outcome.is_whole is (meaning.is_done or meaning.is_finished)
        assert outcome.is_done is meaning.is_done
        assert outcome.error is None


@settings(max_examples=150, deadline=None)  # the first one loads a vocabulary
@given(st.binary(max_size=200) | st.text("\r\ndat:[]{} ", max_size=60).map(str.encode), places)
def test_any_bytes_pass_unchanged(stream: bytes, at: list[int]) -> None:
    outcome = read(chunk_account(), *cut(stream, at))
    assert outcome.passed == stream
    assert outcome.tokens <= len(stream)


@given(st.lists(st.sampled_from([b"\n", b"\r", b"\r\n", b"data: x\n", b": \r", b"\n\n"]), max_size=20), places)
def test_any_empty_lines_pass_unchanged(parts: list[bytes], at: list[int]) -> None:
    stream = b"".join(parts)
    assert read(chunk_account(hides_usage=True), *cut(stream, at)).passed == stream


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize("hides_usage", [False, True])
def test_each_single_cut_of_a_usual_stream(end: bytes, hides_usage: bool) -> None:
    written = [event(chunk("Hello")), event(chunk(" world", finish="stop")), event(usage_chunk(7)), b"data: [DONE]\n\n"]
    parts = [part.replace(b"\n", end) for part in written]
    stream = b"".join(parts)
    expected = b"".join(part for part in parts if not (hides_usage and b"usage" in part))
    for at in range(len(stream) + 1):
        outcome = read(chunk_account(hides_usage=hides_usage), stream[:at], stream[at:])
        assert outcome == Outcome(expected, 7, True, True, None), at


def test_whole_events_pass_at_once_and_others_wait_for_their_end() -> None:
    account = chunk_account()
    reader = EventReader(account)
    first, second = event(chunk("one")), event(chunk(" two"))
    assert reader.feed(first + second[:10]) == first
    assert account.output_tokens == counted("one")
    assert reader.feed(second[10:-1]) == b""
    assert account.output_tokens == counted("one")
    assert reader.feed(second[-1:]) == second
    assert account.output_tokens == counted("one", " two")
    assert reader.rest() == b""


def test_the_first_byte_of_an_event_waits_for_the_others() -> None:
    account = chunk_account(hides_usage=True)
    reader = EventReader(account)
    stream = event(usage_chunk(7))
    assert reader.feed(stream[:1]) == b""
    assert reader.feed(stream[1:]) == b""
    assert account.output_tokens == 7


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"\r"])
def test_a_last_event_without_its_empty_line_counts(end: bytes) -> None:
    stream = event(chunk("one")) + event(chunk(" two", finish="stop")).rstrip() + end
    assert read(chunk_account(), stream) == Outcome(stream, counted("one", " two"), True, False, None)
    hidden = event(chunk("one")) + event(usage_chunk(9)).rstrip() + end
    assert read(chunk_account(hides_usage=True), hidden).passed == event(chunk("one"))


@pytest.mark.parametrize("done", [b"data: [DONE]\n\n", b"data:[DONE]\n\n", b"data: [DONE] \r\n\r\n", b"data: [DONE]"])
def test_done_ends_a_stream(done: bytes) -> None:
    assert read(chunk_account(), done) == Outcome(done, 0, True, True, None)


@pytest.mark.parametrize("other", [b'data: "[DONE]"\n\n', b"data: [done]\n\n", b": [DONE]\n\n", b"event: [DONE]\n\n"])
def test_nothing_else_is_done(other: bytes) -> None:
    tokens = -(-(len(other) - 8) // 4) if other.startswith(b"data") else 0
    assert read(chunk_account(), other) == Outcome(other, tokens, False, False, None)


def test_data_in_several_lines_is_one_object() -> None:
    stream = b'event: chunk\ndata: {"choices": [\ndata:{"delta": {"content": "Hello"}}\n: between\ndata: ]}\n\n'
    for end in (b"\n", b"\r\n", b"\r"):
        written = stream.replace(b"\n", end)
        assert read(chunk_account(), written) == Outcome(written, 1, False, False, None)


@pytest.mark.parametrize(
    ("data", "tokens"),
    [
        (b"oops", 1),
        (b"some words", 3),
        (b'"a text"', 2),
        (b"", 0),
        (b"null", 0),
        (b"1e999", 2),
        (b"{" * 9, 3),
        (b'{"choices": [{"delta": {"content": "abcd', 10),
        (b"[" * 5_000 + b"]" * 5_000, 2_500),
        (b'{"a":' * 5_000 + b"1" + b"}" * 5_000, 7_501),
    ],
)
def test_data_that_cannot_be_read_passes_and_costs_its_bytes(data: bytes, tokens: int) -> None:
    stream = b"data: %b\n\n" % data
    for account in (chunk_account(), ResponsesApiAccount(ENCODING)):
        assert read(account, stream) == Outcome(stream, tokens, False, False, None)
        assert read(account, stream).passed == stream
    assert read(chunk_account(), b": comment\n\ndata\n\nevent: data\n\n").tokens == 0


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (b'"one \\ud800 two"', "one \ufffd two"),
        (b'"one \\udc00\\ud800"', "one \ufffd\ufffd"),
        (b'"one \xe6\x97"', "one \ufffd"),
        (b'"one \xed\xa0\x80"', "one \ufffd"),
        (b'"one", "x": NaN', "one"),
        (b'"one", "x": [Infinity, -Infinity]', "one"),
        (b'"one\ttwo"', "one\ttwo"),
    ],
)
def test_json_as_services_write_it_is_read(said: bytes, text: str) -> None:
    stream = b'data: {"choices": [{"delta": {"content": %b}}]}\n\n' % said
    assert read(chunk_account(), stream) == Outcome(stream, counted(text), False, False, None)


# The usage that wasn't asked for


@pytest.mark.parametrize(
    ("fields", "hidden"),
    [
        (usage_chunk(3), True),
        ({"usage": {"completion_tokens": 3}}, True),
        ({"choices": None, "usage": {"completion_tokens": 3}}, True),
        (chunk("", usage={"completion_tokens": 3}), False),
        (chunk("a", usage={"completion_tokens": 3}), False),
        ({"choices": [], "usage": None}, False),
        ({"choices": [], "usage": {}}, False),
        ({"choices": [], "usage": {"completion_tokens": "3"}}, False),
        ({"choices": []}, False),
    ],
)
def test_only_a_chunk_of_nothing_but_usage_is_hidden(fields: dict[str, Any], hidden: bool) -> None:
    before, after = event(chunk("one")), b"data: [DONE]\n\n"
    stream = before + event(fields) + after
    assert read(chunk_account(hides_usage=True), stream).passed == (before + after if hidden else stream)
    assert read(chunk_account(hides_usage=False), stream).passed == stream


def test_comments_beside_a_hidden_chunk_go_with_it() -> None:
    stream = b": ping\n\n: usage\n" + event(usage_chunk(3)) + b": ping\n\n"
    assert read(chunk_account(hides_usage=True), stream).passed == b": ping\n\n: ping\n\n"


# What is told, and what is counted


def tokens(*chunks_: Any, choices: int = 1) -> int:
    account = chunk_account(choices=choices)
    return read(account, *[event(each) for each in chunks_]).tokens


def test_each_piece_is_counted_for_itself() -> None:
    pieces = ["Hel", "lo", " wor", "ld", "!", " Straße", "日本語"]
    assert tokens(*[chunk(each) for each in pieces]) == counted(*pieces)
    other = ChunkAccount(CL100K_BASE, hides_usage=False, choices=1)
    assert read(other, *[event(chunk(each)) for each in pieces]).tokens == sum(
        count_anew(each, CL100K_BASE) for each in pieces
    )
    assert counted(*pieces) != other.output_tokens


def test_what_is_told_at_the_end_takes_the_place_of_what_was_counted() -> None:
    assert tokens(chunk("one two three"), usage_chunk(2)) == 2
    assert tokens(chunk("one"), usage_chunk(70)) == 70


def test_usage_in_the_last_chunk_with_a_choice() -> None:
    assert tokens(chunk("one"), chunk(" two", finish="stop", usage={"completion_tokens": 9})) == 9


def test_continuous_usage() -> None:
    account = chunk_account()
    reader = EventReader(account)
    for number, text in enumerate(["one", " two two two", " three"], 1):
        reader.feed(event(chunk(text, usage={"completion_tokens": number})))
        assert account.output_tokens == number
    reader.feed(event(chunk(" and more")))
    assert account.output_tokens == counted("one", " two two two", " three", " and more")


def test_usage_that_is_told_once_too_early_is_not_all() -> None:
    first = chunk("", usage={"completion_tokens": 0}, role="assistant")
    assert tokens(first) == 0
    assert tokens(first, chunk("one"), chunk(" two")) == counted("one", " two")
    assert tokens(chunk("", usage={"completion_tokens": 90}), chunk("one")) == 90


def test_the_usage_of_one_of_several_choices_is_not_all() -> None:
    pieces = [chunk("one two three"), chunk("four five six")]
    assert tokens(*pieces, usage_chunk(3), choices=2) == counted("one two three", "four five six") == 6
    assert tokens(*pieces, usage_chunk(8), choices=2) == 8
    assert tokens(*pieces, usage_chunk(3), choices=1) == 3


def test_usage_that_is_no_usage_changes_nothing() -> None:
    for usage in ({}, {"completion_tokens": None}, {"completion_tokens": True}, {"completion_tokens": -1}, [], "1"):
        assert tokens(chunk("one two"), {"choices": [], "usage": usage}) == 2


def test_more_than_any_answer_is_not_believed() -> None:
    assert tokens(usage_chunk(2**40)) == MOST_TOKENS


@pytest.mark.parametrize(
    ("delta", "texts_"),
    [
        ({"content": "one two"}, ["one two"]),
        ({"reasoning_content": "one two"}, ["one two"]),
        ({"reasoning": "one two"}, ["one two"]),
        ({"refusal": "I can't"}, ["I can't"]),
        ({"role": "assistant", "content": "one", "reasoning": " two"}, ["one", " two"]),
        ({"content": "", "refusal": "no"}, ["no"]),
        ({"content": None, "refusal": "no"}, ["no"]),
        ({"tool_calls": [{"index": 0, "function": {"name": "get_weather", "arguments": ""}}]}, ["get_weather"]),
        (
            {"tool_calls": [{"function": {"arguments": '{"city"'}}, {"function": {"arguments": ': "Ulm"}'}}]},
            ['{"city"', ': "Ulm"}'],
        ),
        ({"tool_calls": [{"type": "custom", "custom": {"name": "run", "input": "x = 1"}}]}, ["run", "x = 1"]),
        ({"function_call": {"name": "get_weather", "arguments": "{}"}}, ["get_weather", "{}"]),
        ({"role": "assistant"}, []),
        ({"content": 1, "reasoning": {"a": "b"}, "refusal": 1, "tool_calls": {"a": "b"}, "function_call": 1}, []),
        ({"tool_calls": [None, 1, [], {}, {"function": 1}, {"function": {"name": 1}}]}, []),
        ({"content": [{"type": "text", "text": "one"}, {"type": "text", "text": " two"}]}, ["one", " two"]),
        ({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]}, ["hm"]),
        ({"reasoning_details": [{"type": "reasoning.text", "text": "one two", "index": 0}]}, ["one two"]),
        ({"content": "", "reasoning_details": [{"type": "reasoning.summary", "summary": "a b"}]}, ["a b"]),
        ({"thinking_blocks": [{"type": "thinking", "thinking": "hm hm", "signature": "sig"}]}, ["hm hm"]),
        ({"reasoning_content": "hm", "thinking_blocks": [{"type": "thinking", "thinking": "hm"}]}, ["hm"]),
        ({"audio": {"id": "a", "transcript": "one two"}}, ["one two"]),
        ({"audio": {"data": "UklGRg=="}}, []),
        ({"tool_calls": [{"index": 0, "type": "web_search", "web_search": {"query": "a"}}]}, ['{"query":"a"}']),
        ({"content": "one", "annotations": [{"url_citation": {"title": "not output"}}]}, ["one"]),
        ("one two", ["one two"]),
        ({}, []),
    ],
)
def test_all_output_is_counted(delta: Any, texts_: list[str]) -> None:
    assert tokens({"choices": [{"index": 0, "delta": delta}]}) == counted(*texts_)


def test_a_piece_is_counted_as_the_whole_answer_is() -> None:
    message = {
        "content": [{"type": "text", "text": "one two"}],
        "reasoning_details": [{"type": "reasoning.text", "text": "hm hm"}],
        "audio": {"transcript": "three"},
        "tool_calls": [{"function": {"name": "get_weather", "arguments": "{}"}}],
    }
    whole = text_tokens({"choices": [{"message": message}]}, ENCODING)
    assert whole == counted("one two", "hm hm", "three", "get_weather", "{}")
    for name in ("delta", "message"):
        assert tokens({"choices": [{"index": 0, name: message}]}) == whole


def test_a_message_beside_deltas_repeats_them() -> None:
    """Perplexity's way: `message` is all that was said so far."""
    said = [
        {"choices": [{"delta": {"content": text}, "message": {"content": so_far}}]}
        for text, so_far in (("one", "one"), (" two", "one two"), ("", "one two"))
    ]
    assert tokens(*said) == counted("one", " two")
    assert tokens({"choices": [{"delta": {}, "message": {"content": "one two"}}]}) == counted("one two")


def test_text_completions_are_counted() -> None:
    for delta in ({}, {"content": ""}, {"content": None}):
        assert tokens({"choices": [{"delta": delta, "text": "one two"}]}) == 2
    assert tokens({"choices": [{"text": "one"}, {"text": " two"}]}, {"choices": [{"text": 1}]}, choices=2) == 2


@pytest.mark.parametrize("choices", [None, 1, "", {}, [], [None], [1], [[]], [{}], [{"delta": 1}], [{"delta": None}]])
def test_chunks_of_any_form_pass(choices: Any) -> None:
    stream = event({"choices": choices})
    assert read(chunk_account(), stream) == Outcome(stream, 0, False, False, None)


# The end


def test_a_stream_is_whole_when_each_choice_has_finished() -> None:
    account = chunk_account(choices=2)
    reader = EventReader(account)
    for index in range(2):
        reader.feed(event({"choices": [{"index": index, "delta": {"content": "a"}, "finish_reason": None}]}))
    for index in range(2):
        assert not account.is_whole
        assert not account.is_finished
        reader.feed(event({"choices": [{"index": index, "delta": {}, "finish_reason": "stop"}]}))
    assert account.is_whole
    assert account.is_finished
    assert not account.is_done  # the usage may still come


def test_a_stream_with_fewer_choices_than_were_asked_for_is_whole() -> None:
    account = chunk_account(choices=2)
    reader = EventReader(account)
    reader.feed(event(chunk("one")))
    assert not account.is_whole
    reader.feed(event(chunk("", finish="stop")))
    assert account.is_whole
    assert not account.is_finished  # the other one may still come
    reader.feed(event({"choices": [{"index": 1, "delta": {"content": "two"}}]}))
    assert not account.is_whole


def test_a_chunk_after_the_end_of_a_choice_is_no_new_choice() -> None:
    """OpenRouter tells its usage with an empty piece."""
    account = chunk_account()
    read(account, event(chunk("one", finish="stop")), event(chunk("", usage={"completion_tokens": 1})))
    assert account.is_whole
    assert account.is_finished


@pytest.mark.parametrize("reason", [None, ""])
def test_no_reason_to_finish_is_no_end(reason: str | None) -> None:
    assert not read(chunk_account(), event(chunk("one", finish=reason))).is_whole


# Errors

ERROR = {"error": {"message": "out of memory", "type": "server_error", "param": None, "code": None}}


def test_an_error_ends_a_stream_and_is_kept_back() -> None:
    before = event(chunk("one"))
    stream = before + event(ERROR) + event(chunk(" two", finish="stop")) + b"data: [DONE]\n\n"
    for pieces in ([stream], cut(stream, EACH_BYTE), [before, event(ERROR), stream[len(before + event(ERROR)) :]]):
        assert read(chunk_account(), *pieces) == Outcome(before, 1, False, False, ERROR)


def test_an_error_in_the_last_event_without_an_empty_line() -> None:
    assert read(chunk_account(), event(ERROR).rstrip()) == Outcome(b"", 0, False, False, ERROR)


@pytest.mark.parametrize("fields", [{"error": None}, {"error": ""}, {"error": {}}, {**chunk("one"), "error": None}])
def test_no_error_is_none(fields: dict[str, Any]) -> None:
    assert read(chunk_account(), event(fields)).error is None


def test_an_error_may_be_a_text() -> None:
    assert read(chunk_account(), event({"error": "oops"})).error == {"error": "oops"}


# Streams of the Responses API


def response_event(kind: str, **fields: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), json.dumps({"type": kind, **fields}).encode())


def test_a_stream_of_a_response() -> None:
    parts = [
        response_event("response.created", sequence_number=0, response={"usage": None}),
        response_event("response.output_text.delta", sequence_number=1, delta="Hello"),
        response_event("response.output_text.delta", sequence_number=2, delta=" world"),
    ]
    account = ResponsesApiAccount(ENCODING)
    assert read(account, *parts) == Outcome(b"".join(parts), counted("Hello", " world"), False, False, None)
    assert account.next_number == 3
    usage = {"input_tokens": 4, "output_tokens": 21, "output_tokens_details": {"reasoning_tokens": 19}}
    for last in ("response.completed", "response.incomplete", "response.failed"):
        stream = b"".join([*parts, response_event(last, sequence_number=3, response={"usage": usage})])
        for pieces in ([stream], cut(stream, EACH_BYTE)):
            account = ResponsesApiAccount(ENCODING)
            assert read(account, *pieces) == Outcome(stream, 21, True, True, None)
            assert account.next_number == 4


@pytest.mark.parametrize("response", [None, {}, {"usage": None}, {"usage": {"output_tokens": -1}}, [], "a"])
def test_a_response_that_tells_no_usage_costs_what_was_counted(response: Any) -> None:
    stream = response_event("response.output_text.delta", delta="one two") + response_event(
        "response.completed", response=response
    )
    assert read(ResponsesApiAccount(ENCODING), stream) == Outcome(stream, 2, True, True, None)


@pytest.mark.parametrize(
    ("kind", "is_counted"),
    [
        ("response.output_text.delta", True),
        ("response.refusal.delta", True),
        ("response.reasoning_text.delta", True),
        ("response.reasoning_summary_text.delta", True),
        ("response.function_call_arguments.delta", True),
        ("response.custom_tool_call_input.delta", True),
        ("response.audio.delta", False),
        ("response.output_text.done", False),
        ("response.output_item.added", False),
    ],
)
def test_what_is_output_in_a_response(kind: str, is_counted: bool) -> None:
    stream = response_event(kind, delta="one two three", text="one two three")
    assert read(ResponsesApiAccount(ENCODING), stream).tokens == (3 if is_counted else 0)


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"type": "error", "message": "m", "code": "c"}, {"error": {"type": "error", "message": "m", "code": "c"}}),
        ({"type": "error", "error": {"message": "m"}}, {"error": {"message": "m"}}),
    ],
)
def test_an_error_event_is_kept_back(fields: dict[str, Any], error: Any) -> None:
    before = response_event("response.output_text.delta", sequence_number=6, delta="one")
    account = ResponsesApiAccount(ENCODING)
    after = response_event("response.completed", sequence_number=8)
    assert read(account, before, event(fields), after) == Outcome(before, 1, False, False, error)
    assert account.next_number == 7


def test_sequence_numbers_that_are_none_change_nothing() -> None:
    account = ResponsesApiAccount(ENCODING)
    for number in (4, None, "9", True, 1.5):
        read(account, response_event("response.in_progress", sequence_number=number))
    assert account.next_number == 5


@pytest.mark.parametrize("fields", [{}, {"type": None}, {"type": 1}, {"type": "x.delta", "delta": {"a": 1}}])
def test_events_of_any_form_pass(fields: Any) -> None:
    stream = event(fields) + b"data: [DONE]\n\n"
    assert read(ResponsesApiAccount(ENCODING), stream) == Outcome(stream, 0, False, False, None)


# Events without an end


def test_an_event_must_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_reader, "MAX_EVENT_BYTES", 100)
    reader = EventReader(chunk_account())
    assert reader.feed(b"data: " + b"x" * 94) == b""
    with pytest.raises(TooLong):
        reader.feed(b"x")


def test_events_that_end_may_be_as_many_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_reader, "MAX_EVENT_BYTES", 100)
    stream = event(chunk("one")) * 100
    assert read(chunk_account(), stream) == Outcome(stream, 100, False, False, None)
    assert read(chunk_account(), *cut(stream, list(range(0, len(stream), 50)))).passed == stream


def test_reasoning_under_two_names_is_counted_once() -> None:
    for names in (("reasoning",), ("reasoning_content",), ("reasoning", "reasoning_content")):
        account = ChunkAccount(ENCODING, hides_usage=False, choices=1)
        account.note({"choices": [{"index": 0, "delta": dict.fromkeys(names, "hello there")}]})
        assert account.output_tokens == count_anew("hello there", ENCODING)
