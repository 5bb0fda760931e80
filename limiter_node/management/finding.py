"""WHO: from what a person types to a key.

No message holds what was typed: it may be a secret.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from limiter_node.credentials import is_key, key_id
from limiter_node.errors import ConfigError
from limiter_node.key_states import CredentialState
from limiter_node.keysfile.fields import is_path_name
from limiter_node.management.errors import Ambiguous, NotFound
from limiter_node.policy import ACCOUNT_MARK, account_tag
from limiter_node.store.admin.key_items import KeyItem
from limiter_node.store.admin.pointers import Way
from limiter_node.store.admin.search import MOST_MATCHES
from limiter_node.store.admin.store_admin import StoreAdmin

SHOWN_DIGITS: Final = 12
"""Of a digest, where a person has to tell a few apart."""
MIN_DIGITS: Final = 8
"""The fewest digits of a digest that name a key."""
KID_DIGITS: Final = 32

DIGEST = re.compile(rf"(?:sha256:)?([0-9a-fA-F]{{{MIN_DIGITS},64}})\Z")
"""A digest as people write it, or its beginning."""


@dataclass(frozen=True, slots=True)
class Found:
    """A key that was named. `cid`: the credential that was, if by a digest or a secret. `account`: None of a flat key.

    `by_secret`: whether a secret named it, which then stands in a shell's history, or in a log of requests.
    """

    kid: str
    cid: str | None = None
    account: str | None = None
    by_secret: bool = False

    @property
    def tag(self) -> str | None:
        """The hash tag of the key's account; None of a flat key, whose pointer says whether it has one."""
        return None if self.account is None else account_tag(self.account)


class Finder:
    """Find the keys of one store. `takes_secrets`: whether a secret may name a key."""

    def __init__(self, admin: StoreAdmin, *, takes_secrets: bool = True) -> None:
        self._admin, self._takes_secrets = admin, takes_secrets

    async def find(self, who: str) -> Found:
        """Return the key that `who` names.

        A name without an account, and the beginning of a digest, cost a walk through all keys. A whole digest of an
        existing key counts before names: nobody calls a key like another one's digest by chance.

        Raises NotFound and Ambiguous; ConfigError for a key's secret, unless secrets are taken.
        """
        if "/" in who and (in_account := await self._in_account(who) or await self._nameless(who)) is not None:
            return in_account
        digest = DIGEST.match(who)
        prefix = digest[1].lower()[:KID_DIGITS] if digest else ""
        if len(prefix) == KID_DIGITS and (found := await self._by_credential(prefix)) is not None:
            return found
        if found := await self._by_scan(who, prefix if len(prefix) < KID_DIGITS else ""):
            return found
        if is_key(who) and (found := await self._by_credential(key_id(who))) is not None:
            if not self._takes_secrets:
                raise ConfigError("that is a key's secret, which must not be here: give the key's name or digest")
            return Found(found.kid, found.cid, found.account, by_secret=True)
        raise NotFound("no key has that name, digest or secret: 'limiter-node keys list' shows all")

    async def leftover(self, who: str) -> Way | None:
        """Return the way that is left of a key's creation or deletion that was interrupted, by its whole digest."""
        digest = DIGEST.match(who)
        cid = digest[1].lower()[:KID_DIGITS] if digest else ""
        if len(cid) < KID_DIGITS:
            return None
        return await self._admin.run(lambda: self._admin.search.way(cid))

    async def read(self, found: Found) -> KeyItem:
        """Return a key that was found, as it is stored. Raises NotFound if it has gone since."""
        item = await self._admin.run(lambda: self._admin.keys.read(found.kid, found.tag))
        if not item.exists:
            raise NotFound(f"key sha256:{found.kid[:SHOWN_DIGITS]}… is not there any more")
        return item

    async def _in_account(self, path: str) -> Found | None:
        account, _, name = path.partition("/")
        if not is_path_name(account) or not is_path_name(name):
            return None
        kid = await self._admin.run(lambda: self._admin.search.named(account, name))
        if kid is not None:
            return Found(kid, account=account)
        sealed = await self._admin.run(lambda: self._admin.search.sealed(account, name))
        if sealed is None:
            return None
        # Its move was interrupted, or is under way; until that is over it goes by its former name, too.
        place = await self._admin.run(lambda: self._admin.mover.finish(sealed, account_tag(account)))
        return None if place is None else Found(sealed, account=_account_of(place))

    async def _nameless(self, path: str) -> Found | None:
        """Return the key of an account that has no name, by the one that messages give it: ``acme/5d08e6311286``."""
        account, _, digits = path.partition("/")
        if not is_path_name(account) or not (digest := DIGEST.match(digits)):
            return None
        found = await self._by_scan(path, digest[1].lower()[:KID_DIGITS])
        if found is None or found.account != account:
            return None
        return Found(found.kid, account=account)

    async def _by_credential(self, cid: str) -> Found | None:
        way = await self._admin.run(lambda: self._admin.search.way(cid))
        return None if way is None else await self._checked(cid, way)

    async def _checked(self, cid: str, way: Way) -> Found | None:
        """Return the key of a credential; None if the way leads to none, as after a creation that was interrupted."""
        item = await self._admin.run(lambda: self._admin.keys.read(way.kid, way.tag or None))
        if item.is_moving:
            await self._admin.run(lambda: self._admin.mover.finish(way.kid, way.tag))
            return await self._by_credential(cid)
        if not item.exists or item.policy.credential_state(cid, 0) is CredentialState.UNKNOWN:
            return None
        return Found(way.kid, cid, _account_of(item.tag))

    async def _by_scan(self, who: str, prefix: str) -> Found | None:
        kids, cids = await self._admin.run(lambda: self._admin.search.matches(who, prefix))
        if len(kids) > 1:
            named = [f"sha256:{kid[:SHOWN_DIGITS]}" for kid in sorted(kids)]
            raise Ambiguous(f"{_count(kids, 'keys')} are called so: give the digest of one", named)
        if kids:
            found_key = await self._by_credential(kids[0])  # its move may not be over
            return Found(kids[0], account=None if found_key is None else found_key.account)
        found = [each for cid, way in cids.items() if (each := await self._checked(cid, way)) is not None]
        if len({each.kid for each in found}) > 1:
            named = [f"sha256:{each.cid}" for each in found]
            raise Ambiguous(f"{_count(found, 'digests')} begin so: give more digits", named)
        if len(found) > 1:  # several credentials of one key
            return Found(found[0].kid, account=found[0].account)
        return found[0] if found else None


def _account_of(tag: str) -> str | None:
    return tag.removeprefix(ACCOUNT_MARK) if tag.startswith(ACCOUNT_MARK) else None


def _count(found: list[str] | list[Found], what: str) -> str:
    return f"{len(found)}{'' if len(found) < MOST_MATCHES else ' or more'} {what}"
