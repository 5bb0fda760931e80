"""Views of keys, accounts and teams, made from what is stored."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress

from limiter_node.decisions import PathUsage, Usage
from limiter_node.errors import ConfigError
from limiter_node.key_states import CredentialState
from limiter_node.limit_names import parse_limit_name
from limiter_node.limits import WINDOW_MS, KeyLimits
from limiter_node.management.accounts import Accounts, existing
from limiter_node.management.errors import NotFound
from limiter_node.management.finding import Finder
from limiter_node.management.members import Members
from limiter_node.management.teams import check_exists, split_path
from limiter_node.management.views import (
    AccountView,
    CredentialView,
    KeyEntry,
    KeyList,
    KeyView,
    LimitView,
    TeamView,
    digest_text,
    utc,
)
from limiter_node.plans import PlannedWindow, key_name, per_text, plan_of, who
from limiter_node.policy import TOKENS, UNITS, AccountPolicy, KeyPolicy, Limit
from limiter_node.policy_fields import fields_of_account, fields_of_key, teams_in
from limiter_node.store.admin.key_items import KeyItem, plain_key
from limiter_node.store.admin.store_admin import StoreAdmin

_STATES = {
    CredentialState.VALID: "active",
    CredentialState.DISABLED: "disabled",
    CredentialState.EXPIRED: "expired",
    CredentialState.REVOKED: "revoked",
    CredentialState.UNKNOWN: "revoked",
}


class Shower:
    """Show keys, accounts and teams of one store."""

    def __init__(self, admin: StoreAdmin, finder: Finder) -> None:
        self._admin, self._finder = admin, finder
        self._accounts, self._members = Accounts(admin), Members(admin)

    async def key(self, who: str) -> KeyView:
        """Return a key; see `Manager.show_key`."""
        item = await self._finder.read(await self._finder.find(who))
        return key_view(item, limit_views(await self.usage(item), item))

    async def usage(self, item: KeyItem) -> Usage:
        """Return the usage of a key. Raises NotFound if it has gone since it was read."""
        usage = await self._admin.run(lambda: self._admin.usage(item))
        if usage is None:
            raise NotFound(f"key {item.who} is not there any more")
        return usage

    async def keys(self, account: str | None, team: str | None, limit: int) -> KeyList:
        """Return keys by name; see `Manager.list_keys`."""
        if account is None:
            if team is not None:
                raise ConfigError("a team is one of an account: give the account, too")
            listing = await self._admin.list_keys(limit)
            now_ms = await self._admin.run(self._admin.time_ms)
            entries = (
                plain_entry(kid, found) if isinstance(found, KeyLimits) else entry(found.account, found.key, now_ms)
                for kid, found in listing.entries
            )
            return KeyList(tuple(entries), listing.total, tuple(digest_text(kid) for kid in sorted(listing.damaged)))
        stored = await self._accounts.read(account)
        policy = existing(account, stored)
        if team is not None:
            check_exists(policy, team)
        keys = await self._members.of(account, team or "")
        first = heapq.nsmallest(limit, keys, key=lambda key: (key_name(key.name, key.kid), key.kid))
        return KeyList(tuple(entry(policy, key, stored.time_ms) for key in first), len(keys))

    async def account(self, name: str) -> AccountView:
        """Return an account; see `Manager.show_account`."""
        stored = await self._accounts.read(name)
        account = existing(name, stored)
        keys = await self._admin.run(lambda: self._members.count(name))
        limits = await self._subject_limits(account, "", stored.time_ms)
        reserves = {each.name: each.output_reserve for each in account.subjects}
        teams = tuple(sorted(teams_in(fields_of_account(account))))
        defaults = dict(account.key_defaults)
        return AccountView(name, account.show, reserves.get(""), defaults, limits, teams, keys)

    async def accounts(self) -> list[AccountView]:
        """Return all accounts; see `Manager.list_accounts`."""
        views = []
        for name in await self._admin.run(self._admin.search.accounts):
            with suppress(NotFound):  # deleted meanwhile; or only what is left of one
                views.append(await self.account(name))
        return views

    async def team(self, path: str) -> TeamView:
        """Return a team; see `Manager.show_team`."""
        name, team = split_path(path)
        stored = await self._accounts.read(name)
        account = existing(name, stored)
        check_exists(account, team)
        keys = Counter(key.team for key in await self._members.of(name, team))
        return await self._team_view(account, team, keys, stored.time_ms)

    async def teams(self, name: str) -> list[TeamView]:
        """Return all teams of an account; see `Manager.list_teams`."""
        stored = await self._accounts.read(name)
        account = existing(name, stored)
        keys = Counter(key.team for key in await self._members.of(name))
        teams = sorted(teams_in(fields_of_account(account)))
        return [await self._team_view(account, team, keys, stored.time_ms) for team in teams]

    async def _team_view(self, account: AccountPolicy, team: str, keys: Counter[str], now_ms: int) -> TeamView:
        limits = await self._subject_limits(account, team, now_ms)
        [reserve] = [each.output_reserve for each in account.subjects if each.name == team]
        below = sum(each.rpartition("/")[0] == team for each in teams_in(fields_of_account(account)))
        return TeamView(f"{account.name}/{team}", account.name, team, reserve, limits, below, keys[team])

    async def _subject_limits(self, account: AccountPolicy, team: str, now_ms: int) -> tuple[LimitView, ...]:
        usage = await self._admin.run(lambda: self._admin.team_usage(account, team, now_ms))
        name = f"{account.name}/{team}" if team else account.name
        return () if usage is None else tuple(each for each in path_views(usage.path) if each.subject == name)


def key_view(item: KeyItem, limits: tuple[LimitView, ...]) -> KeyView:
    """Return the view of a key with these limits."""
    key = item.policy
    return KeyView(
        item.who,
        digest_text(key.kid),
        None if item.is_flat or item.account is None else item.account.name,
        key.team or None,
        key.name,
        key_state(key, item.time_ms),
        utc(key.expires_ms),
        tuple(
            CredentialView(
                digest_text(each.digest), utc(each.ends_ms), credential_state(key, each.digest, item.time_ms)
            )
            for each in key.all_credentials
        ),
        plan_of(item.account or AccountPolicy(key=key), key, (), item.time_ms).output_reserve,
        key.weight,
        limits,
    )


def entry(account: AccountPolicy, key: KeyPolicy, now_ms: int) -> KeyEntry:
    """Return a key of an account, or one that is an account of its own, as it stands in a list."""
    fields = fields_of_key(key)
    return KeyEntry(
        who(account, key),
        digest_text(key.kid),
        account.name or None,
        key.team or None,
        key.name,
        key_state(key, now_ms),
        utc(key.expires_ms),
        plan_of(account, key, (), now_ms).output_reserve,
        key.weight,
        {name: value for name, value in fields.items() if parse_limit_name(name) is not None},
    )


def plain_entry(kid: str, limits: KeyLimits) -> KeyEntry:
    """Return a plain key as it stands in a list."""
    key = plain_key(kid, limits)
    return entry(AccountPolicy(key=key), key, 0)


def key_state(key: KeyPolicy, now_ms: int) -> str:
    """Return the state of a key: ``active`` if one of its credentials is good, else the reason."""
    if key.is_disabled:
        return "disabled"
    states = {credential_state(key, each.digest, now_ms) for each in key.all_credentials}
    return next(state for state in ("active", "expired", "revoked") if state in states)


def credential_state(key: KeyPolicy, cid: str, now_ms: int) -> str:
    """Return the state of a credential of a key."""
    return _STATES[key.credential_state(cid, now_ms)]


def limit_views(usage: Usage, item: KeyItem) -> tuple[LimitView, ...]:
    """Return all limits on a key's path, the tightest first."""
    if usage.path is not None:
        return path_views(usage.path)
    return tightest_first(
        _limit_view(Limit(unit, usage.limits[unit]), item.who, per_text(WINDOW_MS), (), usage.used[unit], reset_ms, 0)
        for unit, reset_ms in enumerate(usage.reset_ms)
    )


def path_views(path: PathUsage | None) -> tuple[LimitView, ...]:
    """Return the limits of all windows of a path, the tightest first."""
    return tightest_first(view for _, view in window_views(path))


def window_views(path: PathUsage | None) -> Iterator[tuple[PlannedWindow, LimitView]]:
    """Yield the limits of a path, each with its window."""
    if path is None:
        return
    for window, used, reset_ms in zip(path.plan.windows, path.used, path.reset_ms, strict=True):
        for limit in window.limits:
            if limit.unit == TOKENS:
                amount, reset = used.input_tokens + used.output_tokens, max(reset_ms[1:])
            else:
                amount, reset = used[limit.unit], reset_ms[limit.unit]
            view = _limit_view(limit, window.subject, window.per, window.models, amount, reset, window.since_ms)
            yield window, view


def tightest_first(views: Iterable[LimitView]) -> tuple[LimitView, ...]:
    """Return limits in the order of the share that is left of them."""
    return tuple(sorted(views, key=lambda view: (view.share_left, view.remaining)))


def _limit_view(
    limit: Limit, subject: str, window: str, models: tuple[str, ...], used: int, reset_ms: int, since_ms: int
) -> LimitView:
    remaining = max(0, limit.amount - used)
    unit, since = UNITS[limit.unit], utc(since_ms)
    return LimitView(
        limit.name or None,
        subject,
        unit,
        window,
        models,
        limit.amount,
        used,
        None,
        remaining,
        reset_ms,
        limit.mode,
        since,
    )
