"""What ``--help`` shows: each option in a group with its help and default, examples that parse; and shells complete."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator

import click
import cloup
import pytest

from limiter_node import cli


def commands(group: cloup.Group, path: str = "") -> Iterator[tuple[str, click.Command]]:
    """Each command by what is typed for it, groups included."""
    for name, command in group.commands.items():
        yield f"{path}{name}", command
        if isinstance(command, cloup.Group):
            yield from commands(command, f"{path}{name} ")


COMMANDS = dict(commands(cli.cli))


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def help_of(capsys: pytest.CaptureFixture[str], path: str) -> str:
    assert cli.run([*path.split(), "--help"]) == 0
    output = capsys.readouterr()
    assert output.err == ""
    return output.out


@pytest.mark.parametrize("path", COMMANDS)
def test_every_option_is_shown_with_help_and_default(capsys: pytest.CaptureFixture[str], path: str) -> None:
    command = COMMANDS[path]
    text = " ".join(help_of(capsys, path).replace("-\n", "-").split()).replace("- ", "-")
    for parameter in command.params:
        if not isinstance(parameter, click.Option) or parameter.hidden:
            continue
        assert parameter.help, f"{path} {parameter.opts[0]}"
        shown = text[text.index(f" {parameter.opts[0]} ") :]
        assert parameter.help.replace("- ", "-") in shown
        default = parameter.to_info_dict()["default"]
        if default not in (None, False, ""):
            typed = f"{default:g}" if isinstance(default, float) else str(default)
            assert f"default: {typed}" in shown
    if isinstance(command, cloup.Command) and len(command.params) > 5:
        assert [option.name for option in command.ungrouped_options if not option.hidden] == []


@pytest.mark.parametrize("path", ["", *COMMANDS])
def test_help_fits_the_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    assert max(map(len, help_of(capsys, path).splitlines())) < 80
    monkeypatch.setenv("COLUMNS", "200")
    wide = help_of(capsys, path)
    assert max(map(len, wide.splitlines())) <= 100
    assert "..." not in wide.replace("[ARGS]...", ""), "a command's line is cut"


@pytest.mark.parametrize("path", ["", *COMMANDS])
def test_the_examples_parse(capsys: pytest.CaptureFixture[str], path: str) -> None:
    typed = help_of(capsys, path).partition("Examples:")[2].replace("\\\n", " ")
    shell = r"^ *(?:LIMITER_\w+=\S+ |\w+=\$\(|.* \| )?(limiter-node .*?)\)?$"
    examples = re.findall(shell, typed, re.MULTILINE)
    assert examples or (path and COMMANDS[path].epilog is None)
    for example in examples:
        words = shlex.split(example)[1:]
        if "LIMITER_STORE=" in typed:
            words += ["--store", "redis://h"]
        command: click.Command = cli.cli
        while isinstance(command, click.Group):
            command = command.commands[words.pop(0)]
        with click.Context(cli.cli) as parent:
            assert not command.make_context(command.name, words, parent=parent).args


def test_every_command_is_in_a_section(capsys: pytest.CaptureFixture[str]) -> None:
    assert "Other commands" not in help_of(capsys, "")


@pytest.mark.parametrize(
    ("typed", "completed"),
    [("limiter-node se", "serve"), ("limiter-node keys ge", "generate"), ("limiter-node u", "up")],
)
def test_shells_complete(typed: str, completed: str) -> None:
    environment = {
        **os.environ,
        "_LIMITER_NODE_COMPLETE": "bash_complete",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(len(typed.split()) - 1),
    }
    done = subprocess.run(
        [sys.executable, "-m", "limiter_node"], env=environment, capture_output=True, text=True, timeout=30
    )
    assert done.stdout.split() == [f"plain,{completed}"]
    assert done.stderr == ""
