"""What ``--help`` shows: every option in a group with its default, examples that parse; and shells complete."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys

import click
import cloup
import pytest

from bench_client import cli
from bench_client.command_line.help import as_typed, in_words

COMMANDS = sorted(cli.cli.commands)


def help_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli._run_cli([*arguments, "--help"]) == 0
    output = capsys.readouterr()
    assert output.err == ""
    return output.out


def sections(text: str) -> dict[str, dict[str, str]]:
    """Under each heading its rows: what is in the first column, up to a space, and the rest of the row in one line."""
    found: dict[str, dict[str, str]] = {}
    for part in re.split(r"^(?=\w[\w ]*:\n)", text, flags=re.MULTILINE)[1:]:
        heading, _, body = part.partition(":\n")
        rows = [" ".join(row.split()).partition(" ") for row in re.split(r"^  (?=\S)", body, flags=re.MULTILINE)]
        found[heading] = {name: rest for name, _, rest in rows}
    return found


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_in_a_group_with_its_help_and_default(capsys: pytest.CaptureFixture[str], name: str) -> None:
    command = cli.cli.commands[name]
    assert isinstance(command, cloup.Command)
    shown = sections(help_of(capsys, name))
    assert [option.name for option in command.ungrouped_options if not option.hidden] == []
    for group in command.option_groups:
        for option in group:
            assert option.help
            row = shown[group.title][option.opts[0]]
            assert option.help in row
            default = option.to_info_dict()["default"]
            has_default = isinstance(option.show_default, str) or (default is not None and default is not False)
            assert ("default: " in row) == has_default
            assert ("required]" in row) == option.required
    for argument in command.arguments:
        assert argument.make_metavar(click.Context(command)) in shown["Positional arguments"]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_group_lists_each_command_in_a_section(capsys: pytest.CaptureFixture[str], name: str) -> None:
    shown = sections(help_of(capsys))
    (section,) = [rows for rows in shown.values() if name in rows]
    assert section[name] == cli.cli.commands[name].short_help
    assert "Other commands" not in shown


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_the_examples_parse(capsys: pytest.CaptureFixture[str], name: str) -> None:
    text = help_of(capsys, *filter(None, [name]))
    examples = re.findall(r"^ *(bench-client .*)$", text.partition("Examples:")[2].replace("\\\n", " "), re.MULTILINE)
    assert examples
    for example in examples:
        words = shlex.split(example.partition("&&")[0])[1:]
        assert not name or words[0] == name
        command = cli.cli.commands[words[0]]
        with click.Context(cli.cli) as parent:
            context = command.make_context(words[0], words[1:], parent=parent)
        assert not context.args


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_fits_the_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    arguments = [name] if name else []
    narrow = help_of(capsys, *arguments)
    assert max(map(len, narrow.splitlines())) < 80
    monkeypatch.setenv("COLUMNS", "120")
    wide = help_of(capsys, *arguments)
    assert max(map(len, wide.splitlines())) <= 100
    assert len(wide.splitlines()) <= len(narrow.splitlines())
    assert narrow.count("environment") == (not name)


def test_without_a_command_help_is_shown_as_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli._run_cli([]) == 2
    assert "Send load:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("bounds", "words"),
    [
        (click.IntRange(1, 60_000), "1 to 60,000"),
        (click.IntRange(1), "at least 1"),
        (click.FloatRange(0, min_open=True), "above 0"),
        (click.FloatRange(0, 1e6, min_open=True), "above 0, at most 1,000,000"),
        (click.FloatRange(max=0.5, max_open=True), "below 0.5"),
        (click.FloatRange(0.1, 100), "0.1 to 100"),
        (click.FloatRange(), ""),
    ],
)
def test_ranges_in_words(bounds: click.FloatRange | click.IntRange, words: str) -> None:
    assert in_words(bounds) == words


def test_defaults_can_be_typed_as_they_are_shown() -> None:
    assert [as_typed(value) for value in (1e6, 0.0, 0.25, 500, "fixed:25")] == [
        "1000000",
        "0",
        "0.25",
        "500",
        "fixed:25",
    ]


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("bench-client ru", ["plain,run"]),
        ("bench-client run --arrivals ", ["plain,poisson", "plain,constant"]),
        ("bench-client run --keys ke", ["file,ke"]),
    ],
)
def test_shells_complete(typed: str, offered: list[str]) -> None:
    complete = {"_BENCH_CLIENT_COMPLETE": "bash_complete", "COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
    done = subprocess.run(
        [sys.executable, "-m", "bench_client"],
        env={**os.environ, **complete},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == offered
    assert done.stderr == ""
