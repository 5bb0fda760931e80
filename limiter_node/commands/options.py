"""Options: each also from the environment, and those of a node made from the declaration in `limiter_node.settings`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

import click

from limiter_node import logs
from limiter_node.settings import NodeSettings

ENVIRONMENT_PREFIX = "LIMITER_"

_Command = TypeVar("_Command", bound=Callable[..., Any])


class _Option(click.Option):
    """An option that can also be given as LIMITER_<NAME>."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        (flag,) = self.opts
        self.envvar = ENVIRONMENT_PREFIX + flag.removeprefix("--").replace("-", "_").upper()

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        value = super().resolve_envvar_value(ctx)
        # Kubernetes gives every container LIMITER_PORT=tcp://… where there is a Service called "limiter".
        if value is not None and value.startswith("tcp://"):
            return None
        return value


def option(*declarations: str, **options: Any) -> Callable[[_Command], _Command]:
    """`click.option`, with its environment variable."""
    return click.option(*declarations, cls=_Option, **options)


store_url = option(
    "--store",
    required=True,
    metavar="URL",
    help="The store: redis://, rediss:// or redis+cluster://host:port[,host:port…].",
)
"""The option of every command that needs a running store."""

keys_file = option(
    "--keys",
    metavar="FILE",
    help="Keys file to load into the store at the start; its keys come back by themselves should the store lose them.",
)
server_binary = option(
    "--server-binary", metavar="PATH", help="A Redis or Valkey server ≥ 7.0 to run instead of the carried one."
)
replicas = option(
    "--replicas", type=click.IntRange(0, 5), default=0, help="Replicas of each master of the embedded cluster."
)


def node_options(*, without: Collection[str]) -> Callable[[_Command], _Command]:
    """The options of one node, but for those the command has a meaning of its own for."""

    def decorate(command: _Command) -> _Command:
        for field in reversed(dataclasses.fields(NodeSettings)):
            if field.name not in without:
                command = _node_option(field)(command)
        return command

    return decorate


def _node_option(field: dataclasses.Field[Any]) -> Callable[[_Command], _Command]:
    default = field.default
    return option(
        field.name,
        _flag(field.name),
        type=click.STRING if isinstance(default, tuple) else type(default),
        default=",".join(default) if isinstance(default, tuple) else default,
        show_default=default != "",
        help=field.metadata["help"],
        hidden=field.metadata["hidden"],
    )


def logging_options(command: _Command) -> _Command:
    """How a command that is no node logs; as nodes do."""
    command = option("--log-level", type=click.Choice(logs.LEVELS), default="info", help="Least level that is logged.")(
        command
    )
    return option("--log-format", type=click.Choice(logs.FORMATS), default="text", help="Log lines on stderr.")(command)


def node_settings(options: Mapping[str, Any]) -> NodeSettings:
    """Settings from click's values. Raises ConfigError."""
    values = {field.name: options[field.name] for field in dataclasses.fields(NodeSettings) if field.name in options}
    values["models"] = tuple(model.strip() for model in values["models"].split(","))
    return NodeSettings(**values)


def node_arguments(settings: NodeSettings) -> list[str]:
    """The arguments of ``serve`` for these settings, but for the store: its password must not show up in ``ps``."""
    arguments = []
    for field in dataclasses.fields(NodeSettings):
        if field.name != "store":
            value = getattr(settings, field.name)
            arguments.append(f"{_flag(field.name)}={','.join(value) if isinstance(value, tuple) else value}")
    return arguments


def _flag(name: str) -> str:
    # Seconds are what an option of time without a unit means: --drain-timeout 10. A rate keeps them.
    shown = name if name.endswith("_per_s") else name.removesuffix("_s")
    return f"--{shown.replace('_', '-')}"
