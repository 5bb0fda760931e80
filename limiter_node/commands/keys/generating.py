"""``keys generate``: a keys file with random keys."""

from __future__ import annotations

from typing import Any

import click
import cloup

from limiter_node.commands.options import grouped, option
from limiter_node.commands.tables import count as counted
from limiter_node.keysfile.fields import LIMIT_RANGES
from limiter_node.keysfile.making import generate_keys, write_private
from limiter_node.limits import KeyLimits

_HELP = {
    "rpm": "Requests in any 60 s.",
    "input_tpm": "Input tokens in any 60 s.",
    "output_tpm": "Output tokens in any 60 s.",
    "output_reserve": "Output tokens reserved for a request that sets no cap.",
}


@cloup.command()
@grouped(
    "File",
    option("--count", type=int, metavar="N", default=1, help="Number of keys."),
    option("--out", metavar="FILE", default="keys.toml", help="File to write, readable by its owner alone."),
    option("--force", is_flag=True, help="Overwrite the file if it exists."),
)
@grouped(
    "Limits",
    *(
        option(
            f"--{field.replace('_', '-')}",
            type=click.IntRange(low, high),
            metavar="N",
            default=getattr(KeyLimits(), field),
            help=_HELP[field],
        )
        for field, (low, high) in LIMIT_RANGES.items()
    ),
)
def generate(count: int, out: str, force: bool, **limits: Any) -> None:
    """Write a keys file with random keys."""
    write_private(out, generate_keys(count, KeyLimits(**limits)), overwrite=force)
    click.echo(f"{counted(count, 'key')} in {out}")
