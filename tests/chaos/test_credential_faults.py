"""Rows 29 and 35 of the table of faults for credentials and states of keys: what nodes were told of them counts.

Of flat keys and of keys of an account, one of which has just moved there; `test_key_faults` has plain keys.
"""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest
from asking import ask
from chaos_scene import Row, eventually, scene
from test_belief_faults import note, signal_all
from test_key_faults import admin_of, ask_both, told
from test_store_faults import ready

from limiter_node.credentials import key_id
from limiter_node.management.manager import Manager

REFUSED = ("revoked", "disabled", "ended", "deleted")
LIMITS = {"rpm": 100, "requests/1d": 100_000}


async def make(manager: Manager, path: str, names: tuple[str, ...]) -> dict[str, str]:
    """Make keys; the secret of each."""
    secrets = {}
    for name in names:
        made = await manager.create_key(path + name, LIMITS)
        assert made.secret is not None
        secrets[name] = made.secret
    return secrets


async def second(manager: Manager, who: str) -> str:
    """Give a key a second secret."""
    made = await manager.rotate(who, 3_600_000)
    assert made.secret is not None
    return made.secret


async def refuse(manager: Manager, path: str, secrets: dict[str, str]) -> None:
    """Have what the names of the keys say."""
    await manager.revoke(path + "revoked", f"sha256:{key_id(secrets['revoked'])}")
    await manager.disable(path + "disabled")
    await manager.expire(path + "ended", 1_000)
    await manager.delete_key(path + "deleted")


@pytest.mark.chaos
@pytest.mark.parametrize("path", ["acme/", ""], ids=["of an account", "flat"])
async def test_29_credentials_and_states_are_lost(directory: Path, binary: str | None, row: Row, path: str) -> None:
    """The nodes declare them again, and where a key has moved to; a deleted key gets its mark back."""
    async with scene(directory, binary) as on, admin_of(on) as admin:
        manager = Manager(admin)
        for account in ("acme", "globex"):
            await manager.create_account(account, {"rpm": 1_000_000})
        secrets = await make(manager, path, (*REFUSED, "moved"))
        secrets["other"] = await second(manager, path + "revoked")

        async def lose() -> None:
            for name in secrets:
                assert await told(on, secrets[name]) == 100
            await refuse(manager, path, secrets)
            await manager.move(path + "moved", "globex")
            expected = {**dict.fromkeys(REFUSED, 401), "moved": 100, "other": 100}
            assert {name: await told(on, secret) for name, secret in secrets.items()} == expected
            for master in on.masters:
                with on.client(master) as client:
                    client.flushall()
            for _ in range(2):
                assert {name: await told(on, secret) for name, secret in secrets.items()} == expected
            view = await manager.show_key("globex/moved")
            assert view.state == "active"
            assert (await manager.show_key(path + "disabled")).state == "disabled"

        kind = "keys of an account" if path else "flat keys"
        await note(on, row, f"{kind} lost after credentials, states and a move had been told", lose, "29")


@pytest.mark.chaos
@pytest.mark.parametrize("path", ["acme/", ""], ids=["of an account", "flat"])
async def test_35_credentials_and_states_just_before_the_store_is_away(
    directory: Path, binary: str | None, row: Row, path: str
) -> None:
    """A node that was told admits no such request; the other credential of a key is decided as ever."""
    async with scene(directory, binary) as on, admin_of(on) as admin:
        manager = Manager(admin)
        await manager.create_account("acme", {"rpm": 1_000_000})
        secrets = await make(manager, path, (*REFUSED, "not-asked"))
        for name in ("revoked", "not-asked"):
            secrets[f"{name}, the other"] = await second(manager, path + name)
        outages: dict[str, list[int]] = {name: [] for name in secrets}

        async def lose() -> None:
            for secret in secrets.values():
                assert [each.status for each in await ask_both(on, secret)] == [200, 200]
            await refuse(manager, path, secrets)
            await manager.revoke(path + "not-asked", f"sha256:{key_id(secrets['not-asked'])}")
            for name in REFUSED:
                assert (await ask(on, 0, secrets[name])).status == 401
            signal_all(on, signal.SIGSTOP)
            try:
                for _ in range(5):
                    for name, statuses in outages.items():
                        statuses += [each.status for each in await ask_both(on, secrets[name])]
                    await asyncio.sleep(0.1)
            finally:
                signal_all(on, signal.SIGCONT)

            async def is_told() -> bool:
                answers = {name: await ask_both(on, secret) for name, secret in secrets.items()}
                return all(
                    {answer.status for answer in both} == {200 if "other" in name else 401}
                    for name, both in answers.items()
                )

            await eventually(is_told, 5)

        outcome = await on.under_load(lose, 6, qps=100, after_s=0.5)
        kind = "keys of an account" if path else "flat keys"
        row("35", f"credentials revoked, {kind} disabled, ended, deleted just before all masters are frozen", outcome)
        for name, statuses in outages.items():
            if "other" in name:
                assert set(statuses) == {200}, outages
            elif name != "not-asked":
                assert set(statuses[::2]) <= {401, 503}, "the first node was told"
                assert set(statuses[1::2]) <= {200, 401, 503}, outages
        assert outcome.excess <= outcome.most_excess, outcome
        await ready(on)
