"""Fields that would make a service do other work than was counted are refused, unless its operator wants them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from valid_bodies import CHAT, COMPLETION, VALID, written
from yarl import URL

from limiter_node.http.requests import known_fields
from limiter_node.http.requests.limited_routes import LIMITED_ROUTES
from limiter_node.model_patterns import matches, starred
from limiter_node.upstream.errors import NotServed
from limiter_node.upstream.gateway.asking.drafting import ServiceDrafter
from limiter_node.upstream.gateway.asking.steering import CONTAINERS, STEERING
from limiter_node.upstream.gateway.service import Service
from limiter_node.upstream.rendered import RequestDrafter


def drafter_of(*extra_fields: str) -> ServiceDrafter:
    return ServiceDrafter([Service(name="s", urls=(URL("http://h/v1"),), extra_fields=frozenset(extra_fields))])


def draft(path: str, drafter: ServiceDrafter | RequestDrafter, body: bytes) -> int:
    """The input tokens of a request that may be asked."""
    request = LIMITED_ROUTES[path].parse(body, extra_fields=drafter.extra_fields)
    drafter.draft(request, body)
    tokens: int = request.input_tokens
    return tokens


def refused(path: str, drafter: ServiceDrafter = drafter_of(), **fields: Any) -> str | None:  # noqa: B008
    with pytest.raises(NotServed) as error:
        draft(path, drafter, written(path, **fields))
    assert error.value.status == 400
    assert str(error.value) == f"Unsupported parameter: '{error.value.param}'."
    assert error.value.code == "unsupported_parameter"
    return error.value.param


NAMED = [
    *("models", "fallbacks", "kv_transfer_params", "lora_path", "custom_logit_processor", "cached_content"),
    *("data_sources", "prompt_id", "route", "provider", "transforms", "plugins", "api_base", "api_key", "base_url"),
    *("mock_response", "custom_llm_provider", "priority", "bootstrap_host", "chat_template", "rid"),
]


@pytest.mark.parametrize("name", NAMED)
def test_what_steers_is_refused(name: str) -> None:
    for path in VALID:
        for value in ("x", ["x"], {"a": 1}, 1, True):
            assert refused(path, **{name: value}) == name
            if name.capitalize() != name:
                assert refused(path, **{name.capitalize(): value}) == name.capitalize()
        draft(path, drafter_of(), written(path, **{name: None}))


@pytest.mark.parametrize("container", sorted(CONTAINERS))
@pytest.mark.parametrize("name", ["models", "n_predict", "max_tokens", "messages", "n"])
def test_what_steers_is_refused_in_a_container(container: str, name: str) -> None:
    assert refused(CHAT, **{container: {name: 1}}) == f"{container}.{name}"
    assert refused(CHAT, **{container: {"options": {name: 1}}}) == f"{container}.{name}"
    draft(CHAT, drafter_of(), written(CHAT, **{container: {"top_k": 5}}))


@pytest.mark.parametrize("name", ["priority", "provider", "options"])
def test_an_operator_may_let_it_pass_uncounted(name: str) -> None:
    for path in VALID:
        plain = draft(path, drafter_of(), written(path))
        body = written(path, **{name: {"models": ["x" * 500]}})
        assert draft(path, drafter_of(name), body) == plain
    assert refused(CHAT, drafter_of("other"), **{name: {"models": 1}}) in (name, f"{name}.models")


def test_it_may_pass_for_the_models_of_one_service_only() -> None:
    first = Service(name="a", urls=(), models=("a-*",), extra_fields=frozenset(("priority",)))
    drafter = ServiceDrafter([first, Service(name="b", urls=())])
    draft(CHAT, drafter, written(CHAT, model="a-1", priority=1))
    assert refused(CHAT, drafter, model="b-1", priority=1) == "priority"


def test_what_steers_may_be_said_where_it_is_no_field_of_the_request() -> None:
    schema = {"type": "object", "properties": {name: {"type": "string"} for name in NAMED}}
    tools = [{"type": "function", "function": {"name": "f", "parameters": schema}}]
    draft(CHAT, drafter_of(), written(CHAT, tools=tools, metadata=dict.fromkeys(NAMED, "x")))


def test_a_field_that_comes_twice_says_what_was_counted() -> None:
    body = b'{"models":["other"],"x":"long",' + written(CHAT, models=None, x="short")[1:]
    drafter = drafter_of()
    request = LIMITED_ROUTES[CHAT].parse(body)
    sent = json.loads(drafter.draft(request, body).body, object_pairs_hook=lambda pairs: pairs)
    assert [value for name, value in sent if name == "models"] == [None]
    assert [value for name, value in sent if name == "x"] == ["short"]


def test_none_of_openais_fields_steers() -> None:
    for known in (known_fields.OF_CHAT, known_fields.OF_COMPLETION, known_fields.OF_RESPONSES_API):
        assert (STEERING | CONTAINERS) & known <= {"chat_template"}, "which is none of OpenAI's"


def test_the_mock_takes_anything() -> None:
    for path in VALID:
        draft(path, RequestDrafter(), written(path, models=["x"], extra_body={"models": 1}))


def test_tokens_that_are_to_be_echoed_are_for_the_service() -> None:
    body = written(COMPLETION, prompt=[1, 2, 3], echo=True)
    assert draft(COMPLETION, drafter_of(), body) == 3
    with pytest.raises(NotServed, match=r"Invalid 'echo': prompts given as tokens cannot be echoed\."):
        draft(COMPLETION, RequestDrafter(), body)
    assert draft(COMPLETION, RequestDrafter(), written(COMPLETION, prompt=["a"], echo=True)) == 1


# Patterns of models


def regex_matches(pattern: str, text: str) -> bool:
    """By all ways to cut `text`."""
    first, star, rest = pattern.partition("*")
    if not star:
        return text == pattern
    if not text.startswith(first):
        return False
    return any(regex_matches(rest, text[cut:]) for cut in range(len(first), len(text) + 1))


@given(st.text("ab*", max_size=6), st.text("ab\n", max_size=8))
def test_a_pattern_matches_as_it_reads(pattern: str, text: str) -> None:
    assert matches(pattern, text) == regex_matches(pattern, text)


@given(st.text("ab", max_size=3), st.text("ab", max_size=3), st.text("ab*", max_size=6))
def test_what_a_star_stands_for(first: str, last: str, between: str) -> None:
    pattern, text = f"{first}*{last}", first + between + last
    assert matches(pattern, text)
    assert starred(pattern, text) == between


def test_no_name_makes_a_pattern_slow() -> None:
    """By backtracking this would take years."""
    assert not matches("*a*a*a*a*b", "a" * 100_000)
    assert matches("*a*a*a*a", "a" * 100_000)
