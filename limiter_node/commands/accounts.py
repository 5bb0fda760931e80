"""``limiter-node accounts``: accounts, and what their keys share."""

from __future__ import annotations

from typing import Any

import cloup

from limiter_node.changes import Change
from limiter_node.commands.account_tables import account_lines, account_listing_lines
from limiter_node.commands.field_options import account_options, changes_from, fields_from, limit_options
from limiter_node.commands.help import EXAMPLES
from limiter_node.commands.managing import as_json, check_members, confirm, confirmed, manage
from limiter_node.commands.options import grouped, option, store_url
from limiter_node.commands.printing import print_change, print_changes, print_view
from limiter_node.management.manager import Manager

_name = cloup.argument("name", help="the name of the account, such as acme")


@cloup.command(short_help="Make an account.")
@_name
@limit_options
@account_options
@grouped("Store", store_url, as_json)
def create(name: str, store: str, as_json: bool, **options: Any) -> None:
    """Make an account. Its keys share its limits; without any, it only groups them."""
    fields = fields_from(options)
    print_change(manage(store, lambda it: it.create_account(name, fields), changes=True), as_json=as_json)


@cloup.command("set", short_help="Set limits of an account; usage stays.")
@_name
@limit_options
@account_options
@grouped("Store", store_url, as_json)
def set_(name: str, store: str, as_json: bool, **options: Any) -> None:
    """Change an account, from its keys' next request on. Usage stays, and so does what isn't given."""
    fields = changes_from(options, "--rpm 5000")
    print_change(manage(store, lambda it: it.set_account(name, fields), changes=True), as_json=as_json)


@cloup.command(short_help="Show an account with its limits and their usage.")
@_name
@store_url
@as_json
def show(name: str, store: str, as_json: bool) -> None:
    """Show an account: its limits and their usage, the tightest first, its teams, and the number of its keys."""
    account = manage(store, lambda it: it.show_account(name))
    print_view(account, account_lines, as_json=as_json)


@cloup.command("list", short_help="List accounts, sorted by name.")
@store_url
@as_json
def list_(store: str, as_json: bool) -> None:
    """List the accounts in the store, sorted by name."""
    accounts = manage(store, lambda it: it.list_accounts())
    print_view(accounts, account_listing_lines, as_json=as_json)


@cloup.command(short_help="Delete an account.")
@_name
@grouped("What goes", option("--recursive", is_flag=True, help="Delete its teams and keys, too."), confirmed)
@grouped("Store", store_url, as_json)
def delete(name: str, recursive: bool, is_confirmed: bool, store: str, as_json: bool) -> None:
    """Delete an account with its usage. One that has teams or keys needs --recursive."""

    async def run(manager: Manager) -> list[Change]:
        account = await manager.show_account(name)
        members = check_members(f"account {name}", len(account.teams), account.keys, recursive=recursive)
        confirm(f"Account {name}{members} will be deleted, and its usage.", is_confirmed=is_confirmed)
        return await manager.delete_account(name, recursive=recursive)

    print_changes(manage(store, run, changes=True), as_json=as_json)


accounts = cloup.Group(
    "accounts",
    sections=[cloup.Section("Look", [list_, show]), cloup.Section("Change", [create, set_, delete])],
    help="Make, change and look at accounts: groups of keys with limits that they share.",
    short_help="Make, show and change accounts.",
    epilog=EXAMPLES["accounts"],
)
"""The group of commands."""
