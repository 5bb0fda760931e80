"""Remembers which options came from the environment, so that an error message names the variable instead of an option
that nobody typed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import click

from limiter_node.errors import LimiterError

_META = "limiter_node.environment"


class _Given(NamedTuple):
    flag: str
    variable: str
    value: str


def remember(ctx: click.Context, flag: str, variable: str, value: str) -> None:
    """Remember that the option `flag` has its value from `variable`."""
    ctx.meta.setdefault(_META, []).append(_Given(flag, variable, value))


@contextmanager
def named_by_variable(ctx: click.Context) -> Iterator[None]:
    """Replace options by their variables in the message of any LimiterError that leaves the block."""
    try:
        yield
    except LimiterError as error:
        message = str(error)
        for flag, variable, value in ctx.meta.get(_META, ()):
            named = re.sub(rf"(?<![\w-]){re.escape(flag)}(?![\w-])", variable, message)
            if named == message and value and re.match(rf"{re.escape(value)}[:, ]", message):
                named = f"{variable}: {message}"  # for example, about the file of that name
            message = named
        error.args = (message,)
        raise
