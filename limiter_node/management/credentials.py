"""The secrets of a key: made anew with a time in which the former ones stay valid, and revoked."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from limiter_node.changes import Change
from limiter_node.credentials import key_id
from limiter_node.errors import ConfigError
from limiter_node.key_states import MAX_CREDENTIALS, Credential
from limiter_node.keysfile.making import new_key
from limiter_node.management.changing import KeyChanger
from limiter_node.management.errors import Ambiguous, Conflict, NotFound
from limiter_node.management.finding import DIGEST, KID_DIGITS, MIN_DIGITS, Finder, Found
from limiter_node.management.views import Made, digest_text
from limiter_node.policy import KeyPolicy
from limiter_node.policy_fields import Fields, fields_of_key
from limiter_node.store.admin.key_items import KeyItem
from limiter_node.store.admin.pointers import Way
from limiter_node.store.admin.store_admin import StoreAdmin

MAX_GRACE_MS: Final = 366 * 86_400_000


class Credentials:
    """Change the credentials of keys of one store."""

    def __init__(self, admin: StoreAdmin, finder: Finder) -> None:
        self._admin = admin
        self._changer = KeyChanger(admin, finder)

    async def rotate(self, who: str, grace_ms: int) -> Made:
        """Make a new secret; see `Manager.rotate`.

        First the new digest is pointed to the key, then the key gets it: interrupted between the two, it leaves a
        digest whose secret nobody has been told, and which isn't the key's (401).
        """
        if not 0 <= grace_ms <= MAX_GRACE_MS:
            raise ConfigError("a grace is from 0 to 366 days")
        secret = new_key()
        cid = key_id(secret)

        claimed: set[str] = set()

        async def fields_of(_: Found, item: KeyItem) -> Fields:
            # A plain key becomes an account of its own.
            way = Way(item.tag or item.kid, item.kid)
            if await self._admin.run(lambda: self._admin.pointers.claim({cid: way}, only_new=not claimed)):
                raise Conflict("the new secret's digest is taken: try again")
            claimed.add(item.kid)
            kept = [_ending(each, item.time_ms, grace_ms) for each in item.policy.all_credentials]
            if sum(_is_good(each, item.time_ms) for each in kept) >= MAX_CREDENTIALS:
                raise Conflict(f"the key has {MAX_CREDENTIALS} valid credentials: revoke some first")
            return _with_credentials(item, [*kept, Credential(cid)])

        try:
            change, item = await self._changer.change(who, "rotated", fields_of)
        except (NotFound, Ambiguous, Conflict):
            for kid in claimed:
                await self._admin.run(lambda kid=kid: self._admin.pointers.withdraw(kid, cid))  # type: ignore[misc]
            raise
        return Made(change, secret, item.kid)

    async def revoke(self, who: str, credential: str | None, *, every: bool) -> Change:
        """Revoke credentials for ever; see `Manager.revoke`."""
        if every and credential is not None:
            raise ConfigError("either one credential is revoked, or all of them")
        prefix = None if credential is None else _digest_prefix(credential)

        async def fields_of(found: Found, item: KeyItem) -> Fields:
            revoked = _to_revoke(found, item, prefix, every=every)
            credentials = [
                each._replace(is_revoked=each.is_revoked or each.digest in revoked)
                for each in item.policy.all_credentials
            ]
            return _with_credentials(item, credentials)

        change, _ = await self._changer.change(who, "revoked", fields_of)
        return change


def _with_credentials(item: KeyItem, credentials: Iterable[Credential]) -> Fields:
    return {**item.fields, **fields_of_key(KeyPolicy(item.kid, credentials=tuple(credentials)))}


def _ending(credential: Credential, now_ms: int, grace_ms: int) -> Credential:
    """Return a credential that ends after the grace, unless it does sooner or isn't valid now."""
    if not _is_good(credential, now_ms):
        return credential
    ends_ms = now_ms + grace_ms
    return credential._replace(ends_ms=min(credential.ends_ms or ends_ms, ends_ms))


def _is_good(credential: Credential, now_ms: int) -> bool:
    return not credential.is_revoked and not 0 < credential.ends_ms <= now_ms


def _digest_prefix(credential: str) -> str:
    digest = DIGEST.match(credential)
    if digest is None:
        raise ConfigError(f"a credential is named by {MIN_DIGITS} or more hex digits of its digest")
    return digest[1].lower()[:KID_DIGITS]


def _to_revoke(found: Found, item: KeyItem, prefix: str | None, *, every: bool) -> set[str]:
    """Return the digests of the credentials to revoke. Raises NotFound, Ambiguous and Conflict."""
    credentials = item.policy.all_credentials
    if every:
        return {each.digest for each in credentials}
    if prefix is not None:
        named = [each.digest for each in credentials if each.digest.startswith(prefix)]
        if not named:
            raise NotFound(f"key {item.who} has no credential whose digest begins so")
        if len(named) > 1:
            raise Ambiguous(f"{len(named)} credentials begin so", [digest_text(each) for each in named])
        return set(named)
    if found.cid is not None:
        return {found.cid}
    valid = [each.digest for each in credentials if _is_good(each, item.time_ms)]
    if len(valid) != 1:
        listed = f" ({', '.join(digest_text(each) for each in valid)}): name one, or revoke all" if valid else ""
        raise Conflict(f"key {item.who} has {len(valid) or 'no'} valid credentials{listed}")
    return set(valid)
