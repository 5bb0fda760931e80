"""Private names of other libraries: who may use them, and that nobody else does."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from limiter_node.http.server import aiohttp_private

ROOT = Path(__file__).parent.parent
FENCES = {"limiter_node/http/server/aiohttp_private.py", "limiter_node/store/embedded/binary.py"}
"""Modules that may use private names of a library; each says what it does where one is missing."""
MODULES = sorted(
    path for path in (ROOT / "limiter_node").rglob("*.py") if path.relative_to(ROOT).as_posix() not in FENCES
)
PUBLIC = {"_replace", "_asdict", "_fields", "_exit", "_make"}
"""Names of the standard library that are public all the same."""


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def private_uses(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """The private names that a module uses, and of what: `self`, `cls`, another expression, or a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            yield node.attr, ast.unparse(node.value)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            module = (getattr(node, "module", None) or "").split(".")
            for name in (part for alias in node.names for part in (*module, *alias.name.split("."))):
                if is_private(name):
                    yield name, ".".join(module)


def own_names(tree: ast.AST) -> set[str]:
    """The private names that a module defines: functions, variables, fields, and attributes of `self`."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
            names.add(node.attr)
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_private_names_of_others_stay_behind_their_fence(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    own, relative = own_names(tree), path.relative_to(ROOT).as_posix()
    for name, owner in private_uses(tree):
        if owner not in ("self", "cls", "super()") and name not in own | PUBLIC:
            pytest.fail(f"{relative} uses {owner}.{name}, which it doesn't define")


def names_of(cls: type) -> set[str]:
    """The private names that aiohttp gives a class and its instances."""
    names = {name for each in cls.__mro__ for name in vars(each)}
    for each in cls.__mro__:
        if code := getattr(each.__init__, "__code__", None):  # type: ignore[misc]
            names |= set(code.co_names)
    return {name for name in names if is_private(name)}


@pytest.mark.parametrize("base", [RequestHandler, web.Server, web.BaseRequest], ids=lambda base: base.__name__)
def test_what_is_derived_from_aiohttp_uses_no_private_name_of_it(base: type) -> None:
    theirs, found = names_of(base), 0
    for path in (each for each in MODULES if "http" in each.relative_to(ROOT).parts):
        module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.ClassDef) and issubclass(getattr(module, node.name), base):
                found += 1
                used = {name for name, owner in private_uses(node) if owner in ("self", "super()")}
                used |= {each.name for each in node.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)}
                assert not used & theirs, f"{node.name} uses {sorted(used & theirs)}"
    assert found


def test_a_name_that_is_missing_or_has_other_parameters_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    missing: list[str] = []
    monkeypatch.setattr(aiohttp_private, "_missing", missing)
    aiohttp_private._attribute(RequestHandler, "_messages")
    aiohttp_private._attribute(RequestHandler, "_process_keepalive", "self")
    aiohttp_private._instance_attribute(web.Server, "_connections")
    assert not missing
    aiohttp_private._attribute(RequestHandler, "_queue")
    aiohttp_private._attribute(RequestHandler, "_process_keepalive", "self", "now")
    aiohttp_private._instance_attribute(web.Server, "_sockets")
    assert missing == ["RequestHandler._queue", "RequestHandler._process_keepalive", "Server._sockets"]


def test_all_private_names_that_the_fence_uses_are_checked() -> None:
    """Also those that aren't reached by an alias."""
    path = ROOT / "limiter_node/http/server/aiohttp_private.py"
    tree = ast.parse(path.read_text("utf-8"))
    checked = {
        argument.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("_attribute", "_instance_attribute")
        for argument in node.args
        if isinstance(argument, ast.Constant)
    }
    used = {name for name, _ in private_uses(tree)}
    used |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and is_private(node.name)}
    assert used - {"_way", "_attribute", "_instance_attribute"} <= checked
