"""Moves keys between accounts, with what their own windows hold; a key is never open in two accounts.

A move is four steps, because the two accounts may be on two servers:

1. ``seal.lua`` takes the key out of the account where it is, and leaves a forward mark with all that follows.
2. ``open.lua`` puts it into the other account, with the windows as they were frozen by the seal.
3. The ways from the key's credentials are led there, unless the key is being deleted.
4. ``forward.lua`` deletes the frozen windows; the forward mark stays, and tells nodes where settles go.

Each step may be repeated by anybody and at any time: it changes nothing once it is done, or once the key has moved on.
So an interrupted move is finished by `finish`, which moves, nodes and `apply` call where they meet the mark of one that
isn't over. If the other account is gone by then, the key goes back. Neighbours: `policies` reads and writes policies.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import replace
from secrets import token_hex
from typing import Any, NamedTuple

from redis.asyncio import Redis

from limiter_node.errors import ConfigError, StoreUnavailable
from limiter_node.plans import key_name
from limiter_node.policy import ACCOUNT_MARK, KEY_SUBJECT, AccountPolicy, KeyPolicy, key_of, window_id
from limiter_node.policy_body import Forward, body_of, forward_body, read_account, read_forward, read_key, version_of
from limiter_node.store.admin.masters import Masters
from limiter_node.store.admin.policies import NO_VERSION, Policies
from limiter_node.store.admin.script_calls import ScriptCall, call_script
from limiter_node.store.keyspace import CLOCK_FIELD, deleted_key, limits_key, member_key, policy_key, shared_key
from limiter_node.store.scripts import load_script
from limiter_node.store.written import Written

_MOST_TRIES = 10
_WINDOW_FIELD_LENGTHS = (6, 7)
"""Of the names of fields that hold a window: its id, and that with a letter for a group of its buckets."""
_CLOSED, _OPENED, _WAS_OPENED, _NO_ACCOUNT = range(4)
"""The replies of ``open.lua``."""


class _Frozen(NamedTuple):
    """The windows of a sealed key: the fields of their hash in turn with the values; its account's clock and time."""

    fields: Sequence[bytes]
    clock: bytes
    time_ms: int


class Mover:
    """Move keys of one store. Methods raise redis-py's errors; `tag`, `source`, `target` are hash tags of accounts.

    A key that is an account of its own has its ``kid`` as hash tag. A plain key has to be adopted before.
    """

    def __init__(self, masters: Masters, policies: Policies) -> None:
        self._masters, self._policies = masters, policies
        self._seal, self._open, self._forward = load_script("seal"), load_script("open"), load_script("forward")
        self._point, self._declare = load_script("redeclare"), load_script("declare")

    async def move(
        self,
        kid: str,
        source: str,
        target: str,
        *,
        policy: KeyPolicy | None = None,
        expected: bytes | None = None,
    ) -> bool:
        """Move a key from the account `source` to `target`. Return whether this call did.

        It didn't if the key was not at `source`, or not in the version `expected`: then read it again. A move that was
        interrupted is finished first. `policy`: the key's policy at the target, where it gets a higher revision; by
        default as it is, in no team.

        Raises:
            ConfigError: there is no account `target`, or another key has the name there.
        """
        stored = await self._policies.read(source, [kid])
        found = stored.keys.get(kid)
        account = stored.policy if source == kid else None
        before = account.key if account is not None else found.policy if found is not None else None
        version = stored.version if account is not None else found.version if found is not None else NO_VERSION
        if before is None:
            await self.finish(kid, source)
            return False
        if source == target or expected not in (None, version):
            return False
        key = policy if policy is not None else replace(before, team="")
        revision = 1 + max(
            account.revision if account is not None else before.revision, await self._last_revision(target, kid)
        )
        await self._check_target(target, key)
        back: AccountPolicy | KeyPolicy = replace(account if account is not None else before, revision=revision + 1)
        there: AccountPolicy | KeyPolicy = (
            AccountPolicy(key=replace(key, team="", revision=0), revision=revision)
            if target == kid
            else replace(key, revision=revision)
        )
        mark = Forward(target, token_hex(8), 0, body_of(there).decode(), body_of(back).decode())._asdict()
        del mark["time_ms"]  # the script says when
        arguments = (kid, version, before.name, json.dumps(mark), 0)
        keys = (policy_key(source), shared_key(source))
        if await call_script(self._owner(source), self._seal, ScriptCall(keys, arguments)) != 1:
            return False
        _, is_back = await self._finish(kid, source)
        if is_back:
            raise ConfigError(f"account {target.removeprefix(ACCOUNT_MARK)} was deleted meanwhile: the key stays")
        return True

    async def finish(self, kid: str, source: str) -> str | None:
        """Finish the move of a key away from `source`, if one was begun. Return where it leads; None if none was."""
        place, _ = await self._finish(kid, source)
        return place

    async def _finish(self, kid: str, source: str) -> tuple[str | None, bool]:
        """Return what `finish` does, and whether the key was opened again where it was, because its target is gone."""
        for _ in range(_MOST_TRIES):
            raw = await self._field(source, f"f:{kid}")
            if raw is None:
                return None, False
            forward = read_forward(raw)
            if forward.is_over:
                return forward.to, False
            code, told = await self._open_at_target(kid, source, forward)
            if code in (_OPENED, _WAS_OPENED):
                key = key_of(_policy_in(kid, forward))
                assert key is not None
                # The key itself comes last: until the others lead there, whoever looks for the key finds the seal.
                cids = sorted((each.digest for each in key.all_credentials), key=lambda each: each == kid)
                await self._lead_there(kid, source, forward.to, cids)
                await self._end(kid, source, forward, told)
                return await self._lead_on(kid, forward.to, cids), False
            if await self._bring_back(kid, source, raw, forward):
                return source, True
        raise StoreUnavailable(f"the key {kid[:12]} keeps being moved by others: try again")

    # ---- steps -----------------------------------------------------------------------------------------------------

    async def _open_at_target(self, kid: str, source: str, forward: Forward) -> tuple[int, dict[str, Any]]:
        """Open the key. Return the script's code, and how its windows were moved."""
        frozen = await self._read_frozen(kid, source)
        is_own, policy = forward.to == kid, _policy_in(kid, forward)
        key = key_of(policy)
        assert key is not None
        windows = b"".join(
            struct.pack("<6sIH", window_id(KEY_SUBJECT, each), each.bucket_ms, each.buckets) for each in key.windows
        )
        is_one_server = self._owner(source) is self._owner(forward.to)
        arguments: tuple[str | bytes | int, ...] = (
            *(kid, forward.id, policy.revision, version_of(forward.body.encode()), forward.body),
            *("" if is_own else key.name, frozen.clock, 0 if is_one_server else frozen.time_ms, 0, windows),
            *frozen.fields,
        )
        return await self._call_open(kid, forward.to, arguments)

    async def _call_open(
        self, kid: str, target: str, arguments: Sequence[str | bytes | int]
    ) -> tuple[int, dict[str, Any]]:
        keys = (policy_key(target), shared_key(target), _windows_key(target, kid))
        code, told = await call_script(self._owner(target), self._open, ScriptCall(keys, arguments))
        return code, json.loads(told) if told else {}

    async def _read_frozen(self, kid: str, source: str) -> _Frozen:
        async with self._owner(source).pipeline(transaction=True) as pipeline:
            pipeline.hgetall(_windows_key(source, kid))
            pipeline.hget(shared_key(source), CLOCK_FIELD)
            pipeline.time()
            windows, clock, (seconds, micros) = await pipeline.execute()
        assert isinstance(windows, Mapping)
        fields = [part for item in windows.items() if len(item[0]) in _WINDOW_FIELD_LENGTHS for part in item]
        time_ms = int(seconds) * 1000 + int(micros) // 1000
        if clock is not None:
            last_ms, skew_ms = (int.from_bytes(clock[at : at + 6], "little") for at in (0, 6))
            time_ms = max(time_ms + skew_ms, last_ms)
        return _Frozen(fields, clock or b"", time_ms)

    async def _lead_there(self, kid: str, source: str, target: str, cids: Sequence[str]) -> None:
        """Lead the ways from the key's credentials to the target; take the key away there if it is being deleted.

        The mark of a further credential doesn't say so: a key that was deleted and made again still has those that had
        been revoked, with their marks.
        """
        for cid in cids:
            keys = (limits_key(cid), deleted_key(cid))
            arguments = ("", target, source, "" if cid == kid else kid)
            reply = await call_script(self._masters.owner(keys[0]), self._point, ScriptCall(keys, arguments))
            if reply[0] == 0 and cid == kid:
                await self._take_away(kid, target)
                return

    async def _lead_on(self, kid: str, place: str, cids: Sequence[str]) -> str:
        """Lead the credentials of a key on that has left the target `place` since. Return where it is.

        Somebody else may have finished the move before and moved the key on: then they were led back just now.
        """
        for _ in range(_MOST_TRIES):
            raw = await self._field(place, f"f:{kid}")
            if raw is None:
                return place
            following = read_forward(raw)
            if not following.is_over:
                return await self.finish(kid, place) or place
            await self._lead_there(kid, place, following.to, cids)
            place = following.to
        raise StoreUnavailable(f"the key {kid[:12]} keeps being moved by others: try again")

    async def _take_away(self, kid: str, tag: str) -> None:
        if tag == kid:
            await self._policies.delete_account(tag)
        else:
            await self._policies.delete_key(tag, kid)
            await self._owner(tag).delete(member_key(tag, kid))

    async def _end(self, kid: str, source: str, forward: Forward, told: Mapping[str, int]) -> None:
        revision = _policy_in(kid, forward).revision
        over = forward._replace(body="", back="", shift_ms=told["shift_ms"], opened_ms=told["opened_ms"])
        mark = forward_body(over._replace(revision=revision))
        keys = (policy_key(source), _windows_key(source, kid))
        await call_script(self._owner(source), self._forward, ScriptCall(keys, (kid, forward.id, mark)))

    async def _bring_back(self, kid: str, source: str, raw: bytes, forward: Forward) -> bool:
        """Open the key again where it was, because its target is gone. Return whether it is there."""
        revision = _policy_in(kid, forward).revision
        nothing = (kid, forward.id, revision, b"", b"", "", b"", 0, 0, b"")  # nobody opens it there any more
        code, _ = await self._call_open(kid, forward.to, nothing)
        if code == _WAS_OPENED:
            return False
        body, is_own = forward.back.encode(), source == kid
        name = "" if is_own else read_key(body).name
        arguments = ("" if is_own else kid, NO_VERSION, version_of(body), body, name, "", "", raw)
        reply = await call_script(self._owner(source), self._declare, ScriptCall([policy_key(source)], arguments))
        if reply == Written.NAME_TAKEN:
            raise ConfigError(f"the key {key_name(name, kid)} can't go back: another key has its name there")
        return bool(reply == Written.DONE)

    # ---- the target ------------------------------------------------------------------------------------------------

    async def _last_revision(self, target: str, kid: str) -> int:
        """Return the highest revision that anything left of the key at the target has."""
        stored = await self._policies.read(target, [kid])
        opened = await self._field(target, f"o:{kid}")
        return max(int(json.loads(opened)["revision"]) if opened is not None else 0, stored.last_revision(kid))

    async def _check_target(self, target: str, key: KeyPolicy) -> None:
        if target == key.kid:
            return
        other = await self._field(target, f"n:{key.name}") if key.name else None
        stored = await self._policies.read(target, [] if other is None else [other.decode()])
        name = target.removeprefix(ACCOUNT_MARK)
        if stored.policy is None:
            raise ConfigError(f"there is no account {name}")
        if other is not None and other.decode() != key.kid and stored.keys:
            raise ConfigError(f"another key of account {name} is called {key.name}")
        if key.team and key.team not in {each.name for each in stored.policy.subjects}:
            raise ConfigError(f"account {name} has no team {key.team}")

    async def _field(self, tag: str, name: str) -> bytes | None:
        value = await self._owner(tag).hget(policy_key(tag), name)
        assert not isinstance(value, str)
        return value

    def _owner(self, tag: str) -> Redis:
        return self._masters.owner(policy_key(tag))


def _windows_key(tag: str, kid: str) -> str:
    """Return the name of the hash of a key's own windows."""
    return shared_key(tag) if tag == kid else member_key(tag, kid)


def _policy_in(kid: str, forward: Forward) -> AccountPolicy | KeyPolicy:
    """Return the policy for the target: that of the account that the key becomes, or the key's."""
    body = forward.body.encode()
    return read_account(body) if forward.to == kid else read_key(body)
