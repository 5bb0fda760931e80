"""``keys show`` and ``keys list``."""

from __future__ import annotations

import sys

import click
import cloup

from limiter_node.chart import glyphs_for
from limiter_node.commands.key_tables import key_lines, listing_lines
from limiter_node.commands.managing import addressed, administer, as_json, identified, manage, who_argument
from limiter_node.commands.options import option, store_url
from limiter_node.commands.printing import print_json, print_lines, print_view, warn
from limiter_node.commands.tables import count, number
from limiter_node.commands.usage_chart import usage_chart
from limiter_node.decisions import Usage
from limiter_node.management.manager import Manager
from limiter_node.management.views import KeyView
from limiter_node.store.admin.store_admin import StoreAdmin

_MOST_NAMED = 5


@cloup.command(short_help="Show a key: its state, secrets and limits.")
@who_argument
@store_url
@as_json
def show(who: str, store: str, as_json: bool) -> None:
    """Show a key: its state and end, its secrets by their digests, and all limits on its path with their usage.

    The limit of which the smallest share is left comes first. Also draw the last 60 s of the key's window; of a key of
    an account, those of the minute with the tightest limit on its path.
    """
    who = addressed(who)

    async def read(admin: StoreAdmin) -> tuple[KeyView, Usage | None]:
        key = await identified(Manager(admin), who)
        return key, None if as_json else await admin.peek(key.digest.removeprefix("sha256:"))

    key, usage = administer(store, read)
    if as_json:
        print_json(key)
        return
    print_lines(key_lines(key))
    if usage is not None and (chart := usage_chart(usage, glyphs_for(sys.stdout.encoding))):
        print_lines(["", *chart])


@cloup.command("list", short_help="List keys, sorted by name.")
@option("--account", metavar="NAME", help="Only keys of this account.")
@option("--team", metavar="TEAM", help="Only keys of this team of the account, and of the teams below it.")
@option("--limit", type=click.IntRange(1, 1_000_000), default=1_000, help="Largest number of keys, the first by name.")
@store_url
@as_json
def list_(account: str | None, team: str | None, limit: int, store: str, as_json: bool) -> None:
    """List the keys in the store, sorted by name."""
    found = manage(store, lambda it: it.list_keys(account, team, limit))
    print_view(found, lambda it: listing_lines(it.entries), as_json=as_json)
    if found.total > len(found.entries):
        click.echo(
            f"showing the first {number(len(found.entries))} of {number(found.total)} keys; raise --limit to see more",
            err=True,
        )
    if found.damaged:
        which = ", ".join(found.damaged[:_MOST_NAMED])
        warn(f"{count(len(found.damaged), 'key')} can't be read: the values in the store are damaged, of {which}")
