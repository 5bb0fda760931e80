"""Keys are changed under load on four nodes, by commands and the admin API: whatever is sent after a change has been
made gets the new verdict on every node, nobody else notices, and the counters hold what callers were told.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from admin_client import TOKEN, AdminClient, admin_client
from aiohttp import ClientSession
from fleet import Fleet, chat, many_connections, running_fleet
from key_histories import ADMITTED, MOVING, NEVER, VERDICTS, Answer, Key, Secret, Span, State, total_used
from own_commands import output_of
from ports import free_ports

from limiter_node.credentials import key_id
from limiter_node.policy_fields import time_text

NODES = 4
LOAD_S = 5.0
ASKING = 12
FAR = {"rpm": 1_000_000, "requests/1h": 1_000_000, "input_tokens/1h": 10**9, "output_tokens/1h": 10**9}
PLAIN = {"rpm": 1_000_000, "input_tpm": 10**9, "output_tpm": 10**9}
ACCOUNTS = ("acme", "globex")
OUTPUT = 5
"""Tokens of each answer; three more are reserved and given back."""


class Changes:
    """Change one key after the other, by a command or by the admin API of a node; and ask every node afterwards."""

    def __init__(self, scene: Scene, key: Key, rng: random.Random) -> None:
        self._scene, self.key, self._rng = scene, key, rng
        self.made: Counter[str] = Counter()

    async def until(self, until_s: float) -> None:
        """Make changes until that time."""
        while time.time() < until_s:
            await self._one()
            await self._scene.ask_everywhere(self.key)
            await asyncio.sleep(self._rng.uniform(0.0, 0.1))

    async def _one(self) -> None:
        state, rng = self.key.now, self._rng
        choices = ["rotate", "graceful", "revoke", "expire", "delete", "set", "move"]
        if state.is_disabled:
            choices = ["enable", "enable", "rotate", "delete"]
        elif state.ends is not NEVER:
            choices = ["never", "never", "rotate", "move"]
        elif not state.good(time.time()):
            choices = ["rotate", "graceful", "delete", "move"]
        else:
            choices += ["disable", "disable"]
        if len(state.secrets) > 6:
            choices = ["delete"]
        chosen = rng.choice(choices)
        self.made[chosen] += 1
        await getattr(self, f"_{chosen}")()

    async def _call(self, verb: str, body: Any, *options: str) -> Any:
        """One change, by either way. Return what it answers."""
        if self._rng.random() < 0.7:
            client = self._rng.choice(self._scene.admins)
            values = () if verb == "create" else (self.key.who,)
            route = {"set": "changeKey"}.get(verb, f"{verb}Key")
            return await client.done(route, *values, body=body)
        return await self._scene.command("keys", verb, self.key.who, *options)

    async def _change(self, verb: str, body: Any, *options: str, **changes: Any) -> Any:
        begun_s = time.time()
        answer = await self._call(verb, body, *options)
        self.key.note(begun_s, time.time(), **changes)
        return answer

    async def _disable(self) -> None:
        await self._change("disable", None, is_disabled=True)

    async def _enable(self) -> None:
        await self._change("enable", None, is_disabled=False)

    async def _set(self) -> None:
        rpm = self._rng.randrange(1_000_000, 2_000_000)
        await self._change("set", {"rpm": rpm}, "--rpm", str(rpm))

    async def _rotate(self, grace_ms: int = 0) -> None:
        begun_s, before = time.time(), self.key.now
        made = await self._call("rotate", {"grace_ms": grace_ms}, "--grace", f"{grace_ms // 1000}s", "--yes")
        done_s = time.time()
        ends = Span(begun_s + grace_ms / 1000, done_s + grace_ms / 1000)
        # Of secrets that had ended by then, the end stays.
        former = {each: Secret(found.ends.before(ends), found.is_revoked) for each, found in before.secrets.items()}
        self.key.note(begun_s, done_s, secrets={**former, made["secret"]: Secret()})

    async def _graceful(self) -> None:
        await self._rotate(1_000)

    async def _revoke(self) -> None:
        secrets = self.key.now.secrets
        secret = self._rng.choice([each for each, found in secrets.items() if not found.is_revoked])
        digest = f"sha256:{key_id(secret)}"
        after = {**secrets, secret: Secret(secrets[secret].ends, is_revoked=True)}
        await self._change("revoke", {"credential": digest}, "--credential", digest, "--yes", secrets=after)

    async def _expire(self) -> None:
        at_ms = int(time.time() * 1000) + self._rng.choice((-1_000, 100, 400))
        at = time_text(at_ms)
        await self._change("expire", {"at": at}, "--at", at, ends=Span(at_ms / 1000, at_ms / 1000))

    async def _never(self) -> None:
        await self._change("expire", {"at": None}, "--never", ends=NEVER)

    async def _move(self) -> None:
        target = self._rng.choice([each for each in ("", *ACCOUNTS) if each != self.key.account])
        body, options = {"account": target or None}, (target or "--no-account",)
        await self._change("move", body, *options, is_move=True)
        self.key.account = target

    async def _delete(self) -> None:
        """Delete the key, and make it again: with its first secret, unless that has been revoked."""
        first = next(iter(self.key.now.secrets.items()))
        await self._change("delete", None, "--yes", secrets={}, is_disabled=False, ends=NEVER)
        await self._scene.ask_everywhere(self.key)
        await self._scene.create(self.key, None if first[1].is_revoked else first[0])


class Scene:
    """Four nodes, and the keys on them."""

    def __init__(self, fleet: Fleet, session: ClientSession, admins: list[AdminClient], seed: int) -> None:
        self.fleet, self.admins, self._session, self.rng = fleet, admins, session, random.Random(seed)
        self.keys: list[Key] = []
        self._commands = asyncio.Lock()
        """The output of a command is that of the process."""

    async def command(self, *arguments: str) -> Any:
        """Run a command and return its JSON."""
        async with self._commands:
            call = (output_of, "limiter-node", *arguments, "--store", self.fleet.store, "--json")
            return json.loads(await asyncio.to_thread(*call))

    async def new_key(self, name: str, account: str = "", *, is_plain: bool = False) -> Key:
        key = Key(name, account, is_plain)
        self.keys.append(key)
        await self.create(key, None)
        return key

    async def create(self, key: Key, secret: str | None) -> None:
        """Make a key: with that secret, or a new one."""
        body: dict[str, Any] = {"path": key.who, **(PLAIN if key.is_plain else FAR)}
        if secret is not None:
            body["digest"] = f"sha256:{hashlib.sha256(secret.encode()).hexdigest()}"
        begun_s = time.time()
        made = await self.rng.choice(self.admins).done("createKey", body=body)
        state = State(begun_s, time.time(), {secret or made["secret"]: Secret()})
        key.states.append(state)
        key.created = state

    # ---- asking ------------------------------------------------------------------------------------------------------

    async def ask(self, key: Key, secret: str, node: int) -> None:
        """One request, noted."""
        sent_s = time.time()
        response, body = await chat(self._session, self.fleet.nodes[node], secret, max_tokens=OUTPUT + 3)
        content: Any = body
        verdict, account, used = f"status {response.status}", "", (0, 0, 0)
        if response.status == 200:
            assert "x-limiter-degraded" not in response.headers
            verdict, usage = ADMITTED, content["usage"]
            used = (1, usage["prompt_tokens"], usage["completion_tokens"])
            named = re.search(r'"(\w+) requests/1h"', response.headers["RateLimit-Policy"])
            account = named[1] if named else ""
        elif response.status == 401:
            verdict = VERDICTS[content["error"]["message"]]
        elif response.status == 503 and "retry-after" in response.headers:
            verdict = MOVING
        key.answers.append(Answer(secret, node, sent_s, time.time(), verdict, account, used))

    async def ask_everywhere(self, key: Key) -> None:
        """Ask every node, with the latest secrets of a key, of its present life and of all."""
        secrets = {*list(key.now.secrets)[-2:], *key.all_secrets[-2:]}
        await asyncio.gather(*(self.ask(key, secret, node) for secret in secrets for node in range(NODES)))

    async def ask_until(self, until_s: float) -> None:
        """Ask until that time: with good secrets, and now and then with any that ever was one."""
        while time.time() < until_s:
            key = self.rng.choice(self.keys)
            good = key.now.good(time.time()) if self.rng.random() < 0.8 else []
            await self.ask(key, self.rng.choice(good or key.all_secrets[-5:]), self.rng.randrange(NODES))

    # ---- counted -----------------------------------------------------------------------------------------------------

    async def used(self, key: Key) -> tuple[int, ...]:
        """The content of the key's own windows."""
        view = await self.admins[0].done("showKey", key.who)
        return _used(view["limits"], key.who)

    async def used_of_account(self, name: str) -> tuple[int, ...]:
        view = await self.admins[0].done("showAccount", name)
        return _used(view["limits"], name)

    async def differences(self) -> list[str]:
        """The counters that differ from the sums that callers were told."""
        found = []
        for key in self.keys:
            least, most = key.counted()
            used = await self.used(key)
            if not all(low <= each <= high for low, each, high in zip(least, used, most, strict=True)):
                found.append(f"{key.who} counts {used}, told were {least} to {most}")
        for name in ACCOUNTS:
            total = total_used(each for key in self.keys for each in key.answers if each.account == name)
            used = await self.used_of_account(name)
            if used != total:
                found.append(f"{name} counts {used}, told were {total}")
        return found


def _used(limits: list[dict[str, Any]], who: str) -> tuple[int, ...]:
    """Requests, input and output in the longest window."""
    found = {(each["unit"], each["window"]): each["used"] for each in limits if each["subject"] == who}
    units = ("requests", "input_tokens", "output_tokens")
    return tuple(found.get((unit, "1h"), found.get((unit, "1m"), -1)) for unit in units)


@pytest.fixture(scope="module")
def four_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Four nodes with an admin API, on a cluster."""
    directory = tmp_path_factory.mktemp("four-nodes")
    token = directory / "token"
    token.write_text(f"{TOKEN}\n")
    token.chmod(0o600)
    admin = ("--admin-port", str(free_ports(NODES)[0]), "--admin-token-file", str(token))
    # Without a keys file: nodes that are short of CPU read it late, and answer 503 for a deleted key until they have.
    options = ("--keys", "", "--mock-length", f"fixed:{OUTPUT}", "--decision-timeout-ms", "20000")
    with running_fleet(directory, *admin, *options, nodes=NODES) as fleet:
        yield fleet


@asynccontextmanager
async def scene_of(fleet: Fleet, seed: int) -> AsyncIterator[Scene]:
    async with AsyncExitStack() as stack:
        admins = [await stack.enter_async_context(admin_client(url)) for url in fleet.admin]
        session = await stack.enter_async_context(many_connections())
        yield Scene(fleet, session, admins, seed)


async def test_each_change_counts_on_every_node_at_once(four_nodes: Fleet) -> None:
    async with scene_of(four_nodes, 1) as scene:
        for account in ACCOUNTS:
            await scene.admins[0].done("createAccount", body={"name": account, **FAR})
        steady = [
            await scene.new_key("steady-plain", is_plain=True),
            await scene.new_key("steady-flat"),
            *[await scene.new_key(f"steady-{account}", account) for account in ACCOUNTS],
        ]
        changed = [
            *[await scene.new_key(f"plain-{number}", is_plain=True) for number in range(2)],
            await scene.new_key("flat"),
            *[await scene.new_key(f"member-{number}", ACCOUNTS[number % 2]) for number in range(3)],
        ]
        until_s = time.time() + LOAD_S
        changes = [Changes(scene, key, random.Random(f"changes {key.name}")) for key in changed]
        await asyncio.gather(
            *(each.until(until_s) for each in changes), *(scene.ask_until(until_s) for _ in range(ASKING))
        )
        wrong = [line for key in scene.keys for line in key.wrong()]
        assert not wrong, "\n".join(wrong)
        assert {answer.verdict for key in steady for answer in key.answers} == {ADMITTED}
        verdicts = Counter(answer.verdict for key in changed for answer in key.answers)
        assert min(verdicts[each] for each in (ADMITTED, *VERDICTS.values())) > 10, verdicts
        made = sum((each.made for each in changes), Counter())
        assert set(made) >= {"disable", "enable", "rotate", "graceful", "revoke", "expire", "delete", "move"}, made
        try:
            async with asyncio.timeout(10):
                while differences := await scene.differences():
                    await asyncio.sleep(0.05)
        except TimeoutError:
            pytest.fail("\n".join(differences))
