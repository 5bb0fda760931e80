"""Loading declarations into real stores: what is stored, what stays, what changes, and several loaders at once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from dispatching import dispatching
from redis import Redis
from store_tools import new_api_key, store_client

from limiter_node.credentials import key_id
from limiter_node.decisions import Need
from limiter_node.declarations import AccountKey, Declarations
from limiter_node.errors import ConfigError
from limiter_node.key_states import CredentialState
from limiter_node.keysfile.reading import read_keys
from limiter_node.limits import KeyLimits
from limiter_node.policy import AccountPolicy, KeyPolicy, PolicyWindow
from limiter_node.policy_body import read_account, read_key, version_of
from limiter_node.policy_fields import fields_of_account, fields_of_key
from limiter_node.store.admin.pointers import Pointers
from limiter_node.store.admin.policies import Policies
from limiter_node.store.admin.store_admin import StoreAdmin, administering
from limiter_node.store.keyspace import (
    deleted_key,
    limits_key,
    member_key,
    past_key,
    policy_key,
    shared_key,
    window_key,
)
from limiter_node.store.url import parse_store_url
from limiter_node.store.values import pack_limits

SECOND, MINUTE, HOUR, DAY = 1_000, 60_000, 3_600_000, 86_400_000


@pytest.fixture
def url(url_of_either_server: str) -> str:
    return url_of_either_server


@pytest.fixture
def client(url: str) -> Iterator[Any]:
    with store_client(url) as client:
        yield client


class Names:
    """Names that no other test uses, because stores are shared; `read` fills them into the text of a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        unique = new_api_key().replace("sk-test-", "")
        self.account, self.other = f"acme{unique}", f"beta{unique}"
        self.tag, self.other_tag = f"@{self.account}", f"@{self.other}"
        self.keys = {name: new_api_key() for name in ("alice", "bob", "carol")}
        self.alice, self.bob, self.carol = (key_id(key) for key in self.keys.values())

    def read(self, text: str) -> Declarations:
        for name, key in self.keys.items():
            text = text.replace(f"[keys.{name}]", f'[keys.{key}]\nname = "{name}"')
        self._path.write_text(text.replace("acme", self.account).replace("beta", self.other))
        return read_keys(self._path)


@pytest.fixture
def names(tmp_path: Path) -> Names:
    return Names(tmp_path / "keys.toml")


ORGANISATION = """
[accounts.acme]
rpm = 5_000
limits = [{ requests = 50_000, per = "1d" }, { tokens = 100, per = "1m", models = ["o3*"] }]
[accounts.acme.teams.research]
rpm = 1_000
[keys.alice]
account = "acme"
team = "research"
rpm = 60
[keys.bob]
account = "acme"
[keys.carol]
limits = [{ requests = 5, per = "1d" }]
"""


def policies(client: Any, tag: str) -> tuple[AccountPolicy, dict[str, KeyPolicy]]:
    """What the store has of an account; each version must be that of its body."""
    found: dict[bytes, bytes] = client.hgetall(policy_key(tag))
    assert found[b"version"] == version_of(found[b"account"])
    kids = [field.decode() for field in found if len(field) == 32]
    for kid in kids:
        assert found[kid.encode()] == version_of(found[b"k:" + kid.encode()])
    keys = {kid: read_key(found[b"k:" + kid.encode()]) for kid in kids}
    names = {field[2:].decode(): kid.decode() for field, kid in found.items() if field.startswith(b"n:")}
    assert names == {key.name: kid for kid, key in keys.items() if key.name}
    marks = [field for field in found if field[:2] in (b"x:", b"f:", b"o:")]
    assert len(found) == 2 + 2 * len(kids) + len(names) + len(marks)
    return read_account(found[b"account"]), keys


def stored(client: Any, names: Names) -> dict[str, Any]:
    """All that is stored of the names' accounts and keys, but for usage."""
    keys = [policy_key(tag) for tag in (names.tag, names.other_tag, names.alice, names.bob, names.carol)]
    keys += [key(kid) for kid in (names.alice, names.bob, names.carol) for key in (limits_key, deleted_key)]
    return {key: client.hgetall(key) if client.type(key) == b"hash" else client.get(key) for key in keys}


def windows_of(account: AccountPolicy, name: str = "") -> tuple[PolicyWindow, ...]:
    (subject,) = [each for each in account.subjects if each.name == name]
    return subject.windows


def now_ms(client: Any) -> int:
    """The store's clock: its servers run on one machine."""
    reply = client.time() if isinstance(client, Redis) else next(iter(client.time(target_nodes="primaries").values()))
    return int(reply[0]) * 1000 + int(reply[1]) // 1000


async def test_accounts_keys_and_pointers_are_stored(admin: StoreAdmin, client: Any, names: Names) -> None:
    declared, before_ms = names.read(ORGANISATION), now_ms(client)
    await admin.apply(declared)
    account, keys = policies(client, names.tag)
    assert keys.keys() == {names.alice, names.bob}
    window, *_ = windows_of(account)
    assert before_ms <= window.since_ms <= now_ms(client)
    ((alice_window,),) = (keys[names.alice].windows,)
    assert before_ms <= alice_window.since_ms <= now_ms(client)

    found = fields_of_account(account)
    assert found == fields_of_account(declared.accounts[names.account])
    assert found == {
        "rpm": 5_000,
        "requests/1d": 50_000,
        "tokens/1m for o3*": 100,
        "team research": True,
        "team research rpm": 1_000,
    }
    assert fields_of_key(keys[names.alice]) == {"name": "alice", "team": "research", "rpm": 60}
    assert fields_of_key(keys[names.bob]) == {"name": "bob"}
    assert {each.revision for each in (account, *keys.values())} == {1}
    assert json.loads(keys[names.bob].declared.last) == {"name": "bob", "account": names.account}
    assert [client.hgetall(limits_key(kid)) for kid in (names.alice, names.bob, names.carol)] == [
        {b"account": tag.encode()} for tag in (names.tag, names.tag, names.carol)
    ]
    carol, others = policies(client, names.carol)
    assert others == {}
    assert carol.key is not None
    assert fields_of_key(carol.key) == fields_of_key(declared.keys[names.carol].key)
    assert [client.ttl(key) for key in (policy_key(names.tag), limits_key(names.alice))] == [-1, -1]


async def test_the_same_file_changes_nothing(admin: StoreAdmin, client: Any, names: Names) -> None:
    declared = names.read(ORGANISATION)
    await admin.apply(declared)
    before = stored(client, names)
    await admin.apply(declared)
    assert stored(client, names) == before


async def test_plain_keys_are_stored_as_before(admin: StoreAdmin, client: Any, names: Names) -> None:
    await admin.apply(names.read("[keys.alice]\nrpm = 7\noutput_reserve = 9\n"))
    assert client.get(limits_key(names.alice)) == pack_limits(KeyLimits(7, output_reserve=9, name="alice"))
    assert not client.exists(policy_key(names.alice))
    await admin.apply(names.read("[keys.alice]\nrpm = 8\n"))
    assert client.get(limits_key(names.alice)) == pack_limits(KeyLimits(8, name="alice"))


async def test_windows_keep_counting_and_linger(admin: StoreAdmin, client: Any, names: Names) -> None:
    def file(limits: str) -> Declarations:
        return names.read(
            f"[accounts.acme]\nlimits = [{limits}]\n[keys.alice]\naccount = 'acme'\nlimits = [{limits}]\n"
            f"[keys.carol]\nrpm = 'none'\ninput_tpm = 'none'\noutput_tpm = 'none'\nlimits = [{limits}]"
        )

    def stored_windows() -> list[dict[int, PolicyWindow]]:
        account, keys = policies(client, names.tag)
        carol = policies(client, names.carol)[0].key
        assert carol is not None
        found = (windows_of(account), keys[names.alice].windows, carol.windows)
        return [{each.per_ms: each for each in windows if each.limits or each.per_ms != MINUTE} for windows in found]

    await admin.apply(file('{ requests = 5, per = "1d", models = ["A", "b"] }, { tokens = 5, per = "1s" }'))
    first = stored_windows()
    # Amount, unit, name, mode and the way in which patterns are written change, and nothing is forgotten.
    await admin.apply(
        file(
            '{ output_tokens = 0, per = "24h", models = ["b", "a"], mode = "audit", name = "n" }, '
            '{ tokens = 5, per = "1h" }'
        )
    )
    changed_ms = now_ms(client)
    for before, found in zip(first, stored_windows(), strict=True):
        day, hour, second = (found[per_ms] for per_ms in (DAY, HOUR, SECOND))
        assert day.since_ms == before[DAY].since_ms
        assert day.models == ("a", "b")
        assert [limit.name for limit in day.limits] == ["n"]
        assert hour.since_ms >= before[DAY].since_ms
        assert second == before[SECOND]._replace(limits=(), until_ms=second.until_ms)
        assert changed_ms - 20_000 < second.until_ms - 1_000 <= changed_ms
    # A limit that is taken away and back loses nothing.
    await admin.apply(file(""))
    for before, found in zip(first, stored_windows(), strict=True):
        day = found[DAY]
        assert (day.limits, day.since_ms) == ((), before[DAY].since_ms)
        assert changed_ms <= day.until_ms - DAY <= now_ms(client)
    await admin.apply(file('{ requests = 6, per = "1d", models = ["a", "b"] }'))
    for before, found in zip(first, stored_windows(), strict=True):
        assert (found[DAY].since_ms, found[DAY].until_ms) == (before[DAY].since_ms, 0)
    # A window whose length has passed is gone, and one that is declared anew begins anew.
    while now_ms(client) < second.until_ms:
        await asyncio.sleep(0.05)
    await admin.apply(file('{ tokens = 5, per = "1s" }'))
    for before, found in zip(first, stored_windows(), strict=True):
        assert found[SECOND].since_ms > before[SECOND].since_ms
        assert found.keys() == {SECOND, HOUR, DAY}


async def test_teams_and_keys_that_are_no_longer_declared_stay(admin: StoreAdmin, client: Any, names: Names) -> None:
    await admin.apply(names.read(ORGANISATION))
    account, keys = policies(client, names.tag)
    await admin.apply(names.read("[accounts.acme]\nrpm = 5\n[accounts.acme.teams.b]\n[accounts.acme.teams.a]"))
    after, keys_after = policies(client, names.tag)
    assert keys_after == keys
    assert windows_of(after, "research") == windows_of(account, "research")
    assert [each.name for each in after.subjects] == ["", "a", "b", "research"]


async def test_a_changed_key_leaves_account_and_other_keys_alone(admin: StoreAdmin, client: Any, names: Names) -> None:
    await admin.apply(names.read(ORGANISATION))
    before = client.hgetall(policy_key(names.tag))
    await admin.apply(names.read(ORGANISATION.replace("rpm = 60", "rpm = 61")))
    after = client.hgetall(policy_key(names.tag))
    changed = {field for field in after if after[field] != before.get(field)}
    assert changed == {names.alice.encode(), b"k:" + names.alice.encode()}


async def admit(url: str, kid: str, needs: list[Need]) -> None:
    async with dispatching(url) as dispatcher:
        for need in needs:
            await dispatcher.find(kid)
            decision = await dispatcher.admit(kid, need)
            assert decision.outcome == 0


async def test_a_plain_key_with_usage_becomes_an_account_of_its_own(
    admin: StoreAdmin, client: Any, url: str, names: Names
) -> None:
    await admin.apply(names.read("[keys.carol]\nrpm = 7\n"))
    await admit(url, names.carol, [Need(10, 20), Need(5, 0)])
    client.set(deleted_key(names.carol), b"")
    await admin.apply(names.read("[keys.carol]\nrpm = 7\ntpm = 5_000\n"))
    adopted_ms = now_ms(client)
    assert client.hgetall(limits_key(names.carol)) == {b"account": names.carol.encode()}
    assert not client.exists(window_key(names.carol), past_key(names.carol), deleted_key(names.carol))
    account, _ = policies(client, names.carol)
    assert account.key is not None
    (window,) = account.key.windows
    assert adopted_ms - 2 * MINUTE < window.since_ms <= adopted_ms - MINUTE
    usage = await admin.peek(names.carol)
    assert usage is not None
    assert usage.path is not None
    assert usage.path.used == ((2, 15, 20),)
    assert client.pttl(shared_key(names.carol)) > 60_000


async def test_limits_that_are_taken_away_from_a_plain_key_linger(
    admin: StoreAdmin, client: Any, url: str, names: Names
) -> None:
    await admin.apply(names.read("[keys.carol]\nrpm = 7\n"))
    await admit(url, names.carol, [Need(10, 20)])
    none = 'rpm = "none"\ninput_tpm = "none"\noutput_tpm = "none"\n'
    await admin.apply(names.read(f"[keys.carol]\n{none}"))
    account, _ = policies(client, names.carol)
    assert account.key is not None
    (window,) = account.key.windows
    assert (window.per_ms, window.limits) == (MINUTE, ())
    assert window.until_ms > now_ms(client)
    usage = await admin.peek(names.carol)
    assert usage is not None
    assert usage.path is not None
    assert usage.path.used == ((1, 10, 20),)


async def test_a_key_with_an_account_of_its_own_keeps_it(admin: StoreAdmin, client: Any, names: Names) -> None:
    await admin.apply(names.read("[keys.carol]\ntpm = 5\n"))
    account, _ = policies(client, names.carol)
    assert account.key is not None
    await admin.apply(names.read("[keys.carol]\nrpm = 7\noutput_reserve = 8\n"))
    assert client.hgetall(limits_key(names.carol)) == {b"account": names.carol.encode()}
    after, _ = policies(client, names.carol)
    assert after.key is not None
    assert after.key.output_reserve == 8
    assert after.key.windows[0].since_ms == account.key.windows[0].since_ms
    assert [limit.amount for limit in after.key.windows[0].limits] == [7, 100_000, 50_000]


PLAIN, OWN, ACME, BETA = (
    "[keys.alice]\nrpm = 7\n",
    "[keys.alice]\nrpm = 7\ntpm = 9\n",
    '[accounts.acme]\n[keys.alice]\naccount = "acme"\nrpm = 7\n',
    '[accounts.acme]\n[accounts.beta]\n[keys.alice]\naccount = "beta"\nrpm = 7\n',
)


@pytest.mark.parametrize("target", [PLAIN, OWN, ACME, BETA], ids=["plain", "own", "acme", "beta"])
@pytest.mark.parametrize("source", [PLAIN, OWN, ACME, BETA], ids=["plain", "own", "acme", "beta"])
async def test_a_key_is_in_one_place_only(
    admin: StoreAdmin, client: Any, names: Names, source: str, target: str
) -> None:
    await admin.apply(names.read(source))
    client.set(deleted_key(names.alice), b"")
    await admin.apply(names.read(target))
    places = {names.tag: ACME, names.other_tag: BETA}
    having = [tag for tag in places if client.hexists(policy_key(tag), names.alice)]
    assert having == [tag for tag, text in places.items() if text == target]
    form = client.type(limits_key(names.alice))
    if target == PLAIN and source == PLAIN:
        assert form == b"string"
        assert client.get(limits_key(names.alice)) == pack_limits(KeyLimits(7, name="alice"))
    else:
        (tag,) = having or [names.alice]
        assert client.hgetall(limits_key(names.alice)) == {b"account": tag.encode()}
    assert client.hexists(policy_key(names.alice), "version") == (not having and form == b"hash")
    assert not client.exists(deleted_key(names.alice))


@pytest.mark.parametrize("by_word", [True, False], ids=["by word", "by a file"])
@pytest.mark.parametrize("step", range(3))
async def test_a_load_that_was_interrupted_is_finished_by_the_next(
    admin: StoreAdmin, client: Any, names: Names, step: int, monkeypatch: pytest.MonkeyPatch, *, by_word: bool
) -> None:
    load = admin.apply if by_word else admin.declare
    declared = names.read(ORGANISATION)
    steps = 0

    def counted(method: Any) -> Any:
        async def call(*arguments: Any, **options: Any) -> Any:
            nonlocal steps
            steps += 1
            if steps > step:
                raise RuntimeError("interrupted")
            return await method(*arguments, **options)

        return call

    with monkeypatch.context() as patch:
        for owner, name in ((Pointers, "claim"), (Policies, "write")):
            method = getattr(owner, name)
            patch.setattr(owner, name, counted(method))
        with pytest.raises(RuntimeError):
            await load(declared)
    await load(declared)
    account, keys = policies(client, names.tag)
    assert fields_of_account(account) == fields_of_account(declared.accounts[names.account])
    assert {kid: fields_of_key(key) for kid, key in keys.items()} == {
        kid: fields_of_key(declared.keys[kid].key) for kid in (names.alice, names.bob)
    }
    assert [client.hgetall(limits_key(kid)) for kid in (names.alice, names.bob, names.carol)] == [
        {b"account": tag.encode()} for tag in (names.tag, names.tag, names.carol)
    ]
    before = stored(client, names)
    await load(declared)
    assert stored(client, names) == before


@asynccontextmanager
async def loaders(url: str, count: int) -> AsyncIterator[list[StoreAdmin]]:
    managers = [administering(parse_store_url(url)) for _ in range(count)]
    try:
        yield [await manager.__aenter__() for manager in managers]
    finally:
        for manager in managers:
            await manager.__aexit__(None, None, None)


async def test_racing_loaders_end_with_one_of_their_files(url: str, client: Any, names: Names) -> None:
    files = [
        names.read(ORGANISATION.replace("60", f"{number}").replace("5_000", f"{5_000 + number}"))
        for number in (61, 62, 63, 64)
    ]
    async with loaders(url, 4) as admins:
        await asyncio.gather(*(admin.apply(file) for admin, file in zip(admins, files, strict=True)))
        account, keys = policies(client, names.tag)
        assert windows_of(account)[0].limits[0].amount in range(5_061, 5_065)
        assert keys[names.alice].windows[0].limits[0].amount in range(61, 65)
        since_ms = {each.since_ms for each in windows_of(account)}
        assert len(since_ms) == 1, "windows are declared once"
        for _ in range(5):
            await asyncio.gather(*(admin.apply(file) for admin, file in zip(admins, files, strict=True)))
        account, keys = policies(client, names.tag)
        assert {each.since_ms for each in windows_of(account)} == since_ms
        assert keys.keys() == {names.alice, names.bob}
        # Without others in between, the last one wins.
        await admins[0].apply(files[0])
    assert windows_of(policies(client, names.tag)[0])[0].limits[0].amount == 5_061


async def test_racing_loaders_adopt_a_key_once(url: str, client: Any, names: Names) -> None:
    async with loaders(url, 4) as admins:
        await admins[0].apply(names.read("[keys.carol]\nrpm = 7\n"))
        await admit(url, names.carol, [Need(10, 20)] * 3)
        own = names.read("[keys.carol]\nrpm = 7\ntpm = 9_000\n")
        await asyncio.gather(*(admin.apply(own) for admin in admins))
        usage = await admins[0].peek(names.carol)
    assert usage is not None
    assert usage.path is not None
    assert usage.path.used == ((3, 30, 60),)


async def test_what_is_stored_is_read_again(admin: StoreAdmin, names: Names) -> None:
    declared = names.read(f"{ORGANISATION}[keys.x{names.alice}]\nname = 'x'\n")
    plain = key_id(f"x{names.alice}")
    await admin.apply(declared)
    alice, carol = await admin.get(names.alice), await admin.get(names.carol)
    assert isinstance(alice, AccountKey)
    assert isinstance(carol, AccountKey)
    assert (alice.account.name, alice.key.name, alice.key.team) == (names.account, "alice", "research")
    assert (carol.account.name, carol.key.name, carol.account.key) == ("", "carol", carol.key)
    assert await admin.get(plain) == KeyLimits(name="x")
    listed = dict((await admin.list_keys(100_000)).entries)
    assert [listed[kid] for kid in (names.alice, names.carol, plain)] == [alice, carol, KeyLimits(name="x")]


async def test_a_key_of_an_account_is_deleted_with_its_usage(
    admin: StoreAdmin, client: Any, url: str, names: Names
) -> None:
    await admin.apply(names.read(ORGANISATION))
    for kid in (names.alice, names.carol):
        await admit(url, kid, [Need(1, 1)])
        assert await admin.delete(kid)
        assert not await admin.delete(kid)
        assert await admin.get(kid) is None
        assert await admin.peek(kid) is None
        assert client.exists(deleted_key(kid))
    assert not client.hexists(policy_key(names.tag), names.alice)
    assert not client.exists(member_key(names.tag, names.alice))
    assert client.hkeys(policy_key(names.carol)) == [b"x:"]
    lengths = {len(field) for field in client.hkeys(shared_key(names.carol))}
    assert lengths == {1, 8}, "clock and records stay"
    assert policies(client, names.tag)[1].keys() == {names.bob}
    await admin.apply(names.read(ORGANISATION))
    for kid, windows in ((names.alice, 4), (names.carol, 2)):
        usage = await admin.peek(kid)
        assert usage is not None
        assert usage.path is not None
        assert len(usage.path.used) == windows + (kid == names.alice)
        assert usage.path.used[-1] == (0, 0, 0)
        assert not client.exists(deleted_key(kid))


async def test_plain_limits_are_not_put_over_an_account(admin: StoreAdmin, client: Any, names: Names) -> None:
    await admin.apply(names.read(ORGANISATION))
    before = stored(client, names)
    for kid in (names.alice, names.carol):
        with pytest.raises(ConfigError, match="the key's limits are in an account: change them in the keys file"):
            await admin.put_limits(kid, KeyLimits())
    assert stored(client, names) == before


async def test_damaged_policies_are_named(admin: StoreAdmin, client: Any, names: Names) -> None:
    await admin.apply(names.read(ORGANISATION))
    client.hset(policy_key(names.tag), "account", b"{}")
    for action in (admin.get(names.alice), admin.peek(names.alice), admin.apply(names.read(ORGANISATION))):
        with pytest.raises(
            ConfigError, match=rf"{names.account}\}}:policy is damaged, or was written by a later version"
        ):
            await action
    client.delete(policy_key(names.tag))
    await admin.apply(names.read(ORGANISATION))
    assert await admin.get(names.alice) is not None


async def test_many_keys_of_one_account_are_loaded(admin: StoreAdmin, client: Any, names: Names) -> None:
    keys = "".join(f'[keys.{names.alice}{n}]\nname = "k{n}"\naccount = "acme"\nrpm = {n}\n' for n in range(1_200))
    text = f"[accounts.acme]\n{keys}"
    client.script_flush()
    await admin.apply(names.read(text))
    before = client.hgetall(policy_key(names.tag))
    _, found = policies(client, names.tag)
    assert len(found) == 1_200
    assert {(each.name, each.windows[0].limits[0].amount) for each in found.values()} == {
        (f"k{n}", n) for n in range(1_200)
    }
    await admin.apply(names.read(text))
    assert client.hgetall(policy_key(names.tag)) == before


@pytest.mark.parametrize("change", ["tpm = 5_000_000", 'account = "acme"'])
async def test_a_plain_key_is_taken_over_under_load(url: str, client: Any, names: Names, change: str) -> None:
    """As an account of its own it takes its window along: no more is admitted than the limit, and none is refused."""
    limit = 400
    await load_from(url, names.read(f"[keys.carol]\nrpm = {limit}\n"))
    changed = names.read(f"[accounts.acme]\n[keys.carol]\nrpm = {limit}\n{change}\n")
    takes_window_along = "acme" not in change
    async with dispatching(url) as one, dispatching(url) as other:
        for node in (one, other):
            assert await node.find(names.carol) is CredentialState.VALID

        async def ask() -> list[int]:
            found = []
            for number in range(20):
                decision = await (one, other)[number % 2].admit(names.carol, Need(1, 1))
                found.append(int(decision.outcome))
            return found

        asking = [asyncio.create_task(ask()) for _ in range(30)]
        while not client.hexists(window_key(names.carol), "m"):
            await asyncio.sleep(0)
        await load_from(url, changed)
        outcomes = [outcome for found in await asyncio.gather(*asking) for outcome in found]
    assert set(outcomes) <= {0, 1}
    if takes_window_along:
        assert outcomes.count(0) == limit
    else:
        assert limit <= outcomes.count(0) <= 2 * limit


async def load_from(url: str, declared: Declarations) -> None:
    async with administering(parse_store_url(url)) as admin:
        await admin.apply(declared)
