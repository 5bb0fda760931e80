"""What is counted of fields that nobody knows, and that every field of OpenAI's own is known, counted or refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args, get_origin, get_type_hints

import orjson
import pytest
from openai.types import completion_create_params, embedding_create_params
from openai.types.chat import ChatCompletionMessageParam
from openai.types.chat import completion_create_params as chat_create_params
from openai.types.responses import response_create_params
from openai.types.responses.response_input_param import ResponseInputParam

from limiter_node.http.requests import known_fields
from limiter_node.http.requests.fields import InvalidRequest
from limiter_node.http.requests.limited_routes import LIMITED_ROUTES
from limiter_node.tokens.vocabulary import count

CHAT, COMPLETION, RESPONSES, EMBEDDING = LIMITED_ROUTES
VALID: dict[str, dict[str, Any]] = {
    CHAT: {"model": "m", "messages": [{"role": "user", "content": "Hi"}]},
    COMPLETION: {"model": "m", "prompt": "Hi"},
    RESPONSES: {"model": "m", "input": "Hi"},
    EMBEDDING: {"model": "m", "input": "Hi"},
}
LONG = "long " * 300
CALLED = {"name": "f", "arguments": "{}"}
CALL = {"id": "call_1", "type": "function", "function": CALLED}


def tokens(path: str, **fields: Any) -> int:
    body = orjson.dumps({**VALID[path], **fields})
    input_tokens: int = LIMITED_ROUTES[path].parse(body).input_tokens
    return input_tokens


def json_tokens(value: Any) -> int:
    return count(orjson.dumps(value).decode(), "m")


# The fields of a request


@pytest.mark.parametrize("path", list(VALID))
@pytest.mark.parametrize("name", ["previous_input_messages", "guideline", "tool_prompt", "x", "instruction"])
@pytest.mark.parametrize("value", [LONG, [LONG, 1, None], {"a": {"b": [LONG]}}])
def test_what_is_not_known_counts_as_its_json(path: str, name: str, value: Any) -> None:
    assert tokens(path, **{name: value}) == tokens(path) + json_tokens(value)


@pytest.mark.parametrize("path", list(VALID))
@pytest.mark.parametrize("value", [1, 1.5, True, False, None, "", [], {}])
def test_numbers_and_what_is_empty_pass(path: str, value: Any) -> None:
    assert tokens(path, x=value) == tokens(path)


def test_embeddings_of_a_conversation_count_it() -> None:
    messages = [{"role": "user", "content": LONG}]
    assert tokens(EMBEDDING, messages=messages) == tokens(EMBEDDING) + json_tokens(messages)


@pytest.mark.parametrize("path", list(VALID))
def test_openais_fields_that_are_no_input_pass_uncounted(path: str) -> None:
    fields = {"metadata": {"a": LONG}, "user": LONG, "store": True, "prompt_cache_key": LONG, "safety_identifier": LONG}
    fields |= {"service_tier": "flex", "prompt_cache_retention": "24h"}
    assert tokens(path, **fields) == tokens(path)


def test_knobs_pass_uncounted() -> None:
    fields = {"stop": ["a" * 200], "logit_bias": {"1": 5}, "modalities": ["text"], "reasoning_effort": "high"}
    fields |= {"verbosity": "low", "web_search_options": {"user_location": {"city": LONG}}, "audio": {"voice": "alloy"}}
    assert tokens(CHAT, **fields) == tokens(CHAT)
    fields = {"include": ["x"], "truncation": "auto", "reasoning": {"effort": "low"}, "text": {"verbosity": "low"}}
    assert tokens(RESPONSES, **fields) == tokens(RESPONSES)


@pytest.mark.parametrize("name", ["reasoning_effort", "verbosity"])
def test_a_knob_that_is_as_long_as_a_text_counts(name: str) -> None:
    assert tokens(CHAT, **{name: "x" * 64}) == tokens(CHAT)
    assert tokens(CHAT, **{name: LONG}) == tokens(CHAT) + json_tokens(LONG)


def test_a_predicted_output_counts() -> None:
    prediction = {"type": "content", "content": LONG}
    assert tokens(CHAT, prediction=prediction) == tokens(CHAT) + json_tokens(prediction)


def test_what_stands_beside_a_schema_counts() -> None:
    schema = {"type": "json_object", "schema": {"title": LONG}}
    assert tokens(CHAT, response_format=schema) == tokens(CHAT) + json_tokens(schema["schema"])
    form = {"type": "text", "x": LONG}
    assert tokens(RESPONSES, text={"format": form}) == tokens(RESPONSES) + json_tokens(LONG)
    assert tokens(RESPONSES, text={"x": LONG}) == tokens(RESPONSES) + json_tokens(LONG)


def test_an_operator_may_let_fields_pass() -> None:
    for path in VALID:
        body = orjson.dumps({**VALID[path], "x": LONG, "y": [LONG]})
        parse = LIMITED_ROUTES[path].parse
        assert parse(body, extra_fields=lambda model: frozenset((model, "x"))).input_tokens == tokens(path, y=[LONG])


@pytest.mark.parametrize("path", list(VALID))
def test_what_is_nested_too_deeply_is_refused(path: str) -> None:
    body = orjson.dumps(VALID[path])[:-1] + b',"x":' + b"[" * 300 + b"]" * 300 + b"}"
    with pytest.raises(InvalidRequest) as error:
        LIMITED_ROUTES[path].parse(body)
    assert (error.value.param, error.value.message) == ("x", "Invalid 'x': nested too deeply.")


# Messages and items


@pytest.mark.parametrize(
    ("message", "unknown"),
    [
        ({"role": "user", "content": "Hi", "x": LONG}, LONG),
        ({"role": "user", "content": "Hi", "tools": [{"a": LONG}]}, [{"a": LONG}]),
        ({"role": "assistant", "content": "Hi", "reasoning_details": [{"text": LONG}]}, [{"text": LONG}]),
        ({"role": "assistant", "content": "Hi", "thinking_blocks": [{"thinking": LONG}]}, [{"thinking": LONG}]),
        ({"role": "assistant", "content": "Hi", "encrypted_content": LONG}, LONG),
        ({"role": "assistant", "content": "Hi", "audio": {"id": "a", "transcript": LONG}}, LONG),
        ({"role": "tool", "content": "Hi", "tool_call_id": LONG}, LONG),
        ({"role": "tool", "content": "Hi", "tool_call_id": [LONG]}, [LONG]),
        ({"role": "user", "content": [{"type": "text", "text": "Hi", "x": LONG}]}, LONG),
        ({"role": "user", "content": [{"type": "text", "text": "Hi", "image_url": {"url": LONG}}]}, {"url": LONG}),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u", "x": LONG}}]}, LONG),
        ({"role": "user", "content": [{"type": "file", "file": {"file_id": "u", "filename": LONG}}]}, LONG),
        ({"role": "assistant", "content": "Hi", "tool_calls": [{**CALL, "x": LONG}]}, LONG),
        ({"role": "assistant", "content": "Hi", "tool_calls": [{**CALL, "id": LONG}]}, LONG),
        (
            {
                "role": "assistant",
                "content": "Hi",
                "tool_calls": [{**CALL, "function": {**CALL["function"], "x": LONG}}],
            },  # type: ignore[dict-item]
            LONG,
        ),
        ({"role": "assistant", "content": "Hi", "function_call": {"name": "f", "arguments": "", "x": LONG}}, LONG),
    ],
)
def test_what_is_not_known_of_a_message_counts(message: dict[str, Any], unknown: Any) -> None:
    def without(value: Any) -> Any:
        """The message without what isn't known of it."""
        if isinstance(value, dict):
            return {name: without(each) for name, each in value.items() if each != unknown}
        return [without(each) for each in value] if isinstance(value, list) else value

    plain = tokens(CHAT, messages=[without(message)])
    assert tokens(CHAT, messages=[message]) == plain + json_tokens(unknown)


@pytest.mark.parametrize(
    "message",
    [
        {"role": "assistant", "content": "Hi", "id": "x", "status": "completed", "annotations": [{"title": LONG}]},
        {"role": "assistant", "content": "Hi", "audio": {"id": "audio_1", "expires_at": 5}},
        {"role": "tool", "content": "Hi", "tool_call_id": "call_" + "x" * 40},
        {"role": "user", "content": [{"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}]},
        {"role": "user", "content": "Hi", "x": 5, "y": None, "z": True},
    ],
)
def test_what_is_no_input_of_a_message_passes(message: dict[str, Any]) -> None:
    plain = {"role": message["role"], "content": "Hi"}
    assert tokens(CHAT, messages=[message]) == tokens(CHAT, messages=[plain])


@pytest.mark.parametrize(
    ("item", "unknown"),
    [
        ({"role": "user", "content": "Hi", "x": LONG}, LONG),
        ({"role": "user", "content": [{"type": "input_text", "text": "Hi", "x": LONG}]}, LONG),
        ({"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}", "namespace": LONG}, LONG),
        ({"type": "function_call", "call_id": LONG, "name": "f", "arguments": "{}"}, LONG),
        ({"type": "function_call_output", "call_id": "c", "output": "Hi", "x": [LONG]}, [LONG]),
        ({"type": "reasoning", "id": "r", "summary": [], "encrypted_content": LONG}, LONG),
    ],
)
def test_what_is_not_known_of_an_item_counts(item: dict[str, Any], unknown: Any) -> None:
    def shortened(value: Any) -> Any:
        if value == unknown:
            return "c"
        if isinstance(value, dict):
            return {name: shortened(each) for name, each in value.items()}
        return [shortened(each) for each in value] if isinstance(value, list) else value

    plain = {name: value for name, value in shortened(item).items() if name in item and item[name] == value}
    plain |= {name: value for name, value in shortened(item).items() if name in ("call_id", "content")}
    if isinstance(plain.get("content"), list):
        plain["content"] = [{"type": "input_text", "text": "Hi"}]
    assert tokens(RESPONSES, input=[item]) == tokens(RESPONSES, input=[plain]) + json_tokens(unknown)


# OpenAI's own fields


def leaves(hint: Any) -> Iterator[Any]:
    """The types of values that a field may have."""
    if get_origin(hint) is None:
        yield hint
    elif get_args(hint) and not isinstance(get_args(hint)[0], str):
        if get_origin(hint) is not None and getattr(get_origin(hint), "__name__", "") in ("list", "Iterable", "dict"):
            yield list
        for each in get_args(hint):
            yield from leaves(each)
    else:
        yield str  # a literal


def is_number(hint: Any) -> bool:
    return all(each in (int, float, bool, type(None), ...) or isinstance(each, bool) for each in leaves(hint))


COUNTED_AS_JSON = {
    CHAT: {"prediction"},
    COMPLETION: set(),
    RESPONSES: set(),
    EMBEDDING: set(),
}


@pytest.mark.parametrize(
    ("path", "params", "known"),
    [
        (CHAT, chat_create_params.CompletionCreateParamsBase, known_fields.OF_CHAT),
        (COMPLETION, completion_create_params.CompletionCreateParamsBase, known_fields.OF_COMPLETION),
        (RESPONSES, response_create_params.ResponseCreateParamsBase, known_fields.OF_RESPONSES_API),
        (EMBEDDING, embedding_create_params.EmbeddingCreateParams, known_fields.OF_EMBEDDING),
    ],
)
def test_each_field_of_a_request_is_classified(path: str, params: type, known: frozenset[str]) -> None:
    hints = get_type_hints(params)
    numbers = {name for name, hint in hints.items() if is_number(hint)}
    assert "temperature" in numbers or path == EMBEDDING
    assert not numbers & known_fields.SHORT
    assert set(hints) - numbers - known - known_fields.SHORT == COUNTED_AS_JSON[path]


def typed_dicts(hint: Any, seen: dict[str, type]) -> dict[str, type]:
    for each in leaves(hint):
        if hasattr(each, "__total__") and each.__name__ not in seen:
            seen[each.__name__] = each
            for of_field in get_type_hints(each).values():
                typed_dicts(of_field, seen)
    return seen


OF_CHAT_TYPES: dict[str, tuple[frozenset[str], set[str]]] = {
    "ChatCompletionDeveloperMessageParam": (known_fields.OF_MESSAGE, set()),
    "ChatCompletionSystemMessageParam": (known_fields.OF_MESSAGE, set()),
    "ChatCompletionUserMessageParam": (known_fields.OF_MESSAGE, set()),
    "ChatCompletionAssistantMessageParam": (known_fields.OF_MESSAGE, set()),
    "ChatCompletionToolMessageParam": (known_fields.OF_MESSAGE, set()),
    "ChatCompletionFunctionMessageParam": (known_fields.OF_MESSAGE, set()),
    "ChatCompletionContentPartTextParam": (known_fields.OF_PARTS["text"], set()),
    "ChatCompletionContentPartRefusalParam": (known_fields.OF_PARTS["refusal"], set()),
    "ChatCompletionContentPartImageParam": (known_fields.OF_PARTS["image_url"], set()),
    "ChatCompletionContentPartInputAudioParam": (known_fields.OF_PARTS["input_audio"], set()),
    "File": (known_fields.OF_PARTS["file"], set()),
    "ImageURL": (known_fields.OF_PARTS_OBJECT["image_url"], set()),
    "InputAudio": (known_fields.OF_PARTS_OBJECT["input_audio"], set()),
    "FileFile": (known_fields.OF_PARTS_OBJECT["file"], {"filename"}),
    "Audio": (known_fields.OF_AUDIO, set()),
    "FunctionCall": (known_fields.OF_CALLED["function"], set()),
    "Function": (known_fields.OF_CALLED["function"], set()),
    "Custom": (known_fields.OF_CALLED["custom"], set()),
    "ChatCompletionMessageFunctionToolCallParam": (known_fields.OF_TOOL_CALLS["function"], set()),
    "ChatCompletionMessageCustomToolCallParam": (known_fields.OF_TOOL_CALLS["custom"], set()),
    # Within what is known as a whole.
    "PromptCacheBreakpoint": (frozenset(("mode", "ttl")), set()),
    "FilePromptCacheBreakpoint": (frozenset(("mode", "ttl")), set()),
}


def test_each_field_of_a_message_is_classified() -> None:
    found = typed_dicts(ChatCompletionMessageParam, {})
    assert set(found) == set(OF_CHAT_TYPES)
    for name, kind in found.items():
        known, counted = OF_CHAT_TYPES[name]
        assert set(get_type_hints(kind)) - known - known_fields.SHORT == counted, name


OF_ITEM_TYPES: dict[str, tuple[frozenset[str], set[str]]] = {
    "EasyInputMessageParam": (known_fields.OF_ITEMS["message"], set()),
    "Message": (known_fields.OF_ITEMS["message"], set()),
    "ResponseOutputMessageParam": (known_fields.OF_ITEMS["message"], set()),
    "ResponseFunctionToolCallParam": (known_fields.OF_ITEMS["function_call"], {"namespace", "async"}),
    "FunctionCallOutput": (known_fields.OF_ITEMS["function_call_output"], {"name", "namespace"}),
    "ResponseCustomToolCallParam": (known_fields.OF_ITEMS["custom_tool_call"], {"namespace", "async"}),
    "ResponseCustomToolCallOutputParam": (known_fields.OF_ITEMS["custom_tool_call_output"], set()),
    "ResponseReasoningItemParam": (known_fields.OF_ITEMS["reasoning"], {"encrypted_content"}),
    "ResponseInputTextParam": (known_fields.OF_ITEM_PARTS["input_text"], set()),
    "ResponseInputTextContentParam": (known_fields.OF_ITEM_PARTS["input_text"], set()),
    "ResponseOutputTextParam": (known_fields.OF_ITEM_PARTS["output_text"], set()),
    "ResponseOutputRefusalParam": (known_fields.OF_ITEM_PARTS["refusal"], set()),
    "ResponseInputImageParam": (known_fields.OF_ITEM_PARTS["input_image"], set()),
    "ResponseInputImageContentParam": (known_fields.OF_ITEM_PARTS["input_image"], set()),
    "ResponseInputFileParam": (known_fields.OF_ITEM_PARTS["input_file"], {"filename"}),
    "ResponseInputFileContentParam": (known_fields.OF_ITEM_PARTS["input_file"], {"filename"}),
}
"""Those that count as messages; items of other types count whole."""


def test_each_field_of_an_item_is_classified() -> None:
    found = typed_dicts(ResponseInputParam, {})
    assert set(OF_ITEM_TYPES) <= set(found)
    for name, (known, counted) in OF_ITEM_TYPES.items():
        assert set(get_type_hints(found[name])) - known - known_fields.SHORT == counted, name
