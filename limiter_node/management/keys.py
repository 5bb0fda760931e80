"""Keys made, changed, disabled, enabled, ended, deleted."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from limiter_node.changes import Change, change_between, log_change
from limiter_node.credentials import key_id
from limiter_node.errors import ConfigError, StoreUnavailable
from limiter_node.keysfile.key_names import check_declared_key, is_digest
from limiter_node.keysfile.keys import BUILT_IN
from limiter_node.keysfile.making import new_key
from limiter_node.limits import DEFAULT_OUTPUT_RESERVE
from limiter_node.management import fields as checking
from limiter_node.management.accounts import no_account
from limiter_node.management.changing import KeyChanger, name_taken
from limiter_node.management.errors import Conflict, NotFound
from limiter_node.management.finding import SHOWN_DIGITS, Finder, Found
from limiter_node.management.naming import Names
from limiter_node.management.views import Made
from limiter_node.policy import ACCOUNT_MARK, account_tag
from limiter_node.policy_fields import Fields, fields_of_account, teams_in, time_text
from limiter_node.store.admin.key_items import PLAIN, KeyItem
from limiter_node.store.admin.pointers import Mark, Way
from limiter_node.store.admin.store_admin import StoreAdmin
from limiter_node.store.written import ATTEMPTS, Written

_OF_ACCOUNTS = ("team", "weight")
"""Fields that only keys of accounts have."""
MAX_TIME_MS = 253_402_300_799_000
"""The last second of the year 9999: later times have no common form."""


class Keys:
    """Make and change keys of one store."""

    def __init__(self, admin: StoreAdmin, finder: Finder) -> None:
        self._admin, self._finder = admin, finder
        self._changer, self._names = KeyChanger(admin, finder), Names(admin)

    # ---- made ------------------------------------------------------------------------------------------------------

    async def create(self, path: str, patch: Mapping[str, object], digest: str | None) -> Made:
        """Make a key; see `Manager.create_key`.

        First its credential is pointed to its account, then the account gets it. A creation that is interrupted leaves
        a credential that isn't known (401), and can be repeated with the same digest.
        """
        if "name" in patch:
            raise ConfigError("the name of a new key is the last part of its path: leave the field 'name' out")
        if digest is not None and not is_digest(digest):
            raise ConfigError("digest must be sha256: and 64 hex digits")
        secret = new_key() if digest is None else None
        kid = check_declared_key(digest) if digest is not None else key_id(str(secret))
        account, _, name = path.rpartition("/")
        if not name or "/" in account:
            raise ConfigError("a new key is called ACCOUNT/NAME, or NAME without an account; its team is a field")
        tried: set[bytes] = set()
        for _ in range(ATTEMPTS):
            before = await self._place(kid, account)
            if before.exists and before.version in tried:  # written, although the store's reply was lost
                return self._made(before, secret)
            await self._check_free(before, name)
            after = self._admin.keys.changed(before, _new_fields(before, name, patch))
            tried.add(after.version)
            if after.tag != PLAIN:
                await self._claim(after)
            written = await self._changer.write(before, after)
            if written is Written.NAME_TAKEN:
                await self._admin.run(lambda: self._admin.pointers.withdraw(kid, kid))
                raise name_taken(after)
            if written is Written.DONE:
                if after.tag != PLAIN:  # somebody may have cleaned up the pointer, which led to nothing until now
                    await self._claim(after)
                return self._made(after, secret)
        raise StoreUnavailable("the key keeps being changed by others: try again")

    async def _place(self, kid: str, account: str) -> KeyItem:
        """Return the new key where it shall be."""
        before = await self._admin.run(lambda: self._admin.keys.read(kid, account_tag(account) if account else None))
        if account and before.account is None:
            raise NotFound(no_account(account))
        if not account and not before.is_flat and not before.exists:  # the digest leads to an account without the key
            return KeyItem(kid, PLAIN, before.time_ms)
        return before

    async def _check_free(self, before: KeyItem, name: str) -> None:
        """Raise Conflict if the digest is in use, or was, and may not be; or if the name is taken."""
        kid, shown = before.kid, f"sha256:{before.kid[:SHOWN_DIGITS]}…"
        if before.exists:
            raise Conflict(f"the digest {shown} is that of key {before.who}")
        way, marks = await self._admin.run(self._pointer_of(kid))
        if way is not None and way != Way(before.tag, kid):
            raise Conflict(
                f"the digest {shown} belongs to another key, or leads to {_place_name(way)}: delete it first"
            )
        if (mark := marks.get(kid)) is not None and (mark.is_revoked or mark.kid != kid):
            raise Conflict(f"the secret with the digest {shown} was another key's, or was revoked: make another one")
        if before.tombstone is not None and kid in before.tombstone.revoked:
            raise Conflict(f"the secret with the digest {shown} was revoked: make another one")
        await self._names.check(before, name)

    def _pointer_of(self, kid: str) -> Callable[[], Awaitable[tuple[Way | None, Mapping[str, Mark]]]]:
        async def read() -> tuple[Way | None, Mapping[str, Mark]]:
            return await self._admin.search.way(kid), await self._admin.pointers.marks([kid])

        return read

    async def _claim(self, item: KeyItem) -> None:
        ways = {item.kid: Way(item.tag, item.kid)}
        if await self._admin.run(lambda: self._admin.pointers.claim(ways, only_new=True)):
            raise Conflict(f"the digest sha256:{item.kid[:SHOWN_DIGITS]}… was given to another key in this moment")

    def _made(self, item: KeyItem, secret: str | None) -> Made:
        change = change_between("key", item.who, "created", {}, item.fields)
        log_change(change)
        return Made(change, secret, item.kid)

    # ---- changed -----------------------------------------------------------------------------------------------------

    async def set(self, who: str, patch: Mapping[str, object]) -> Change:
        """Change fields; see `Manager.set_key`."""

        async def fields_of(_: Found, item: KeyItem) -> Fields:
            fields = _changed_fields(item, item.fields, patch)
            name = fields.get("name", "")
            if name and name != item.fields.get("name"):
                await self._names.check(item, name)
            return fields

        change, _ = await self._changer.change(who, "changed", fields_of)
        return change

    async def set_disabled(self, who: str, *, disabled: bool) -> Change:
        """Disable or enable a key; see `Manager.disable`."""

        async def fields_of(_: Found, item: KeyItem) -> Fields:
            return {**item.fields, "disabled": disabled}

        change, _ = await self._changer.change(who, "disabled" if disabled else "enabled", fields_of)
        return change

    async def expire(self, who: str, at_ms: int | None, in_ms: int | None) -> Change:
        """Set a key's end; see `Manager.expire`."""

        async def fields_of(_: Found, item: KeyItem) -> Fields:
            fields = {name: value for name, value in item.fields.items() if name != "expires"}
            ends_ms = at_ms if in_ms is None else item.time_ms + in_ms
            if ends_ms is None:
                return fields
            if not 0 < ends_ms <= MAX_TIME_MS:
                raise ConfigError("a key ends at a time from 1970 to 9999")
            return {**fields, "expires": time_text(ends_ms)}

        change, _ = await self._changer.change(who, "expires", fields_of)
        return change

    async def delete(self, who: str) -> Change:
        """Delete a key; see `Manager.delete_key`. A deletion that was interrupted is finished if a digest names it."""
        try:
            item = await self._finder.read(await self._finder.find(who))
        except NotFound:
            if (way := await self._finder.leftover(who)) is None:
                raise
            change = Change("key", way.kid[:SHOWN_DIGITS], "deleted")
            kid, tag = way.kid, way.tag
        else:
            change = change_between("key", item.who, "deleted", item.fields, {})
            kid, tag = item.kid, item.tag
        await self.delete_item(kid, tag)
        log_change(change)
        return change

    async def delete_item(self, kid: str, tag: str) -> None:
        """Delete a key that was found at `tag`. Its change is logged by whoever asks for it."""
        await self._admin.run(lambda: self._admin.deleter.delete(kid, tag or None))


def _new_fields(item: KeyItem, name: str, patch: Mapping[str, object]) -> Fields:
    """Return the fields of a new key: by default its account's, or the built-in limits."""
    if item.account is None or item.is_flat:
        defaults: Fields = {**BUILT_IN, "output_reserve": DEFAULT_OUTPUT_RESERVE}
    else:
        defaults = dict(item.account.key_defaults)
    return {**_changed_fields(item, defaults, patch), "name": name}


def _changed_fields(item: KeyItem, stored: Fields, patch: Mapping[str, object]) -> Fields:
    """Return `stored` with a person's changes. Raises ConfigError, and NotFound if its team isn't there."""
    fields = checking.changed(stored, patch, checking.KEY_FIELDS)
    if item.is_flat or item.account is None:
        for field in _OF_ACCOUNTS:
            if field in fields:
                raise ConfigError(f"{field} is for keys of an account")
    elif (team := fields.get("team")) not in (None, stored.get("team"), *teams_in(fields_of_account(item.account))):
        raise NotFound(f"there is no team {item.account.name}/{team}: create it first")
    return fields


def _place_name(way: Way) -> str:
    named = way.tag.startswith(ACCOUNT_MARK)
    return f"account '{way.tag.removeprefix(ACCOUNT_MARK)}', which doesn't have it" if named else "nothing"
