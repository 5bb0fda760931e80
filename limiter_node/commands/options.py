"""Options, each also read from the environment; the fields of `limiter_node.settings` become a node's options."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar

import click
import cloup
from click.core import ParameterSource
from click.types import OptionHelpExtra

from limiter_node.commands.environment import remember
from limiter_node.http.admin.token_file import read_token
from limiter_node.http.server.tls import server_context
from limiter_node.settings import GROUPS, NodeSettings

ENVIRONMENT_PREFIX = "LIMITER_"

_Command = TypeVar("_Command", bound=Callable[..., Any])


class _Option(cloup.Option):
    """Read an option from the command line, then from LIMITER_<NAME> or from its own `envvar`.

    Its help shows the default as it would be typed, and the range in words.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        (flag,) = self.opts
        if self.envvar is None:
            self.envvar = ENVIRONMENT_PREFIX + flag.removeprefix("--").replace("-", "_").upper()

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        value = super().resolve_envvar_value(ctx)
        # Kubernetes sets LIMITER_PORT=tcp://… in every container if there is a Service called "limiter".
        if value is not None and value.startswith("tcp://"):
            return None
        return value

    def consume_value(self, ctx: click.Context, opts: Mapping[str, Any]) -> tuple[Any, ParameterSource]:
        value, source = super().consume_value(ctx, opts)
        if source is ParameterSource.ENVIRONMENT:
            remember(ctx, self.opts[0], str(self.envvar), value if isinstance(value, str) else "")
        return value, source

    def get_error_hint(self, ctx: click.Context | None) -> str:
        if ctx is not None and ctx.get_parameter_source(str(self.name)) is ParameterSource.ENVIRONMENT:
            return str(self.envvar)
        return super().get_error_hint(ctx)

    def get_help_extra(self, ctx: click.Context) -> OptionHelpExtra:
        extra = super().get_help_extra(ctx)
        if "default" in extra and isinstance(self.default, float):
            extra["default"] = f"{self.default:g}"
        if isinstance(self.type, click.IntRange | click.FloatRange):
            low, high = self.type.min, self.type.max
            extra["range"] = f"at least {low:,}" if high is None else f"{low:,} to {high:,}"
        return extra


def option(*declarations: str, **options: Any) -> Callable[[_Command], _Command]:
    """Declare an option as `cloup.option` does, with its environment variable."""
    return cloup.option(*declarations, cls=_Option, **options)


def grouped(title: str, *options: Callable[[Any], Any]) -> Callable[[_Command], _Command]:
    """Put options under a heading of their own in ``--help``."""
    return cloup.option_group(title, *options)


store_url = option(
    "--store",
    required=True,
    metavar="URL",
    help="URL of the store: redis://, rediss:// or redis+cluster://host:port[,host:port…].",
)
"""The option of every command that needs a running store."""

keys_file = option(
    "--keys",
    metavar="FILE",
    help="Keys file to load into the store at the start. If the store loses keys, the nodes declare them again.",
)
server_binary = option(
    "--server-binary", metavar="PATH", help="Redis or Valkey server ≥ 7.0 to run instead of the bundled one."
)
replicas = option(
    "--replicas",
    type=click.IntRange(0, 5),
    metavar="N",
    default=0,
    help="Replicas of each master of the embedded cluster.",
)


def _flag(name: str) -> str:
    # An option of time without a unit is in seconds: --drain-timeout 10. A rate keeps its unit.
    shown = name if name.endswith("_per_s") else name.removesuffix("_s")
    return f"--{shown.replace('_', '-')}"


def node_options(
    *,
    without: Collection[str],
    first: Mapping[str, Sequence[Callable[[Any], Any]]],
    defaults: Mapping[str, str] = MappingProxyType({}),
) -> Callable[[_Command], _Command]:
    """Declare the options of one node, in their groups.

    `without`: fields for which the command has options of its own. `first`: the command's own options, by group.
    `defaults`: the command's own defaults, by field.
    """

    def decorate(command: _Command) -> _Command:
        fields = [field for field in dataclasses.fields(NodeSettings) if field.name not in without]
        for group in reversed(GROUPS):
            members = [
                _node_option(field, defaults.get(field.name, field.default))
                for field in fields
                if field.metadata["group"] == group
            ]
            command = grouped(group, *first.get(group, ()), *members)(command)
        return command

    return decorate


def _node_option(field: dataclasses.Field[Any], default: Any) -> Callable[[_Command], _Command]:
    return option(
        _flag(field.name),
        field.name,
        type=click.STRING if isinstance(default, tuple) else type(default),
        metavar=field.metadata["metavar"] or _metavar(field.name),
        default=",".join(default) if isinstance(default, tuple) else default,
        show_default=default not in ("", ()),
        help=field.metadata["help"],
        hidden=field.metadata["hidden"],
    )


def _metavar(name: str) -> str:
    for suffix, unit in (("_ms", "MS"), ("_bytes", "BYTES"), ("_s", "SECONDS")):
        if name.endswith(suffix):
            return unit
    return "N"


logging_options = grouped(
    "Logging",
    *(
        _node_option(field, field.default)
        for field in dataclasses.fields(NodeSettings)
        if field.name in ("log_format", "log_level")
    ),
)
"""The logging options, for commands that are not nodes."""


def node_settings(options: Mapping[str, Any]) -> NodeSettings:
    """Return the settings for the values that click has parsed. Raises ConfigError."""
    values = {field.name: options[field.name] for field in dataclasses.fields(NodeSettings) if field.name in options}
    for field in dataclasses.fields(NodeSettings):
        if isinstance(field.default, tuple):
            values[field.name] = _listed(values[field.name])
    return NodeSettings(**values)


def _listed(text: str) -> tuple[str, ...]:
    return tuple(each.strip() for each in text.split(",")) if text.strip() else ()


def check_files(settings: NodeSettings) -> None:
    """Raise ConfigError if the settings name a certificate, a key or an admin token that can't be used."""
    if settings.tls_cert:
        server_context(settings.tls_cert, settings.tls_key)
    if settings.admin_token_file:
        read_token(settings.admin_token_file)


def node_arguments(settings: NodeSettings) -> list[str]:
    """Return the arguments of ``serve`` for `settings`, without the store: its password must not show up in ``ps``."""
    arguments = []
    for field in dataclasses.fields(NodeSettings):
        if field.name != "store":
            value = getattr(settings, field.name)
            arguments.append(f"{_flag(field.name)}={','.join(value) if isinstance(value, tuple) else value}")
    return arguments
