"""The services that settings and files name: what they mean, what is refused, and that nothing shows a key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from yarl import URL

from limiter_node.errors import ConfigError
from limiter_node.settings import NodeSettings
from limiter_node.upstream.gateway.service import Service
from limiter_node.upstreamsfile import KEY_VARIABLE, read_upstreams, services_of

SECRET = "sk-secret-1234"
ENVIRON = {"OPENAI_API_KEY": SECRET, "EMPTY": "", "SPACED": f"{SECRET} x", "UMLAUT": f"{SECRET}ü"}


def read(tmp_path: Path, text: str | bytes, environ: Mapping[str, str] = ENVIRON) -> Sequence[Service]:
    path = tmp_path / "upstreams.toml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_upstreams(str(path), environ)


def read_one(tmp_path: Path, fields: str) -> Service:
    (service,) = read(tmp_path, f"[[upstreams]]\n{fields}")
    return service


def test_a_file_is_understood(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "local").write_text(" sk-from-file \n")
    services = read(
        tmp_path,
        """
        [[upstreams]]
        name = "openai"
        url = "https://api.openai.com/v1/"
        models = ["gpt-*", "o1"]
        key_env = "OPENAI_API_KEY"

        [[upstreams]]
        name = "local"
        urls = ["http://10.0.0.1:8000/v1", "http://10.0.0.2:8000/v1"]
        models = ["*"]
        rename = { fast = "llama-3.1-8b", "local/*" = "*" }
        key_file = "keys/local"
        enforce_cap = false
        cap_field = "max_completion_tokens"
        ask_usage = false
        extra_fields = ["guided_json", "priority"]

        [[upstreams]]
        url = "https://host/v1"
        forward_key = true
        """,
    )
    assert services == [
        Service(
            name="openai",
            urls=(URL("https://api.openai.com/v1"),),
            models=("gpt-*", "o1"),
            key=SECRET,
            cap_field="max_completion_tokens",
        ),
        Service(
            name="local",
            urls=(URL("http://10.0.0.1:8000/v1"), URL("http://10.0.0.2:8000/v1")),
            rename=(("fast", "llama-3.1-8b"), ("local/*", "*")),
            key="sk-from-file",
            enforces_cap=False,
            cap_field="max_completion_tokens",
            asks_usage=False,
            extra_fields=frozenset(("guided_json", "priority")),
        ),
        Service(name="host:443", urls=(URL("https://host/v1"),), forwards_key=True),
    ]
    assert "sk-" not in repr(services)


def test_what_is_not_said_has_a_default(tmp_path: Path) -> None:
    service = read_one(tmp_path, 'url = "http://[::1]:8000"')
    assert service == Service(
        name="::1:8000",
        urls=(URL("http://[::1]:8000/"),),
        models=("*",),
        rename=(),
        key="",
        forwards_key=False,
        enforces_cap=True,
        cap_field="max_tokens",
        asks_usage=True,
    )


def test_a_key_file_may_be_anywhere(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    key_file = tmp_path / "elsewhere" / "key"
    key_file.write_text(SECRET)
    assert read_one(tmp_path, f'url = "http://h"\nkey_file = "{key_file}"').key == SECRET


VALID = 'url = "http://host/v1"\n'


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("", "give either url, or urls for several addresses of one service"),
        ('url = "http://a"\nurls = ["http://b"]', "give either url, or urls for several"),
        (
            f'{VALID}key = "{SECRET}"',
            "unknown field 'key': known are ask_usage, cap_field, enforce_cap, extra_fields",
        ),
        (f'{VALID}Models = ["a"]', "unknown field 'Models'"),
        (f'{VALID}"{"x" * 100}" = 1', f"unknown field '{'x' * 32}': "),
        (f'{VALID}"a\\nb" = 1', "unknown field 'a\\nb'"),
        ("url = 1", "url must be a non-empty string"),
        ('url = ""', "url must be a non-empty string"),
        ('url = ["http://a"]', "url must be a non-empty string"),
        ('url = "http://host/\\n"', "url must be a non-empty string of printable characters"),
        ("urls = []", "urls must be a non-empty list of non-empty strings"),
        ('urls = "http://a"', "urls must be a non-empty list of non-empty strings"),
        ("urls = [1]", "urls must be a non-empty list of non-empty strings"),
        ('urls = ["http://a", ""]', "urls must be a non-empty list of non-empty strings"),
        ('urls = ["http://a", "ftp://b"]', "an upstream's URL must be http://… or https://…"),
        ('urls = ["http://a/v1", "http://b", "http://A:80/v1/"]', "urls has the same URL twice"),
        (f'url = "https://user:{SECRET}@host/v1"', "an upstream's URL must not hold a user or a password"),
        (f'url = "https://user:{SECRET}#@host/v1"', "an upstream's URL cannot be read"),
        ('url = "host/v1"', "an upstream's URL must be http://… or https://…"),
        (f'{VALID}name = ""', "name must be a non-empty string"),
        (f"{VALID}name = 1", "name must be a non-empty string"),
        (f'{VALID}name = "a\\nb"', "name must be a non-empty string of printable characters"),
        (f'{VALID}name = "{"x" * 65}"', "name must be at most 64 printable characters"),
        (f'{VALID}models = "*"', "models must be a non-empty list of non-empty strings"),
        (f"{VALID}models = []", "models must be a non-empty list of non-empty strings"),
        (f'{VALID}models = [""]', "models must be a non-empty list of non-empty strings"),
        (f"{VALID}models = [1]", "models must be a non-empty list of non-empty strings"),
        (f'{VALID}models = ["*a*b*c*d*"]', "models: a pattern may have at most four *"),
        (f'{VALID}rename = "a"', 'rename must be a table of names, as { fast = "llama-3.1-8b" }'),
        (f"{VALID}rename = {{ a = 1 }}", "rename must be a table of names"),
        (f'{VALID}rename = {{ a = "" }}', "rename must be a table of names"),
        (f'{VALID}rename = {{ a.b = "c" }}', "rename must be a table of names"),
        (f'{VALID}rename = {{ "*a*" = "b" }}', "rename: a name may have one *"),
        (f'{VALID}rename = {{ "a" = "b*" }}', "rename: a name may have one *"),
        (f'{VALID}rename = {{ "a*" = "*b*" }}', "rename: a name may have one *"),
        (f'{VALID}key_env = "OPENAI_API_KEY"\nkey_file = "k"', "key_env and key_file: give one of them"),
        (f"{VALID}key_env = 1", "key_env must be a non-empty string"),
        (f'{VALID}key_env = ""', "key_env must be a non-empty string"),
        (f'{VALID}key_env = "A\\nB"', "key_env must be a non-empty string of printable characters"),
        (f'{VALID}key_env = "UNSET"', "key_env: UNSET is not set in the environment"),
        (f'{VALID}key_env = "EMPTY"', "key_env: EMPTY is not set in the environment"),
        (f'{VALID}key_env = "SPACED"', "SPACED: a key is printable ASCII without spaces, at most 8,000 characters"),
        (f'{VALID}key_env = "UMLAUT"', "UMLAUT: a key is printable ASCII without spaces, at most 8,000 characters"),
        (f"{VALID}key_file = true", "key_file must be a non-empty string"),
        (f'{VALID}key_file = "a\\u0000b"', "key_file must be a non-empty string of printable characters"),
        (f'{VALID}key_file = "none"', "/none: No such file or directory"),
        (f'{VALID}key_file = "."', ": Is a directory"),
        (f'{VALID}key_file = "empty.key"', "/empty.key: the file holds no key"),
        (f'{VALID}key_file = "two.key"', "/two.key: a key is printable ASCII without spaces, at most 8,000 characters"),
        (f'{VALID}key_file = "long.key"', "/long.key: a key is printable ASCII"),
        (f'{VALID}key_file = "binary.key"', "/binary.key: cannot be read"),
        (f'{VALID}key_env = "OPENAI_API_KEY"\nforward_key = true', "forward_key sends the caller's key: leave key_env"),
        (f"{VALID}forward_key = 1", "forward_key must be true or false"),
        (f'{VALID}enforce_cap = "yes"', "enforce_cap must be true or false"),
        (f"{VALID}ask_usage = 0", "ask_usage must be true or false"),
        (f'{VALID}cap_field = "max_output_tokens"', "cap_field must be one of max_tokens, max_completion_tokens"),
        (f"{VALID}cap_field = []", "cap_field must be one of"),
        (f'{VALID}extra_fields = "priority"', "extra_fields must be a non-empty list of non-empty strings"),
        (f"{VALID}extra_fields = [1]", "extra_fields must be a non-empty list of non-empty strings"),
        (f'{VALID}extra_fields = ["priority", "messages"]', "extra_fields: 'messages' decides what a request costs"),
        (f'{VALID}extra_fields = ["n_predict"]', "extra_fields: 'n_predict' decides what a request costs"),
    ],
)
def test_a_wrong_service_is_refused_in_one_line_without_a_key(tmp_path: Path, fields: str, message: str) -> None:
    (tmp_path / "empty.key").write_text(" \n")
    (tmp_path / "two.key").write_text(f"{SECRET}\n{SECRET}\n")
    (tmp_path / "long.key").write_text(SECRET + "x" * 8_000)
    (tmp_path / "binary.key").write_bytes(SECRET.encode() + b"\xff")
    with pytest.raises(ConfigError) as error:
        read(tmp_path, f'[[upstreams]]\nname = "first"\nurl = "http://first"\n[[upstreams]]\n{fields}')
    assert message in str(error.value)
    assert str(error.value).startswith(f"{tmp_path / 'upstreams.toml'}: upstream 2: ")
    assert "\n" not in str(error.value)
    assert "secret" not in str(error.value)


ONE_TABLE_EACH = "write one [[upstreams]] table for each service, and nothing else"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ONE_TABLE_EACH),
        ("upstreams = []", ONE_TABLE_EACH),
        ("upstreams = 1", ONE_TABLE_EACH),
        ("upstreams = [1]", ONE_TABLE_EACH),
        ('[upstreams]\nurl = "http://h"', ONE_TABLE_EACH),
        ('[[upstream]]\nurl = "http://h"', ONE_TABLE_EACH),
        (f'key = "{SECRET}"\n[[upstreams]]\n{VALID}', ONE_TABLE_EACH),
        (
            '[[upstreams]]\nurl = "http://h/a"\n[[upstreams]]\nurl = "http://h/b"',
            "two upstreams are called 'h:80': give",
        ),
        (f"[[upstreams]]\nkey = {SECRET}", "not TOML: Invalid value (at line 2, column 7)"),
        (f'[[upstreams]]\nkey = "{SECRET}', "not TOML: Unterminated string"),
        (b"[[upstreams]]\nurl = '\xff'", "not TOML: "),
        ("upstreams = " + "[" * 5_000, "not TOML: "),
    ],
)
def test_a_wrong_file_is_refused_in_one_line_without_a_key(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        read(tmp_path, text)
    assert str(error.value).startswith(f"{tmp_path / 'upstreams.toml'}: {message}")
    assert "\n" not in str(error.value)
    assert "secret" not in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: No such file or directory"):
        read_upstreams(str(tmp_path / "none.toml"), {})


# Settings


def settings_of(**values: Any) -> NodeSettings:
    return NodeSettings(**{"store": "redis://127.0.0.1"} | values)


URL_SETTING = {"upstream": "https://api.openai.com/v1/"}


def test_without_an_upstream_there_is_none() -> None:
    assert services_of(settings_of(), {KEY_VARIABLE: SECRET}) == ()


def test_one_upstream_by_its_url() -> None:
    (service,) = services_of(settings_of(**URL_SETTING), {})
    assert service == Service(
        name="upstream", urls=(URL("https://api.openai.com/v1"),), cap_field="max_completion_tokens"
    )
    (service,) = services_of(settings_of(upstream="http://h:8000", upstream_cap=False), {})
    assert service == Service(name="upstream", urls=(URL("http://h:8000/"),), enforces_cap=False)


def test_its_key_is_from_the_environment_or_a_file_which_goes_first(tmp_path: Path) -> None:
    (service,) = services_of(settings_of(**URL_SETTING), {KEY_VARIABLE: SECRET})
    assert service.key == SECRET
    assert SECRET not in repr(service)
    key_file = tmp_path / "key"
    key_file.write_text("sk-from-file\n")
    settings = settings_of(**URL_SETTING, upstream_key_file=str(key_file))
    for environ in ({}, {KEY_VARIABLE: SECRET}, {KEY_VARIABLE: "not a key"}):
        (service,) = services_of(settings, environ)
        assert service.key == "sk-from-file"


def test_callers_keys_are_sent_in_its_place() -> None:
    (service,) = services_of(settings_of(**URL_SETTING, upstream_forward_key=True), {KEY_VARIABLE: ""})
    assert (service.key, service.forwards_key) == ("", True)


def test_several_upstreams_by_a_file(tmp_path: Path) -> None:
    path = tmp_path / "upstreams.toml"
    path.write_text(f'[[upstreams]]\n{VALID}key_env = "A"')
    (service,) = services_of(settings_of(upstreams=str(path)), {"A": "sk-a", KEY_VARIABLE: SECRET})
    assert (service.name, service.key) == ("host:80", "sk-a")


@pytest.mark.parametrize(
    ("values", "key", "message"),
    [
        ({"upstream_forward_key": True}, SECRET, "--upstream-forward-key and a key for --upstream: give one of them"),
        ({}, f"{SECRET} ", f"{KEY_VARIABLE}: a key is printable ASCII without spaces, at most 8,000 characters"),
        ({}, f"{SECRET}\r\nX: 1", f"{KEY_VARIABLE}: a key is printable ASCII without spaces, at most 8,000 characters"),
        ({}, f"{SECRET}\x00", f"{KEY_VARIABLE}: a key is printable ASCII without spaces, at most 8,000 characters"),
        ({"upstream_key_file": "/none/key"}, "", "/none/key: No such file or directory"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(values: dict[str, Any], key: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        services_of(settings_of(**URL_SETTING, **values), {KEY_VARIABLE: key})
    assert str(error.value) == message
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"upstream": "host/v1"}, "an upstream's URL must be http://… or https://… with a host, as https://HOST/v1"),
        ({"upstream": f"http://u:{SECRET}@h"}, "an upstream's URL must not hold a user or a password: give its key"),
        ({"upstream": "http://a\\b"}, "an upstream's URL cannot be read"),
        ({**URL_SETTING, "upstreams": "a"}, "--upstream and --upstreams exclude each other: give one of them"),
        ({"upstream_key_file": "a"}, "--upstream-key-file and --upstream-forward-key need --upstream"),
        ({"upstream_forward_key": True}, "--upstream-key-file and --upstream-forward-key need --upstream"),
        ({"upstreams": "a", "upstream_key_file": "b"}, "--upstream-key-file and --upstream-forward-key need"),
        ({"upstream_connect_timeout_s": 0}, "--upstream-connect-timeout must be from 0.05"),
        ({"upstream_read_timeout_s": float("nan")}, "--upstream-read-timeout must be from 0.05"),
        ({"upstream_keepalive_timeout_s": 0}, "--upstream-keepalive-timeout must be from 0.1"),
    ],
)
def test_settings_that_cannot_be_are_refused_in_one_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        settings_of(**values)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)
    assert "secret" not in str(error.value)


def test_the_example_in_the_documents_is_one(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "gateway.md").read_text("utf-8")
    example = page.partition("# upstreams.toml")[2].partition("```")[0]
    key = tmp_path / "key"
    key.write_text("sk-1\n")
    file = tmp_path / "upstreams.toml"
    file.write_text("#" + example.replace("/run/secrets/openai", str(key)))
    vllm, openai = read_upstreams(str(file), {"VLLM_KEY": "sk-2"})
    assert (vllm.name, len(vllm.urls), vllm.key, vllm.renamed("fast")) == ("vllm", 2, "sk-2", "llama-3.1-8b-instruct")
    assert (openai.name, openai.key, openai.cap_field) == ("api.openai.com:443", "sk-1", "max_completion_tokens")
