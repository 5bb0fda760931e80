"""``keys generate``: a keys file with random keys, some of them in an account if wanted."""

from __future__ import annotations

from typing import Any

import click
import cloup

from limiter_node.commands.help import EXAMPLES
from limiter_node.commands.limit_argument import LimitArgument, LimitChange
from limiter_node.commands.options import grouped, option
from limiter_node.commands.tables import count as counted
from limiter_node.errors import ConfigError
from limiter_node.keysfile.fields import LIMIT_RANGES
from limiter_node.keysfile.making import GeneratedAccount, generate_keys, write_private
from limiter_node.limit_names import windows_from_fields
from limiter_node.limits import KeyLimits
from limiter_node.policy import PolicyWindow

_HELP = {
    "rpm": "Requests in any 60 s.",
    "input_tpm": "Input tokens in any 60 s.",
    "output_tpm": "Output tokens in any 60 s.",
    "output_reserve": "Output tokens reserved for a request that sets no cap.",
}
_OF_ACCOUNT = {
    "--account-keys": "account_keys",
    "--account-limit": "account_limits",
    "--team": "teams",
    "--team-limit": "team_limits",
}


@cloup.command(epilog=EXAMPLES["keys generate"])
@grouped(
    "File",
    option("--count", type=int, metavar="N", default=1, help="Number of keys."),
    option("--out", metavar="FILE", default="keys.toml", help="File to write, readable by its owner alone."),
    option("--force", is_flag=True, help="Overwrite the file if it exists."),
)
@grouped(
    "Limits of each key",
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
@grouped(
    "Account",
    option("--account", metavar="NAME", help="Declare this account, and put keys into it."),
    option("--account-keys", type=int, metavar="N", help="Keys in the account, the last of the file; all if not set."),
    option(
        "--account-limit",
        "account_limits",
        type=LimitArgument(),
        multiple=True,
        metavar="LIMIT",
        help="Limit that the account's keys share: 'UNIT=N/PER [for MODEL,MODEL] [as NAME] [audit]'. Repeatable.",
    ),
    option(
        "--team",
        "teams",
        multiple=True,
        metavar="TEAM",
        help="Team of the account, such as research/vision; its keys take turns in the teams. Repeatable.",
    ),
    option(
        "--team-limit",
        "team_limits",
        type=LimitArgument(),
        multiple=True,
        metavar="LIMIT",
        help="Limit of each of these teams. Repeatable.",
    ),
)
def generate(count: int, out: str, force: bool, **options: Any) -> None:
    """Write a keys file with random keys."""
    limits = KeyLimits(**{field: options[field] for field in LIMIT_RANGES})
    write_private(out, generate_keys(count, limits, _account(count, options)), overwrite=force)
    click.echo(f"{counted(count, 'key')} in {out}")


def _account(count: int, options: dict[str, Any]) -> GeneratedAccount | None:
    if not options["account"]:
        for flag, name in _OF_ACCOUNT.items():
            if options[name]:
                raise ConfigError(f"{flag} needs an --account")
        return None
    if options["team_limits"] and not options["teams"]:
        raise ConfigError("--team-limit needs a --team")
    return GeneratedAccount(
        options["account"],
        count if options["account_keys"] is None else options["account_keys"],
        options["teams"],
        _windows(options["account_limits"], "--account-limit"),
        _windows(options["team_limits"], "--team-limit"),
    )


def _windows(limits: tuple[LimitChange, ...], flag: str) -> tuple[PolicyWindow, ...]:
    fields = dict(limits)
    if len(fields) < len(limits) or None in fields.values():
        raise ConfigError(f"{flag}: give each limit once, and with its number")
    return windows_from_fields(fields)
