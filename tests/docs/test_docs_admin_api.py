"""docs/admin-api.md: its requests, made as shown, get what is shown; its tables are those of the code."""

from __future__ import annotations

import http.client
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from documents import blocks_of, shell_lines, tables_of
from fleet import running_fleet
from ports import free_ports

from limiter_node.http.admin.openapi import DOCUMENT_PATH
from limiter_node.http.admin.table import PREFIX, ROUTES

PAGE = "docs/admin-api.md"
TOKEN = "a-token-of-the-tests"


@pytest.fixture(scope="module")
def admin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The admin URL of a node that has the API."""
    directory = tmp_path_factory.mktemp("admin")
    token = directory / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    arguments = ("--store", "single", "--admin-port", str(free_ports(1)[0]), "--admin-token-file", str(token))
    with running_fleet(directory, *arguments, nodes=1) as fleet:
        yield fleet.admin[0]


def asked(words: list[str], admin: str, files: dict[str, str]) -> tuple[int, Any]:
    """The status and JSON that a curl line of the page gets; curl itself isn't needed."""
    url = ""
    method, body, headers = "", None, {}
    rest = iter(words[1:])
    for word in rest:
        if word == "-X":
            method = next(rest)
        elif word == "-H":
            name, _, value = next(rest).partition(": ")
            headers[name] = value.replace("$TOKEN", TOKEN)
        elif word in ("-d", "--data-binary"):
            given = next(rest)
            body = files[given[1:]] if given.startswith("@") else given
            method = method or "POST"
        else:
            assert word.startswith("$ADMIN/"), shlex.join(words)
            url = word.replace("$ADMIN", PREFIX)
    node = urlsplit(admin)
    connection = http.client.HTTPConnection(node.hostname or "", node.port, timeout=20)
    try:
        connection.request(method or "GET", url, body, headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def shape(value: Any) -> Any:
    """JSON without its values, but for those of fields that people set."""
    if isinstance(value, dict):
        return {name: each if name in ("before", "after") else shape(each) for name, each in value.items()}
    return [shape(each) for each in value] if isinstance(value, list) else type(value).__name__


def test_requests_get_what_the_page_shows(admin: str) -> None:
    files = {"keys.toml": '[keys."sk-alice"]\nrpm = 1\n'}
    curls = [words for words in shell_lines(PAGE) if words[0] == "curl"]
    found = [asked(words, admin, files) for words in curls]
    assert [status for status, _ in found] == [201, 201] + [200] * (len(found) - 2), found
    (shown,) = [json.loads(block.text) for block in blocks_of(PAGE) if block.text.startswith("{")]
    assert shape(found[1][1]) == shape(shown)
    assert found[-1][1]["dry_run"] is True


def test_the_table_has_each_route() -> None:
    (table,) = [each for each in tables_of(PAGE) if each.head[0].startswith("route")]
    shown = {tuple(re.findall(r"[A-Z]+ \S+?(?=`)", row[0])) for row in table.rows}
    routes = {f"{route.method} {route.path}" for route in ROUTES} | {f"GET {DOCUMENT_PATH.removeprefix(PREFIX)}"}
    assert {each for row in shown for each in row} == routes


def test_parameters_in_the_table_exist() -> None:
    known = {name for route in ROUTES for name in route.query}
    (table,) = [each for each in tables_of(PAGE) if each.head[0].startswith("route")]
    for _, text in table.rows:
        for group in re.findall(r"\(([^)]*)\)", text):
            assert set(re.findall(r"`(\w+)`", group)) <= known


def test_its_lines_are_as_long_as_the_codes() -> None:
    text = (Path(__file__).parents[2] / PAGE).read_text("utf-8")
    assert [line for line in text.splitlines() if len(line) > 132 and not line.startswith("|")] == []
