"""The state of a secret by what is stored, as a node would find it, without any node."""

from __future__ import annotations

from limiter_node.credentials import key_id
from limiter_node.key_states import CredentialState
from limiter_node.management.showing import credential_state
from limiter_node.store.admin.store_admin import StoreAdmin


async def state_of(admin: StoreAdmin, secret: str | None) -> str | None:
    """Return the state of a secret; None if no key has it."""
    assert secret is not None
    cid = key_id(secret)
    way = await admin.search.way(cid)
    if way is None:
        return None
    item = await admin.keys.read(way.kid, way.tag or None)
    if not item.exists or item.policy.credential_state(cid, item.time_ms) is CredentialState.UNKNOWN:
        return None
    return credential_state(item.policy, cid, item.time_ms)


async def good(admin: StoreAdmin, secret: str | None) -> bool:
    """Whether requests with a secret are decided."""
    return await state_of(admin, secret) == "active"
