"""Bodies that a service may read in another way than we did: which are refused, and which must not be."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from valid_bodies import CHAT, COMPLETION, EMBEDDING, RESPONSES, written

from limiter_node.http.requests.limited_routes import LIMITED_ROUTES
from limiter_node.upstream.errors import NotServed
from limiter_node.upstream.gateway.asking.disguise import is_ambiguous, refuse_disguised


def check(body: bytes, route: str = CHAT) -> None:
    refuse_disguised(LIMITED_ROUTES[route].parse(body))


def refusal(body: bytes, route: str = CHAT) -> NotServed:
    with pytest.raises(NotServed) as error:
        check(body, route)
    assert error.value.status == 400
    assert "\n" not in str(error.value)
    return error.value


def escaped(text: str) -> str:
    """`text` with each character escaped as JSON has it."""
    return "".join(f"\\u{ord(character):04x}" for character in text)


def with_name(spelled: str, value: bytes = b"100000", route: str = CHAT) -> bytes:
    """A valid body with one more field, whose name is `spelled` in JSON."""
    return written(route)[:-1] + b', "%b": %b}' % (spelled.encode(), value)


# Another spelling of a field that counts

SPELLINGS = [
    ("Max_Tokens", "max_tokens"),
    ("MAX_TOKENS", "max_tokens"),
    ("max_toKens", "max_tokens"),
    ("MAX_COMPLETION_TOKENS", "max_completion_tokens"),
    ("Max_Output_Tokens", "max_output_tokens"),
    ("max_to\u212aens", "max_tokens"),
    ("max_token\u017f", "max_tokens"),
    ("\u017ftream", "stream"),
    ("\u017ftream_option\u017f", "stream_options"),
    ("me\u017fsages", "messages"),
    ("Model", "model"),
    ("MESSAGES", "messages"),
    ("N", "n"),
    ("Best_Of", "best_of"),
    ("Stream", "stream"),
    ("Tools", "tools"),
    ("Input", "input"),
    ("Prompt", "prompt"),
    ("Instructions", "instructions"),
]


@pytest.mark.parametrize("route", list(LIMITED_ROUTES))
@pytest.mark.parametrize(("name", "meant"), SPELLINGS)
def test_another_spelling_of_a_field_that_counts_is_refused(name: str, meant: str, route: str) -> None:
    some_escaped = "".join(escaped(each) if index % 2 else each for index, each in enumerate(name))
    for spelled in (name, escaped(name), escaped(name).upper().replace("\\U", "\\u"), some_escaped):
        error = refusal(with_name(spelled, route=route), route)
        assert str(error) == f"Unrecognized request argument: '{name}'. Did you mean '{meant}'?"
        assert (error.param, error.code) == (name, "unknown_parameter")


CALL = {"name": "f", "arguments": "{}"}


def called(function: dict[str, Any], **beside: Any) -> dict[str, Any]:
    """An assistant's message with a call of a function that has these fields, too, and others beside it."""
    return {"role": "assistant", "tool_calls": [{"type": "function", "function": {**CALL, **function}, **beside}]}


def test_only_the_letter_beyond_ascii_may_be_escaped() -> None:
    for spelled in ("max_to\\u212Aens", "max_to\\u212aens", "max_token\\u017F", "max_token\\u017f"):
        assert refusal(with_name(spelled)).code == "unknown_parameter"


@pytest.mark.parametrize(
    ("route", "field", "value", "meant"),
    [
        (CHAT, "messages", [{"role": "user", "content": "Hi", "Content": "long"}], "content"),
        (CHAT, "messages", [{"role": "user", "Role": "system", "content": "Hi"}], "role"),
        (
            CHAT,
            "messages",
            [{"role": "user", "content": "Hi"}, {"role": "user", "content": "", "CONTENT": 1}],
            "content",
        ),
        (CHAT, "messages", [{"role": "user", "content": [{"type": "text", "text": "Hi", "Text": "long"}]}], "text"),
        (CHAT, "messages", [{"role": "user", "content": "Hi", "Tool_Calls": []}], "tool_calls"),
        (CHAT, "messages", [{"role": "user", "content": "Hi", "tool_call\u017f": []}], "tool_calls"),
        (COMPLETION, "stream_options", {"include_usage": True, "Include_Usage": False}, "include_usage"),
        (CHAT, "messages", [called({"Arguments": "long"})], "arguments"),
        (CHAT, "messages", [called({"argument\u017f": "long"})], "arguments"),
        (CHAT, "messages", [called({"Name": "long"})], "name"),
        (CHAT, "messages", [called({}, Function={"name": "f", "arguments": "long"})], "function"),
        (CHAT, "messages", [{"role": "assistant", "function_call": {**CALL, "Arguments": "long"}}], "arguments"),
        (RESPONSES, "input", [{"type": "function_call", "call_id": "c", **CALL, "Arguments": "long"}], "arguments"),
        (RESPONSES, "input", [{"type": "function_call_output", "call_id": "c", "output": "", "Output": "a"}], "output"),
        (RESPONSES, "input", [{"role": "user", "content": "Hi", "Content": "long"}], "content"),
        (RESPONSES, "input", [{"role": "user", "content": [{"type": "input_text", "text": "", "TEXT": "a"}]}], "text"),
    ],
)
def test_another_spelling_within_messages_is_refused(route: str, field: str, value: Any, meant: str) -> None:
    body = written(route, **{field: value}, stream=True)
    for each in (body, json.dumps(json.loads(body)).encode()):
        error = refusal(each, route)
        assert str(error).endswith(f"Did you mean '{meant}'?")
        assert error.param.casefold() == meant


@pytest.mark.parametrize(
    ("route", "fields"),
    [
        (CHAT, {"messages": [{"role": "user", "content": 'Is "Max_Tokens": 5 or "MODEL" right? {"N": 1}'}]}),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "text", "text": "Max_Tokens"}]}]}),
        (CHAT, {"messages": [{"role": "user", "content": "Max_Tokens"}]}),
        (CHAT, {"messages": [{"role": "user", "content": "20 \u212a, wi\u017fe, \u0130"}]}),
        (CHAT, {"stop": ["Content", "INPUT"], "user": "Model"}),
        (CHAT, {"metadata": {"Model": "Max_Tokens", "Input": "Content"}}),
        (CHAT, {"X-Other": 1, "Temperature": 1, "Größe": 2}),
        (
            CHAT,
            {
                "tools": [
                    {
                        "type": "function",
                        "function": {
                            "name": "Post",
                            "parameters": {
                                "type": "object",
                                "properties": {
                                    "Content": {"type": "string"},
                                    "Input": {"type": "string"},
                                    "Model": {"type": "string", "enum": ["Text", "Messages"]},
                                    "MAX_TOKENS": {"type": "integer"},
                                },
                                "required": ["Content", "Input"],
                            },
                        },
                    }
                ]
            },
        ),
        (
            CHAT,
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "a", "schema": {"type": "object", "properties": {"Text": {}, "N": {}}}},
                }
            },
        ),
        (
            RESPONSES,
            {"tools": [{"type": "function", "name": "f", "parameters": {"properties": {"Content": {}, "Model": {}}}}]},
        ),
        (EMBEDDING, {"input": ["Model", "Input", '"Model"']}),
        (EMBEDDING, {"stream_options": 5, "X": 1, "user": "Model"}),
        (EMBEDDING, {"stream_options": True, "messages": 5, "system": {"Text": 1}, "prompt": "Prompt", "X": "Text"}),
    ],
)
def test_what_is_no_field_that_counts_is_not_refused(route: str, fields: dict[str, Any]) -> None:
    body = written(route, **fields)
    check(body, route)
    check(json.dumps(json.loads(body)).encode(), route)


# What caps the output elsewhere


@pytest.mark.parametrize("route", list(LIMITED_ROUTES))
@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("n_predict", "max_tokens"),
        ("num_predict", "max_tokens"),
        ("max_new_tokens", "max_tokens"),
        ("max_length", "max_tokens"),
        ("max_gen_len", "max_tokens"),
        ("max_tokens_to_sample", "max_tokens"),
        ("n_cmpl", "n"),
        ("num_return_sequences", "n"),
        ("prompt_embeds", "prompt"),
    ],
)
def test_other_names_for_what_counts_are_refused(name: str, instead: str, route: str) -> None:
    for spelled in (name, escaped(name)):
        error = refusal(with_name(spelled, route=route), route)
        assert str(error) == f"Unsupported parameter: '{name}'. Use '{instead}' instead."
        assert (error.param, error.code) == (name, "unsupported_parameter")


@pytest.mark.parametrize("name", ["n_predict", "max_length"])
def test_they_may_be_said_where_they_are_no_fields(name: str) -> None:
    check(written(user=name, metadata={name: "5"}, messages=[{"role": "user", "content": f'"{name}": 5'}]))


@pytest.mark.parametrize("value", [2, 0, 20, "2", [2]])
def test_best_of_is_refused_for_chats(value: Any) -> None:
    error = refusal(written(best_of=value))
    assert str(error) == "Unsupported parameter: 'best_of'. Use 'n' instead."
    assert (error.param, error.code) == ("best_of", "unsupported_parameter")


def test_best_of_that_changes_nothing_is_not_refused() -> None:
    check(written(best_of=1))
    check(written(best_of=None))


def test_best_of_is_allowed_where_it_is_reserved() -> None:
    body = written(COMPLETION, best_of=4, n=2)
    check(body, COMPLETION)
    assert LIMITED_ROUTES[COMPLETION].parse(body).reserved_choices == 4


# What may come twice


def ambiguous(body: bytes) -> bool:
    return is_ambiguous(body, json.loads(body))


@pytest.mark.parametrize(
    "body",
    [
        with_name("model", b'"other"'),
        with_name("messages", b"[]"),
        with_name("max_tokens", b'1, "max_tokens": 2'),
        with_name("max_tokens", b'1,"max_tokens"\n\t: 2'),
        with_name("max_tokens", b'1, "max\\u005ftokens": 2'),
        with_name("max_tokens", b'1, "max_token\\u0073": 2'),
        with_name("max_tokens", b'1, "\\u006dax_tokens": 2'),
        with_name("max_tokens", b'1, "\\u006Dax_tokens": 2'),
        with_name("n", b'1, "n": 2'),
        with_name("temperature", b'1, "temperature": 2'),
        with_name("x.*", b'1, "x.*": 2'),
        written(**{f"x{number}": number for number in range(31)}),
        with_name("stream", b'true, "stream": false'),
        with_name("max\\u005ftokens", b"1"),
        *(with_name(name, b'1, "%b": 2' % name.encode()) for name in ("best_of", "prompt", "input", "tools", "text")),
    ],
)
def test_a_field_that_counts_and_may_come_twice(body: bytes) -> None:
    assert ambiguous(body)


@pytest.mark.parametrize(
    "body",
    [
        written(),
        written(max_tokens=5, n=2, stream=True),
        written(**{f"x{number}": number for number in range(30)}),
        written(COMPLETION, max_tokens=5),
        written(stop=["model", "messages", "n"], user="max_tokens"),
        written(max_tokens=5, messages=[{"role": "user", "content": '"max_tokens": 1, "model": "n"'}]),
        written(messages=[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]),
        written(messages=[{"role": "user", "content": [{"type": "text", "text": "text"}]}]),
        written(**{"x" * 100_000: 1}),
        with_name("x", b'"\\u00fc\\ud83d\\ude00\\u2028"'),
    ],
)
def test_a_field_that_cannot_come_twice(body: bytes) -> None:
    assert not ambiguous(body)


def test_no_pattern_is_made_of_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    monkeypatch.setattr(re, "compile", lambda pattern, flags=0: made.append(pattern))
    names = [f"{'x' * 1_000}{number}" for number in range(20)]
    assert not ambiguous(written(**dict.fromkeys(names, 1), user="a", stop=names[:4]))
    assert not made


counting = st.sampled_from(["model", "messages", "max_tokens", "n", "stream", "tools", "input"])
others = st.sampled_from(["x", "content", "temperature"])
json_values = st.recursive(
    st.sampled_from([None, 1, "a", "model", '"n":1', "\\", 'x\\"n', "\\u006e"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(counting | others, inner, max_size=2),
    max_leaves=4,
)


@st.composite
def objects(draw: st.DrawFn) -> tuple[bytes, list[str]]:
    """An object as it may be written, and the names of its fields."""
    members, names = [], []
    for name, value in draw(st.lists(st.tuples(counting | others, json_values), min_size=1, max_size=5)):
        spelled = "".join(escaped(each) if draw(st.integers(0, 15)) == 0 else each for each in name)
        gap = draw(st.sampled_from(["", " ", "\r\n\t"]))
        members.append(f'"{spelled}"{gap}:{gap}{json.dumps(value)}')
        names.append(name)
    return ("{" + ",".join(members) + "}").encode(), names


@given(objects())
def test_no_field_that_counts_comes_twice_unseen(sample: tuple[bytes, list[str]]) -> None:
    body, names = sample
    if any(names.count(name) > 1 for name in ("model", "messages", "max_tokens", "n", "stream", "tools", "input")):
        assert ambiguous(body)


# Any spelling at all

folds = {"k": "kK\u212a", "s": "sS\u017f"}


@st.composite
def spellings(draw: st.DrawFn) -> tuple[str, str, str]:
    """A name that counts, how else it may be spelled, and that as JSON may have it."""
    meant = draw(st.sampled_from(["max_tokens", "max_completion_tokens", "messages", "stream", "n", "model", "tools"]))
    name = "".join(draw(st.sampled_from(folds.get(each, each + each.upper()))) for each in meant)
    return meant, name, "".join(escaped(each) if draw(st.booleans()) else each for each in name)


@given(spellings())
def test_any_spelling_that_folds_to_a_field_that_counts_is_refused(sample: tuple[str, str, str]) -> None:
    meant, name, spelled = sample
    if name != meant:
        assert refusal(with_name(spelled)).param == name
