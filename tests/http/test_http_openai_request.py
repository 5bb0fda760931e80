"""Reading chat requests: each rule as a literal row; nothing but a request or an `InvalidRequest` comes out."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from limiter_node.credentials import bearer_key
from limiter_node.decisions import Need
from limiter_node.http.requests.chat import need_of_chat, parse_chat
from limiter_node.http.requests.fields import InvalidRequest
from limiter_node.upstream.requests import ChatRequest

MESSAGES = [{"role": "user", "content": "hello world"}]
INPUT_TOKENS = 9
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]


def body(**fields: Any) -> bytes:
    return orjson.dumps({"model": "gpt-4o", "messages": MESSAGES, **fields})


def raw_field(field: str, text: str) -> bytes:
    """A valid body but for one field, whose value is given as JSON text that orjson would not write."""
    return f'{{"model":"gpt-4o","messages":[{{"role":"user","content":"hi"}}],"{field}":{text}}}'.encode()


def refused(request_body: bytes) -> tuple[str, str | None, str | None]:
    with pytest.raises(InvalidRequest) as caught:
        parse_chat(request_body)
    return caught.value.message, caught.value.param, caught.value.code


def test_the_plainest_request() -> None:
    fields = {"model": "gpt-4o", "messages": MESSAGES}
    request = parse_chat(orjson.dumps(fields))
    assert request == ChatRequest("gpt-4o", 1, None, False, False, INPUT_TOKENS, fields)
    assert request.body["messages"] == MESSAGES


@pytest.mark.parametrize(
    ("fields", "n", "cap", "need"),
    [
        ({}, 1, None, Need(INPUT_TOKENS, 0, 1)),
        ({"n": 3}, 3, None, Need(INPUT_TOKENS, 0, 3)),
        ({"n": None, "max_tokens": None}, 1, None, Need(INPUT_TOKENS, 0, 1)),
        ({"max_tokens": 100}, 1, 100, Need(INPUT_TOKENS, 100, 0)),
        ({"max_tokens": 1}, 1, 1, Need(INPUT_TOKENS, 1, 0)),
        ({"max_completion_tokens": 50}, 1, 50, Need(INPUT_TOKENS, 50, 0)),
        ({"max_completion_tokens": 50, "max_tokens": 100, "n": 2}, 2, 50, Need(INPUT_TOKENS, 100, 0)),
        ({"max_completion_tokens": None, "max_tokens": 100}, 1, 100, Need(INPUT_TOKENS, 100, 0)),
        (
            {"max_tokens": 2_147_483_647, "n": 128},
            128,
            2_147_483_647,
            Need(INPUT_TOKENS, 128 * 2_147_483_647, 0),
        ),
    ],
)
def test_need(fields: dict[str, Any], n: int, cap: int | None, need: Need) -> None:
    request = parse_chat(body(**fields))
    assert (request.n, request.cap, need_of_chat(request)) == (n, cap, need._replace(models=("gpt-4o",)))


@pytest.mark.parametrize(
    ("fields", "stream", "include_usage"),
    [
        ({"stream": None}, False, False),
        ({"stream": False}, False, False),
        ({"stream": False, "stream_options": None}, False, False),
        ({"stream": True}, True, False),
        ({"stream": True, "stream_options": {}}, True, False),
        ({"stream": True, "stream_options": {"include_usage": None}}, True, False),
        ({"stream": True, "stream_options": {"include_usage": False}}, True, False),
        ({"stream": True, "stream_options": {"include_usage": True}}, True, True),
    ],
)
def test_stream(fields: dict[str, Any], stream: bool, include_usage: bool) -> None:
    request = parse_chat(body(**fields))
    assert (request.stream, request.include_usage) == (stream, include_usage)


@pytest.mark.parametrize(
    "fields",
    [
        {"model": "x" * 256},
        {"temperature": 0, "top_p": 1, "presence_penalty": -2, "frequency_penalty": 2.0},
        {"temperature": 2, "top_p": 0.5},
        {"stop": "\n"},
        {"stop": ["a", "b", "c", "d"]},
        {"seed": -5, "user": "u", "logprobs": True, "top_logprobs": 20, "logit_bias": {"50256": -100}},
        {"response_format": {"type": "text"}, "tools": [], "tool_choice": "none"},
        {"tool_choice": {"type": "function", "function": {"name": "f"}}, "tools": TOOLS},
        dict.fromkeys(("temperature", "top_p", "stop", "seed", "user", "logprobs", "logit_bias", "tools")),
        {"service_tier": "auto", "metadata": {"a": "b"}, "unheard_of": [1, {"x": None}]},
    ],
)
def test_accepted_fields(fields: dict[str, Any]) -> None:
    assert parse_chat(body(**fields)).body == {"model": "gpt-4o", "messages": MESSAGES, **fields}


@pytest.mark.parametrize(
    "message",
    [
        *({"role": role, "content": "x"} for role in ("system", "developer", "user", "assistant", "tool", "function")),
        {"role": "user", "content": ""},
        {"role": "user", "content": "x", "name": None, "unheard_of": 1},
        {"role": "function", "content": None, "name": "f"},
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": "{}"}}]},
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": ""}},
        {"role": "assistant", "content": None, "refusal": "no"},
        {"role": "assistant", "audio": {"id": "a"}},
        {"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "image_url", "image_url": {"url": "u"}}]},
        {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}]},
        {"role": "user", "content": [{"type": "file", "file": {"file_id": "f", "file_data": None}}]},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
    ],
)
def test_accepted_messages(message: dict[str, Any]) -> None:
    assert parse_chat(body(messages=[message])).body["messages"] == [message]


@pytest.mark.parametrize(
    ("fields", "message", "param", "code"),
    [
        ({"model": None}, "Missing required parameter: 'model'.", "model", "missing_required_parameter"),
        (
            {"model": 3},
            "Invalid type for 'model': expected a string, but got an integer instead.",
            "model",
            "invalid_type",
        ),
        (
            {"model": ""},
            "Invalid 'model': empty string. Expected a string with minimum length 1, but got an empty string instead.",
            "model",
            "empty_string",
        ),
        (
            {"model": "x" * 257},
            "Invalid 'model': string too long. Expected a string with maximum length 256, "
            "but got a string with length 257 instead.",
            "model",
            "string_above_max_length",
        ),
        ({"messages": None}, "Missing required parameter: 'messages'.", "messages", "missing_required_parameter"),
        (
            {"messages": "hi"},
            "Invalid type for 'messages': expected an array of objects, but got a string instead.",
            "messages",
            "invalid_type",
        ),
        (
            {"messages": []},
            "Invalid 'messages': empty array. Expected an array with minimum length 1, but got an empty array instead.",
            "messages",
            "empty_array",
        ),
        (
            {"n": "5"},
            "Invalid type for 'n': expected an integer, but got a string instead.",
            "n",
            "invalid_type",
        ),
        (
            {"n": 129},
            "Invalid 'n': integer above maximum value. Expected a value <= 128, but got 129 instead.",
            "n",
            "integer_above_max_value",
        ),
        (
            {"max_tokens": 0},
            "Invalid 'max_tokens': integer below minimum value. Expected a value >= 1, but got 0 instead.",
            "max_tokens",
            "integer_below_min_value",
        ),
        (
            {"max_tokens": 0.5},
            "Invalid type for 'max_tokens': expected an integer, but got a decimal number instead.",
            "max_tokens",
            "invalid_type",
        ),
        (
            {"max_tokens": 2**31},
            "Invalid 'max_tokens': integer above maximum value. "
            "Expected a value <= 2147483647, but got 2147483648 instead.",
            "max_tokens",
            "integer_above_max_value",
        ),
        (
            {"max_completion_tokens": 5, "max_tokens": -1},
            "Invalid 'max_tokens': integer below minimum value. Expected a value >= 1, but got -1 instead.",
            "max_tokens",
            "integer_below_min_value",
        ),
        (
            {"stream": 1},
            "Invalid type for 'stream': expected a boolean, but got an integer instead.",
            "stream",
            "invalid_type",
        ),
        (
            {"stream_options": {"include_usage": True}},
            "The 'stream_options' parameter is only allowed when 'stream' is enabled.",
            "stream_options",
            "invalid_value",
        ),
        (
            {"stream": True, "stream_options": []},
            "Invalid type for 'stream_options': expected an object, but got an array instead.",
            "stream_options",
            "invalid_type",
        ),
        (
            {"stream": True, "stream_options": {"include_usage": "yes"}},
            "Invalid type for 'stream_options.include_usage': expected a boolean, but got a string instead.",
            "stream_options.include_usage",
            "invalid_type",
        ),
        (
            {"temperature": 2.5},
            "Invalid 'temperature': decimal above maximum value. Expected a value <= 2, but got 2.5 instead.",
            "temperature",
            "decimal_above_max_value",
        ),
        (
            {"top_p": -0.1},
            "Invalid 'top_p': decimal below minimum value. Expected a value >= 0, but got -0.1 instead.",
            "top_p",
            "decimal_below_min_value",
        ),
        (
            {"temperature": True},
            "Invalid type for 'temperature': expected a decimal number, but got a boolean instead.",
            "temperature",
            "invalid_type",
        ),
        (
            {"stop": list("abcde")},
            "Invalid 'stop': array too long. Expected an array with maximum length 4, "
            "but got an array with length 5 instead.",
            "stop",
            "array_above_max_length",
        ),
        (
            {"stop": ["a", 1]},
            "Invalid type for 'stop[1]': expected a string, but got an integer instead.",
            "stop[1]",
            "invalid_type",
        ),
        (
            {"stop": {}},
            "Invalid type for 'stop': expected one of a string or array of strings, but got an object instead.",
            "stop",
            "invalid_type",
        ),
    ],
)
def test_refused_fields(fields: dict[str, Any], message: str, param: str, code: str) -> None:
    assert refused(body(**fields)) == (message, param, code)


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("presence_penalty", -2.1, "decimal_below_min_value"),
        ("presence_penalty", "1", "invalid_type"),
        ("frequency_penalty", 3, "decimal_above_max_value"),
        ("top_p", 1.01, "decimal_above_max_value"),
        ("temperature", -1, "decimal_below_min_value"),
        ("seed", 1.5, "invalid_type"),
        ("seed", True, "invalid_type"),
        ("user", 7, "invalid_type"),
        ("logprobs", "true", "invalid_type"),
        ("top_logprobs", -1, "integer_below_min_value"),
        ("top_logprobs", 21, "integer_above_max_value"),
        ("logit_bias", [], "invalid_type"),
        ("response_format", "json", "invalid_type"),
        ("tools", {}, "invalid_type"),
        ("tool_choice", 1, "invalid_type"),
    ],
)
def test_refused_values(field: str, value: object, code: str) -> None:
    assert refused(body(**{field: value}))[1:] == (field, code)


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens", "n"])
@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("-1", "integer_below_min_value"),
        ("0", "integer_below_min_value"),
        ("-0", "integer_below_min_value"),
        ("2147483648", "integer_above_max_value"),
        ("18446744073709551615", "integer_above_max_value"),
        ("18446744073709551616", "invalid_type"),
        ("-9223372036854775809", "invalid_type"),
        ("true", "invalid_type"),
        ("false", "invalid_type"),
        ('"5"', "invalid_type"),
        ('""', "invalid_type"),
        ("1.0", "invalid_type"),
        ("1e2", "invalid_type"),
        ("[1]", "invalid_type"),
        ("{}", "invalid_type"),
    ],
)
def test_counts_that_are_no_counts(field: str, text: str, code: str) -> None:
    assert refused(raw_field(field, text))[1:] == (field, code)


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e400", "01", "0x10", "1_000", "+1"])
def test_numbers_that_are_not_json(text: str) -> None:
    message, param, code = refused(raw_field("max_tokens", text))
    assert "could not be parsed" in message
    assert (param, code) == (None, None)


MISSING = ("Missing required parameter: '{}'.", "missing_required_parameter")


def wrong(expected: str, got: str) -> tuple[str, str]:
    return f"Invalid type for '{{}}': expected {expected}, but got {got} instead.", "invalid_type"


def unsupported(value: str, supported: str) -> tuple[str, str]:
    return f"Invalid value: '{value}'. Supported values are: {supported}.", "invalid_value"


A_STRING_NOT_AN_INTEGER = wrong("a string", "an integer")
AN_OBJECT_NOT_A_STRING = wrong("an object", "a string")
CONTENT = "one of a string or array of objects"
ROLES = "'system', 'assistant', 'user', 'function', 'tool', and 'developer'"
PARTS = "'text', 'image_url', 'input_audio', 'refusal', and 'file'"
EMPTY = "Invalid '{}': empty array. Expected an array with minimum length 1, but got an empty array instead."


@pytest.mark.parametrize(
    ("message", "param", "error"),
    [
        ("hi", "", AN_OBJECT_NOT_A_STRING),
        (None, "", wrong("an object", "null")),
        ({}, ".role", MISSING),
        ({"role": 1, "content": "x"}, ".role", A_STRING_NOT_AN_INTEGER),
        ({"role": ["user"], "content": "x"}, ".role", wrong("a string", "an array")),
        ({"role": "User", "content": "x"}, ".role", unsupported("User", ROLES)),
        ({"role": "r" * 65, "content": "x"}, ".role", unsupported("r" * 64 + "…", ROLES)),
        ({"role": "user"}, ".content", MISSING),
        ({"role": "user", "content": None}, ".content", wrong(CONTENT, "null")),
        ({"role": "tool", "content": None}, ".content", wrong(CONTENT, "null")),
        ({"role": "assistant", "content": None}, ".content", wrong(CONTENT, "null")),
        ({"role": "assistant", "tool_calls": None}, ".content", MISSING),
        ({"role": "user", "tool_calls": []}, ".content", MISSING),
        ({"role": "user", "content": {}}, ".content", wrong(CONTENT, "an object")),
        ({"role": "user", "content": 5}, ".content", wrong(CONTENT, "an integer")),
        ({"role": "user", "content": []}, ".content", (EMPTY, "empty_array")),
        ({"role": "user", "content": ["x"]}, ".content[0]", AN_OBJECT_NOT_A_STRING),
        ({"role": "user", "content": "x", "name": 1}, ".name", A_STRING_NOT_AN_INTEGER),
        ({"role": "assistant", "refusal": 1}, ".refusal", A_STRING_NOT_AN_INTEGER),
        ({"role": "assistant", "function_call": "f"}, ".function_call", AN_OBJECT_NOT_A_STRING),
        ({"role": "assistant", "function_call": {"name": "f"}}, ".function_call.arguments", MISSING),
        ({"role": "assistant", "tool_calls": "f"}, ".tool_calls", wrong("an array of objects", "a string")),
    ],
)
def test_refused_messages(message: Any, param: str, error: tuple[str, str]) -> None:
    path = f"messages[1]{param}"
    assert refused(body(messages=[*MESSAGES, message])) == (error[0].format(path), path, error[1])


@pytest.mark.parametrize(
    ("part", "param", "error"),
    [
        ({}, ".type", MISSING),
        ({"type": 1}, ".type", A_STRING_NOT_AN_INTEGER),
        ({"type": "video"}, ".type", unsupported("video", PARTS)),
        ({"type": "text"}, ".text", MISSING),
        ({"type": "text", "text": None}, ".text", wrong("a string", "null")),
        ({"type": "refusal", "refusal": 1}, ".refusal", A_STRING_NOT_AN_INTEGER),
        ({"type": "image_url"}, ".image_url", MISSING),
        ({"type": "image_url", "image_url": "u"}, ".image_url", AN_OBJECT_NOT_A_STRING),
        ({"type": "image_url", "image_url": {}}, ".image_url.url", MISSING),
        ({"type": "input_audio", "input_audio": {"data": 1}}, ".input_audio.data", A_STRING_NOT_AN_INTEGER),
        ({"type": "file", "file": {"file_data": 1}}, ".file.file_data", A_STRING_NOT_AN_INTEGER),
    ],
)
def test_refused_content_parts(part: Any, param: str, error: tuple[str, str]) -> None:
    parts = [{"type": "text", "text": "x"}, part]
    path = f"messages[0].content[1]{param}"
    assert refused(body(messages=[{"role": "user", "content": parts}])) == (error[0].format(path), path, error[1])


@pytest.mark.parametrize(
    ("call", "param", "error"),
    [
        (1, "", wrong("an object", "an integer")),
        ({}, ".type", MISSING),
        ({"type": "x"}, ".type", unsupported("x", "'function' and 'custom'")),
        ({"type": "function"}, ".function", MISSING),
        ({"type": "function", "function": {"name": "f"}}, ".function.arguments", MISSING),
        ({"type": "custom", "custom": {"name": "f", "input": {}}}, ".custom.input", wrong("a string", "an object")),
    ],
)
def test_refused_tool_calls(call: Any, param: str, error: tuple[str, str]) -> None:
    path = f"messages[0].tool_calls[0]{param}"
    assert refused(body(messages=[{"role": "assistant", "tool_calls": [call]}])) == (
        error[0].format(path),
        path,
        error[1],
    )


def test_of_duplicate_fields_the_last_one_counts() -> None:
    assert parse_chat(raw_field("max_tokens", '7,"max_tokens":9')).cap == 9
    assert refused(raw_field("max_tokens", '7,"max_tokens":0'))[1] == "max_tokens"


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b" ",
        b"{",
        b"{}}",
        b"{'model':'x'}",
        b"\xef\xbb\xbf{}",
        b"\x00",
        b'{"model":"\xff"}',
        b'{"model":"\xed\xa0\x80"}',
        b'{"model":"\\ud800"}',
        b"[" * 1_000_000,
        b'{"a":' * 1_000_000,
        b'{"model":' + b"[" * 1_025 + b"]" * 1_025 + b"}",
    ],
    ids=lambda text: repr(text[:12]),
)
def test_malformed_json(text: bytes) -> None:
    message, param, code = refused(text)
    assert message.startswith("The JSON body of your request could not be parsed: ")
    assert len(message) < 200
    assert (param, code) == (None, None)


@pytest.mark.parametrize("text", [b"[]", b"null", b'"x"', b"5", b"true", b"[{}]"])
def test_json_that_is_no_object(text: bytes) -> None:
    message, param, code = refused(text)
    assert message == "The JSON body of your request could not be used: expected an object."
    assert (param, code) == (None, None)


def test_deep_nesting_that_is_json_is_accepted_where_anything_is() -> None:
    deep = b"[" * 1_000 + b"]" * 1_000
    assert parse_chat(raw_field("audio", f'{{"x": {deep.decode()}}}')).n == 1
    assert refused(raw_field("unheard_of", deep.decode()))[1:] == ("unheard_of", "invalid_value")
    assert refused(raw_field("n", deep.decode()))[1:] == ("n", "invalid_type")


def outcome(text: bytes) -> None:
    """Hold that `text` is a usable request or a usable error; any other exception passes through and fails the test."""
    try:
        request = parse_chat(text)
    except InvalidRequest as error:
        refusal = error
    else:
        need = need_of_chat(request)
        assert need.input_tokens == request.input_tokens >= 7
        assert (need.output_tokens == 0) == (need.default_choices > 0)
        return
    assert refusal.message
    assert refusal.param is None or refusal.param in refusal.message or refusal.code == "invalid_value"


@given(st.binary())
def test_any_bytes(text: bytes) -> None:
    outcome(text)


FIELDS = """
    model messages role content name type text refusal image_url url input_audio data file file_data tool_calls function
    custom arguments input function_call n max_tokens max_completion_tokens stream stream_options include_usage stop
    seed temperature top_p top_logprobs logprobs logit_bias tools tool_choice response_format user detail
"""
NAMES = st.sampled_from(FIELDS.split())
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(st.characters()),
    st.sampled_from(["user", "assistant", "text", "function"]),
)
ANY_JSON = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(NAMES | st.text(max_size=3), inner, max_size=6)
    ),
    max_leaves=20,
)


@given(ANY_JSON)
def test_any_json(value: Any) -> None:
    # json, unlike orjson, writes NaN, integers of any size and lone surrogates.
    outcome(json.dumps(value).encode())


@given(st.dictionaries(NAMES, ANY_JSON, max_size=4), st.lists(st.dictionaries(NAMES, ANY_JSON, max_size=4), max_size=3))
@example({"max_tokens": 10**400}, [])
@example({"model": "\ud800"}, [])
def test_almost_valid_requests(fields: dict[str, Any], messages: list[dict[str, Any]]) -> None:
    valid: dict[str, Any] = {"role": "user", "content": "x"}
    request = {"model": "gpt-4o", "messages": [valid, *({**valid, **each} for each in messages)], **fields}
    outcome(json.dumps(request).encode())
    outcome(json.dumps(request, ensure_ascii=False).encode("utf-8", "surrogatepass"))


@pytest.mark.parametrize(
    ("header", "key"),
    [
        ("Bearer sk-alice", "sk-alice"),
        ("bearer sk-alice", "sk-alice"),
        ("BEARER sk-alice", "sk-alice"),
        ("Bearer x", "x"),
        ("Bearer " + "k" * 512, "k" * 512),
        ("Bearer {a}:window", "{a}:window"),
        ("Bearer !~", "!~"),
        (None, None),
        ("", None),
        ("Bearer", None),
        ("Bearer ", None),
        ("Bearer  sk-alice", "sk-alice"),
        ("Bearer\tsk-alice", None),
        ("Bearersk-alice", None),
        (" Bearer sk-alice", None),
        ("Basic c2s6", None),
        ("sk-alice", None),
        ("Bearer " + "k" * 513, None),
        ("Bearer " + "k" * 8_192, None),
        ("Bearer a b", None),
        ("Bearer a\r\nx-evil: 1", None),
        ("Bearer a\n", None),
        ("Bearer a\x00", None),
        ("Bearer a\x7f", None),
        ("Bearer \U0001f600", None),
        ("Bearer é", None),
        ("Bearer \udcff", None),
        ("Bearer a\u00a0b", None),
    ],
)
def test_bearer_key(header: str | None, key: str | None) -> None:
    assert bearer_key(header) == key


@given(st.text(st.characters()))
def test_a_key_is_visible_ascii_or_none(text: str) -> None:
    key = bearer_key("Bearer " + text)
    assert key is None or (key == text and all("!" <= char <= "~" for char in key))
