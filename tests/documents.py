"""The documents as tests read them: pages, their links, anchors, tables, code, and the shell lines they show."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    str(path.relative_to(ROOT))
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "lua/README.md", ROOT / "deploy/README.md"]
)
_MARKDOWN = MarkdownIt("commonmark").enable("table")


@dataclass(frozen=True)
class Table:
    """A table's cells as they are written, Markdown included."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Block:
    """A block of code between fences."""

    language: str
    text: str


@cache
def text_of(page: str) -> str:
    """Return a page's Markdown."""
    return (ROOT / page).read_text("utf-8")


@cache
def tokens_of(page: str) -> list[Token]:
    """Return a page as markdown-it's tokens."""
    return _MARKDOWN.parse(text_of(page))


def _inline(page: str) -> Iterator[Token]:
    for token in tokens_of(page):
        yield from token.children or ()


def links_of(page: str) -> list[str]:
    """Return the targets of all links and pictures."""
    targets = [token.attrGet("href") or token.attrGet("src") for token in _inline(page)]
    return [str(target) for target in targets if target]


def code_of(page: str) -> list[str]:
    """Return the code spans within sentences and tables."""
    return [token.content for token in _inline(page) if token.type == "code_inline"]


def blocks_of(page: str) -> list[Block]:
    """Return the blocks of code."""
    return [Block(token.info, token.content) for token in tokens_of(page) if token.type == "fence"]


def anchors_of(page: str) -> list[str]:
    """Return the anchors of a page's headings, made as GitHub makes them."""
    tokens = tokens_of(page)
    anchors: list[str] = []
    for heading, content in pairwise(tokens):
        if heading.type == "heading_open":
            text = "".join(child.content for child in content.children or ())
            anchors.append(re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-"))
    return anchors


def tables_of(page: str) -> list[Table]:
    """Return all tables."""
    tables: list[Table] = []
    rows: list[list[str]] = []
    for token in tokens_of(page):
        if token.type == "table_open":
            rows = []
        elif token.type == "tr_open":
            rows.append([])
        elif token.type == "inline" and rows:
            rows[-1].append(token.content)
        elif token.type == "table_close":
            tables.append(Table(tuple(rows[0]), tuple(tuple(row) for row in rows[1:])))
            rows = []
    return tables


def shell_lines(page: str) -> list[list[str]]:
    """Return the words of each command that a page shows to be typed, comments and prompts left out."""
    lines: list[list[str]] = []
    for block in blocks_of(page):
        if block.language == "sh":
            typed = block.text.replace("\\\n", " ").splitlines()
        elif block.language == "console":
            typed = [line.removeprefix("$ ") for line in block.text.splitlines() if line.startswith("$ ")]
        else:
            continue
        lines += [words for line in typed if (words := shlex.split(line, comments=True))]
    return lines
