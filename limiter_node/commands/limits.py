"""``limiter-node limits show``: which limits apply to a key's requests, what each has left, and which would reject."""

from __future__ import annotations

import cloup

from limiter_node.commands.help import EXAMPLES
from limiter_node.commands.limit_tables import explanation_lines
from limiter_node.commands.managing import addressed, as_json, manage, warn_of_secret, who_argument
from limiter_node.commands.options import option, store_url
from limiter_node.commands.printing import print_view
from limiter_node.management.manager import Manager
from limiter_node.management.views import Explanation


@cloup.command(short_help="Explain the limits on a key's requests for a model.")
@who_argument
@option("--model", metavar="MODEL", required=True, help="Name of the model, as callers give it.")
@store_url
@as_json
def show(who: str, model: str, store: str, as_json: bool) -> None:
    """Say in words which limits apply to a key's requests for a model, what each has left, and which rejects next.

    Limits of the account, its teams and the key are considered; the limit of which the smallest share is left comes
    first.
    """
    who = addressed(who)

    async def read(manager: Manager) -> Explanation:
        await warn_of_secret(manager, who)
        return await manager.explain(who, model)

    explanation = manage(store, read)
    print_view(explanation, explanation_lines, as_json=as_json)


limits = cloup.Group(
    "limits",
    commands=[show],
    help="Explain the limits on a key's requests.",
    epilog=EXAMPLES["limits"],
)
"""The group of commands."""
