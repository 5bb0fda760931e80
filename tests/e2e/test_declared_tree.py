"""The benchmark client reads keys files as the limiter does: each key's path, as ``GET /v1/rate_limits`` lists it."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from aiohttp import ClientSession
from fleet import Fleet, rate_limits, running_fleet
from own_commands import output_of

from bench_client.load.declared_limits import UNITS, DeclaredLimit, DeclaredTree, KeyPath
from bench_client.load.declared_paths import tree_of
from bench_client.load.keys import read_keys
from bench_client.records.record_file import RecordReader
from bench_client.records.run_directory import read_info

FILES = {
    "shorthands and defaults of keys": """
[accounts.acme]
rpm = 5_000
tpm = 2_000_000
key_defaults = { rpm = 120, tpm = 9, output_tpm = "none" }
limits = [{ requests = 50_000, per = "1d" }]
[accounts.acme.teams.research]
input_tpm = 70
rpm = "none"
[keys.sk-plain-0]
name = "says nothing"
[keys.sk-acme-2]
name = "alice"
account = "acme"
[keys.sk-acme-3]
account = "acme"
team = "research"
rpm = "none"
output_reserve = 5
[keys.sk-acme-4]
name = "bob"
account = "acme"
tpm = 77
limits = [{ requests = 40, per = "60s" }, { tokens = 5, per = "1m", models = ["o3"] }]
""",
    "teams four deep, patterns in capitals, two windows of one length": """
[accounts."deep.account"]
limits = [
  { requests = 100, per = "1s", mode = "audit", name = "burst" },
  { output_tokens = 6, per = "1m", models = ["O3*", "gpt-5*", "o3*"], name = "big, \\"models\\"" },
  { output_tokens = 7, per = "1m", models = ["GPT-4*"] },
  { input_tokens = 8, per = "60s", models = ["gpt-5*", "O3*"] },
  { requests = 0, per = "120s" },
]
[accounts."deep.account".teams.a]
rpm = 4
[accounts."deep.account".teams."a/b"]
[accounts."deep.account".teams."a/b/c"]
tpm = 3
[accounts."deep.account".teams."a/b/c/d"]
limits = [{ tokens = 2, per = "31d" }, { requests = 2, per = "7d" }, { requests = 999_999_999_999_999, per = "90s" }]
[accounts."deep.account".teams.aa]
rpm = 1
[keys.sk-deep]
name = "a-1"
account = "deep.account"
team = "a/b/c/d"
rpm = 1
[keys.sk-deep-2]
name = "z"
account = "deep.account"
team = "a/b"
[keys.sk-nothing]
account = "none"
[accounts.none]
""",
    "keys without an account": """
[defaults]
rpm = 7
output_tpm = "none"
[keys.sk-plain-1]
name = "Jürgen, \\"der\\" 1 %"
output_tpm = 50
[keys.sk-flat-1]
name = "acme/research"
limits = [{ requests = 5, per = "1m" }, { tokens = 6, per = "1h", models = ["x"] }]
[keys.sk-flat-2]
rpm = "none"
input_tpm = "none"
[keys.sk-flat-3]
name = "acme/research"
limits = [{ requests = 5, per = "60s", mode = "audit" }]
[keys.sk-plain-2]
name = "of one window in another form"
limits = [{ requests = 8, per = "1m", name = "named" }, { output_tokens = 9, per = "60s" }]
[keys.label]
credentials = ["sha256:ABCDEF0123456789abcdef0123456789abcdef0123456789abcdef0123456789", { secret = "sk-flat-4" }]
tpm = 3
[keys.sk-flat-5]
tpm = 4
""",
    "callers that see their own limits only": """
[accounts.quiet]
rpm = 3
show = "own"
key_defaults = { rpm = 2 }
[keys.sk-own]
name = "carol"
account = "quiet"
limits = [{ tokens = 6, per = "1h", models = ["X"] }]
""",
}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with running_fleet(tmp_path_factory.mktemp("declared"), "--store", "single", nodes=1) as running:
        yield running


def listed(told: dict[str, Any]) -> DeclaredLimit:
    """An element of ``limits_on_path``."""
    ms = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
    per_ms = int(told["window"][:-1]) * ms[told["window"][-1]]
    models = tuple(told.get("models", ()))
    return DeclaredLimit(told["subject"], told["unit"], per_ms, models, told["limit"], told["mode"], told["name"] or "")


def seen_by_caller(tree: DeclaredTree, path: KeyPath) -> list[DeclaredLimit]:
    """The limits on a path, as the key's responses name them."""
    limits = [tree.limits[place] for place in path.limits]
    if path.show == "path":
        return limits
    above = f"{path.account}/{path.team}/"
    own = [limit for limit in limits if not above.startswith(f"{limit.subject}/")]
    return [limit._replace(subject=limit.subject.removeprefix(f"{path.account}/")) for limit in own]


@pytest.mark.parametrize("text", FILES.values(), ids=FILES)
async def test_each_key_has_the_limits_that_the_limiter_lists(fleet: Fleet, tmp_path: Path, text: str) -> None:
    file = tmp_path / "keys.toml"
    file.write_text(text, encoding="utf-8")
    file.chmod(0o600)
    await asyncio.to_thread(output_of, "limiter-node", "apply", str(file), "--store", fleet.store)
    keys = read_keys(file).keys
    assert len(keys) == text.count("[keys.")
    tree = tree_of((key.key_id, key.path) for key in keys)
    assert tree.unknown == ()
    async with ClientSession() as session:
        for key in keys:
            told = await rate_limits(session, fleet.nodes[0], key.secret)
            limits = [listed(each) for each in told["limits_on_path"]]
            if key.secret.startswith("sk-plain"):
                assert key.key_id not in tree.keys
                assert [limit[1:4] for limit in limits] == [(unit, 60_000, ()) for unit in UNITS[:3]]
            else:
                declared = seen_by_caller(tree, tree.keys[key.key_id])
                assert sorted(declared) == sorted(limits)
                order = list(dict.fromkeys(limit.subject for limit in limits))
                assert list(dict.fromkeys(limit.subject for limit in declared)) == order


ANNOUNCED = """
[accounts.seen]
rpm = 900
limits = [
  { output_tokens = 500_000, per = "1h", models = ["O3*"] },
  { requests = 0, per = "1d", mode = "audit", name = "none a day" },
]
[accounts.seen.teams.research]
tpm = 70_000
[accounts.unseen]
show = "own"
rpm = 800
[keys.sk-seen]
name = "alice"
account = "seen"
team = "research"
limits = [{ requests = 3, per = "1h" }]
[accounts.unseen.teams.a]
rpm = 700
[accounts.unseen.teams."a/b"]
rpm = 600
[keys.sk-unseen]
name = "bob"
account = "unseen"
team = "a/b"
tpm = 70_000
[keys.sk-flat]
name = "Jürgen, 1 %"
tpm = 70_000
rpm = 1_000_000
"""
PER_TEXTS = {3_600_000: "1h", 60_000: "1m"}
FLAT_NAMES = {"requests": "rpm", "input_tokens": "input-tpm", "output_tokens": "output-tpm"}


def header_name(limit: DeclaredLimit, path: KeyPath) -> str:
    if not path.account and limit.unit in FLAT_NAMES:
        return FLAT_NAMES[limit.unit]
    return f"{limit.subject} {limit.unit}/{PER_TEXTS[limit.per_ms]}"


def test_records_name_the_limits_that_are_declared(fleet: Fleet, tmp_path: Path) -> None:
    file, out = tmp_path / "keys.toml", tmp_path / "out"
    file.write_text(ANNOUNCED, encoding="utf-8")
    file.chmod(0o600)
    output_of("limiter-node", "apply", str(file), "--store", fleet.store)
    load = ("--keys", str(file), "--models", "gpt-4o,o3-mini", "--qps", "60", "--duration", "1", "--out", str(out))
    output_of("bench-client", "run", "--target", fleet.nodes[0], *load)
    info = read_info(out)
    audited, rejecting = Counter[str | None](), Counter[str | None]()
    for record in RecordReader(out / "requests.jsonl"):
        path = info.tree.keys[record.key]
        assert record.has_other_limits
        assert record.model in ("gpt-4o", "o3-mini")
        names = {
            header_name(limit, path)
            for limit in seen_by_caller(info.tree, path)
            if limit.mode == "enforce" and (not limit.models or record.model == "o3-mini")
        }
        for header in (record.policies, record.states):
            assert {unquote(name) for name in re.findall(r'"([^"]*)"', header or "")} == names
        audited[record.audited] += 1
        rejecting[record.limit] += record.status == 429
    assert set(audited) == {None, "none a day"}
    assert set(rejecting) == {None, "seen/alice requests/1h"}
    assert rejecting["seen/alice requests/1h"] > 0
