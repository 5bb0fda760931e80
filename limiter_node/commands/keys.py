"""``limiter-node keys``: makes and loads keys files; sets, shows, lists and deletes limits.

No command prints a key: messages use its name or the first digits of its digest.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

import click
import cloup

from limiter_node.chart import glyphs_for
from limiter_node.commands.help import EXAMPLES
from limiter_node.commands.key_tables import called, listing_lines, path_usage_lines, usage_lines
from limiter_node.commands.options import grouped, option, store_url
from limiter_node.commands.usage_chart import usage_chart
from limiter_node.decisions import Usage
from limiter_node.declarations import AccountKey
from limiter_node.errors import ConfigError, LimiterError, StoreUnavailable
from limiter_node.keysfile.fields import LIMIT_RANGES, check_name
from limiter_node.keysfile.key_names import check_declared_key, key_digest_name
from limiter_node.keysfile.limit_warnings import warnings_of
from limiter_node.keysfile.making import generate_keys, write_private
from limiter_node.keysfile.reading import read_keys
from limiter_node.limits import KeyLimits
from limiter_node.plans import who
from limiter_node.store.admin.store_admin import StoreAdmin, administering
from limiter_node.store.url import parse_store_url

_T = TypeVar("_T")
_Command = TypeVar("_Command", bound=Callable[..., Any])

_HELP = {
    "rpm": "Requests in any 60 s.",
    "input_tpm": "Input tokens in any 60 s.",
    "output_tpm": "Output tokens in any 60 s.",
    "output_reserve": "Output tokens reserved for a request that sets no cap.",
}


class KeyNotFound(LimiterError):
    """Raised when the store does not know a key."""


def _limit_options(*, with_defaults: bool) -> Callable[[_Command], _Command]:
    return grouped(
        "Limits",
        *(
            option(
                f"--{field.replace('_', '-')}",
                type=click.IntRange(low, high),
                metavar="N",
                default=getattr(KeyLimits(), field) if with_defaults else None,
                help=_HELP[field],
            )
            for field, (low, high) in LIMIT_RANGES.items()
        ),
    )


@cloup.group(epilog=EXAMPLES["keys"])
def keys() -> None:
    """Make, load and look at API keys and their limits.

    KEY is a key as it is, or "sha256:" and the 64 hex digits of its digest.
    """


@keys.command()
@grouped(
    "File",
    option("--count", type=int, metavar="N", default=1, help="Number of keys."),
    option("--out", metavar="FILE", default="keys.toml", help="File to write, readable by its owner alone."),
    option("--force", is_flag=True, help="Overwrite the file if it exists."),
)
@_limit_options(with_defaults=True)
def generate(count: int, out: str, force: bool, **limits: Any) -> None:
    """Write a keys file with random keys."""
    write_private(out, generate_keys(count, KeyLimits(**limits)), overwrite=force)
    click.echo(f"{_keys(count)} in {out}")


@keys.command(short_help="Put a keys file into the store.")
@click.argument("file")
@store_url
def load(file: str, store: str) -> None:
    """Put the keys and accounts of a keys file into the store.

    Those that the store has already get the file's limits and keep their usage; those that aren't in the file stay.
    """
    declared = read_keys(file)
    for warning in warnings_of(declared):
        click.echo(f"warning: {warning}", err=True)
    for warning in _administer(store, lambda admin: admin.apply(declared), changes=True).warnings:
        click.echo(f"warning: {warning}", err=True)
    accounts = len(declared.accounts)
    also = f" and {accounts} account{'' if accounts == 1 else 's'}" if accounts else ""
    click.echo(f"{_keys(declared.key_count)}{also} loaded")


@keys.command("set", short_help="Set limits of a key; usage stays.")
@click.argument("key")
@_limit_options(with_defaults=False)
@grouped("Key", option("--name", metavar="NAME", help="Name of the key in messages."), store_url)
def set_(key: str, name: str | None, store: str, **limits: int | None) -> None:
    """Set limits of a key, from its next request on. Usage stays.

    Limits that are not given stay as they are; a new key gets the defaults. For keys of accounts, and keys with other
    limits, change the keys file and load it.
    """
    kid = check_declared_key(key)
    given: dict[str, Any] = {field: value for field, value in limits.items() if value is not None}
    if name is not None:
        given["name"] = check_name(name)

    async def change(admin: StoreAdmin) -> KeyLimits:
        # If two people set different fields of one key at the same moment, the later write wins; that is rare enough.
        stored = await admin.get(kid)
        if isinstance(stored, AccountKey):
            raise ConfigError(
                f"{called(kid, who(*stored))} {_why_not_plain(stored)}: change its limits in the keys file, and load it"
            )
        limits = replace(stored or KeyLimits(), **given)
        await admin.put_limits(kid, limits)
        return limits

    limits_now = _administer(store, change, changes=True)
    click.echo(f"{called(kid, limits_now.name)}: " + ", ".join(f"{f} {getattr(limits_now, f)}" for f in LIMIT_RANGES))


@keys.command(short_help="Show a key's limits and its window.")
@click.argument("key")
@store_url
def show(key: str, store: str) -> None:
    """Show a key's limits, its usage now, and the last 60 s of its window as a chart.

    For a key of an account, show a table of all limits on its path instead: the account's, its teams' and its own, for
    all models. So too for a key with other limits than the three per minute.
    """
    kid = check_declared_key(key)
    stored, usage = _administer(store, lambda admin: _limits_and_usage(admin, kid))
    if usage is None:
        raise KeyNotFound(_unknown(kid))
    encoding = sys.stdout.encoding or "ascii"
    if isinstance(stored, AccountKey) and usage.path is not None:
        lines = path_usage_lines(stored, usage.path)
    else:
        lines = [*usage_lines(kid, usage), *usage_chart(usage, glyphs_for(encoding))]
    click.echo("\n".join(lines).encode(encoding, "replace").decode(encoding))  # the terminal may lack characters


async def _limits_and_usage(admin: StoreAdmin, kid: str) -> tuple[KeyLimits | AccountKey | None, Usage | None]:
    return await admin.get(kid), await admin.peek(kid)


@keys.command("list")
@option(
    "--limit",
    type=click.IntRange(1, 1_000_000),
    default=1_000,
    help="Largest number of keys to show, the first by name.",
)
@store_url
def list_(limit: int, store: str) -> None:
    """List the keys in the store, sorted by name."""
    listing = _administer(store, lambda admin: admin.list_keys(limit))
    for line in listing_lines(listing.entries):
        click.echo(line)
    if listing.total > len(listing.entries):
        click.echo(
            f"showing the first {len(listing.entries)} of {listing.total} keys; raise --limit to see more", err=True
        )


@keys.command(short_help="Delete a key with its usage.")
@click.argument("key")
@store_url
def delete(key: str, store: str) -> None:
    """Delete a key with its usage. Its next request gets a 401."""
    kid = check_declared_key(key)
    if not _administer(store, lambda admin: admin.delete(kid), changes=True):
        raise KeyNotFound(_unknown(kid))
    click.echo(f"{key_digest_name(kid)} deleted")


def _administer(url: str, action: Callable[[StoreAdmin], Awaitable[_T]], *, changes: bool = False) -> _T:
    async def run() -> _T:
        async with administering(parse_store_url(url)) as admin:
            if changes:
                with suppress(
                    StoreUnavailable
                ):  # the shard with the list of nodes is away; the key's own shard may answer
                    await admin.check_format()
            return await action(admin)

    return asyncio.run(run())


def _why_not_plain(stored: AccountKey) -> str:
    if stored.account.key is None:
        return f"is a key of account {stored.account.name}"
    return "has, or once had, other limits than rpm, input_tpm and output_tpm"


def _unknown(kid: str) -> str:
    return f"{key_digest_name(kid)} is not in the store: add it with 'keys set' or 'keys load'"


def _keys(count: int) -> str:
    return f"{count} key{'' if count == 1 else 's'}"
