"""``limiter-node teams``: teams of accounts, up to four deep."""

from __future__ import annotations

from typing import Any

import cloup

from limiter_node.changes import Change
from limiter_node.commands.account_tables import team_lines, team_listing_lines
from limiter_node.commands.field_options import changes_from, fields_from, limit_options
from limiter_node.commands.help import EXAMPLES
from limiter_node.commands.managing import as_json, check_members, confirm, confirmed, manage
from limiter_node.commands.options import grouped, option, store_url
from limiter_node.commands.printing import print_change, print_changes, print_view
from limiter_node.management.manager import Manager

_path = cloup.argument("path", metavar="NAME", help="account and team, such as acme/research/vision")


@cloup.command(short_help="Make a team.")
@_path
@limit_options
@grouped("Store", store_url, as_json)
def create(path: str, store: str, as_json: bool, **options: Any) -> None:
    """Make a team of an account, or of a team that exists."""
    fields = fields_from(options)
    print_change(manage(store, lambda it: it.create_team(path, fields), changes=True), as_json=as_json)


@cloup.command("set", short_help="Set limits of a team; usage stays.")
@_path
@limit_options
@grouped("Store", store_url, as_json)
def set_(path: str, store: str, as_json: bool, **options: Any) -> None:
    """Change a team, from its keys' next request on. Usage stays, and so does what isn't given."""
    fields = changes_from(options, "--rpm 1000")
    print_change(manage(store, lambda it: it.set_team(path, fields), changes=True), as_json=as_json)


@cloup.command(short_help="Show a team with its limits and their usage.")
@_path
@store_url
@as_json
def show(path: str, store: str, as_json: bool) -> None:
    """Show a team: its limits and their usage, the tightest first, and how many teams and keys it has."""
    team = manage(store, lambda it: it.show_team(path))
    print_view(team, team_lines, as_json=as_json)


@cloup.command("list", short_help="List the teams of an account.")
@cloup.argument("account", help="the name of the account")
@store_url
@as_json
def list_(account: str, store: str, as_json: bool) -> None:
    """List the teams of an account, sorted by name."""
    teams = manage(store, lambda it: it.list_teams(account))
    print_view(teams, team_listing_lines, as_json=as_json)


@cloup.command(short_help="Delete a team.")
@_path
@grouped("What goes", option("--recursive", is_flag=True, help="Delete its teams and keys, too."), confirmed)
@grouped("Store", store_url, as_json)
def delete(path: str, recursive: bool, is_confirmed: bool, store: str, as_json: bool) -> None:
    """Delete a team with its usage. One that has teams or keys needs --recursive."""

    async def run(manager: Manager) -> list[Change]:
        team = await manager.show_team(path)
        members = check_members(f"team {path}", team.teams, team.keys, recursive=recursive)
        confirm(f"Team {path}{members} will be deleted, and its usage.", is_confirmed=is_confirmed)
        return await manager.delete_team(path, recursive=recursive)

    print_changes(manage(store, run, changes=True), as_json=as_json)


teams = cloup.Group(
    "teams",
    sections=[cloup.Section("Look", [list_, show]), cloup.Section("Change", [create, set_, delete])],
    help="Make, change and look at teams: groups of an account's keys with limits that they share.",
    short_help="Make, show and change teams of accounts.",
    epilog=EXAMPLES["teams"],
)
"""The group of commands."""
