"""Settings from the environment that cannot be: the message names the variable, and no option that nobody typed."""

from __future__ import annotations

from pathlib import Path

import pytest

from limiter_node import cli


@pytest.mark.parametrize("command", ["serve", "up"])
@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("LIMITER_PORT", "x", "Invalid value for LIMITER_PORT: 'x' is not a valid integer"),
        ("LIMITER_MAX_BODY_BYTES", "1", "LIMITER_MAX_BODY_BYTES must be from 1024 to"),
        ("LIMITER_DRAIN_TIMEOUT", "-1", "LIMITER_DRAIN_TIMEOUT must be from 0 to 3600"),
        ("LIMITER_ON_STORE_FAILURE", "lax", "LIMITER_ON_STORE_FAILURE must be one of local, closed, open"),
        ("LIMITER_UPSTREAM_CAP", "maybe", "Invalid value for LIMITER_UPSTREAM_CAP: "),
        ("LIMITER_LOG_FORMAT", "xml", "LIMITER_LOG_FORMAT must be one of text, json"),
        ("LIMITER_CORS_ORIGINS", "app", "LIMITER_CORS_ORIGINS must be origins as browsers send them"),
        ("LIMITER_TLS_CERT", "/nowhere", "LIMITER_TLS_CERT and --tls-key need each other: give both or neither"),
        ("LIMITER_KEYS", "/nowhere/keys.toml", "LIMITER_KEYS: /nowhere/keys.toml: No such file or directory"),
        ("LIMITER_UPSTREAMS", "/nowhere/up.toml", "LIMITER_UPSTREAMS: /nowhere/up.toml: No such file or directory"),
        ("LIMITER_STORE", "nowhere", "LIMITER_STORE must be a URL"),
    ],
)
def test_the_variable_is_named(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    variable: str,
    value: str,
    message: str,
) -> None:
    monkeypatch.setenv(variable, value)
    arguments = [] if variable == "LIMITER_STORE" else ["--store", "redis://127.0.0.1:1"]
    assert cli.run([command, *arguments]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith(f"error: {message}"), errors
    assert errors.count("\n") == 1


def test_what_was_typed_is_named_as_it_was(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("LIMITER_DRAIN_TIMEOUT", "-1")
    assert cli.run(["serve", "--store", "redis://127.0.0.1:1", "--drain-timeout", "-2"]) == 2
    assert capsys.readouterr().err.startswith("error: --drain-timeout must be")


def test_a_line_of_the_file_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text('[keys."sk-a"]\nrpm = -1\n')
    monkeypatch.setenv("LIMITER_KEYS", str(keys))
    assert cli.run(["up"]) == 2
    assert capsys.readouterr().err.startswith(f"error: LIMITER_KEYS: {keys}, line 2: key ")


def test_commands_of_groups_name_it_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("LIMITER_COUNT", "0")
    assert cli.run(["keys", "generate", "--out", "/nowhere/keys.toml"]) == 2
    assert capsys.readouterr().err.startswith("error: LIMITER_COUNT must be from 1 to ")
    monkeypatch.setenv("LIMITER_RPM", "-1")
    assert cli.run(["keys", "set", "sk-a", "--store", "redis://127.0.0.1:1"]) == 2
    assert capsys.readouterr().err.startswith("error: Invalid value for LIMITER_RPM: rpm must be an integer from 0 to ")
