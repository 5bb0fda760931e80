"""Every limited route with any JSON: a request, which is answered exactly, or an `InvalidRequest`; nothing else."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from limiter_node.http.requests.fields import InvalidRequest
from limiter_node.http.requests.limited_routes import LIMITED_ROUTES, LimitedRoute
from limiter_node.tokens.vocabulary import count
from limiter_node.upstream.answers import WholeAnswer
from limiter_node.upstream.errors import NotServed
from limiter_node.upstream.mock.model import MockModel
from limiter_node.upstream.rendered import RenderedUpstream
from limiter_node.upstream.requests import TextRequest
from limiter_node.upstream.source import Completion


class Remembering(MockModel):
    """The mock, and what it answered last."""

    last: Completion

    async def _whole(self, request: TextRequest, cap_per_choice: int) -> Completion:
        self.last = await super()._whole(request, cap_per_choice)
        return self.last


MODEL = Remembering(latency_ms=0, length="uniform:0:30", seed=1, tool_rate=0.5)
MOCK = RenderedUpstream(MODEL)
RESERVE = 12

VALID: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"model": "gpt-4o", "messages": [{"role": "user", "content": "x"}]},
    "/v1/completions": {"model": "gpt-4", "prompt": "x"},
    "/v1/responses": {"model": "gpt-4o", "input": "x"},
    "/v1/embeddings": {"model": "gpt-4o", "input": "x"},
}

FIELDS = """
    model messages prompt input instructions role content name type text refusal image_url url input_audio data file
    file_data tool_calls function custom arguments function_call call_id output summary n best_of max_tokens echo suffix
    max_completion_tokens max_output_tokens stream stream_options include_usage stop logprobs top_logprobs logit_bias
    tools tool_choice allowed_tools mode functions response_format json_schema schema format strict verbosity reasoning
    effort metadata user dimensions encoding_format parameters description properties required items enum const anyOf
    allOf $ref $defs minItems maxItems minimum maximum multipleOf minLength maxLength truncation previous_response_id
    background id detail
"""
VALUES = """
    user assistant text function custom required auto none allowed_tools json_schema json_object message object array
    string integer number boolean null input_text output_text input_image function_call function_call_output reasoning
    # #/ #/$defs/a float base64 web_search low
"""
NAMES = st.sampled_from(FIELDS.split())
WORDS = st.sampled_from(VALUES.split())
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(0, 9), st.floats(), st.text(st.characters()), WORDS
)
ANY_JSON = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(NAMES | st.text(max_size=3), inner, max_size=6)
    ),
    max_leaves=25,
)
# A schema or a tool that is nearly right gets further than any JSON.
SCHEMAS = st.recursive(
    st.fixed_dictionaries({"type": WORDS}, optional={"enum": st.lists(SCALARS), "minimum": SCALARS, "const": SCALARS}),
    lambda inner: st.one_of(
        st.fixed_dictionaries({"type": st.just("object"), "properties": st.dictionaries(st.text(max_size=3), inner)}),
        st.fixed_dictionaries({"type": st.just("array"), "items": inner}, optional={"minItems": st.integers()}),
        st.fixed_dictionaries({"anyOf": st.lists(inner)}, optional={"allOf": st.lists(inner)}),
    ),
    max_leaves=10,
)


def answered(path: str, text: bytes) -> None:
    """Hold that `text` is refused usably, or answered with what the tokenizer counts and within the reservation."""
    route = LIMITED_ROUTES[path]
    try:
        request = route.parse(text)
        MOCK.drafter.draft(request, text)
    except (InvalidRequest, NotServed) as error:
        refusal = str(error)
    else:
        _answered(route, path, request)
        return
    assert 0 < len(refusal) < 500


def _answered(route: LimitedRoute, path: str, request: Any) -> None:
    need = route.need_of(request)
    assert 0 < need.input_tokens < 2**53
    assert 0 <= need.output_tokens < 2**53
    assert (need.output_tokens > 0) + (need.default_choices > 0) == (path != "/v1/embeddings")
    cap = request.cap if path != "/v1/embeddings" and request.cap is not None else RESERVE
    reserved = need.output_tokens + need.default_choices * RESERVE
    if path != "/v1/embeddings":
        request = request._replace(stream=False)
    whole = asyncio.run(MOCK.prepared(MOCK.drafter.draft(request, b"")).ask(reserved, "req_1", {}))
    assert isinstance(whole, WholeAnswer)
    produced = whole.cost.output_tokens
    assert produced <= reserved
    body = orjson.loads(whole.body)
    assert body["model"] == request.model
    if path == "/v1/embeddings":
        assert len(body["data"]) == len(request.inputs)
        return
    answer = MODEL.last
    texts = [*answer.contents]
    for calls in answer.tool_calls:
        texts += [text for call in calls for text in (call.name, call.payload)]
    assert produced == sum(count(each, request.model) for each in texts)
    assert max(answer.choice_tokens) <= cap


PATHS = pytest.mark.parametrize("path", VALID)


@PATHS
@given(st.binary())
def test_any_bytes(path: str, text: bytes) -> None:
    answered(path, text)


@PATHS
@given(ANY_JSON)
def test_any_json(path: str, value: Any) -> None:
    # json, unlike orjson, writes NaN, integers of any size and lone surrogates.
    answered(path, json.dumps(value).encode())


@PATHS
@given(st.dictionaries(NAMES, ANY_JSON, max_size=4))
@example({"max_tokens": 10**400})
@example({"model": "\ud800"})
@example({"input": [], "prompt": []})
@example({"input": [[]], "prompt": [[]]})
@example({"input": [1, "x"], "prompt": [-1]})
@example({"n": 128, "best_of": 128, "prompt": ["x"] * 17})
def test_almost_valid_requests(path: str, fields: dict[str, Any]) -> None:
    request = json.dumps({**VALID[path], **fields}, ensure_ascii=False)
    answered(path, request.encode("utf-8", "surrogatepass"))
    answered(path, json.dumps({**VALID[path], **fields}).encode())


@given(SCHEMAS, st.booleans(), st.sampled_from(["x", "", ["a", "e"], None]), st.integers(1, 40))
def test_any_schema_is_answered(schema: dict[str, Any], as_tool: bool, stop: Any, cap: int) -> None:
    chat: dict[str, Any] = {"stop": stop, "max_tokens": cap}
    response: dict[str, Any] = {"max_output_tokens": cap}
    if as_tool:
        function = {"name": "f", "parameters": schema}
        chat |= {"tools": [{"type": "function", "function": function}], "tool_choice": "required"}
        response |= {"tools": [{"type": "function", **function}], "tool_choice": "required"}
    else:
        named = {"name": "s", "schema": schema}
        chat |= {"response_format": {"type": "json_schema", "json_schema": named}}
        response |= {"text": {"format": {"type": "json_schema", **named}}}
    for path, fields in (("/v1/chat/completions", chat), ("/v1/responses", response)):
        answered(path, json.dumps({**VALID[path], **fields}).encode())


def deep(levels: int, leaf: str, before: str, after: str) -> str:
    return before * levels + leaf + after * levels


@pytest.mark.parametrize("levels", [100, 300, 1_000])
@pytest.mark.parametrize("wrap", [("[", "]"), ('{"a":', "}")])
def test_deep_json_where_it_is_repeated_or_counted(levels: int, wrap: tuple[str, str]) -> None:
    anything = deep(levels - 10, "1", *wrap)
    schema = f'{{"type":"object","properties":{{"a":{{"const":{anything}}}}}}}'
    nested = deep((levels - 10) // 2, '{"type":"string"}', '{"type":"array","items":', "}")
    for each in (schema, nested):
        function = f'"name":"f","parameters":{each}'
        tool = f'{{"type":"function","function":{{{function}}}}}'
        json_schema = f'"type":"json_schema","json_schema":{{"name":"f","schema":{each}}}'
        for path, field in (
            ("/v1/chat/completions", f'"tool_choice":"required","tools":[{tool}]'),
            ("/v1/chat/completions", f'"functions":[{{{function}}}]'),
            ("/v1/chat/completions", f'"tools":[{{"type":"custom","custom":{{"name":"f","format":{each}}}}}]'),
            ("/v1/chat/completions", f'"response_format":{{{json_schema}}}'),
            ("/v1/responses", f'"tools":[{{"type":"function",{function}}}],"tool_choice":"required"'),
            ("/v1/responses", f'"tools":[{{"type":"mcp","x":{each}}}]'),
            ("/v1/responses", f'"text":{{"format":{{"type":"json_schema","name":"f","schema":{each}}}}}'),
            ("/v1/responses", f'"tool_choice":{{"type":"mcp","x":{each}}}'),
            ("/v1/responses", f'"reasoning":{{"x":{each}}}'),
            ("/v1/responses", f'"input":[{{"type":"web_search_call","x":{each}}}]'),
            ("/v1/completions", f'"logit_bias":{{"x":{each}}}'),
            ("/v1/embeddings", f'"user":{each}'),
        ):  # fmt: skip
            answered(path, (json.dumps(VALID[path])[:-1] + "," + field + "}").encode())


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "array", "minItems": 10**9, "items": {"type": "string", "minLength": 10**9}},
        {"type": "array", "minItems": 10**6, "items": {"const": "x" * 50_000}},
        {"$defs": {"a": {"type": "array", "minItems": 9, "items": {"$ref": "#/$defs/a"}}}, "$ref": "#/$defs/a"},
        {"$ref": "#"},
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
        {"type": "object", "properties": {"a": {"$ref": "#"}, "b": {"$ref": "#"}}},
        {"type": "object", "required": ["a", "b"], "properties": {"a": {"$ref": "#"}, "b": {"$ref": "#"}}},
        {"allOf": [{"$ref": "#"}, {"$ref": "#"}]},
        {"anyOf": [{"anyOf": [{"$ref": "#"}, {"$ref": "#"}]}]},
    ],
)
def test_schemas_that_ask_for_too_much_end(schema: dict[str, Any]) -> None:
    request = {**VALID["/v1/chat/completions"], "max_tokens": 100_000}
    request["response_format"] = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}
    answered("/v1/chat/completions", orjson.dumps(request))
