"""The estimate for tool definitions: the rule's parts, literally, and where it is applied."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from limiter_node.http.requests.fields import InvalidRequest
from limiter_node.http.requests.limited_routes import LIMITED_ROUTES
from limiter_node.tokens.tools import count_tools
from limiter_node.tokens.totals import Total
from limiter_node.tokens.vocabulary import count

# The example of OpenAI's cookbook, which OpenAI's own service counts as 101 with gpt-4o and gpt-4o-mini, and as 105
# with gpt-4 and gpt-3.5-turbo, the two messages below included.
COOKBOOK_MESSAGES = [
    {"role": "system", "content": "You are a helpful assistant that can answer to questions about the weather."},
    {"role": "user", "content": "What's the weather like in San Francisco?"},
]
COOKBOOK_TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_current_weather",
            "description": "Get the current weather in a given location",
            "parameters": {
                "type": "object",
                "properties": {
                    "location": {"type": "string", "description": "The city and state, e.g. San Francisco, CA"},
                    "unit": {
                        "type": "string",
                        "description": "The unit of temperature to return",
                        "enum": ["celsius", "fahrenheit"],
                    },
                },
                "required": ["location"],
            },
        },
    }
]


def input_tokens(path: str, **fields: Any) -> int:
    tokens: int = LIMITED_ROUTES[path].parse(orjson.dumps(fields)).input_tokens
    return tokens


@pytest.mark.parametrize(("model", "tokens"), [("gpt-4o", 101), ("gpt-4o-mini", 101), ("gpt-4", 105)])
def test_the_cookbooks_example(model: str, tokens: int) -> None:
    counted = input_tokens("/v1/chat/completions", model=model, messages=COOKBOOK_MESSAGES, tools=COOKBOOK_TOOLS)
    assert counted == tokens


def test_both_shapes_count_the_same() -> None:
    flat = [{"type": "function", **each["function"]} for each in COOKBOOK_TOOLS]  # type: ignore[dict-item]
    assert count_tools(flat, "gpt-4o", nested=False) == count_tools(COOKBOOK_TOOLS, "gpt-4o")
    assert count_tools([], "gpt-4o") == 0


def test_a_function_without_parameters() -> None:
    assert count_tools([{"type": "function", "function": {"name": "f"}}], "gpt-4o") == 12 + 7 + count("f:", "gpt-4o")


def test_nested_parameters_and_other_tools_count() -> None:
    inner = {"type": "object", "properties": {"x": {"type": "integer"}}}
    one = {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "array"}}}}
    two = {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "array", "items": inner}}}}
    first, second = (count_tools([{"type": "function", "function": each}], "gpt-4o") for each in (one, two))
    assert second - first == 3 + 3 + count("x:integer:", "gpt-4o")
    custom = {"type": "custom", "custom": {"name": "run", "description": "Runs it"}}
    assert count_tools([custom], "gpt-4o") == 12 + count(orjson.dumps(custom).decode(), "gpt-4o")


LONG = "one two three four five six seven eight nine ten " * 20


@pytest.mark.parametrize(
    "function",
    [
        {"Description": LONG},
        {"parameters": {"title": LONG}},
        {"parameters": {"type": "object", "description": LONG}},
        {"parameters": {"type": LONG}},
        {"parameters": {"properties": LONG}},
        {"parameters": {"properties": {"a": LONG}}},
        {"parameters": {"properties": {"a": {"default": LONG}}}},
        {"parameters": {"properties": {"a": {"description": [LONG]}}}},
        {"parameters": {"properties": {"a": {"enum": LONG}}}},
        {"parameters": {"properties": {"a": {"type": "array", "items": {"description": LONG}}}}},
        {"parameters": {"properties": {"a": {"type": "array", "items": {"enum": [LONG]}}}}},
        {"parameters": {"properties": {"a": {}}, "required": LONG.split()}},
        {"parameters": {"properties": {"a": {}}, "required": ["a"] * 200}},
        {"parameters": {"$defs": {LONG: {}}}},
        {"parameters": {"$defs": {"a": {"description": LONG}}}},
        {"parameters": {"anyOf": [LONG, {"const": LONG}]}},
        {"parameters": {"additionalProperties": {"description": LONG}}},
    ],
)
def test_no_text_in_a_definition_is_free(function: dict[str, Any]) -> None:
    nested = count_tools([{"type": "function", "function": {"name": "f", **function}}], "m")
    assert nested == count_tools([{"type": "function", "name": "f", **function}], "m", nested=False)
    assert nested >= 200


def test_no_text_beside_a_definition_is_free() -> None:
    plain = {"type": "function", "function": {"name": "f"}}
    beside = {"Function": {"description": LONG}}
    assert count_tools([{**plain, **beside}], "m") == count_tools([plain], "m") + count(
        orjson.dumps([beside]).decode(), "m"
    )


def test_what_only_shapes_a_definition_is_free() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    shaped = {**schema, "required": ["a"], "additionalProperties": False}
    bare, full = ({"name": "f", "parameters": each} for each in (schema, shaped))
    one, two = (count_tools([{"type": "function", "function": each}], "m") for each in (bare, {**full, "strict": True}))
    assert one == two


def test_schemas_and_former_functions_count() -> None:
    plain = input_tokens("/v1/chat/completions", model="m", messages=COOKBOOK_MESSAGES)
    json_schema = {"name": "s", "schema": {"type": "object"}}
    shaped = input_tokens(
        "/v1/chat/completions",
        model="m",
        messages=COOKBOOK_MESSAGES,
        response_format={"type": "json_schema", "json_schema": json_schema},
    )
    assert shaped == plain + count(orjson.dumps(json_schema).decode(), "m")
    functions = [each["function"] for each in COOKBOOK_TOOLS]
    called = input_tokens("/v1/chat/completions", model="m", messages=COOKBOOK_MESSAGES, functions=functions)
    assert called == plain + count_tools(COOKBOOK_TOOLS, "m")


@pytest.mark.parametrize(
    ("name", "value"),
    [("documents", [{"text": LONG}]), ("chat_template", LONG), ("chat_template_kwargs", {"hint": LONG})],
)
def test_what_templates_show_counts(name: str, value: Any) -> None:
    plain = input_tokens("/v1/chat/completions", model="m", messages=COOKBOOK_MESSAGES)
    shown = input_tokens("/v1/chat/completions", model="m", messages=COOKBOOK_MESSAGES, **{name: value})
    assert shown == plain + count(orjson.dumps(value).decode(), "m")
    assert input_tokens("/v1/chat/completions", model="m", messages=COOKBOOK_MESSAGES, **{name: None}) == plain


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_earlier_reasoning_counts(name: str) -> None:
    message = {"role": "assistant", "content": "Yes."}
    plain, shown = (
        input_tokens("/v1/chat/completions", model="m", messages=[each]) for each in (message, {**message, name: LONG})
    )
    assert shown == plain + count(LONG, "m")
    with pytest.raises(InvalidRequest, match=rf"messages\[0\].{name}"):
        input_tokens("/v1/chat/completions", model="m", messages=[{**message, name: [LONG]}])


@pytest.mark.parametrize("prompt", ["a", ["a", "b"]])
def test_a_suffix_counts_with_each_prompt(prompt: Any) -> None:
    plain = input_tokens("/v1/completions", model="m", prompt=prompt)
    filled = input_tokens("/v1/completions", model="m", prompt=prompt, suffix=LONG)
    assert filled == plain + len(prompt) * count(LONG, "m")


def test_earlier_reasoning_of_responses_counts() -> None:
    item = {"type": "reasoning", "summary": []}
    content = [{"type": "reasoning_text", "text": LONG}]
    plain, shown = (
        input_tokens("/v1/responses", model="m", input=[each]) for each in (item, {**item, "content": content})
    )
    assert shown == plain + count(LONG, "m")


def test_responses_count_as_chats_do() -> None:
    chat = input_tokens("/v1/chat/completions", model="m", messages=COOKBOOK_MESSAGES)
    instructions, question = (each["content"] for each in COOKBOOK_MESSAGES)
    assert input_tokens("/v1/responses", model="m", input=COOKBOOK_MESSAGES) == chat
    assert input_tokens("/v1/responses", model="m", input=question, instructions=instructions) == chat


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/chat/completions", {"messages": COOKBOOK_MESSAGES}),
        ("/v1/chat/completions", {"messages": COOKBOOK_MESSAGES, "tools": COOKBOOK_TOOLS}),
        ("/v1/completions", {"prompt": ["a", "b"]}),
        ("/v1/responses", {"input": "a"}),
        ("/v1/embeddings", {"input": [1, 2]}),
    ],
)
def test_counting_can_be_left_to_others(path: str, fields: dict[str, Any]) -> None:
    totals: list[Total] = []

    def later(_model: str, total: Total) -> int:
        totals.append(total)
        return 0

    body = orjson.dumps({"model": "gpt-4o", **fields})
    assert LIMITED_ROUTES[path].parse(body, later).input_tokens == 0
    (total,) = totals
    assert total(lambda text: count(text, "gpt-4o")) == LIMITED_ROUTES[path].parse(body).input_tokens
