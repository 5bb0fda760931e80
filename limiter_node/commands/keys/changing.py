"""``keys set``, ``disable``, ``enable``, ``expire`` and ``move``: each changes a key that exists."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import cloup

from limiter_node.changes import Change
from limiter_node.commands.field_options import changes_from, key_options, limit_options
from limiter_node.commands.help import EXAMPLES
from limiter_node.commands.managing import addressed, as_json, manage, warn_of_secret, who_argument
from limiter_node.commands.options import grouped, option, store_url
from limiter_node.commands.printing import print_change
from limiter_node.commands.times import Length, Time
from limiter_node.errors import ConfigError
from limiter_node.management.manager import Manager


@cloup.command("set", short_help="Set limits of a key; usage stays.", epilog=EXAMPLES["keys set"])
@who_argument
@limit_options
@key_options
@grouped("Store", store_url, as_json)
def set_(who: str, store: str, as_json: bool, **options: Any) -> None:
    """Change a key, from its next request on. Usage stays, and so does what isn't given."""
    fields = changes_from(options, "--rpm 120")
    _change(who, store, as_json, lambda manager, key: manager.set_key(key, fields))


@cloup.command(short_help="Refuse a key's requests until it is enabled.")
@who_argument
@store_url
@as_json
def disable(who: str, store: str, as_json: bool) -> None:
    """Refuse all requests of a key, from the next one on, until it is enabled again."""
    _change(who, store, as_json, lambda manager, key: manager.disable(key))


@cloup.command(short_help="Let a disabled key's requests in again.")
@who_argument
@store_url
@as_json
def enable(who: str, store: str, as_json: bool) -> None:
    """Decide a disabled key's requests again. Its windows have kept their usage."""
    _change(who, store, as_json, lambda manager, key: manager.enable(key))


@cloup.command(short_help="Set or take away the end of a key.")
@who_argument
@grouped(
    "When",
    option("--at", "at_ms", type=Time(), metavar="TIME", help="A time with its offset, as 2027-06-30T00:00:00Z."),
    option("--in", "in_ms", type=Length(), metavar="LENGTH", help="A time from now on: a number and s, m, h or d."),
    option("--never", is_flag=True, help="No end."),
)
@grouped("Store", store_url, as_json)
def expire(who: str, at_ms: int | None, in_ms: int | None, never: bool, store: str, as_json: bool) -> None:
    """Set the time at which a key ends, with all its secrets, by the store's clock."""
    if [at_ms is not None, in_ms is not None, never].count(True) != 1:
        raise ConfigError("give one of --at TIME, --in LENGTH and --never")
    _change(who, store, as_json, lambda manager, key: manager.expire(key, at_ms, in_ms=in_ms))


@cloup.command(short_help="Move a key to another account or team.", epilog=EXAMPLES["keys move"])
@who_argument
@cloup.argument("account", required=False, help="the account that gets the key; its own, for another team")
@grouped(
    "Where to",
    option("--team", metavar="TEAM", help="Team of the account, such as research/vision."),
    option("--no-account", is_flag=True, help="Move the key out of its account, to be an account of its own."),
)
@grouped("Store", store_url, as_json)
def move(who: str, account: str | None, team: str | None, no_account: bool, store: str, as_json: bool) -> None:
    """Move a key, with its own windows, to another account, or to another team of its account.

    While a key moves to another account, its requests wait for up to half a second, then get a 503. If the command is
    interrupted, give it again.
    """
    if (account is None) != no_account:
        raise ConfigError("give the ACCOUNT that gets the key, or --no-account")
    _change(who, store, as_json, lambda manager, key: manager.move(key, account or "", team or ""))


def _change(who: str, store: str, as_json: bool, action: Callable[[Manager, str], Awaitable[Change]]) -> None:
    key = addressed(who)

    async def change(manager: Manager) -> Change:
        await warn_of_secret(manager, key)
        return await action(manager, key)

    print_change(manage(store, change, changes=True), as_json=as_json)
