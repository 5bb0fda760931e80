"""The argument of ``--limit``: one limit, as ``UNIT=AMOUNT/PER [for PATTERN,PATTERN] [as "NAME"] [audit]``.

The values are checked by the readers of the keys file, so that a limit means the same in both, and is refused with the
same words.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import click

from limiter_node.errors import ConfigError
from limiter_node.keysfile.fields import NONE
from limiter_node.keysfile.limit_fields import read_windows
from limiter_node.limit_names import limits_to_fields

_SHAPE = re.compile(
    r"""\s*(?P<unit>[a-z_]+)\s*=\s*(?P<amount>[^\s/]+)\s*/\s*(?P<per>[^\s/]+)
    (?:\s+for\s+(?P<models>\S+(?:\s*,\s*\S+)*?))?
    (?:\s+as\s+(?:"(?P<quoted>[^"]*)"|'(?P<single>[^']*)'|(?P<name>\S+)))?
    (?:\s+(?P<mode>audit|enforce))?\s*\Z""",
    re.VERBOSE,
)
_EXAMPLE = "'input_tokens=1000000/1d', or 'output_tokens=5000/1m for o3*,gpt-5* as \"big models\" audit'"


_AMOUNT = re.compile(r"(?:[0-9]+(?:_[0-9]+)*|[0-9]{1,3}(?:,[0-9]{3})+)\Z")


class LimitChange(NamedTuple):
    """A limit's field, as in `limiter_node.policy_fields`, and its value; None takes the limit away."""

    field: str
    value: Any


class LimitArgument(click.ParamType[LimitChange]):
    """One limit, converted to a `LimitChange`. Several in an environment variable are separated by ``;``."""

    name = "limit"
    envvar_list_splitter = ";"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> LimitChange:
        """Return what `value` says."""
        if isinstance(value, LimitChange):
            return value
        try:
            return limit_change(value)
        except ConfigError as error:
            self.fail(f"{value!r}: {error}", param, ctx)


def amount_from(text: str) -> int | str:
    """Return a typed number, also one written as in tables, ``1,000``; any other text as it is."""
    return int(re.sub("[_,]", "", text)) if _AMOUNT.match(text) else text


def limit_change(text: str) -> LimitChange:
    """Return what the argument says. Raises ConfigError."""
    match = _SHAPE.match(text)
    if match is None:
        raise ConfigError(f"a limit is written as UNIT=AMOUNT/PER, such as {_EXAMPLE}")
    amount = match["amount"]
    entry: dict[str, Any] = {match["unit"]: 0, "per": match["per"]}
    if amount != NONE:
        entry[match["unit"]] = amount_from(amount)
    if match["models"]:
        entry["models"] = [each.strip() for each in match["models"].split(",")]
    if match["mode"]:
        entry["mode"] = match["mode"]
    entry["name"] = match["quoted"] or match["single"] or match["name"] or ""
    try:
        windows = read_windows({"limits": [entry]}, {})
    except ConfigError as error:
        raise ConfigError(str(error).removeprefix("limits, entry 1: ")) from None
    ((field, value),) = limits_to_fields(windows).items()
    return LimitChange(field, None if amount == NONE else value)
