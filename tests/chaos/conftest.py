"""Faults are for `make chaos`; `make test` runs a short selection, on one store. What they saw is put together in one
table."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from chaos_scene import ROOT, Outcome, Row

RESULTS = ROOT / "results"
SERVERS = ["valkey", "redis"]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if os.environ.get("CHAOS"):
        return
    left_out = [item for item in items if item.path.parent == Path(__file__).parent and not _is_short(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def _is_short(item: pytest.Item) -> bool:
    return item.get_closest_marker("chaos") is None and SERVERS[0] in item.name


@pytest.fixture(params=SERVERS)
def binary(request: pytest.FixtureRequest) -> str | None:
    """The store's server program: None is the one that is carried along."""
    if request.param == "valkey":
        return None
    if shutil.which("redis-server") is None:
        pytest.skip("no redis-server on this machine")
    return "redis-server"


@pytest.fixture(scope="session")
def table() -> Iterator[list[dict[str, object]]]:
    rows: list[dict[str, object]] = []
    yield rows
    if not os.environ.get("CHAOS") or not rows:
        return
    RESULTS.mkdir(exist_ok=True)
    rows.sort(key=lambda row: (int(str(row["row"]).split()[0]), str(row["store"])))
    (RESULTS / "chaos.json").write_text(json.dumps(rows, indent=1) + "\n")
    lines = [
        "| # | fault | store | requests | errors | degraded | outage | slowest answer | above a limit | audit |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['row']} | {row['fault']} | {row['store']} | {row['requests']:,} | {row['errors'] or 0} "
        f"| {row['degraded']:,} | {row['outage_ms']:,} ms | {row['slowest_ms']:,} ms | {row['excess']} "
        f"| {'proved' if row['proved'] else 'see below'} |"
        for row in rows
    ]
    (RESULTS / "chaos.md").write_text("\n".join(lines) + "\n")


@pytest.fixture
def row(table: list[dict[str, object]], binary: str | None) -> Row:
    """Note what a fault did: ``row("4", "master frozen for 1 s", outcome)``."""

    def note(number: str, fault: str, outcome: Outcome) -> None:
        table.append(
            {
                "row": number,
                "fault": fault,
                "store": "Redis 7" if binary else "Valkey 9",
                "requests": outcome.requests,
                "errors": ", ".join(f"{count} {what}" for what, count in sorted(outcome.errors.items())),
                "degraded": outcome.degraded,
                "outage_ms": outcome.outage_ms,
                "slowest_ms": outcome.slowest_ms,
                "excess": max(outcome.excess, 0),
                "proved": outcome.proved,
            }
        )

    return note


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path
