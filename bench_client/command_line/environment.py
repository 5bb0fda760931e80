"""Options from the environment: chooses the variable of an option, and names it in error messages."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import cloup
from click.core import ParameterSource
from click.types import OptionHelpExtra

from bench_client.command_line.help import as_typed, in_words
from bench_client.errors import BenchError

PREFIX = "BENCH"


class EnvOption(cloup.Option):
    """Read ``BENCH_<COMMAND>_<OPTION>``, then ``BENCH_<OPTION>``, named as the option is on the command line.

    click's own variables are named after the Python parameter, and have only the first form. The help shows default and
    range in words; errors name the variable that holds a wrong value.
    """

    @property
    def typed(self) -> str:
        """Return the option as it is typed on the command line."""
        return max(self.opts, key=len)

    def variable(self, ctx: click.Context) -> str | None:
        """Return the variable that is read, or None if none is set."""
        name = self.typed.lstrip("-").replace("-", "_").upper()
        variables = (f"{prefix}_{name}" for prefix in (ctx.auto_envvar_prefix, PREFIX))
        return next((variable for variable in variables if os.environ.get(variable)), None)

    def is_from_environment(self, ctx: click.Context) -> bool:
        """Return whether the value came from a variable: the command line takes precedence."""
        return ctx.get_parameter_source(self.name or "") is ParameterSource.ENVIRONMENT

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        variable = self.variable(ctx)
        return os.environ[variable] if variable else None

    def get_error_hint(self, ctx: click.Context | None) -> str:
        if ctx is not None and self.is_from_environment(ctx):
            return f"'{self.variable(ctx)}' in the environment"
        return super().get_error_hint(ctx)

    def get_help_extra(self, ctx: click.Context) -> OptionHelpExtra:
        extra = super().get_help_extra(ctx)
        if isinstance(self.show_default, str):
            extra["default"] = self.show_default
        elif "default" in extra:
            extra["default"] = as_typed(self.default)
        if isinstance(self.type, (click.FloatRange, click.IntRange)):
            extra["range"] = in_words(self.type)
        return extra


class EnvCommand(cloup.Command):
    """Name the options that came from the environment in a command's errors."""

    def invoke(self, ctx: click.Context) -> Any:
        values = dict(ctx.params)  # a command may take its options apart
        try:
            return super().invoke(ctx)
        except BenchError as error:
            said = ", ".join(self._blamed(ctx, values, str(error)))
            if not said:
                raise
            raise type(error)(f"{error} ({said})") from None

    def _blamed(self, ctx: click.Context, values: dict[str, Any], message: str) -> Iterator[str]:
        for option in self.params:
            if not isinstance(option, EnvOption) or not option.is_from_environment(ctx):
                continue
            value = values.get(option.name or "")
            texts = [str(each) for each in (value if isinstance(value, tuple) else (value,)) if _is_text(each)]
            is_named = re.search(rf"(?<!\S){option.typed}(?![\w-])", message) is not None
            if is_named or any(text in message for text in texts):
                yield f"{option.typed} is from {option.variable(ctx)}"


def _is_text(value: object) -> bool:
    """Return whether a value is too long to be in a message by chance; a number may be in any."""
    return isinstance(value, (str, Path)) and len(str(value)) > 2
