"""The lines in which commands show accounts and teams. Pure: takes views, returns lines."""

from __future__ import annotations

from collections.abc import Sequence

from limiter_node.commands.limit_tables import limit_lines, short_limit_text
from limiter_node.commands.tables import NOTHING, facts, number, table
from limiter_node.management.views import AccountView, LimitView, TeamView


def account_lines(account: AccountView) -> list[str]:
    """Return an account with its limits, the tightest first, and its teams."""
    defaults = ", ".join(f"{name} {number(amount)}" for name, amount in account.key_defaults.items())
    said = facts(
        ("keys", number(account.keys)),
        ("key defaults", defaults),
        ("teams", ", ".join(account.teams)),
        ("show", "callers see the limits of their key only" if account.show == "own" else ""),
        ("reserve", _reserve(account.output_reserve)),
    )
    return [account.name, *said, "", *limit_lines(account.limits)]


def team_lines(team: TeamView) -> list[str]:
    """Return a team with its limits, the tightest first."""
    said = facts(
        ("keys", number(team.keys)),
        ("teams", number(team.teams) if team.teams else ""),
        ("reserve", _reserve(team.output_reserve)),
    )
    return [team.who, *said, "", *limit_lines(team.limits)]


def account_listing_lines(accounts: Sequence[AccountView]) -> list[str]:
    """Return a line per account under a header."""
    if not accounts:
        return ["no accounts"]
    rows = [
        (each.name, number(each.keys), number(len(each.teams)), _limits(each.limits) or NOTHING) for each in accounts
    ]
    return table(("NAME", "KEYS", "TEAMS", "LIMITS"), rows, left=("NAME", "LIMITS"))


def team_listing_lines(teams: Sequence[TeamView]) -> list[str]:
    """Return a line per team under a header."""
    if not teams:
        return ["no teams"]
    rows = [(each.who, number(each.keys), number(each.teams), _limits(each.limits) or NOTHING) for each in teams]
    return table(("NAME", "KEYS", "TEAMS", "LIMITS"), rows, left=("NAME", "LIMITS"))


def _limits(limits: Sequence[LimitView]) -> str:
    return ", ".join(short_limit_text(each) for each in limits)


def _reserve(tokens: int | None) -> str:
    return "" if tokens is None else f"{number(tokens)} output tokens for a request without a cap"
