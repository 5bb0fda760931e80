"""``limiter-node top``: nodes, shards, accounts and the hottest keys, live on a terminal or as lines."""

from __future__ import annotations

import asyncio
import io
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import click
import cloup

from limiter_node.commands.help import EXAMPLES
from limiter_node.commands.options import ENVIRONMENT_PREFIX, grouped, option
from limiter_node.commands.runtime import Stopped, StopSignals
from limiter_node.errors import ConfigError
from limiter_node.store.url import parse_store_url

if TYPE_CHECKING:
    from limiter_node.top.view import Watching


@cloup.command(short_help="Watch nodes, shards, accounts and hot keys.", epilog=EXAMPLES["top"])
@grouped(
    "What to watch",
    option(
        "--target",
        "targets",
        multiple=True,
        metavar="URL",
        help="Base URL of a node, or of its admin port if it has one; repeatable.",
    ),
    option("--store", metavar="URL", help="URL of the store, for its shards, accounts and hottest keys."),
    option(
        "--keys",
        "most_keys",
        type=click.IntRange(0, 100),
        metavar="N",
        default=10,
        envvar=f"{ENVIRONMENT_PREFIX}TOP_KEYS",  # LIMITER_KEYS is the keys file of `up` and `serve`
        help="Number of hottest keys, and of accounts and teams, to show.",
    ),
)
@grouped(
    "How to show it",
    option(
        "--interval",
        type=click.FloatRange(0.1, 3600),
        metavar="SECONDS",
        default=1.0,
        help="Time between two refreshes.",
    ),
    option(
        "--count",
        type=click.IntRange(0),
        metavar="N",
        default=0,
        help="Refreshes before the command ends; 0 for no end.",
    ),
    option("--once", is_flag=True, help="Print everything once, as plain text, after one interval."),
)
def top(targets: Sequence[str], store: str | None, interval: float, most_keys: int, count: int, once: bool) -> None:
    """Watch nodes and their store: rates, latencies, shards, the accounts, teams and keys nearest to their limits.

    --target shows nodes; --store shows shards, accounts and keys. On a terminal the view is live; q or Ctrl-C ends it.
    Elsewhere each refresh is one line, and one more for each account, team and hot key.
    """
    if not targets and not store:
        raise ConfigError("nothing to watch: give --target URL for each node, --store URL for the store, or both")
    address = parse_store_url(store) if store else None

    # Late, because these imports take most of a second: a mistake in the options shows at once.
    from limiter_node.top.polling import parse_target
    from limiter_node.top.view import Watching

    parsed = [parse_target(target) for target in targets]
    if len({target.url for target in parsed}) < len(parsed):
        raise ConfigError("--target names the same node twice")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # the terminal may lack characters of keys' names
    asyncio.run(_watch(Watching(parsed, address, interval, most_keys, count, once)))


async def _watch(what: Watching) -> None:
    from limiter_node.top.view import view

    signals = StopSignals()
    with signals.installed(), suppress(Stopped):
        await signals.unless_stopped(view(what, signals.once.set))
