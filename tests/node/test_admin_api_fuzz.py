"""Whatever is sent to the admin API, the node is never at fault: no 500, no 503, no response that isn't documented."""

from __future__ import annotations

import http.client
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from admin_client import TOKEN, check_response, path_of
from admin_nodes import token_file
from fleet import running_fleet
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from ports import free_ports

from limiter_node.http.admin.openapi import described
from limiter_node.http.admin.schemas import NAMED
from limiter_node.http.admin.table import PREFIX, ROUTES, Route

ROUNDS = int(os.environ.get("FUZZ_ROUNDS", "1"))
DOCUMENT = json.loads(json.dumps(described()))
CALLED = {"acme/alice", "acme", "acme/research", "ci", "acme/research/vision", "globex", "bob"}
TEXTS = [
    *sorted(CALLED),
    *("", "/", "//", "acme/", "/alice", ".", "..", "a/b/c/d/e/f", "=", "@acme", "none", "team research", "x" * 512),
    *("sha256:", "sha256:" + "0" * 32, "sha256:" + "0" * 64, "sha256:" + "g" * 64, "00000000", "sk-x", "\0", "é", "🙂"),
    *("1d", "1m", "0d", "99999999999999999999d", "day", "2027-06-30T00:00:00Z", "0001-01-01T00:00:00+23:59"),
    *("9999-12-31T23:59:59.999999-23:59", "2027-06-30", "2027-W01-1T00Z", "1970-01-01T00:00:00Z", "*", "gpt-*", "a,b"),
]
LIMIT_NAMES = [
    *("requests/1s", "input_tokens/1d", "output_tokens/31d", "tokens/1m for gpt-5*,o3*", "requests/1m", "requests/60s"),
    *("requests/", "requests/1d for ", "requests/1d for ,", 'requests/1d for "', 'tokens/1d for "\\x"', "tokens/32d"),
    *('tokens/1d for "\\ud800"', "requests/" + "9" * 5_000 + "d", "requests/0d", "requests/1y", "requests/1d for a\0"),
    *("requests/1d for " + ",".join("abcdefgh" * 9), "requests/1d for " + "a*" * 9, "cost/1d", "in_flight/1m"),
    *("requests/1m for GPT*", "requests/1h for a", "requests/1d for a for b"),
]

texts = st.sampled_from(TEXTS) | st.text(max_size=6)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.sampled_from([0, 1, -1, 60, 1_000, 2**31, 2**53, 10**15 - 1, 10**15, 2**64, 1.0, 0.5])
    | texts
    | st.fixed_dictionaries({"amount": st.integers(0, 9)}, optional={"mode": texts, "name": texts})
    | st.lists(
        st.fixed_dictionaries(
            {"per": st.sampled_from(["1d", "1m", "60s", "1s", "31d", "day"])},
            optional={
                "requests": st.integers(0, 9),
                "tokens": st.integers(0, 9),
                "models": st.lists(texts, max_size=2),
            },
        ),
        max_size=3,
    ),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=3,
)


keys_files = st.builds(
    lambda account, team, key, name, rpm: (
        f"[accounts.{json.dumps(account)}]\nrpm = {rpm}\n[accounts.{json.dumps(account)}.teams.{json.dumps(team)}]\n"
        f"[keys.{json.dumps(key)}]\naccount = {json.dumps(account)}\nname = {json.dumps(name)}\nrpm = {rpm}\n"
    ).encode(),
    *(texts, texts, texts, texts),
    st.sampled_from(["1", "0", "-1", '"none"', "1_000"]),
) | texts.map(lambda text: f"[keys.{json.dumps(text)}]\nrpm = 1\n".encode())


@st.composite
def bodies(draw: st.DrawFn, route: Route) -> bytes:
    """Bodies near to what the route takes; some are anything."""
    if route.takes_file:
        return draw(st.binary(max_size=20) | keys_files)
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=20) | values.map(lambda value: json.dumps(value).encode()))
    schema = NAMED[route.body["$ref"].rpartition("/")[2]] if route.body else {}
    names = [*schema.get("properties", {}), "x"]
    fields = draw(st.dictionaries(st.sampled_from([*names, *LIMIT_NAMES]), values, max_size=3))
    needed = {name: draw(texts) for name in schema.get("required", ()) if draw(st.integers(0, 9))}
    return json.dumps({**fields, **needed}).encode()


@pytest.fixture(scope="module")
def admin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The admin URL of a node, whose store has some accounts and keys."""
    directory: Path = tmp_path_factory.mktemp("fuzz")
    arguments = ("--admin-port", str(free_ports(1)[0]), "--admin-token-file", str(token_file(directory)))
    with running_fleet(directory, "--store", "single", *arguments, nodes=1) as fleet:
        for path, body in (
            ("/accounts", {"name": "acme", "rpm": 5}),
            ("/accounts", {"name": "globex"}),
            ("/teams", {"path": "acme/research"}),
            ("/keys", {"path": "acme/alice", "team": "research"}),
            ("/keys", {"path": "ci"}),
        ):
            assert asked(fleet.admin[0], "POST", PREFIX + path, json.dumps(body).encode())[0] == 201
        yield fleet.admin[0]


def asked(admin: str, method: str, path: str, body: bytes) -> tuple[int, Any]:
    """A request's status and JSON."""
    node = urlsplit(admin)
    connection = http.client.HTTPConnection(node.hostname or "", node.port, timeout=20)
    try:
        connection.request(method, path, body, {"Authorization": f"Bearer {TOKEN}"})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
@settings(max_examples=30 * ROUNDS, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_body_gets_a_documented_response(admin: str, route: Route, data: st.DataObject) -> None:
    names = [data.draw(texts.filter(bool)) for _ in range(route.path.count("{"))]
    query = "&".join(
        f"{name}={quote(data.draw(st.sampled_from(['true', 'false', '1', '']) | texts), safe='')}"
        for name in route.query
        if data.draw(st.booleans())
    )
    body = data.draw(bodies(route)) if route.body or route.takes_file else b""
    path = path_of(route.path, names)
    status, content = asked(admin, route.method, f"{path}{query and '?'}{query}", body)
    assert status < 500, content
    check_response(DOCUMENT, PREFIX + route.path, route.method, status, content)


@settings(deadline=None)
@given(segments=st.lists(st.binary(max_size=6), max_size=4), query=st.binary(max_size=12))
@example(segments=[b"keys", b"\xff"], query=b"")
@example(segments=[b"keys", b"\xed\xa0\x80"], query=b"\xff=%ff")
@example(segments=[b"keys"], query=b"&" * 100)
def test_any_path_gets_an_error_in_json(admin: str, segments: list[bytes], query: bytes) -> None:
    path = "/".join(quote(each, safe="") for each in segments)
    status, content = asked(admin, "GET", f"{PREFIX}/{path}?{quote(query, safe='=&%')}", b"")
    assert status < 500
    assert status == 200 or content["error"]["message"]
