"""Limits of accounts proved from outside: real nodes race on one account, and each limit admits its number exactly.

Judged by the responses' own headers and bodies and by ``GET /v1/rate_limits`` alone.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from aiohttp import ClientResponse, ClientSession
from fleet import Fleet, chat, many_connections, rate_limits, running_fleet
from own_commands import output_of

KEYS_PER_ACCOUNT = 4
OUTPUT = 5
"""The cap of each answer, which the mock reaches: nothing is given back, so usage only grows."""
PROMPT = 8
"""Tokens of the prompt, held by each test."""
FAR = 1_000_000_000


class Level(NamedTuple):
    """Where the one limit lies that binds; all the others of its account are out of reach."""

    subject: str
    unit: str
    per: str
    amount: int
    models: tuple[str, ...] = ()

    @property
    def account(self) -> str:
        """An account of its own for each level."""
        words = (self.subject or "account", self.unit, self.per, *self.models)
        return re.sub(r"[^a-z0-9]+", "-", "-".join(words).lower()).strip("-")

    @property
    def need(self) -> int:
        """The amount of the unit that one request needs."""
        return {"requests": 1, "input_tokens": PROMPT, "output_tokens": OUTPUT, "tokens": PROMPT + OUTPUT}[self.unit]

    @property
    def fits(self) -> int:
        """The number of requests that the limit admits."""
        return self.amount // self.need


LEVELS = [
    Level("", "requests", "1m", 40),
    Level("", "tokens", "1m", 30 * (PROMPT + OUTPUT) + PROMPT),
    Level("", "requests", "1m", 35, ("GPT-4o*",)),
    Level("research", "output_tokens", "1d", 25 * OUTPUT + 1),
    Level("research/vision", "input_tokens", "1h", 20 * PROMPT + PROMPT - 1),
    Level("key", "requests", "1d", 15),
    Level("key", "input_tokens", "1m", 10 * PROMPT),
]
SUBJECTS = ("", "research", "research/vision", "key")
EVERYWHERE = (("requests", "1m"), ("input_tokens", "1h"), ("output_tokens", "1d"), ("tokens", "10s"))
"""Limits that every subject has beside the binding one, out of reach."""


def limits_of(subject: str, level: Level) -> str:
    """The entries of one subject's ``limits``."""
    shared = [Level(subject, unit, per, FAR) for unit, per in EVERYWHERE]
    binding = [level] if level.subject == subject else []
    taken = {(each.unit, each.per) for each in binding if not each.models}
    found = [*binding, *(each for each in shared if (each.unit, each.per) not in taken)]
    return "\n".join(
        f'  {{ {each.unit} = {each.amount}, per = "{each.per}"'
        + (f", models = {list(each.models)}" if each.models else "")
        + " },"
        for each in found
    )


def secret(account: str, number: int) -> str:
    return f"sk-{account}-{number}"


def account_text(level: Level) -> str:
    """The account, two nested teams, and keys in the inner one; one more key belongs to the account itself."""
    account = level.account
    parts = [f"[accounts.{account}]\nlimits = [\n{limits_of('', level)}\n]"]
    parts += [f'[accounts.{account}.teams."{team}"]\nlimits = [\n{limits_of(team, level)}\n]' for team in SUBJECTS[1:3]]
    for number in range(KEYS_PER_ACCOUNT):
        parts.append(
            f'[keys."{secret(account, number)}"]\nname = "k{number}"\naccount = "{account}"\nteam = "research/vision"\n'
            f"limits = [\n{limits_of('key', level)}\n]"
        )
    parts.append(f'[keys."{secret(account, KEYS_PER_ACCOUNT)}"]\nname = "apart"\naccount = "{account}"')
    return "\n".join(parts) + "\n"


AUDITED = """
[accounts.audited]
rpm = 30
limits = [
  { requests = 10, per = "1h", mode = "audit", name = "burst" },
  { output_tokens = 0, per = "1d", mode = "audit" },
]
[keys.sk-audited]
name = "alice"
account = "audited"
"""
CHANGING = """
[accounts.changing]
rpm = {rpm}
[accounts.changing.teams.research]
limits = [{{ requests = {daily}, per = "1d" }}]
[keys.sk-changing]
name = "alice"
account = "changing"
team = "research"
"""


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("accounts")


@pytest.fixture(scope="module")
def fleet(directory: Path) -> Iterator[Fleet]:
    """Four nodes on an embedded cluster."""
    keys = directory / "keys.toml"
    keys.write_text("".join(map(account_text, LEVELS)) + AUDITED + CHANGING.format(rpm=20, daily=1_000))
    options = ("--keys", str(keys), "--mock-length", "fixed:1000", "--decision-timeout-ms", "20000")
    with running_fleet(directory, *options, nodes=4) as running:
        yield running


Told = tuple[ClientResponse, dict[str, Any]]


async def decided(session: ClientSession, node: str, key: str, **fields: object) -> Told:
    """Ask until the node decides: one that is overloaded turns requests away, which then count for nothing."""
    while True:
        response, content = await chat(session, node, key, max_tokens=OUTPUT, **fields)
        if response.status != 503:
            return response, content


async def race(fleet: Fleet, keys: Sequence[str], requests: int, **fields: object) -> dict[str, list[Told]]:
    """All requests at once, of these keys in turn, on nodes at random. The responses of each key."""
    chooser = random.Random(1)
    asked = [(keys[each % len(keys)], chooser.choice(fleet.nodes)) for each in range(requests)]
    async with many_connections() as session:
        answers = await asyncio.gather(*(decided(session, node, key, **fields) for key, node in asked))
    found: dict[str, list[Told]] = defaultdict(list)
    for (key, _), answer in zip(asked, answers, strict=True):
        found[key].append(answer)
    times = [int(response.headers["x-limiter-time-ms"]) for response, _ in answers]
    assert max(times) - min(times) < 60_000, "all of it in one window"
    assert not [response for response, _ in answers if "x-limiter-degraded" in response.headers]
    return found


def remaining(response: ClientResponse, limit: str) -> int:
    """The rest, by ``RateLimit``, of the first limit of that name: limits of some models share the name."""
    found = re.search(rf'"{re.escape(limit)}";r=(\d+);', response.headers["RateLimit"])
    assert found is not None
    return int(found[1])


def all_of(found: dict[str, list[Told]], status: int) -> list[Told]:
    return [each for answers in found.values() for each in answers if each[0].status == status]


def assert_admitted_exactly(answers: Sequence[Told], level: Level, limit: str) -> None:
    """One limit's answers: as many 200s as fit, each with another remainder; each 429 names the limit."""
    admitted = [response for response, _ in answers if response.status == 200]
    left = sorted(remaining(response, limit) for response in admitted)
    assert left == sorted(level.amount - level.need * (each + 1) for each in range(level.fits))
    rejected = [(response, body) for response, body in answers if response.status == 429]
    assert len(admitted) + len(rejected) == len(answers)
    assert rejected
    length_ms = {"1m": 60_000, "1h": 3_600_000, "1d": 86_400_000}[level.per]
    subject = limit.partition(" ")[0]
    for response, body in rejected:
        assert response.headers["x-limiter-limit"] == limit
        assert response.headers["x-limiter-exceeded"] == level.unit
        wait_ms = int(response.headers["retry-after-ms"])
        assert length_ms - 60_000 < wait_ms <= length_ms + max(100, length_ms // 600)
        wait_s = -(-wait_ms // 1000)
        # Clients give up above 60, so a wait of a minute's window is at most that.
        assert int(response.headers["retry-after"]) == (min(wait_s, 60) if wait_ms <= 60_100 else wait_s)
        error = body["error"]
        assert error["code"] == "rate_limit_exceeded"
        assert error["type"] == ("requests" if level.unit == "requests" else "tokens")
        assert level.unit.replace("_", " ") in error["message"]
        numbers = f"Limit {level.amount}, Used {level.fits * level.need}, Requested {level.need}."
        assert numbers in error["message"]
        if level.subject != "key":
            assert f" of {subject}: " in error["message"]


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.account)
async def test_nodes_that_race_admit_each_limit_exactly(fleet: Fleet, level: Level) -> None:
    account = level.account
    keys = [secret(account, number) for number in range(KEYS_PER_ACCOUNT)]
    found = await race(fleet, keys, 320)
    nodes = {response.headers["x-limiter-node"] for answers in found.values() for response, _ in answers}
    assert nodes == {"1", "2", "3", "4"}
    prompts = {body["usage"]["prompt_tokens"] for _, body in all_of(found, 200)}
    assert prompts == {PROMPT}
    what = f"{level.unit}/{level.per}"
    if level.subject == "key":
        for number, key in enumerate(keys):
            assert_admitted_exactly(found[key], level, f"{account}/k{number} {what}")
    else:
        subject = "/".join(filter(None, (account, level.subject)))
        assert_admitted_exactly([each for answers in found.values() for each in answers], level, f"{subject} {what}")

    # All or nothing: every counter of the account, its teams and its keys holds what was admitted, and nothing else.
    admitted = {key: sum(response.status == 200 for response, _ in answers) for key, answers in found.items()}
    total = sum(admitted.values())
    async with many_connections() as session:
        for number, key in enumerate(keys):
            told = await rate_limits(session, fleet.nodes[number], key)
            units: Counter[str] = Counter()
            for each in told["limits_on_path"]:
                requests = admitted[key] if each["subject"] == f"{account}/k{number}" else total
                need = level._replace(unit=each["unit"]).need
                if each["window"] != "10s":  # may have passed meanwhile
                    assert each["used"] == requests * need, each
                    assert each["remaining"] == max(each["limit"] - requests * need, 0)
                units[each["unit"]] += 1
            assert min(units.values()) >= len(SUBJECTS)


async def test_a_limit_of_some_models_leaves_others_alone(fleet: Fleet) -> None:
    account = LEVELS[2].account
    async with many_connections() as session:
        for node in fleet.nodes:
            response, _ = await chat(session, node, secret(account, 0), model="gpt-4", max_tokens=OUTPUT)
            assert response.status == 200
            assert '"research-' not in response.headers["RateLimit"]
        told = await rate_limits(session, fleet.nodes[0], secret(account, 0))
        of_models = [each for each in told["limits_on_path"] if "models" in each]
        assert [(each["used"], each["limit"]) for each in of_models] in ([(0, 35)], [(35, 35)])


async def test_a_full_team_leaves_the_rest_of_the_account_alone(fleet: Fleet) -> None:
    level = LEVELS[4]
    keys = [secret(level.account, number) for number in range(KEYS_PER_ACCOUNT + 1)]
    await race(fleet, keys[:1], 40)
    found = await race(fleet, keys, 50)
    assert {key for key in keys if any(response.status == 200 for response, _ in found[key])} == {keys[-1]}
    assert all(response.status == 200 for response, _ in found[keys[-1]])


async def test_audited_limits_are_reported_and_never_reject(fleet: Fleet) -> None:
    found = await race(fleet, ["sk-audited"], 100)
    admitted, rejected = all_of(found, 200), all_of(found, 429)
    assert (len(admitted), len(rejected)) == (30, 70)
    named = Counter(response.headers.get("x-limiter-audit") for response, _ in admitted)
    output = "audited output_tokens/1d"
    assert named == {output: 10, f"burst, {output}": 20}, "the first ten requests are within the audited limit"
    assert {response.headers["x-limiter-limit"] for response, _ in rejected} == {"audited requests/1m"}
    for response, _ in (*admitted, *rejected):
        assert "1h" not in response.headers["RateLimit-Policy"]
    async with many_connections() as session:
        told = await rate_limits(session, fleet.nodes[0], "sk-audited")
    audited = {each["unit"]: each for each in told["limits_on_path"] if each["mode"] == "audit"}
    assert (audited["requests"]["name"], audited["requests"]["used"]) == ("burst", 30)
    assert audited["output_tokens"]["used"] == 30 * OUTPUT


def load(fleet: Fleet, file: Path) -> None:
    output_of("limiter-node", "keys", "load", str(file), "--store", fleet.store)


async def test_a_loaded_file_counts_from_the_next_decision_on_every_node(fleet: Fleet, directory: Path) -> None:
    """Amounts change and forget nothing; whichever limit binds then, admits its number exactly."""

    async def admitted(requests: int) -> tuple[int, set[str]]:
        found = await race(fleet, ["sk-changing"], requests)
        limits = {response.headers["x-limiter-limit"] for response, _ in all_of(found, 429)}
        return len(all_of(found, 200)), limits

    file = directory / "changed.toml"
    account, team = "changing requests/1m", "changing/research requests/1d"
    assert await admitted(80) == (20, {account})
    for rpm, daily, more, binding in ((33, 1_000, 13, account), (1_000, 50, 17, team), (1_000, 60, 10, team)):
        file.write_text(CHANGING.format(rpm=rpm, daily=daily))
        await asyncio.to_thread(load, fleet, file)
        assert await admitted(80) == (more, {binding})
    file.write_text(CHANGING.format(rpm=5, daily=1_000))
    await asyncio.to_thread(load, fleet, file)
    async with many_connections() as session:
        for node in fleet.nodes:
            response, body = await chat(session, node, "sk-changing", max_tokens=OUTPUT)
            assert response.status == 429
            assert "Limit 5, Used 60, Requested 1." in str(body["error"])
