"""Judges credentials and states of keys that change while nodes decide for them, under faults.

``python -m tests.judge.states`` judges run after run for a while; ends with 1 if any was refuted. The rules:

1. A request is admitted by the store only if that held at some time between its beginning and its end. A refusal has
   held at some time before its end: a node that can't ask the store says what it was told last. (`key_histories`)
2. A node that has said that a credential is revoked never admits it again, with or without the store.
3. At rest, each node says of each secret just what holds.

Nothing of the store is lost here, and no node dies: what they may cost is tested in ``tests/node``.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from dispatching import dispatching
from key_histories import ADMITTED, DISABLED, EXPIRED, NEVER, REVOKED, UNKNOWN, Answer, Key, Secret, Span, State

from limiter_node.credentials import key_id
from limiter_node.decisions import Need, Outcome
from limiter_node.errors import LimiterError
from limiter_node.key_states import CredentialState
from limiter_node.limiter.policies import policy
from limiter_node.management.manager import Manager
from limiter_node.store.admin.store_admin import administering
from limiter_node.store.decisions.dispatcher import Dispatcher
from limiter_node.store.url import parse_store_url

from .lasting import Lasting
from .moves import FAULTS
from .proxy import LyingProxy
from .records import Record
from .scene import Scene
from .seeds import main
from .store import JudgedStore

_HEALED_S = _DRAINED_S = 15.0
_LIMITS = {"rpm": 1_000_000, "requests/1h": 1_000_000}
_STATES = {
    CredentialState.UNKNOWN: UNKNOWN,
    CredentialState.REVOKED: REVOKED,
    CredentialState.DISABLED: DISABLED,
    CredentialState.EXPIRED: EXPIRED,
}
_OUTCOMES = {
    Outcome.ADMITTED: ADMITTED,
    Outcome.UNKNOWN_KEY: UNKNOWN,
    Outcome.REVOKED_KEY: REVOKED,
    Outcome.DISABLED_KEY: DISABLED,
    Outcome.EXPIRED_KEY: EXPIRED,
}


@dataclass
class States:
    """One run, and what is wrong in it."""

    seed: int
    policy: str
    outcomes: Counter[str] = field(default_factory=Counter)
    changes: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)

    @property
    def line(self) -> str:
        """The run in one line."""
        said = ", ".join(f"{count} {what}" for what, count in sorted((self.outcomes + self.changes).items()))
        return "\n  ".join((f"states {self.seed}: {self.policy}, {said}", *self.violations))


async def run_states(seed: int, store: JudgedStore, seconds: float, changes: int = 1) -> States:
    """Change keys under load and faults, and judge. `store` is a single one.

    The run goes on until a request was admitted and that many changes were made, if this takes longer than `seconds`.
    """
    return await _Run(seed, store, seconds, changes).run()


class _Run:
    def __init__(self, seed: int, store: JudgedStore, seconds: float, changes: int) -> None:
        self._rng, self._store, self._seconds = random.Random(f"states {seed}"), store, seconds
        self._enough = changes
        self.found = States(seed, self._rng.choice(("closed", "local")))
        self._account = f"acme-{self._rng.randbytes(4).hex()}"
        self._keys: list[Key] = []
        self._refused: set[tuple[int, str]] = set()
        """The nodes that have said that a secret is revoked."""

    async def run(self) -> States:
        async with AsyncExitStack() as stack:
            admin = await stack.enter_async_context(administering(parse_store_url(self._store.url)))
            self._manager = Manager(admin)
            await self._manager.create_account(self._account, _LIMITS)
            for name, account in (("member", self._account), ("other", self._account), ("flat", "")):
                await self._make(Key(f"{name}-{self._rng.randbytes(4).hex()}", account))
            count = self._rng.choice((1, 2, 4))
            proxies = [await stack.enter_async_context(LyingProxy(self._store.servers[0].port)) for _ in range(count)]
            nodes = [await stack.enter_async_context(self._node(proxy, count)) for proxy in proxies]
            self._scene = Scene(Record(count, 20, "local", 100), self._store, admin, proxies, None, self._rng)
            await self._play(nodes)
            await self._rest(nodes)
        self.found.violations += [line for key in self._keys for line in key.wrong()]
        return self.found

    def _node(self, proxy: LyingProxy, count: int) -> Any:
        decide = None if self.found.policy == "closed" else lambda _: policy("local", lambda: count)
        return dispatching(f"redis://127.0.0.1:{proxy.port}", timeout_ms=100, policy=decide, stall_timeout_s=0.3)

    async def _make(self, key: Key) -> None:
        begun_s = time.time()
        made = await self._manager.create_key(key.who, _LIMITS)
        assert made.secret is not None
        key.states.append(State(begun_s, time.time(), {made.secret: Secret()}))
        self._keys.append(key)

    async def _play(self, nodes: list[Dispatcher]) -> None:
        lasting = Lasting(self._seconds, self._is_enough)
        asking = [self._ask_until(nodes, number, lasting) for number in range(len(nodes)) for _ in range(3)]
        changing = [self._change_until(key, lasting) for key in self._keys]
        await asyncio.gather(self._let_faults_happen(lasting), *changing, *asking)

    def _is_enough(self) -> bool:
        return self.found.changes.total() >= self._enough and self.found.outcomes[ADMITTED] > 0

    async def _let_faults_happen(self, lasting: Lasting) -> None:
        while not lasting.is_over:
            await asyncio.sleep(self._rng.uniform(0.0, 0.5))
            await self._rng.choice(FAULTS)(self._scene)
        self._store.go_on()
        for proxy in self._scene.proxies:
            proxy.pass_all()

    async def _change_until(self, key: Key, lasting: Lasting) -> None:
        while not lasting.is_over:
            await asyncio.sleep(self._rng.uniform(0.05, 0.3))
            async with self._store.commands:  # faults of the server would stop the command
                await self._change(key)

    async def _change(self, key: Key) -> None:
        rng, state, begun_s, changes = self._rng, key.now, time.time(), {}
        good = [each for each, found in state.secrets.items() if not found.is_revoked and found.ends is NEVER]
        what = rng.choice(("rotate", "enable" if state.is_disabled else "disable", "revoke", "expire"))
        if state.ends is not NEVER:
            what = "never"
        if what == "rotate" or not good:
            what = "rotate"
            grace_ms = rng.choice((0, 200))
            made = await self._manager.rotate(key.who, grace_ms)
            assert made.secret is not None
            ends = Span(begun_s + grace_ms / 1000, time.time() + grace_ms / 1000)
            former = {each: Secret(found.ends.before(ends), found.is_revoked) for each, found in state.secrets.items()}
            changes["secrets"] = {**former, made.secret: Secret()}
        elif what == "revoke":
            secret = rng.choice(good)
            await self._manager.revoke(key.who, f"sha256:{key_id(secret)}")
            changes["secrets"] = {**state.secrets, secret: Secret(NEVER, is_revoked=True)}
        elif what == "expire":
            at_ms = int(begun_s * 1000) + rng.choice((-1_000, 100))
            await self._manager.expire(key.who, at_ms)
            changes["ends"] = Span(at_ms / 1000, at_ms / 1000)
        elif what == "never":
            await self._manager.expire(key.who, None)
            changes["ends"] = NEVER
        else:
            await (self._manager.enable if what == "enable" else self._manager.disable)(key.who)
            changes["is_disabled"] = what == "disable"
        key.note(begun_s, time.time(), **changes)
        self.found.changes[what] += 1

    # ---- asking ------------------------------------------------------------------------------------------------------

    async def _ask_until(self, nodes: list[Dispatcher], number: int, lasting: Lasting) -> None:
        while not lasting.is_over:
            key = self._rng.choice(self._keys)
            await self._ask(nodes[number], number, key, self._rng.choice(key.all_secrets[-3:]))
            await asyncio.sleep(0.005)

    async def _ask(self, node: Dispatcher, number: int, key: Key, secret: str) -> str:
        """One request, as the node's HTTP side asks."""
        sent_s, cid, is_degraded = time.time(), key_id(secret), False
        try:
            state = CredentialState.VALID if node.knows(cid) else await node.find(cid)
            if state is CredentialState.VALID:
                decision = await node.admit(cid, Need(1, 1, 0))
                verdict, is_degraded = _OUTCOMES.get(decision.outcome, decision.outcome.name), bool(decision.degraded)
            else:
                verdict = _STATES[state]
        except LimiterError:
            verdict = "unavailable"
        self.found.outcomes[verdict] += 1
        if verdict == ADMITTED and (number, secret) in self._refused:
            self.found.violations.append(f"{key.name}: node {number} admits what it has said was revoked")
        if verdict == REVOKED:
            self._refused.add((number, secret))
        if verdict != "unavailable" and not is_degraded:
            since_s = sent_s if verdict == ADMITTED else key.states[0].begun_s
            key.answers.append(Answer(secret, number, since_s, time.time(), verdict))
        return verdict

    # ---- at rest -----------------------------------------------------------------------------------------------------

    async def _rest(self, nodes: list[Dispatcher]) -> None:
        await asyncio.sleep(0.25)  # the longest grace
        for number, node in enumerate(nodes):
            until_s = time.time() + _HEALED_S
            while node.outage.is_on and time.time() < until_s:
                await asyncio.sleep(0.01)
            for key in self._keys:
                for secret in key.all_secrets:
                    verdict = await self._ask(node, number, key, secret)
                    allowed = key.now.verdicts(secret, time.time(), time.time())
                    if verdict not in allowed:
                        self.found.violations.append(f"{key.name} at rest: {verdict} instead of {sorted(allowed)}")
            if not await node.drain(_DRAINED_S):
                self.found.violations.append("a node doesn't drain")


if __name__ == "__main__":
    main("tests.judge.states", __doc__, run_states)
