"""Documents hang together: links and anchors lead somewhere, what they name is there, and no page grows into a wall."""

from __future__ import annotations

import importlib.util
import re
from functools import cache
from itertools import product
from pathlib import PurePosixPath
from urllib.parse import unquote

import pytest
from documents import PAGES, ROOT, anchors_of, blocks_of, code_of, links_of, tables_of, text_of

INDEX = "docs/README.md"


def resolved(page: str, link: str) -> tuple[str, str]:
    """The file that a relative link of a page leads to, seen from the root, and the anchor in it."""
    path, _, anchor = unquote(link).partition("#")
    if not path:
        return page, anchor
    target = (ROOT / PurePosixPath(page).parent / path).resolve()
    assert target.is_relative_to(ROOT), f"{page}: {link} leads out of the project"
    return str(target.relative_to(ROOT)), anchor


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_anchors_that_exist(page: str) -> None:
    for link in links_of(page):
        if re.match(r"[a-z]+:", link):
            assert link.startswith("https://"), f"{page}: {link}"
            continue
        target, anchor = resolved(page, link)
        assert (ROOT / target).exists(), f"{page}: {link}"
        if anchor:
            assert anchor in anchors_of(target), f"{page}: {link}; {target} has {anchors_of(target)}"


@pytest.mark.parametrize("page", PAGES)
def test_a_heading_occurs_once_in_a_page(page: str) -> None:
    # GitHub numbers the anchors of equal headings; links to the second one would then depend on their order.
    if page != "CHANGELOG.md":  # where each version has its "Added" and "Fixed"
        assert len(set(anchors_of(page))) == len(anchors_of(page))


def test_the_index_leads_to_every_page_and_the_readme_to_the_index() -> None:
    linked = {resolved(INDEX, link)[0] for link in links_of(INDEX) if not link.startswith("https:")}
    assert set(PAGES) - {INDEX} <= linked
    assert INDEX in {resolved("README.md", link)[0] for link in links_of("README.md") if not link.startswith("https:")}


@pytest.mark.parametrize(("page", "most"), [("README.md", 180), ("REPORT.md", 350)])
def test_the_first_pages_stay_short(page: str, most: int) -> None:
    assert len(text_of(page).splitlines()) <= most


def test_the_readme_has_no_long_table() -> None:
    assert max(len(table.rows) for table in tables_of("README.md")) <= 10


@pytest.mark.parametrize("page", PAGES)
def test_each_page_first_says_what_it_is_for(page: str) -> None:
    title, blank, first = text_of(page).splitlines()[:3]
    assert re.match(r"# \S", title)
    assert not blank
    assert re.match(r"[\w`\[]", first), "a sentence comes before tables, pictures and code"


@pytest.mark.parametrize("page", PAGES)
def test_blocks_of_code_say_their_language(page: str) -> None:
    languages = {block.language for block in blocks_of(page)}
    assert languages <= {"sh", "console", "toml", "ini", "python", "mermaid", "text"}


@cache
def folders() -> tuple[str, ...]:
    # Not what is written into by runs, which nobody has in a fresh clone.
    found = (path.name for path in ROOT.iterdir() if path.is_dir())
    return tuple(name for name in found if name[0] != "." and name != "results")


def spelled_out(name: str) -> list[str]:
    """``a_{b,c}.py`` as the names it stands for."""
    parts = [part.split(",") for part in re.split(r"[{}]", name)]
    fixed = [[",".join(part)] if number % 2 == 0 else part for number, part in enumerate(parts)]
    return ["".join(each) for each in product(*fixed)]


@pytest.mark.parametrize("page", PAGES)
def test_files_and_modules_that_are_named_exist(page: str) -> None:
    for code in code_of(page):
        for name in spelled_out(code) if " " not in code else ():
            if re.fullmatch(rf"(?:{'|'.join(folders())})/[\w./@*-]*", name):
                assert list(ROOT.glob(name.rstrip("/"))), f"{page}: {code}"
            elif re.fullmatch(r"test_\w+\.py", name):
                assert list(ROOT.glob(f"tests/**/{name}")), f"{page}: {code}"
    for module in re.findall(r"python -m ([\w.]+)", text_of(page)):
        assert module == "benchmarks.NAME" or importlib.util.find_spec(module), f"{page}: {module}"


@pytest.mark.parametrize("page", PAGES)
def test_targets_of_make_exist(page: str) -> None:
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    shown = "\n".join([*code_of(page), *(block.text for block in blocks_of(page) if block.language == "sh")])
    for target in re.findall(r"^(?:[A-Z_]+=\S+ )?make ([a-z][\w-]*)", shown, re.MULTILINE):
        assert target in targets, f"{page}: make {target}"
