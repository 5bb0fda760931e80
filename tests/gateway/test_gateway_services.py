"""Which service has a model and under which name, and what a base URL may be."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from yarl import URL

from limiter_node.addresses import base_url
from limiter_node.errors import ConfigError
from limiter_node.upstream.gateway.service import ModelRoute, Service, Services, cap_field_of


def service_of(name: str = "s", **values: Any) -> Service:
    return Service(**{"name": name, "urls": (URL("http://127.0.0.1:1/v1"),)} | values)


# Models


@pytest.mark.parametrize(
    ("pattern", "model", "is_served"),
    [
        ("*", "gpt-4o", True),
        ("*", "", True),
        ("*", "a\nb", True),
        ("gpt-4o", "gpt-4o", True),
        ("gpt-4o", "gpt-4o-mini", False),
        ("gpt-4o", "my-gpt-4o", False),
        ("gpt-4o", "gpt-4o\n", False),
        ("gpt-4o", "GPT-4o", False),
        ("gpt-*", "gpt-4o", True),
        ("gpt-*", "gpt-", True),
        ("gpt-*", "gpt", False),
        ("*/llama*", "meta/llama-3.1", True),
        ("*/llama*", "llama-3.1", False),
        ("a.b", "axb", False),
        ("a[b]+c?", "a[b]+c?", True),
        ("a[b]+c?", "abc", False),
        ("a\\*", "a\\b", True),
        ("a\\*", "ab", False),
        ("", "", True),
        ("", "a", False),
    ],
)
def test_a_star_stands_for_any_characters_and_nothing_else_does(pattern: str, model: str, is_served: bool) -> None:
    assert service_of(models=(pattern,)).serves(model) is is_served


def test_one_of_the_patterns_is_enough() -> None:
    service = service_of(models=("gpt-*", "o1"))
    assert [model for model in ("gpt-4o", "o1", "o1-mini", "llama") if service.serves(model)] == ["gpt-4o", "o1"]
    assert not service_of(models=()).serves("a")


@pytest.mark.parametrize(
    ("rename", "model", "name"),
    [
        ((), "fast", "fast"),
        ((("fast", "llama-8b"),), "fast", "llama-8b"),
        ((("fast", "llama-8b"),), "faster", "faster"),
        ((("fast", "a"), ("fast", "b")), "fast", "a"),
        ((("fast", "slow"), ("slow", "x")), "fast", "slow"),
        ((("local/*", "*"),), "local/llama", "llama"),
        ((("local/*", "*"),), "local/", ""),
        ((("*", "ns/*"),), "llama", "ns/llama"),
        ((("*", "ns/*-it"),), "a*b", "ns/a*b-it"),
        ((("gpt-*", "llama"),), "gpt-4o", "llama"),
        ((("gpt-*", "llama-*"), ("*", "other")), "o1", "other"),
    ],
)
def test_models_have_other_names_there(rename: tuple[tuple[str, str], ...], model: str, name: str) -> None:
    assert service_of(rename=rename).renamed(model) == name


def test_the_first_service_that_has_a_model_serves_it() -> None:
    first = service_of("first", models=("gpt-4o", "local/*"), rename=(("local/*", "*"),))
    second = service_of("second", models=("gpt-*",))
    third = service_of("third", models=("gpt-4o", "llama"))
    services = Services([first, second, third])
    assert services.all == (first, second, third)
    for _ in range(2):  # found, and remembered
        assert services.find("gpt-4o") == ModelRoute(first, "gpt-4o")
        assert services.find("gpt-4o-mini") == ModelRoute(second, "gpt-4o-mini")
        assert services.find("llama") == ModelRoute(third, "llama")
        assert services.find("local/llama") == ModelRoute(first, "llama")
        assert services.find("o1") is None
    assert Services([]).find("gpt-4o") is None


def test_what_is_remembered_of_models_is_bounded() -> None:
    services = Services([service_of(models=("a*",))])
    for number in range(3_000):
        assert services.find(f"a{number}") is not None
        assert services.find(f"b{number}") is None
    assert services.find.cache_info().currsize <= 1_024


@pytest.mark.parametrize(
    ("models", "rename", "offered"),
    [
        (("*",), (), ["llama-8b", "llama-70b"]),
        (("llama-7*",), (), ["llama-70b"]),
        (("gpt-4o", "llama-8b"), (), ["gpt-4o", "llama-8b"]),
        (("fast",), (("fast", "llama-8b"),), ["fast"]),
        (("*",), (("fast", "llama-8b"),), ["fast", "llama-8b", "llama-70b"]),
        (("local/*",), (("local/*", "*"),), ["local/llama-8b", "local/llama-70b"]),
        (("*",), (("big-*", "llama-7*"),), ["llama-8b", "big-0b", "llama-70b"]),
        (("x*",), (("fast", "llama-8b"),), []),
    ],
)
def test_callers_are_offered_names_that_they_can_use(
    models: tuple[str, ...], rename: tuple[tuple[str, str], ...], offered: list[str]
) -> None:
    service = service_of(models=models, rename=rename)
    names = list(dict.fromkeys(service.offered(["llama-8b", "llama-70b"])))
    assert names == offered
    assert all(service.serves(name) for name in names)


def test_no_name_is_offered_of_nothing() -> None:
    assert service_of().offered([]) == []


def test_a_key_is_not_shown() -> None:
    assert "sk-secret" not in repr(service_of(key="sk-secret"))


# Base URLs


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://api.openai.com/v1", "https://api.openai.com/v1"),
        ("https://api.openai.com/v1/", "https://api.openai.com/v1"),
        ("https://api.openai.com/v1///", "https://api.openai.com/v1"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/"),
        ("http://[::1]:8000/v1", "http://[::1]:8000/v1"),
        ("HTTPS://Host/V1", "https://host/V1"),
        ("https://h/openai?api-version=2024-10-21", "https://h/openai?api-version=2024-10-21"),
        ("http://h/a%2Fb/%20c/", "http://h/a%2Fb/%20c"),
        ("http://bücher.example/v1", "http://xn--bcher-kva.example/v1"),
    ],
)
def test_a_base_url_is_kept_without_its_last_slash(text: str, url: str) -> None:
    assert str(base_url(text)) == url


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must be http://… or https://… with a host, as https://HOST/v1"),
        ("api.openai.com/v1", "must be http://… or https://…"),
        ("localhost:8000/v1", "must be http://… or https://…"),
        ("//host/v1", "must be http://… or https://…"),
        ("ftp://host/v1", "must be http://… or https://…"),
        ("file:///etc/passwd", "must be http://… or https://…"),
        ("http://", "must be http://… or https://…"),
        ("http:///v1", "must be http://… or https://…"),
        ("https://:443/v1", "must be http://… or https://…"),
        ("http://host:0/v1", "must be http://… or https://…"),
        ("http://host:99999/v1", "cannot be read"),
        ("http://host:port/v1", "cannot be read"),
        ("http://[::1/v1", "cannot be read"),
        ("http://a\\b/v1", "cannot be read"),
        ("http://xn--.com/v1", "cannot be read"),
        (f"http://{'ü' * 70}.com/v1", "cannot be read"),
        ("https://user@host/v1", "must not hold a user or a password: give its key by file or environment"),
        ("https://user:hunter2@host/v1", "must not hold a user or a password"),
        ("https://:hunter2@host/v1", "must not hold a user or a password"),
        ("https://@host/v1", "must not hold a user or a password"),
        ("https://user:hunter2#@host/v1", "cannot be read"),
        ("https://user:hunter2@host:port/v1", "cannot be read"),
        ("ftp://user:hunter2@host/v1", "must be http://… or https://…"),
        ("user:hunter2@host/v1", "must be http://… or https://…"),
        ("https://host/v1#a", "must have no fragment and no spaces"),
        ("https://host/v 1", "must have no fragment and no spaces"),
        (" https://host/v1", "must have no fragment and no spaces"),
        ("https://host/v1\n", "must have no fragment and no spaces"),
        ("https://host/\x00", "must have no fragment and no spaces"),
    ],
)
def test_what_is_no_base_url_is_refused_in_one_line_without_a_password(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        base_url(text)
    assert message in str(error.value)
    assert str(error.value).startswith("an upstream's URL ")
    assert "\n" not in str(error.value)
    assert "hunter2" not in str(error.value)


@given(st.text(st.characters(), max_size=20) | st.text("/:@[]%.\\#?a1é\u2024\u00ad -", max_size=20))
@example("a\\b")
@example("xn--.com")
def test_any_text_is_a_base_url_or_refused(rest: str) -> None:
    for text in (rest, "http://" + rest, "https://h/" + rest):
        try:
            url = base_url(text)
        except ConfigError:
            continue
        assert url.scheme in ("http", "https")
        assert url.host
        assert url.port
        assert url.user is url.password is None
        assert not url.fragment
        assert str(url.joinpath("models")).isprintable()


# What a cap is called


@pytest.mark.parametrize(
    ("urls", "name"),
    [
        (["https://api.openai.com/v1"], "max_completion_tokens"),
        (["https://eu.api.openai.com/v1", "https://us.api.openai.com/v1"], "max_completion_tokens"),
        (["https://openai.com/v1"], "max_completion_tokens"),
        (["https://name.openai.azure.com/openai/v1"], "max_completion_tokens"),
        (["https://name.services.ai.azure.com/openai/v1"], "max_completion_tokens"),
        (["https://api.openai.com/v1", "http://127.0.0.1:8000/v1"], "max_tokens"),
        (["http://127.0.0.1:8000/v1"], "max_tokens"),
        (["https://api.mistral.ai/v1"], "max_tokens"),
        (["https://api.openai.com.example/v1"], "max_tokens"),
        (["https://notopenai.com/v1"], "max_tokens"),
        (["https://host/openai.com"], "max_tokens"),
    ],
)
def test_openais_own_services_know_the_newer_name(urls: list[str], name: str) -> None:
    assert cap_field_of([base_url(url) for url in urls]) == name
