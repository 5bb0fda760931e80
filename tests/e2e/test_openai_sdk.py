"""The official openai SDK against real nodes: every route, typed and strictly validated, its errors, its retries."""

from __future__ import annotations

import base64
import json
import math
import struct
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Literal

import openai
import pytest
from fleet import Fleet, running_fleet
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel
from store_tools import raw_counters

from limiter_node.credentials import key_id
from limiter_node.tokens.vocabulary import count

MESSAGES: Any = [{"role": "user", "content": "hello world"}]
MODELS = ["gpt-4o", "gpt-4"]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a place.",
        "parameters": {
            "type": "object",
            "properties": {"place": {"type": "string"}, "unit": {"type": "string", "enum": ["C", "F"]}},
            "required": ["place"],
        },
    },
}


class Step(BaseModel):
    """A nested part of what is asked for."""

    text: str
    kind: Literal["add", "divide"]
    next: Step | None


class Solution(BaseModel):
    """What structured outputs are tried with."""

    steps: list[Step]
    answer: int
    is_exact: bool
    share: float


@pytest.fixture(scope="module")
def api_key(fleet: Fleet) -> str:
    return fleet.new_key()


def sync_client(fleet: Fleet, api_key: str, **options: Any) -> OpenAI:
    return OpenAI(
        base_url=f"{fleet.nodes[0]}/v1",
        api_key=api_key,
        **{"max_retries": 0, "_strict_response_validation": True, **options},
    )


@pytest.fixture(scope="module")
def client(fleet: Fleet, api_key: str) -> Iterator[OpenAI]:
    with sync_client(fleet, api_key) as opened:
        yield opened


@pytest.fixture
async def async_client(fleet: Fleet, api_key: str) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(
        base_url=f"{fleet.nodes[1]}/v1", api_key=api_key, max_retries=0, _strict_response_validation=True
    ) as opened:
        yield opened


def no_extras(value: BaseModel) -> None:
    """Hold that every field that was sent is one that the SDK's types know."""
    assert not value.model_extra, (type(value), value.model_extra)
    for name in type(value).model_fields:
        inner = getattr(value, name)
        for each in inner if isinstance(inner, list) else [inner]:
            if isinstance(each, BaseModel):
                no_extras(each)


# ---- each route ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
def test_chat(client: OpenAI, model: str) -> None:
    answer = client.chat.completions.create(model=model, messages=MESSAGES, max_tokens=20, n=2)
    no_extras(answer)
    assert [choice.finish_reason for choice in answer.choices] == ["length", "length"]
    assert answer.usage is not None
    assert answer.usage.completion_tokens == sum(count(each.message.content or "", model) for each in answer.choices)
    assert answer.usage.prompt_tokens == 9
    assert answer.model == model


async def test_chat_async(async_client: AsyncOpenAI) -> None:
    answer = await async_client.chat.completions.create(model="gpt-4o", messages=MESSAGES, max_completion_tokens=5)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 5


def test_chat_with_parts_and_every_role(client: OpenAI) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"place":"x"}'}}
    messages: Any = [
        {"role": "developer", "content": "Be brief."},
        {"role": "system", "content": [{"type": "text", "text": "Be kind."}]},
        {
            "role": "user",
            "content": [{"type": "text", "text": "Look:"}, {"type": "image_url", "image_url": {"url": "u"}}],
        },
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
        {"role": "user", "name": "bob", "content": "So?"},
    ]
    answer = client.chat.completions.create(model="gpt-4o", messages=messages, max_tokens=3, tools=[WEATHER])
    assert answer.usage is not None
    assert answer.usage.prompt_tokens > 765


def test_stop(client: OpenAI) -> None:
    def text(**fields: Any) -> tuple[str, str, int]:
        answer = client.chat.completions.create(model="gpt-4o", messages=MESSAGES, max_tokens=200, **fields)
        assert answer.usage is not None
        return answer.choices[0].message.content or "", answer.choices[0].finish_reason, answer.usage.completion_tokens

    whole, reason, _ = text()
    assert reason == "length"
    word = whole[100:110]
    for stop in (word, ["never there", word, ""]):
        cut, reason, tokens = text(stop=stop)
        assert (cut, reason, tokens) == (whole[: whole.index(word)], "stop", count(cut, "gpt-4o"))
    assert text(stop="never there")[1:] == ("length", 200)
    assert text(stop=whole[:3]) == ("", "stop", 0)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
def test_a_forced_tool_call(client: OpenAI, model: str, choice: Any) -> None:
    answer = client.chat.completions.create(
        model=model, messages=MESSAGES, tools=[WEATHER], tool_choice=choice, n=2, max_tokens=50
    )
    no_extras(answer)
    tokens, ids = 0, set()
    for each in answer.choices:
        assert (each.finish_reason, each.message.content) == ("tool_calls", None)
        (call,) = each.message.tool_calls or []
        assert call.type == "function"
        assert json.loads(call.function.arguments) == {"place": "text", "unit": "C"}
        tokens += count(call.function.name, model) + count(call.function.arguments, model)
        ids.add(call.id)
    assert len(ids) == 2
    assert answer.usage is not None
    assert answer.usage.completion_tokens == tokens


@pytest.mark.parametrize("cap", range(1, 14))
def test_a_tool_call_beyond_the_cap_is_cut(client: OpenAI, cap: int) -> None:
    answer = client.chat.completions.create(
        model="gpt-4o", messages=MESSAGES, tools=[WEATHER], tool_choice="required", max_tokens=cap
    )
    assert answer.usage is not None
    assert answer.usage.completion_tokens <= cap
    assert answer.choices[0].finish_reason in {"length", "tool_calls"}


def test_a_custom_tool_and_a_free_choice(client: OpenAI) -> None:
    tools: Any = [{"type": "custom", "custom": {"name": "run"}}, WEATHER]
    answer = client.chat.completions.create(model="gpt-4o", messages=MESSAGES, tools=tools, tool_choice="required")
    no_extras(answer)
    (call,) = answer.choices[0].message.tool_calls or []
    assert call.type == "custom"
    free = client.chat.completions.create(model="gpt-4o", messages=MESSAGES, tools=tools, max_tokens=2)
    assert free.choices[0].message.tool_calls is None
    assert free.choices[0].message.content


def test_structured_outputs(client: OpenAI) -> None:
    answer = client.chat.completions.parse(
        model="gpt-4o", messages=MESSAGES, response_format=Solution, max_tokens=5_000
    )
    solution = answer.choices[0].message.parsed
    assert isinstance(solution, Solution)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == count(answer.choices[0].message.content or "", "gpt-4o")
    tool: Any = openai.pydantic_function_tool(Solution)
    called = client.chat.completions.parse(
        model="gpt-4o", messages=MESSAGES, tools=[tool], tool_choice="required", max_tokens=5_000
    )
    (call,) = called.choices[0].message.tool_calls or []
    assert isinstance(call.function.parsed_arguments, Solution)


def test_json_objects(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model="gpt-4o", messages=MESSAGES, response_format={"type": "json_object"}, max_tokens=50
    )
    content = answer.choices[0].message.content or ""
    assert isinstance(json.loads(content), dict)
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert 40 < answer.usage.completion_tokens == count(content, "gpt-4o") <= 50, "about as long as other answers"


@pytest.mark.parametrize(
    ("prompt", "input_tokens", "prompts"),
    [("hello world", 2, 1), (["hello world", "hello"], 3, 2), ([1, 2, 3], 3, 1), ([[1, 2], [3]], 3, 2)],
)
def test_completions(client: OpenAI, prompt: Any, input_tokens: int, prompts: int) -> None:
    answer = client.completions.create(model="gpt-3.5-turbo-instruct", prompt=prompt, max_tokens=7, n=2)
    no_extras(answer)
    assert [choice.index for choice in answer.choices] == list(range(2 * prompts))
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == input_tokens
    assert answer.usage.completion_tokens == 14 * prompts == sum(count(each.text, "gpt-4") for each in answer.choices)


async def test_completions_async_echoed_and_stopped(async_client: AsyncOpenAI) -> None:
    plain = await async_client.completions.create(model="gpt-4o", prompt="A", max_tokens=30)
    word = plain.choices[0].text[40:50]
    answer = await async_client.completions.create(
        model="gpt-4o", prompt=["A", "B"], max_tokens=30, n=2, echo=True, stop=word, best_of=3, logprobs=1, suffix="z"
    )
    text = plain.choices[0].text[: plain.choices[0].text.index(word)]
    assert [each.text for each in answer.choices] == ["A" + text, "A" + text, "B" + text, "B" + text]
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 4 * count(text, "gpt-4o")


def test_responses(client: OpenAI) -> None:
    answer = client.responses.create(model="gpt-4o", input="hello world", max_output_tokens=20)
    no_extras(answer)
    assert (answer.status, answer.incomplete_details and answer.incomplete_details.reason) == (
        "incomplete",
        "max_output_tokens",
    )
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (9, 20)
    assert count(answer.output_text, "gpt-4o") == 20


async def test_responses_async_with_items(async_client: AsyncOpenAI) -> None:
    items: Any = [
        {"role": "user", "content": "hello"},
        {
            "type": "message",
            "role": "user",
            "content": [
                {"type": "input_text", "text": "Look:"},
                {"type": "input_image", "image_url": "u", "detail": "low"},
                {"type": "input_file", "file_data": "x", "filename": "f"},
            ],
        },
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "thinking"}]},
        {"type": "function_call", "call_id": "c", "name": "get_weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "rain"},
        {"type": "web_search_call", "id": "ws_1", "status": "completed"},
        {"role": "assistant", "content": [{"type": "output_text", "text": "So.", "annotations": []}]},
    ]
    answer = await async_client.responses.create(
        model="gpt-4o",
        input=items,
        instructions="Be brief.",
        max_output_tokens=4,
        temperature=0.5,
        metadata={"a": "b"},
        reasoning={"effort": "low"},
        text={"verbosity": "low"},
        tools=[{"type": "web_search"}, {"type": "function", **WEATHER["function"], "strict": False}],
    )
    no_extras(answer)
    assert (answer.instructions, answer.temperature, answer.metadata) == ("Be brief.", 0.5, {"a": "b"})
    assert answer.usage is not None
    assert answer.usage.input_tokens > 85 + 765


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "get_weather"}])
def test_responses_with_a_forced_tool(client: OpenAI, choice: Any) -> None:
    tool: Any = {"type": "function", **WEATHER["function"], "strict": False}
    answer = client.responses.create(model="gpt-4o", input="x", tools=[tool], tool_choice=choice)
    no_extras(answer)
    (call,) = answer.output
    assert call.type == "function_call"
    assert json.loads(call.arguments)["place"]
    assert answer.usage is not None
    assert answer.usage.output_tokens == count(call.name, "gpt-4o") + count(call.arguments, "gpt-4o")


def test_responses_with_structured_outputs(client: OpenAI) -> None:
    answer = client.responses.parse(model="gpt-4o", input="x", text_format=Solution, max_output_tokens=5_000)
    assert isinstance(answer.output_parsed, Solution)
    assert answer.usage is not None
    assert answer.usage.output_tokens == count(answer.output_text, "gpt-4o")


def test_embeddings_as_floats_and_as_base64(fleet: Fleet, api_key: str, client: OpenAI) -> None:
    floats = client.embeddings.create(
        model="text-embedding-3-small", input=["a", "hello world"], encoding_format="float"
    )
    no_extras(floats)
    assert (floats.usage.prompt_tokens, floats.usage.total_tokens) == (3, 3)
    assert [each.index for each in floats.data] == [0, 1]
    assert [len(each.embedding) for each in floats.data] == [1_536, 1_536]
    assert math.isclose(math.hypot(*floats.data[0].embedding), 1, abs_tol=1e-6)
    # The SDK's types say floats whatever comes, so that its own default doesn't stand its strict validation.
    with sync_client(fleet, api_key, _strict_response_validation=False) as lenient:
        packed = lenient.embeddings.create(model="text-embedding-3-small", input=["a", "hello world"])
        raw: Any = lenient.embeddings.create(model="m", input="a", encoding_format="base64", dimensions=10)
    single = struct.unpack("<1536f", struct.pack("<1536f", *floats.data[1].embedding))
    assert packed.data[1].embedding == list(single)
    assert len(base64.b64decode(raw.data[0].embedding)) == 40


@pytest.mark.parametrize(("inputs", "tokens"), [("hello world", 2), ([5, 6, 7], 3), ([[1], [2, 3]], 3)])
async def test_embeddings_async(async_client: AsyncOpenAI, inputs: Any, tokens: int) -> None:
    answer = await async_client.embeddings.create(
        model="text-embedding-3-large", input=inputs, dimensions=7, encoding_format="float"
    )
    assert answer.usage.prompt_tokens == tokens
    assert {len(each.embedding) for each in answer.data} == {7}


def test_models(client: OpenAI) -> None:
    listed = client.models.list()
    for model in listed.data:
        no_extras(model)
        assert client.models.retrieve(model.id) == model
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("no/such model")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


# ---- headers, errors and retries -----------------------------------------------------------------------------------


def test_raw_responses_carry_the_headers(client: OpenAI) -> None:
    raws: list[Any] = [
        client.chat.completions.with_raw_response.create(model="gpt-4o", messages=MESSAGES, max_tokens=1),
        client.completions.with_raw_response.create(model="gpt-4o", prompt="x", max_tokens=1),
        client.responses.with_raw_response.create(model="gpt-4o", input="x", max_output_tokens=1),
        client.embeddings.with_raw_response.create(model="gpt-4o", input="x", encoding_format="float"),
    ]
    for raw in raws:
        assert raw.headers["x-request-id"] == raw.request_id
        assert raw.headers["x-ratelimit-limit-requests"]
        assert raw.headers["ratelimit-policy"].startswith('"rpm";q=')
        assert raw.headers["ratelimit"].startswith('"rpm";r=')
        assert raw.headers["x-limiter-reserved-output"] == ("0" if raw is raws[3] else "1")
        raw.parse()


def test_error_classes(fleet: Fleet, client: OpenAI) -> None:
    with sync_client(fleet, "sk-nobody-knows") as stranger, pytest.raises(openai.AuthenticationError) as unknown:
        stranger.models.list()
    assert unknown.value.code == "invalid_api_key"
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model="gpt-4o", messages=MESSAGES, max_tokens=0)
    assert bad.value.param == "max_tokens"
    with pytest.raises(openai.NotFoundError):
        client.post("/nothing", cast_to=object)
    with pytest.raises(openai.APIStatusError) as large:
        client.embeddings.create(model="m", input="x" * 21_000_000)
    assert large.value.status_code == 413
    with sync_client(fleet, fleet.new_key(rpm=1)) as limited:
        limited.embeddings.create(model="m", input="x", encoding_format="float")
        with pytest.raises(openai.RateLimitError) as told:
            limited.responses.create(model="m", input="x")
    assert (told.value.code, told.value.type) == ("rate_limit_exceeded", "requests")
    assert 0 < int(told.value.response.headers["retry-after-ms"]) <= 60_100


LONG = "hello world " * 20
TOO_LARGE: dict[str, Callable[[OpenAI], object]] = {
    "chat": lambda client: client.chat.completions.create(model="m", messages=[{"role": "user", "content": LONG}]),
    "completions": lambda client: client.completions.create(model="m", prompt=LONG),
    "responses": lambda client: client.responses.create(model="m", input=LONG),
    "embeddings": lambda client: client.embeddings.create(model="m", input=LONG),
}


@pytest.mark.parametrize("route", TOO_LARGE)
def test_a_request_that_can_never_fit_is_tried_once(fleet: Fleet, route: str) -> None:
    api_key = fleet.new_key(input_tpm=5)
    before = raw_counters(fleet.store, key_id(api_key))
    with sync_client(fleet, api_key, max_retries=5) as client:
        sent: list[Any] = []
        client._client.event_hooks["request"] = [sent.append]
        with pytest.raises(openai.RateLimitError) as caught:
            TOO_LARGE[route](client)
    assert len(sent) == 1
    headers = caught.value.response.headers
    assert headers["x-should-retry"] == "false"
    assert not {"retry-after", "retry-after-ms"} & set(headers)
    assert "Request too large" in caught.value.message
    assert raw_counters(fleet.store, key_id(api_key)) == before


@pytest.fixture(scope="module")
def quick_fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """One node whose window is a second."""
    directory = tmp_path_factory.mktemp("quick")
    with running_fleet(directory, "--store", "single", "--window-ms", "1000", nodes=1) as running:
        yield running


@pytest.mark.parametrize(
    ("limits", "exceeded"),
    [({"rpm": 2}, "requests"), ({"input_tpm": 18}, "input_tokens"), ({"output_tpm": 40}, "output_tokens")],
)
def test_the_sdk_waits_as_long_as_it_is_told_and_succeeds(
    quick_fleet: Fleet, limits: dict[str, Any], exceeded: str
) -> None:
    with sync_client(quick_fleet, quick_fleet.new_key(**limits), max_retries=2) as client:
        seen: list[Any] = []
        client._client.event_hooks["response"] = [seen.append]
        started = time.monotonic()
        for _ in range(4):
            client.chat.completions.create(model="gpt-4o", messages=MESSAGES, max_tokens=20)
        assert time.monotonic() - started > 0.9
    rejected = [each for each in seen if each.status_code == 429]
    assert rejected
    assert {each.headers["x-limiter-exceeded"] for each in rejected} == {exceeded}
    assert len(seen) == 4 + len(rejected)
    assert quick_fleet.process.poll() is None


# ---- reservations --------------------------------------------------------------------------------------------------


def test_a_key_without_caps_is_not_locked_out_by_a_large_default(fleet: Fleet) -> None:
    """output_tpm 2,000: at OpenAI's 4,096 or more per uncapped request it could not send one."""
    with sync_client(fleet, fleet.new_key(output_tpm=2_000, output_reserve=100)) as modest:
        raw = modest.chat.completions.with_raw_response.create(model="m", messages=MESSAGES)
        assert raw.headers["x-limiter-reserved-output"] == "100"
        for _ in range(5):
            modest.responses.create(model="m", input="x")
            modest.completions.create(model="m", prompt="x")
        # What one request needs beyond it, that request says.
        raw = modest.chat.completions.with_raw_response.create(model="m", messages=MESSAGES, max_tokens=700)
        assert raw.headers["x-limiter-reserved-output"] == "700"
        assert (
            modest.completions.with_raw_response.create(model="m", prompt=["x", "y"], best_of=1).headers[
                "x-limiter-reserved-output"
            ]
            == "200"
        )
    with sync_client(fleet, fleet.new_key(output_tpm=2_000, output_reserve=4_096)) as greedy:
        with pytest.raises(openai.RateLimitError, match="Request too large"):
            greedy.chat.completions.create(model="m", messages=MESSAGES)
        assert greedy.chat.completions.create(model="m", messages=MESSAGES, max_tokens=10).usage
