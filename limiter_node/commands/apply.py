"""``limiter-node apply``, which ``keys load`` is, too: shows what differs from a keys file, and makes it so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

import click
import cloup

from limiter_node.changes import Change, Kind, PartlyApplied, newly_revoked
from limiter_node.commands.help import EXAMPLES
from limiter_node.commands.managing import as_json, confirm, confirmed, manage
from limiter_node.commands.options import grouped, option, store_url
from limiter_node.commands.printing import print_json, print_lines, warn
from limiter_node.commands.tables import count
from limiter_node.declarations import Declarations
from limiter_node.keysfile.limit_warnings import warnings_of
from limiter_node.keysfile.reading import read_keys
from limiter_node.management.manager import Manager
from limiter_node.store.admin.loading import Applied

_NOTHING = "nothing to change"
_KINDS: Final[Sequence[Kind]] = ("account", "team", "key")


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    decorators = [
        cloup.argument("file", help="a keys file"),
        grouped(
            "What to do",
            option("--dry-run", is_flag=True, help="Show what would change; change nothing."),
            option("--prune", is_flag=True, help="Delete keys and teams of the file's accounts that it doesn't have."),
            option("--prune-keys", is_flag=True, help="Delete keys without an account that the file doesn't have."),
            confirmed,
        ),
        grouped("Store", store_url, as_json),
    ]
    for decorator in reversed(decorators):
        command = decorator(command)
    return command


@cloup.command(short_help="Make keys and accounts as a keys file says.", epilog=EXAMPLES["apply"])
@_options
def apply(**options: Any) -> None:
    """Make keys, accounts and teams as a keys file declares them, and show what changes.

    What the file declares becomes exactly so, whatever was set by commands before; usage stays. What it doesn't have
    stays as it is, unless you prune.
    """
    _apply(**options)


@cloup.command(short_help="The same as limiter-node apply.", epilog=EXAMPLES["keys load"])
@_options
def load(**options: Any) -> None:
    """Make keys, accounts and teams as a keys file declares them; the same as limiter-node apply."""
    _apply(**options)


def _apply(
    file: str, dry_run: bool, prune: bool, prune_keys: bool, is_confirmed: bool, store: str, as_json: bool
) -> None:
    declared = read_keys(file)
    for warning in warnings_of(declared):
        warn(warning)

    may_lose = prune or prune_keys or declared.has_lists

    async def run(manager: Manager) -> Applied:
        if may_lose and not (dry_run or is_confirmed):
            planned = await manager.apply(declared, dry_run=True, prune=prune, prune_keys=prune_keys)
            _confirm_losses(planned.changes)
        return await manager.apply(declared, dry_run=dry_run, prune=prune, prune_keys=prune_keys)

    try:
        applied = manage(store, run, changes=not dry_run)
    except PartlyApplied as error:
        _print(Applied([*error.changes], [*error.warnings]), declared, is_dry=dry_run, as_json=as_json)
        raise
    _print(applied, declared, is_dry=dry_run, as_json=as_json)


def _print(applied: Applied, declared: Declarations, *, is_dry: bool, as_json: bool) -> None:
    for warning in applied.warnings:
        warn(warning)
    if as_json:
        print_json({"dry_run": is_dry, "changes": applied.changes, "warnings": applied.warnings})
    else:
        print_lines([*(each.line() for each in applied.changes), _summary(applied.changes, declared, is_dry=is_dry)])


def _confirm_losses(changes: Sequence[Change]) -> None:
    """Ask whether keys and teams shall be deleted and secrets revoked, if any are."""
    deleted = [each for each in changes if each.action == "deleted"]
    revoked = {each.who: len(newly_revoked(each)) for each in changes if newly_revoked(each)}
    if not (deleted or revoked):
        return
    for each in changes:
        if each.action == "deleted" or each.who in revoked:
            click.echo(each.line(), err=True)
    losses = [f"{_counts(deleted)} will be deleted, with the usage."] if deleted else []
    if revoked:
        losses.append(f"{count(sum(revoked.values()), 'secret')} will be refused for good.")
    confirm(" ".join(losses), is_confirmed=False)


def _summary(changes: Sequence[Change], declared: Declarations, *, is_dry: bool) -> str:
    """Return one line: what has changed, and how much the file declares."""
    parts = []
    by_action: dict[str, list[Change]] = {}
    for each in changes:
        by_action.setdefault(each.action, []).append(each)
    for action, found in by_action.items():
        parts.append(f"{_counts(found)} {action}")
    accounts = f" and {count(len(declared.accounts), 'account')}" if declared.accounts else ""
    whole = f"the file declares {count(declared.key_count, 'key')}{accounts}"
    if not parts:
        return f"{_NOTHING}: {whole}"
    return f"{'would be ' if is_dry else ''}{'; '.join(parts)}; {whole}"


def _counts(changes: Sequence[Change]) -> str:
    kinds = Counter(each.kind for each in changes)
    *first, last = (count(kinds[kind], kind) for kind in _KINDS if kinds[kind])
    return f"{', '.join(first)} and {last}" if first else last
