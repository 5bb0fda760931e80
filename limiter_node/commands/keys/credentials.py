"""``keys rotate`` and ``keys revoke``: the secrets of a key that exists."""

from __future__ import annotations

import cloup

from limiter_node.changes import Change
from limiter_node.commands.help import EXAMPLES
from limiter_node.commands.managing import (
    addressed,
    as_json,
    confirm,
    confirmed,
    identified,
    manage,
    who_argument,
)
from limiter_node.commands.options import grouped, option, store_url
from limiter_node.commands.printing import print_change, print_made
from limiter_node.commands.times import Length
from limiter_node.errors import ConfigError
from limiter_node.management.manager import Manager
from limiter_node.management.views import Made


@cloup.command(short_help="Give a key a new secret; prints it once.", epilog=EXAMPLES["keys rotate"])
@who_argument
@grouped(
    "The old secrets",
    option("--grace", "grace_ms", type=Length(), metavar="LENGTH", help="Time for which they stay valid, such as 24h."),
    confirmed,
)
@grouped("Store", store_url, as_json)
def rotate(who: str, grace_ms: int | None, is_confirmed: bool, store: str, as_json: bool) -> None:
    """Give a key a new secret. Its limits, its usage and its name stay.

    The secret is printed once, alone on standard output. Without --grace, the old secrets end at once.
    """
    who = addressed(who)

    async def make(manager: Manager) -> Made:
        key = await identified(manager, who)
        if not grace_ms:
            valid = sum(each.state == "active" for each in key.credentials)
            what = "the present secret" if valid < 2 else f"all {valid} valid secrets"
            ends = "ends" if valid < 2 else "end"
            confirm(f"Without --grace, {what} of {key.who} {ends} at once.", is_confirmed=is_confirmed)
        return await manager.rotate(who, grace_ms or 0)

    print_made(manage(store, make, changes=True), as_json=as_json)


@cloup.command(short_help="End a secret of a key for good.")
@who_argument
@grouped(
    "Which secrets",
    option("--credential", metavar="DIGEST", help="Digest of the secret, at least its first 8 hex digits."),
    option("--all", "every", is_flag=True, help="All secrets of the key."),
    confirmed,
)
@grouped("Store", store_url, as_json)
def revoke(who: str, credential: str | None, every: bool, is_confirmed: bool, store: str, as_json: bool) -> None:
    """End a secret, from the next request on. It never becomes another key's.

    Without --credential or --all: the secret or digest that you gave, or the only one that is valid.
    """
    if credential and every:
        raise ConfigError("give either --credential or --all")
    who = addressed(who)

    async def change(manager: Manager) -> Change:
        key = await identified(manager, who)
        which = "All secrets" if every else f"The secret {credential}" if credential else "A secret"
        confirm(f"{which} of {key.who} will be refused for good.", is_confirmed=is_confirmed)
        return await manager.revoke(who, credential, every=every)

    print_change(manage(store, change, changes=True), as_json=as_json)
