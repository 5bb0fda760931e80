"""docs/architecture.md names what is there: each module, function and file, and each room of its drawing.

What is between single backticks is a path of the repository, if it has a slash or a suffix, else a name below
`limiter_node`. Other things in code font (headers, options, values) are between double backticks.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "architecture.md").read_text("utf-8")
PARTS = TEXT.split("```")
DRAWINGS, PROSE = PARTS[1::2], "".join(PARTS[::2])

# Of the first paragraph: how names look, and the package and first files that all names are below.
NO_NAMES = {"like.this", "limiter_node", "__init__.py"}
NAMES = sorted(set(re.findall(r"(?<!`)`([^`\n]+)`(?!`)", PROSE)) - NO_NAMES)


def found(name: str) -> object:
    """Return the module, or the thing in one, that `name` names below `limiter_node`. Raises AttributeError."""
    module, rest = importlib.import_module("limiter_node"), name.split(".")
    while rest:
        try:
            module = importlib.import_module(f"{module.__name__}.{rest[0]}")
        except ModuleNotFoundError:
            break
        rest = rest[1:]
    thing: object = module
    for each in rest:
        thing = getattr(thing, each)
    return thing


@pytest.mark.parametrize("name", NAMES)
def test_what_it_names_is_there(name: str) -> None:
    if "/" in name or name.endswith(".py"):
        assert (ROOT / name).exists()
    else:
        found(name)


def test_it_names_enough_to_be_held_to() -> None:
    assert len(NAMES) > 80


@pytest.mark.parametrize("drawing", DRAWINGS)
def test_its_drawings_have_no_room_that_is_not_there(drawing: str) -> None:
    drawn = re.findall(r"(?<![\w/])[a-z][\w/]*(?:/(?!\w)|\.py)", drawing)
    assert drawn
    assert {each for each in drawn if not (ROOT / "limiter_node" / each).exists()} == set()


def test_its_first_drawing_has_all_rooms() -> None:
    drawn = set(re.findall(r"[\w/]+(?:/|\.py)", DRAWINGS[0]))
    rooms = {path.parent.relative_to(ROOT / "limiter_node") for path in (ROOT / "limiter_node").rglob("__init__.py")}
    top = {f"{room}/" for room in rooms if len(room.parts) == 1} - {"http/", "store/"}  # whose rooms are drawn
    within = {f"{room}/" for room in rooms if len(room.parts) == 2 and room.parts[0] in ("http", "store")}
    assert top | within <= drawn


@pytest.mark.parametrize("name", ["http.nowhere", "http.routes.Routes.nothing", "limits.AMOUNTS"])
def test_a_name_that_is_not_there_is_noticed(name: str) -> None:
    with pytest.raises(AttributeError):
        found(name)


def test_its_lines_are_as_long_as_the_codes() -> None:
    too_long = [line for line in TEXT.splitlines() if len(line) > 130 and not line.startswith("|")]
    assert not too_long
