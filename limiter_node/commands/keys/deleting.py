"""``keys delete``: a key that goes, with its usage."""

from __future__ import annotations

import cloup

from limiter_node.changes import Change
from limiter_node.commands.managing import (
    addressed,
    as_json,
    confirm,
    confirmed,
    identified,
    manage,
    who_argument,
)
from limiter_node.commands.options import store_url
from limiter_node.commands.printing import print_change
from limiter_node.management.errors import NotFound
from limiter_node.management.manager import Manager


@cloup.command(short_help="Delete a key with its usage.")
@who_argument
@store_url
@confirmed
@as_json
def delete(who: str, store: str, is_confirmed: bool, as_json: bool) -> None:
    """Delete a key with its usage. Its next request gets a 401, and no start of a node brings it back.

    What it used stays counted for its teams and its account. To keep the key for later, disable it instead.
    """
    who = addressed(who)

    async def change(manager: Manager) -> Change:
        try:
            key = await identified(manager, who)
        except NotFound:  # something may be left of a creation or a deletion that was interrupted
            return await manager.delete_key(who)
        confirm(f"{key.who} and its usage will be deleted.", is_confirmed=is_confirmed)
        return await manager.delete_key(who)

    print_change(manage(store, change, changes=True), as_json=as_json)
