"""Who wins where keys files, commands and the store disagree: sentence by sentence, with real nodes.

The store wins, item by item and field by field. A node's start applies only declarations that were never applied, and
of them the fields that differ from the last one. Going back to an earlier text needs ``apply``, and the node logs that.
Deletion marks don't expire. ``apply`` is a person's word and always wins. ``--prune`` removes only within accounts that
the file declares; flat keys only with ``--prune-keys``. After a loss of the store, nodes first declare what it last
told them, then what files say.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from node_commands import Command, StartCommand, eventually
from store_tools import new_api_key, store_client

from limiter_node.credentials import key_id
from limiter_node.management.manager import Manager
from limiter_node.store.admin.store_admin import administering
from limiter_node.store.embedded.stores import EmbeddedStore
from limiter_node.store.keyspace import deleted_key
from limiter_node.store.url import parse_store_url

_numbers = itertools.count()


class Scene:
    """A store, nodes with keys files, and three keys: a plain one, one that is an account of its own, and a member.

    Stores are shared, so the names are no other test's.
    """

    def __init__(self, start: StartCommand, store: str, folder: Path) -> None:
        self._start, self.store, self._folder = start, store, folder
        self.account = f"acme{next(_numbers)}"
        self.keys = {name: new_api_key() for name in ("plain", "flat", "member")}
        self.started: list[Command] = []

    def section(self, name: str, *lines: str, **limits: int) -> str:
        """Return the section of one of the keys."""
        own = {"plain": [], "flat": ["tpm = 999_999"], "member": [f'account = "{self.account}"']}[name]
        fields = [f'name = "{name}-{self.account}"', *own, *(f"{field} = {value}" for field, value in limits.items())]
        return "\n".join([f'[keys."{self.keys[name]}"]', *fields, *lines, ""])

    def text(self, *lines: str, **limits: int) -> str:
        """Return a file that has all three keys, with the same lines and limits."""
        sections = (self.section(name, *lines, **limits) for name in self.keys)
        return "\n".join([f"[accounts.{self.account}]", "rpm = 100_000", *sections])

    def file(self, text: str) -> Path:
        """Write a keys file of its own."""
        path = self._folder / f"keys-{next(_numbers)}.toml"
        path.write_text(text)
        path.chmod(0o600)
        return path

    @asynccontextmanager
    async def node(self, text: str) -> AsyncIterator[str]:
        """A node with this keys file, until it is told to stop; its URL."""
        arguments = ("serve", "--store", self.store, "--port", 0, "--keys", self.file(text), "--log-format", "json")
        command = await self._start(*arguments)
        self.started.append(command)
        yield (await command.line(r"node \S+ ready (\S+)"))[1]
        assert await command.stop() == 0

    async def restart(self, text: str) -> str:
        """Start a node with this keys file, and stop it once it is ready. Return what it has logged."""
        async with self.node(text):
            pass
        return await self.started[-1].errors()

    async def apply(self, text: str, *options: str) -> str:
        """Run ``limiter-node apply``. Return what it says."""
        command = await self._start("apply", self.file(text), "--store", self.store, *options)
        assert await command.ended() == 0, await command.errors()
        assert command.process.stdout is not None
        return (await command.process.stdout.read()).decode()

    @asynccontextmanager
    async def manager(self) -> AsyncIterator[Manager]:
        async with administering(parse_store_url(self.store)) as admin:
            yield Manager(admin)

    def who(self, name: str) -> str:
        """Return the name by which people address one of the keys."""
        return f"{self.account}/{name}-{self.account}" if name == "member" else f"{name}-{self.account}"

    async def set(self, **limits: int) -> None:
        """Set limits of all keys by a command."""
        async with self.manager() as manager:
            for name in self.keys:
                await manager.set_key(self.who(name), limits)

    async def limits(self, node: str) -> dict[str, tuple[int, int] | None]:
        """Return requests and input tokens per minute of each key, 0 if there is no limit; None for a 401."""
        return {name: await limits_of(node, key) for name, key in self.keys.items()}

    def everywhere(self, rpm: int, input_tpm: int) -> Mapping[str, tuple[int, int] | None]:
        return dict.fromkeys(self.keys, (rpm, input_tpm))

    @property
    def nowhere(self) -> Mapping[str, tuple[int, int] | None]:
        return dict.fromkeys(self.keys, None)


async def limits_of(node: str, key: str) -> tuple[int, int] | None:
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
    headers = {"authorization": f"Bearer {key}"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{node}/v1/chat/completions", json=body, headers=headers) as response,
    ):
        said = await response.text()
        if response.status == 401:
            return None
        assert response.status == 200, said
        names = (f"x-ratelimit-limit-{each}" for each in ("requests", "input-tokens"))
        requests, tokens = (int(response.headers.get(name, 0)) for name in names)
        return requests, tokens


@pytest.fixture
def scene(limiter_node: StartCommand, embedded_single: str, tmp_path: Path) -> Scene:
    return Scene(limiter_node, embedded_single, tmp_path)


async def test_two_files_on_two_nodes(scene: Scene) -> None:
    """Each node knows the keys of both files; where they disagree, the text that was applied last counts."""
    one = f"[accounts.{scene.account}]\n" + scene.section("plain", rpm=1_001) + scene.section("member", rpm=1_001)
    other = scene.section("flat", rpm=1_002, input_tpm=2_000) + scene.section("plain", rpm=1_002)
    async with scene.node(one) as first, scene.node(other) as second:
        for node in (first, second):
            found = await scene.limits(node)
            assert found == {"plain": (1_002, 100_000), "flat": (1_002, 2_000), "member": (1_001, 0)}
        await scene.restart(one)
        assert (await scene.limits(first))["plain"] == (1_002, 100_000), "the text of the first node is older"


async def test_rolling_deploys_and_restarts_of_old_nodes(scene: Scene) -> None:
    """Nodes with the old text start again while others have the new one: the new text stays."""
    old, new = scene.text(rpm=1_001, input_tpm=5_000), scene.text(rpm=1_002, input_tpm=5_000)
    async with scene.node(old) as long_lived:
        assert await scene.limits(long_lived) == scene.everywhere(1_001, 5_000)
        for text in (new, old, new, old):
            errors = await scene.restart(text)
            assert await scene.limits(long_lived) == scene.everywhere(1_002, 5_000)
            assert ("declaration_is_older" in errors) == (text == old)
        assert "limiter-node apply" in errors
        # The long-lived node has the old file, too, and is asked to restart.
    await scene.restart(old)
    async with scene.node(new) as node:
        assert await scene.limits(node) == scene.everywhere(1_002, 5_000)


async def test_a_deleted_key_stays_deleted(scene: Scene) -> None:
    """Whatever starts, with whatever text, however much later; a person's word brings it back."""
    text = scene.text(rpm=1_001, input_tpm=5_000)
    async with scene.node(text) as node:
        assert await scene.limits(node) == scene.everywhere(1_001, 5_000)
        async with scene.manager() as manager:
            for name in scene.keys:
                await manager.delete_key(scene.who(name))
        assert await scene.limits(node) == scene.nowhere
        with store_client(scene.store) as client:
            marks = [client.ttl(deleted_key(key_id(key))) for key in scene.keys.values()]
        assert marks == [-1, -1, -1], "marks don't expire"
        assert "declaration_is_deleted" in await scene.restart(text)
        await scene.restart(scene.text(rpm=1_002, input_tpm=5_000))
        assert await scene.limits(node) == scene.nowhere
    async with scene.node(text) as node:
        assert await scene.limits(node) == scene.nowhere
        await scene.apply(text)
        assert await scene.limits(node) == scene.everywhere(1_001, 5_000)


async def test_a_deleted_account_stays_deleted(scene: Scene) -> None:
    text = scene.text(rpm=1_001)
    async with scene.node(text) as node:
        async with scene.manager() as manager:
            await manager.delete_account(scene.account, recursive=True)
        assert (await scene.limits(node))["member"] is None
        await scene.restart(text)
        await scene.restart(scene.text(rpm=1_002))
        assert (await scene.limits(node))["member"] is None
        assert (await scene.limits(node))["plain"] == (1_002, 100_000)
        await scene.apply(text)
        assert (await scene.limits(node))["member"] == (1_001, 0)


async def test_what_a_command_sets_stays_until_a_file_says_otherwise(scene: Scene) -> None:
    async with scene.node(scene.text(rpm=1_001, input_tpm=5_000)) as node:
        await scene.set(rpm=77)
        assert await scene.limits(node) == scene.everywhere(77, 5_000)
        await scene.restart(scene.text(rpm=1_001, input_tpm=5_000))
        assert await scene.limits(node) == scene.everywhere(77, 5_000), "the same text"
        await scene.restart(scene.text(rpm=1_001, input_tpm=6_000))
        assert await scene.limits(node) == scene.everywhere(77, 6_000), "a text that changes another field"
        await scene.restart(scene.text(rpm=1_002, input_tpm=6_000))
        assert await scene.limits(node) == scene.everywhere(1_002, 6_000), "a text that changes the same field"


async def test_going_back_to_an_earlier_text_needs_a_persons_word(scene: Scene) -> None:
    first, second = scene.text(rpm=1_001, input_tpm=5_000), scene.text(rpm=1_002, input_tpm=5_000)
    async with scene.node(first) as node:
        await scene.restart(second)
        errors = await scene.restart(first)
        assert await scene.limits(node) == scene.everywhere(1_002, 5_000)
        assert "declaration_is_older" in errors
        assert "limiter-node apply" in errors
        assert "rpm 1,002 -> 1,001" in await scene.apply(first)
        assert await scene.limits(node) == scene.everywhere(1_001, 5_000)
        # Then the first text is the last one that was applied, and the second an earlier one.
        assert "declaration_is_older" in await scene.restart(second)
        assert "declaration_is_older" not in await scene.restart(first)
        assert await scene.limits(node) == scene.everywhere(1_001, 5_000)


async def test_a_persons_word_always_wins(scene: Scene) -> None:
    text = scene.text(rpm=1_001, input_tpm=5_000)
    async with scene.node(text) as node:
        await scene.set(rpm=77, output_tpm=8_888)
        said = await scene.apply(text, "--dry-run")
        assert f"key {scene.who('flat')} changed: " in said
        assert await scene.limits(node) == scene.everywhere(77, 5_000)
        assert await scene.apply(text) != ""
        assert await scene.limits(node) == scene.everywhere(1_001, 5_000)
        async with scene.manager() as manager:
            limits = (await manager.show_key(scene.who("member"))).to_json()["limits"]
        assert "output_tokens" not in [each["unit"] for each in limits if each["subject"] == scene.who("member")]


async def test_pruning(limiter_node: StartCommand, tmp_path: Path) -> None:
    async with EmbeddedStore("single") as store:
        scene = Scene(limiter_node, store.url, tmp_path)
        bare = f"[accounts.{scene.account}]\nrpm = 100_000\n"
        teams = f"[accounts.{scene.account}.teams.kept]\n[accounts.{scene.account}.teams.gone]\n"
        other = '[accounts.other]\n[accounts.other.teams.theirs]\n[keys."sk-theirs"]\naccount = "other"\nrpm = 5\n'
        async with scene.node(bare + teams + other + scene.text(rpm=1_001).partition("100_000")[2]) as node:
            left = f"{bare}[accounts.{scene.account}.teams.kept]\n"
            await scene.restart(left)
            assert None not in (await scene.limits(node)).values(), "a file that lacks a key takes nothing away"
            await scene.apply(left)
            assert None not in (await scene.limits(node)).values()
            said = await scene.apply(left, "--prune", "--dry-run")
            assert f"key {scene.who('member')} deleted" in said
            assert None not in (await scene.limits(node)).values()
            said = await scene.apply(left, "--prune", "--yes")
            assert f"team {scene.account}/gone deleted" in said
            found = await scene.limits(node)
            assert found["member"] is None
            assert None not in (found["plain"], found["flat"])
            assert await limits_of(node, "sk-theirs") is not None, "another account"
            async with scene.manager() as manager:
                assert [each.who for each in await manager.list_teams(scene.account)] == [f"{scene.account}/kept"]
                assert len(await manager.list_teams("other")) == 1
            await scene.apply(left, "--prune-keys", "--yes")
            assert await scene.limits(node) == scene.nowhere
            assert await limits_of(node, "sk-theirs") is not None


async def test_after_a_loss_of_the_store_nodes_first_declare_what_it_told_them(
    limiter_node: StartCommand, tmp_path: Path
) -> None:
    async with EmbeddedStore("single") as store:
        scene = Scene(limiter_node, store.url, tmp_path)
        gone = new_api_key()
        text = scene.text(rpm=1_001, input_tpm=500_000) + f'\n[keys."{gone}"]\nname = "gone"\n'
        async with scene.node(text) as node:
            await scene.set(rpm=7_700)  # never used up while the test waits
            assert await limits_of(node, gone) is not None
            async with scene.manager() as manager:
                await manager.delete_key("gone")
            assert await limits_of(node, gone) is None
            assert await scene.limits(node) == scene.everywhere(7_700, 500_000)
            with store_client(store.url) as client:
                client.flushall()

            async def is_back() -> bool:
                return await scene.limits(node) == scene.everywhere(7_700, 500_000)

            await eventually(is_back)
            assert await limits_of(node, gone) is None
            # A node that starts with the same file changes nothing back, and brings nothing back.
            async with scene.node(text) as other:
                for each in (node, other):
                    assert await scene.limits(each) == scene.everywhere(7_700, 500_000)
                    assert await limits_of(each, gone) is None
