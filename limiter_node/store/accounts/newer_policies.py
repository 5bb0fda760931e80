"""Policies that the node knows by a higher revision than the store tells: they are declared over the store's.

A store that comes back with older data, or with what another node knew, tells policies that have been changed since:
credentials that were revoked since then would be good again. So the higher revision wins.

Weakness: a change that was made to the older policy before any node met it is undone.
"""

from __future__ import annotations

import asyncio

from limiter_node.policy import AccountPolicy, KeyPolicy, key_of
from limiter_node.policy_body import read_key, version_of
from limiter_node.store.accounts.calls import AwaitedCall
from limiter_node.store.keyspace import policy_key, slot_of
from limiter_node.store.scripts import load_script
from limiter_node.store.wire.routing_and_retries import Router
from limiter_node.store.wire.script_target import ScriptTarget
from limiter_node.store.written import Written


def is_older(told: AccountPolicy | KeyPolicy, known: AccountPolicy | KeyPolicy) -> bool:
    """Whether the store tells a policy by a lower revision than that of the known one.

    Earlier versions of the limiter write policies without a revision. Such a policy counts, unless the known one has
    what they can't write, such as a revoked credential.
    """
    if told.revision or told.revision == known.revision:
        return told.revision < known.revision
    key = key_of(known)
    return key is not None and not key.has_one_lasting_credential


class NewerPolicies:
    """Declare policies over older ones, for one node. `declared` counts those that were."""

    def __init__(self, router: Router) -> None:
        self._router, self._script = router, load_script("declare")
        self._under_way: dict[tuple[str, str, bytes], asyncio.Future[object]] = {}
        self.declared = 0

    async def declare(self, tag: str, kid: str, told: bytes, body: bytes) -> None:
        """Write a policy over `told`, unless the store has another one by now.

        `tag`: the hash tag of the account. `kid`: of the key that the policy is of; empty: it is the account's.

        Raises:
            StoreUnavailable: the store could not be asked.
        """
        names = (read_key(body).name, read_key(told).name) if kid else ("", "")
        # Where another key of the account has the name, the key is left out of the index of names.
        if await self._write(tag, kid, told, body, *names) == Written.NAME_TAKEN:
            await self._write(tag, kid, told, body, "", names[1])

    async def _write(self, tag: str, kid: str, told: bytes, body: bytes, name: str, former_name: str) -> object:
        """Call the script once for all requests that wait for this."""
        place = (tag, kid, told)
        written = self._under_way.get(place)
        if written is None:
            arguments = (kid, version_of(told), version_of(body), body, name, former_name)
            target = ScriptTarget(self._script, slot_of(tag), (policy_key(tag).encode(),), (), len(arguments))
            call = AwaitedCall(self._router, target, arguments)
            written = self._under_way[place] = call.future
            written.add_done_callback(lambda _: self._on_written(place))
            self._router.send([call])
        return await asyncio.shield(written)

    def _on_written(self, place: tuple[str, str, bytes]) -> None:
        written = self._under_way.pop(place)
        if not written.cancelled() and written.exception() is None and written.result() == Written.DONE:
            self.declared += 1
