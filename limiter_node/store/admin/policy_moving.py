"""Moves keys between accounts without their windows: usage stays behind."""

from __future__ import annotations

from dataclasses import replace

from limiter_node.policy import AccountPolicy
from limiter_node.store.admin.pointers import Pointers, Way
from limiter_node.store.admin.policies import NO_VERSION, Policies, Write


class PolicyMover:
    """Move the policies of keys, with the ways to them."""

    def __init__(self, policies: Policies, pointers: Pointers) -> None:
        self._policies, self._pointers = policies, pointers

    async def move(self, kid: str, source: str, target: str) -> None:
        """See `key_loading.Mover`."""
        stored = await self._policies.read(source, [kid])
        found = stored.keys.get(kid)
        account = stored.policy if source == kid else None
        key = account.key if account is not None else found.policy if found is not None else None
        if key is None:
            return
        revision = (account.revision if account is not None else key.revision) + 1
        if target == kid:
            own = AccountPolicy(key=replace(key, team="", revision=0), revision=revision)
            await self._policies.write([Write(target, "", NO_VERSION, own)])
        else:
            await self._policies.write([Write(target, kid, NO_VERSION, replace(key, team="", revision=revision))])
        await self._pointers.claim({each.digest: Way(target, kid) for each in key.all_credentials})
        await self._policies.take_out(source, "" if source == kid else kid)

    async def finish(self, kid: str, source: str) -> None:
        """See `key_loading.Mover`."""
        raise NotImplementedError
