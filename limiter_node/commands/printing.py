"""Prints for commands: lines, JSON, views, changes, and a new secret.

A secret is printed once, when it is made, and alone on stdout, so that ``KEY=$(limiter-node keys create …)`` works.
Everything else about it is on stderr.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from limiter_node.changes import Change
from limiter_node.management.views import Made

_View = TypeVar("_View")


def warn(text: str) -> None:
    """Print a warning on stderr."""
    click.echo(f"warning: {text}", err=True)


def print_lines(lines: Sequence[str]) -> None:
    """Print lines; a character that the terminal's encoding lacks becomes ``?``."""
    encoding = sys.stdout.encoding or "ascii"
    for line in lines:
        click.echo(line.encode(encoding, "replace").decode(encoding))


def print_json(value: Any) -> None:
    """Print a JSON document of views and changes, and of lists and tables of them."""
    click.echo(json.dumps(_to_json(value), indent=2, ensure_ascii=False))


def print_view(view: _View, to_lines: Callable[[_View], Sequence[str]], *, as_json: bool) -> None:
    """Print a view, or a list of views."""
    if as_json:
        print_json(view)
    else:
        print_lines(to_lines(view))


def print_changes(changes: Sequence[Change], *, as_json: bool) -> None:
    """Print a line per change."""
    print_view(changes, lambda them: [_line(each) for each in them], as_json=as_json)


def print_change(change: Change, *, as_json: bool) -> None:
    """Print one change."""
    print_view(change, lambda it: [_line(it)], as_json=as_json)


def print_made(made: Made, *, as_json: bool) -> None:
    """Print a new credential: its secret on stdout, unless it was made elsewhere, and what it belongs to on stderr."""
    if as_json:
        print_json(made)
    elif made.secret is None:
        print_lines([made.change.line()])
    else:
        click.echo(made.change.line(), err=True)
        click.echo("This is the only time that its secret is shown:", err=True)
        click.echo(made.secret)


def _line(change: Change) -> str:
    is_change = change.before or change.after or change.action in ("created", "deleted")
    return change.line() if is_change else f"nothing to change: {change.kind} {change.who} is so already"


def _to_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _to_json(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json(each) for each in value]
    return value.to_json() if hasattr(value, "to_json") else value
