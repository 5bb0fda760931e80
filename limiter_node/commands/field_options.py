"""The options for what people set on keys, accounts and teams, and the fields that they become.

A field is named as in `limiter_node.policy_fields`. None takes away what was set; what isn't given stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, TypeVar

import click

from limiter_node.commands.limit_argument import LimitArgument, amount_from
from limiter_node.commands.options import ENVIRONMENT_PREFIX, grouped, option
from limiter_node.commands.times import Time
from limiter_node.errors import ConfigError
from limiter_node.keysfile.fields import NONE, check_amount, check_limit
from limiter_node.limit_names import PER_MINUTE
from limiter_node.policy_fields import Fields, time_text

_Command = TypeVar("_Command", bound=Callable[..., Any])

_HELP: Final = {
    "rpm": "Requests in any 60 s.",
    "input_tpm": "Input tokens in any 60 s.",
    "output_tpm": "Output tokens in any 60 s.",
    "tpm": "Tokens, input and output, in any 60 s.",
}
_KEY_DEFAULTS: Final = "key_defaults."


class _Amount(click.ParamType[int | str]):
    """A number, or ``none``, which becomes an empty text: click takes None for an option that isn't given."""

    name = "amount"

    def __init__(self, field: str) -> None:
        self._field = field

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        """Return the amount."""
        if isinstance(value, int) or value in ("", NONE):
            return value if isinstance(value, int) else ""
        amount = amount_from(value)
        try:
            if self._field == "output_reserve":
                return check_limit(self._field, amount)
            return check_amount(self._field, amount, f', or "{NONE}"')
        except ConfigError as error:
            self.fail(str(error), param, ctx)


class _KeyDefault(click.ParamType[tuple[str, int | None]]):
    """``rpm=120`` or ``rpm=none``, converted to a field of `Fields` and its value."""

    name = "default"
    envvar_list_splitter = ","

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int | None]:
        """Return the field and the value."""
        if isinstance(value, tuple):
            return value
        name, _, amount = value.partition("=")
        if name not in PER_MINUTE:
            self.fail(f"{value!r}: write it as FIELD=N, with one of the fields {', '.join(PER_MINUTE)}", param, ctx)
        converted = _Amount(name).convert(amount or "?", param, ctx)
        return f"key_defaults.{name}", converted if isinstance(converted, int) else None


def _amount_option(field: str, help_text: str) -> Callable[[_Command], _Command]:
    return option(f"--{field.replace('_', '-')}", type=_Amount(field), metavar="N|none", help=help_text)


limit_options = grouped(
    "Limits",
    *(_amount_option(field, help_text) for field, help_text in _HELP.items()),
    option(
        "--limit",
        "limits",
        type=LimitArgument(),
        multiple=True,
        metavar="LIMIT",
        envvar=f"{ENVIRONMENT_PREFIX}LIMITS",  # LIMITER_LIMIT is the number of keys that `keys list` shows
        help="Any other limit: 'UNIT=N/PER [for MODEL,MODEL] [as NAME] [audit]'; N may be none. Repeatable.",
    ),
    _amount_option("output_reserve", "Output tokens reserved for a request that sets no cap."),
)
"""Limits of keys, accounts and teams."""

_KEY_OPTIONS = (
    option("--team", metavar="TEAM", help="Team of the key's account, such as research/vision; '' for none."),
    option("--weight", type=click.IntRange(1, 1_000), metavar="N", help="Share where requests wait, if not 1."),
    option("--expires", type=Time(or_never=True), metavar="TIME", help="End of the key: a time with offset, or never."),
)
new_key_options = grouped("Key", *_KEY_OPTIONS)
_new_name = option("--name", metavar="NAME", help="New name, without the account's.")
key_options = grouped("Key", _new_name, *_KEY_OPTIONS)
account_options = grouped(
    "Account",
    option("--show", type=click.Choice(["path", "own"]), metavar="WHAT", help="Limits that callers see: path or own."),
    option(
        "--key-default",
        "key_defaults",
        type=_KeyDefault(),
        multiple=True,
        metavar="FIELD=N",
        help="Limit per minute of keys that don't set it, such as rpm=120; N may be none. Repeatable.",
    ),
)


def fields_from(options: Mapping[str, Any]) -> Fields:
    """Return the fields that the options set. Raises ConfigError if a limit is given twice."""
    fields: Fields = {}
    for name, value in _given(options):
        if name in fields:
            raise ConfigError(f"{name} is given twice: give each limit once")
        fields[name] = value
    return fields


def changes_from(options: Mapping[str, Any], example: str) -> Fields:
    """Return the fields that the options change. Raises ConfigError if there are none, with an `example` of one."""
    fields = fields_from(options)
    if not fields:
        raise ConfigError(f"nothing to set: give at least one option, such as {example}")
    return fields


def _given(options: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in options.items():
        if name in ("limits", "key_defaults"):
            yield from value
        elif name == "expires" and value is not None:
            yield name, time_text(value) if value else None
        elif value is not None:
            yield name, None if value == "" else value
