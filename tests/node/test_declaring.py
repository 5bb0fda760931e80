"""Declarations by a file and by a person's word, against stores: who wins, item by item and field by field."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from store_tools import new_api_key, store_client
from stores import running_store

from limiter_node.changes import PartlyApplied
from limiter_node.credentials import key_id
from limiter_node.declarations import AccountKey, Declarations
from limiter_node.errors import ConfigError
from limiter_node.key_states import Credential
from limiter_node.keysfile.reading import read_keys
from limiter_node.limits import KeyLimits
from limiter_node.management.manager import Manager
from limiter_node.policy import MAX_APPLIED, KeyPolicy
from limiter_node.policy_fields import Fields, fields_of_account, fields_of_key, fields_of_plain
from limiter_node.store.admin.moving import Mover
from limiter_node.store.admin.store_admin import StoreAdmin, administering
from limiter_node.store.embedded.stores import EmbeddedStore
from limiter_node.store.keyspace import declared_key, deleted_key, limits_key, policy_key
from limiter_node.store.url import parse_store_url
from limiter_node.store.values import pack_limits, unpack_record

FORMS = ("plain", "flat", "member")


class Organisation:
    """An account and keys that no other test uses, because stores are shared; `read` makes declarations of a text."""

    def __init__(self, path: Path, url: str) -> None:
        self._path, self.url = path, url
        secrets = [new_api_key() for _ in range(4)]
        self.account = f"org-{secrets[0].rpartition('-')[2]}"
        self.alice, self.bob, *_ = secrets
        self.secrets = secrets
        self.kid = key_id(self.alice)

    def read(self, text: str) -> Declarations:
        names = {"ALICE": self.alice, "BOB": self.bob, "CAROL": self.secrets[2], "DAVE": self.secrets[3]}
        for name, secret in names.items():
            text = text.replace(f"sha256:{name}", self.digest(secret)).replace(name, secret)
        self._path.write_text(text.replace("ACME", self.account))
        return read_keys(self._path)

    def digest(self, secret: str) -> str:
        return f"sha256:{key_id(secret)}{'0' * 32}"

    def alone(self, form: str, *lines: str) -> Declarations:
        """Alice's key in one of the forms, with these lines in its section."""
        own = {"plain": "", "flat": "tpm = 99\n", "member": 'account = "ACME"\n'}[form]
        account = "[accounts.ACME]\n" if form == "member" else ""
        return self.read(f'{account}[keys."ALICE"]\nname = "alice-ACME"\n{own}' + "\n".join(lines))

    @property
    def who(self) -> str:
        return f"alice-{self.account}"


@pytest.fixture
def org(tmp_path: Path, url: str) -> Organisation:
    return Organisation(tmp_path / "keys.toml", url)


async def key_of(admin: StoreAdmin, kid: str) -> KeyPolicy:
    found = await admin.get(kid)
    assert isinstance(found, AccountKey)
    return found.key


async def fields(admin: StoreAdmin, kid: str) -> Fields | None:
    """Return the stored fields of a key, without those that a section of `alone` always has."""
    found = await admin.get(kid)
    if found is None:
        return None
    values = fields_of_plain(found) if isinstance(found, KeyLimits) else fields_of_key(found.key)
    return {name: value for name, value in values.items() if name in ("rpm", "input_tpm", "weight", "tokens/1d")}


def stored(org: Organisation) -> dict[str, Any]:
    """Return all that is stored under the names of the organisation, as it is."""
    names = [policy_key(f"@{org.account}"), policy_key(org.kid)]
    names += [name(key_id(each)) for each in org.secrets for name in (limits_key, deleted_key, declared_key)]
    with store_client(org.url) as client:
        return {name: client.dump(name) for name in names}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("by_word", [True, False], ids=["by word", "by a file"])
async def test_declaring_twice_changes_not_a_byte(
    admin: StoreAdmin, org: Organisation, form: str, *, by_word: bool
) -> None:
    load = admin.apply if by_word else admin.declare
    await load(org.alone(form, "rpm = 7"))
    before = stored(org)
    await admin.declare(org.alone(form, "rpm = 7"))
    assert stored(org) == before
    assert (await admin.apply(org.alone(form, "rpm = 7"))).changes == []
    assert stored(org) == before


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("texts", list(itertools.permutations([1, 2, 3, 1, 2], 4))[:60:3], ids=str)
async def test_any_order_of_nodes_with_texts(
    admin: StoreAdmin, org: Organisation, form: str, texts: Sequence[int]
) -> None:
    """Each text counts when it is declared for the first time, and never again."""
    newest = 0
    for at, text in enumerate(texts):
        await admin.declare(org.alone(form, f"rpm = {text}"))
        if text not in texts[:at]:
            newest = text
        found = await fields(admin, org.kid)
        assert found is not None
        assert found["rpm"] == newest


@pytest.mark.parametrize("form", FORMS)
async def test_the_last_32_declarations_are_known(admin: StoreAdmin, org: Organisation, form: str) -> None:
    for rpm in range(MAX_APPLIED + 2):
        await admin.declare(org.alone(form, f"rpm = {rpm}"))
    for rpm in (1, MAX_APPLIED):
        await admin.declare(org.alone(form, f"rpm = {rpm}"))
        assert (await fields(admin, org.kid) or {})["rpm"] == MAX_APPLIED + 1
    await admin.declare(org.alone(form, "rpm = 0"))
    assert (await fields(admin, org.kid) or {})["rpm"] == 0, "the first one is forgotten, so it counts as new"


async def test_what_is_kept_of_a_plain_key(admin: StoreAdmin, org: Organisation) -> None:
    for rpm in (1, 2, 3):
        await admin.declare(org.alone("plain", f"rpm = {rpm}"))
    with store_client(org.url) as client:
        value = client.get(declared_key(org.kid))
        assert client.ttl(declared_key(org.kid)) == -1
    record = unpack_record(value)
    assert record.last == pack_limits(KeyLimits(3, name=org.who))
    assert [len(each) for each in record.applied] == [8, 8]


@pytest.mark.parametrize("form", FORMS)
async def test_a_field_that_the_file_takes_out_goes_unless_it_was_never_the_files(
    admin: StoreAdmin, org: Organisation, form: str
) -> None:
    await admin.declare(org.alone(form, "rpm = 7", "output_reserve = 8"))
    await Manager(admin).set_key(_who(org, form), {"tokens/1d": 5_000})
    await admin.declare(org.alone(form, "output_reserve = 8"))
    found = await fields(admin, org.kid)
    assert found is not None
    assert found["tokens/1d"] == 5_000
    assert found.get("rpm") == (None if form == "member" else 600), "the default of keys without an account"
    # A person's word takes away what the file doesn't have.
    await admin.apply(org.alone(form, "output_reserve = 8"))
    assert "tokens/1d" not in (await fields(admin, org.kid) or {})


@pytest.mark.parametrize("form", FORMS)
async def test_what_commands_made_is_changed_by_fields_that_a_file_declares(
    admin: StoreAdmin, org: Organisation, form: str
) -> None:
    """Without a record of declarations all fields of the first one apply, and the others stay."""
    people = Manager(admin)
    if form == "member":
        await people.create_account(org.account, {})
    await people.create_key(_who(org, form), {"rpm": 1, "tokens/1d": 5}, digest=org.digest(org.alice))
    await admin.declare(org.alone(form, "rpm = 7"))
    found = await fields(admin, org.kid)
    assert found is not None
    assert (found["rpm"], found["tokens/1d"]) == (7, 5)


@pytest.mark.parametrize("form", FORMS)
async def test_a_deleted_key_comes_back_by_word_and_goes_on(admin: StoreAdmin, org: Organisation, form: str) -> None:
    await admin.declare(org.alone(form, "rpm = 7"))
    await admin.declare(org.alone(form, "rpm = 8"))
    before = None if form == "plain" else await revision_of(admin, org.kid)
    await admin.delete(org.kid)
    kept = stored(org)
    for rpm in (7, 8, 9):
        await admin.declare(org.alone(form, f"rpm = {rpm}"))
    # Not a byte changes but of the account, which the files declare, too.
    changed = {name for name, value in stored(org).items() if value != kept[name]}
    assert changed <= {policy_key(f"@{org.account}")}
    assert await admin.get(org.kid) is None
    (change,) = (await admin.apply(org.alone(form, "rpm = 7"))).changes
    assert (change.action, change.before) == ("created", {})
    assert (await fields(admin, org.kid) or {})["rpm"] == 7
    if before is not None:
        assert await revision_of(admin, org.kid) > before
    for rpm in (7, 8):
        await admin.declare(org.alone(form, f"rpm = {rpm}"))
        assert (await fields(admin, org.kid) or {})["rpm"] == 7, "the record goes on"


async def revision_of(admin: StoreAdmin, kid: str) -> int:
    found = await admin.get(kid)
    assert isinstance(found, AccountKey)
    return found.account.revision if found.account.key is not None else found.key.revision


@pytest.mark.parametrize("form", FORMS)
async def test_a_dry_run_says_what_would_change_and_changes_nothing(
    admin: StoreAdmin, org: Organisation, form: str
) -> None:
    await admin.apply(org.alone(form, "rpm = 7"))
    changed = org.read(
        "[accounts.ACME]\nrpm = 9\n[accounts.ACME.teams.new]\n"
        '[keys."ALICE"]\naccount = "ACME"\nteam = "new"\nrpm = 8\n[keys."BOB"]\nname = "bob-ACME"\n'
    )
    before = stored(org)
    planned = await admin.apply(changed, dry_run=True)
    assert stored(org) == before
    applied = await admin.apply(changed)
    assert planned == applied
    kinds = [(each.kind, each.action) for each in applied.changes]
    account = "changed" if form == "member" else "created"
    assert kinds[:2] == [("account", account), ("team", "created")]
    assert set(kinds[2:]) == {("key", "changed" if form == "member" else "moved"), ("key", "created")}
    assert (await admin.apply(changed, dry_run=True)).changes == []


@pytest.mark.parametrize("source", FORMS)
@pytest.mark.parametrize("target", FORMS)
@pytest.mark.parametrize("by_word", [True, False], ids=["by word", "by a file"])
async def test_a_key_takes_its_record_along_to_another_form(
    admin: StoreAdmin, org: Organisation, source: str, target: str, *, by_word: bool
) -> None:
    load = admin.apply if by_word else admin.declare
    await load(org.alone(source, "rpm = 1"))
    await load(org.alone(target, "rpm = 2"))
    assert (await fields(admin, org.kid) or {})["rpm"] == 2
    before = stored(org)
    await admin.declare(org.alone(source, "rpm = 1"))
    await load(org.alone(target, "rpm = 2"))
    assert stored(org) == before


async def test_older_texts_and_deleted_items_are_logged_in_one_line(
    admin: StoreAdmin, org: Organisation, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    text = "[accounts.ACME]\nrpm = {0}\n" + "".join(
        f'[keys."{name}"]\nname = "{name.lower()}-ACME"\nrpm = {{0}}\n' for name in ("ALICE", "BOB", "CAROL")
    )
    for rpm in (1, 2):
        await admin.declare(org.read(text.replace("{0}", str(rpm))))
    changes = [each for each in caplog.records if getattr(each, "event", "") == "key_changed"]
    assert [getattr(each, "action", "") for each in changes] == ["created"] * 4 + ["changed"] * 4
    assert getattr(changes[-1], "before", None) == {"rpm": 1}
    await admin.delete(key_id(org.bob))
    caplog.clear()
    await admin.declare(org.read(text.replace("{0}", "1")))
    found = {getattr(each, "event", ""): each for each in caplog.records}
    assert found.keys() == {"declaration_is_older", "declaration_is_deleted"}
    assert "3 declared items" in found["declaration_is_older"].getMessage()
    assert "limiter-node apply" in found["declaration_is_older"].getMessage()
    assert getattr(found["declaration_is_deleted"], "items", []) == [f"key bob-{org.account}"]


# ---- credentials and states ------------------------------------------------------------------------------------------


def _who(org: Organisation, form: str) -> str:
    return f"{org.account}/{org.who}" if form == "member" else org.who


@pytest.mark.parametrize("form", FORMS)
async def test_what_a_file_cannot_say_stays(admin: StoreAdmin, org: Organisation, form: str) -> None:
    await admin.declare(org.alone(form, "rpm = 7"))
    who = _who(org, form)
    people = Manager(admin)
    made = await people.rotate(who)
    await people.disable(who)
    await people.revoke(who, key_id(org.alice))
    before = await key_of(admin, org.kid)
    assert before.is_disabled
    for load in (admin.declare, admin.apply):
        await load(org.alone(form, "rpm = 8"))
        after = await key_of(admin, org.kid)
        assert (after.is_disabled, after.credentials) == (True, before.credentials)
    assert made.secret is not None
    (warning,) = (await admin.apply(org.alone(form, "rpm = 9"))).warnings
    assert "was revoked, and stays revoked" in warning
    assert who in warning


LISTED = '[accounts.ACME]\n[keys.alice]\naccount = "ACME"\ncredentials = [{}]\n'


async def test_a_list_of_credentials_is_the_whole_list(admin: StoreAdmin, org: Organisation) -> None:
    def listed(*names: str) -> Declarations:
        return org.read(LISTED.format(", ".join(f'"sha256:{name}"' for name in names)))

    alice, bob, carol, _ = (key_id(each) for each in org.secrets)
    await admin.declare(listed("ALICE", "BOB"))
    assert (await key_of(admin, alice)).credentials == (Credential(alice), Credential(bob))
    # Whatever the order, it is the same key.
    await admin.declare(listed("CAROL", "ALICE"))
    key = await key_of(admin, alice)
    assert key.credentials == (Credential(carol), Credential(alice), Credential(bob, is_revoked=True))
    with store_client(org.url) as client:
        way = {b"tag": f"@{org.account}".encode(), b"kid": alice.encode()}
        assert [client.hgetall(limits_key(each)) for each in (bob, carol)] == [way, way]
    # A file doesn't make a revoked one valid; a person does.
    await admin.declare(listed("CAROL", "BOB"))
    states = {each.digest: each.is_revoked for each in (await key_of(admin, alice)).credentials}
    assert states == {carol: False, bob: True, alice: True}
    (warning,) = (await admin.apply(listed("CAROL", "BOB"))).warnings
    assert "was revoked, and is valid again" in warning
    states = {each.digest: each.is_revoked for each in (await key_of(admin, alice)).credentials}
    assert states == {carol: False, bob: False, alice: True}
    before = stored(org)
    await admin.apply(listed("CAROL", "BOB"))
    await admin.declare(listed("CAROL", "BOB"))
    assert stored(org) == before


async def test_revoked_credentials_stay_so_when_their_key_comes_back(admin: StoreAdmin, org: Organisation) -> None:
    text = org.alone("member", "rpm = 7")
    await admin.declare(text)
    people = Manager(admin)
    await people.rotate(_who(org, "member"))
    await people.revoke(_who(org, "member"), key_id(org.alice))
    await people.delete_key(_who(org, "member"))
    (warning,) = (await admin.apply(text)).warnings
    assert "stays revoked" in warning
    assert (await key_of(admin, org.kid)).credentials == (Credential(org.kid, is_revoked=True),)


async def test_a_credential_of_another_key_is_never_taken(admin: StoreAdmin, org: Organisation) -> None:
    await admin.declare(org.read(LISTED.format('"sha256:ALICE", "sha256:BOB"')))
    alice, bob, *_ = (key_id(each) for each in org.secrets)
    # The section's secret is a further credential of a key, and so means that key.
    await admin.apply(org.read('[accounts.ACME]\n[keys."BOB"]\nname = "alice"\naccount = "ACME"\nrpm = 3\n'))
    assert fields_of_key(await key_of(admin, alice))["rpm"] == 3
    await Manager(admin).delete_key(f"{org.account}/alice")
    other = org.read('[accounts.ACME]\n[keys."BOB"]\nname = "bob"\naccount = "ACME"\n')
    before = stored(org)
    with pytest.raises(ConfigError, match="is another key's"):
        await admin.apply(other)
    problems = await admin.declare(other)
    assert all(alice not in each and bob not in each for each in problems), "no more than the first digits"
    after = stored(org)
    assert {name for name in before if before[name] != after[name]} <= {policy_key(f"@{org.account}")}


# ---- accounts, teams, names ------------------------------------------------------------------------------------------


async def test_teams_that_were_deleted_stay_so_with_their_new_keys(admin: StoreAdmin, org: Organisation) -> None:
    text = (
        "[accounts.ACME]\n[accounts.ACME.teams.gone]\nrpm = {0}\n[accounts.ACME.teams.kept]\nrpm = {0}\n"
        '[keys."ALICE"]\nname = "alice"\naccount = "ACME"\n'
    )
    await admin.declare(org.read(text.replace("{0}", "1")))
    await Manager(admin).delete_team(f"{org.account}/gone")
    more = '[keys."BOB"]\nname = "bob"\naccount = "ACME"\nteam = "gone"\n'
    await admin.declare(org.read(text.replace("{0}", "2").replace('ACME"\n', 'ACME"\nteam = "gone"\n') + more))
    alice = await admin.get(org.kid)
    assert isinstance(alice, AccountKey)
    assert fields_of_account(alice.account) == {"team kept": True, "team kept rpm": 2}
    assert alice.key.team == ""
    assert await admin.get(key_id(org.bob)) is None
    await admin.apply(org.read(text.replace("{0}", "2") + more))
    bob = await admin.get(key_id(org.bob))
    assert isinstance(bob, AccountKey)
    assert bob.key.team == "gone"


@pytest.mark.parametrize("form", FORMS)
async def test_a_mark_of_an_earlier_version_no_longer_ends_after_a_start(
    admin: StoreAdmin, org: Organisation, form: str
) -> None:
    """Earlier versions let a mark expire after 30 days, and left its value empty."""
    name = deleted_key(org.kid)
    with store_client(org.url) as client:
        client.set(name, b"", px=1_000_000)
        await admin.declare(org.alone(form, "rpm = 5"))
        assert (client.get(name), client.pttl(name)) == (org.kid.encode(), -1)
        assert await admin.get(org.kid) is None
        assert not (await admin.apply(org.alone(form, "rpm = 5"))).warnings
        await admin.declare(org.alone(form, "rpm = 6"))
        assert client.get(name) is None
    assert (await fields(admin, org.kid) or {})["rpm"] == 6


def test_pruned_keys_that_share_a_name_are_told_apart() -> None:
    """Also from a key of an account that is called as the name looks."""
    names = {"0" * 32: "twin", "1" * 32: "twin", "2" * 32: "acme/alice", "3" * 32: "ci"}

    async def pruned(url: str) -> list[str]:
        async with administering(parse_store_url(url)) as admin:
            await admin.apply(Declarations(plain={kid: KeyLimits(name=name) for kid, name in names.items()}))
            return [each.who for each in (await admin.apply(Declarations(), prune_keys=True)).changes]

    with running_store("single") as store:
        assert asyncio.run(pruned(store.url)) == [
            *("acme/alice (sha256:222222222222)", "ci", "twin (sha256:000000000000)", "twin (sha256:111111111111)")
        ]


async def test_a_key_that_a_person_has_moved_stays_there(admin: StoreAdmin, org: Organisation) -> None:
    text = '[accounts.ACME]\n[accounts."ACME-2"]\n[keys."ALICE"]\nname = "alice"\naccount = "ACME"\nrpm = {0}\n'
    await admin.declare(org.read(text.replace("{0}", "1")))
    await admin.mover.move(org.kid, f"@{org.account}", f"@{org.account}-2")
    await admin.declare(org.read(text.replace("{0}", "2")))
    found = await admin.get(org.kid)
    assert isinstance(found, AccountKey)
    assert (found.account.name, fields_of_key(found.key)["rpm"]) == (f"{org.account}-2", 2)
    (change,) = (await admin.apply(org.read(text.replace("{0}", "3")))).changes
    assert (change.action, change.after) == ("moved", {"account": org.account, "rpm": 3})


async def test_names_can_be_passed_on_but_not_shared(admin: StoreAdmin, org: Organisation) -> None:
    def named(alice: str, bob: str) -> Declarations:
        keys = {"ALICE": alice, "BOB": bob}
        sections = (f'[keys."{key}"]\nname = "{name}"\naccount = "ACME"\n' for key, name in keys.items())
        return org.read("[accounts.ACME]\n" + "".join(sections))

    await admin.apply(named("a", "b"))
    await admin.apply(named("c", "a"))
    assert [(await key_of(admin, key_id(each))).name for each in (org.alice, org.bob)] == ["c", "a"]
    with pytest.raises(ConfigError, match=r"another key of account .* has the name"):
        await admin.apply(org.read('[accounts.ACME]\n[keys."CAROL"]\nname = "a"\naccount = "ACME"\n'))
    assert await admin.get(key_id(org.secrets[2])) is None


@pytest.mark.parametrize("by_word", [True, False], ids=["by word", "by a file"])
@pytest.mark.parametrize("orders", [["bac"], ["bca", "cab"]], ids=["two", "three, twice"])
async def test_keys_swap_names_in_one_file(
    admin: StoreAdmin, org: Organisation, by_word: bool, orders: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    def named(names: str) -> Declarations:
        keys = zip(("ALICE", "BOB", "CAROL"), names, strict=True)
        sections = (f'[keys."{key}"]\nname = "{name}"\naccount = "ACME"\n' for key, name in keys)
        return org.read("[accounts.ACME]\n" + "".join(sections))

    async def load(declared: Declarations) -> None:
        await (admin.apply(declared) if by_word else admin.declare(declared))

    former = "abc"
    await load(named(former))
    for names in orders:
        caplog.clear()
        with caplog.at_level(logging.INFO, "limiter_node.changes"):
            await load(named(names))
        assert "".join([(await key_of(admin, key_id(each))).name for each in org.secrets[:3]]) == names
        assert sorted(each.getMessage() for each in caplog.records) == sorted(
            f"key {org.account}/{now} changed: name {before} -> {now}"
            for before, now in zip(former, names, strict=True)
            if before != now
        )
        for secret, name in zip(org.secrets, names, strict=False):
            assert await admin.search.named(org.account, name) == key_id(secret)
        former = names


async def test_a_key_keeps_its_name_if_a_key_outside_the_file_has_the_new_one(
    admin: StoreAdmin, org: Organisation
) -> None:
    """It waits for a name that nobody in the file gives up, as does the key that wants its own: that is no circle."""
    section = '[keys."{}"]\nname = "{}"\naccount = "ACME"\n'
    text = "[accounts.ACME]\n" + section.format("ALICE", "{0}") + section.format("BOB", "{1}")
    await admin.apply(org.read(text.format("a", "b") + section.format("CAROL", "c")))
    with pytest.raises(PartlyApplied, match=r"another key of account .* has the name") as caught:
        await admin.apply(org.read(text.format("c", "a") + "rpm = 5\n" + section.format("DAVE", "d")))
    assert [each.line() for each in caught.value.changes] == [
        f"key {org.account}/d created: name d, account {org.account}"
    ]
    assert [(await key_of(admin, key_id(each))).name for each in (org.alice, org.bob)] == ["a", "b"]


async def test_racing_nodes_with_two_texts_end_with_one_of_them(org: Organisation) -> None:
    sections = "".join(f'[keys."{name}"]\naccount = "ACME"\nrpm = {{0}}\n' for name in ("ALICE", "BOB"))
    text = f"[accounts.ACME]\nrpm = {{0}}\n{sections}" + '[keys."CAROL"]\nrpm = {0}\n'
    texts = [org.read(text.replace("{0}", str(rpm))) for rpm in (1, 2)]
    managers = [administering(parse_store_url(org.url)) for _ in range(4)]
    admins = [await each.__aenter__() for each in managers]
    try:
        await asyncio.gather(*(admin.declare(texts[at % 2]) for at, admin in enumerate(admins)))
        before = stored(org)
        await asyncio.gather(*(admin.declare(texts[at % 2]) for at, admin in enumerate(admins)))
        assert stored(org) == before, "each text was applied once"
        for secret in org.secrets[:3]:
            assert (await fields(admins[0], key_id(secret)) or {})["rpm"] in (1, 2)
    finally:
        for each in managers:
            await each.__aexit__(None, None, None)


async def test_many_keys(tmp_path: Path) -> None:
    """As many as a large fleet has, in pipelines: each further key costs little."""
    text = "".join(f'[keys."sk-many-{number}"]\nname = "many-{number}"\n' for number in range(3_000))
    members = "[accounts.ACME]\n" + "".join(
        f'[keys."sk-member-{number}"]\nname = "member-{number}"\naccount = "ACME"\n' for number in range(1_200)
    )
    async with EmbeddedStore("cluster") as store, administering(parse_store_url(store.url)) as admin:
        org = Organisation(tmp_path / "keys.toml", store.url)
        declared = org.read(members + text)
        for load in (admin.declare, admin.apply):
            await load(declared)
            assert (await admin.list_keys(1)).total == 4_200
        kept = org.read(f"[accounts.ACME]\n{text[: text.index('[keys.', 10)]}")
        changes = (await admin.apply(kept, prune=True, prune_keys=True)).changes
        assert len(changes) == 4_199
        assert (await admin.list_keys(1)).total == 1


# ---- what was lost, damaged or interrupted ---------------------------------------------------------------------------


@pytest.mark.parametrize("by_word", [True, False], ids=["by word", "by a file"])
async def test_lost_ways_to_keys_are_mended(admin: StoreAdmin, org: Organisation, *, by_word: bool) -> None:
    declared = org.read(
        LISTED.format('"sha256:ALICE", "sha256:BOB"')
        + '[keys."CAROL"]\nname = "carol-ACME"\ntpm = 5\n[keys."DAVE"]\nname = "dave"\naccount = "ACME"\n'
    )
    await admin.declare(declared)
    before = stored(org)
    with store_client(org.url) as client:
        for secret in org.secrets:
            client.delete(limits_key(key_id(secret)))
    await (admin.apply(declared) if by_word else admin.declare(declared))
    assert stored(org) == before


@pytest.mark.parametrize("damage", [("SET", b"short"), ("HSET", "rpm", "many"), ("LPUSH", "x")])
@pytest.mark.parametrize("by_word", [True, False], ids=["by word", "by a file"])
@pytest.mark.parametrize("form", FORMS)
async def test_damaged_limits_are_replaced(
    admin: StoreAdmin, org: Organisation, form: str, damage: tuple[str, ...], *, by_word: bool
) -> None:
    with store_client(org.url) as client:
        client.execute_command(damage[0], limits_key(org.kid), *damage[1:])
    declared = org.alone(form, "rpm = 7")
    await (admin.apply(declared) if by_word else admin.declare(declared))
    assert (await fields(admin, org.kid) or {})["rpm"] == 7


@pytest.mark.parametrize("step", ["_open_at_target", "_lead_there", "_end"])
@pytest.mark.parametrize("by_word", [True, False], ids=["by word", "by a file"])
@pytest.mark.parametrize("source", FORMS)
async def test_a_move_that_was_interrupted_is_finished(
    admin: StoreAdmin, org: Organisation, source: str, step: str, monkeypatch: pytest.MonkeyPatch, *, by_word: bool
) -> None:
    load = admin.apply if by_word else admin.declare
    target = "flat" if source == "member" else "member"
    await load(org.alone(source, "rpm = 1"))

    async def interrupted(*_: object) -> None:
        raise RuntimeError("interrupted")

    with monkeypatch.context() as patch:
        patch.setattr(Mover, step, interrupted)
        with pytest.raises(RuntimeError):
            await load(org.alone(target, "rpm = 2"))
    await load(org.alone(target, "rpm = 2"))
    found = await admin.get(org.kid)
    assert isinstance(found, AccountKey)
    assert found.account.name == (org.account if target == "member" else "")
    assert fields_of_key(found.key)["rpm"] == 2
    before = stored(org)
    await load(org.alone(target, "rpm = 2"))
    assert stored(org) == before
