"""A client of the admin API that holds each response against the document, whatever a test asks."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any
from urllib.parse import quote

from aiohttp import ClientSession
from jsonschema import Draft202012Validator
from multidict import CIMultiDictProxy
from referencing import Registry
from referencing.jsonschema import DRAFT202012
from yarl import URL

from limiter_node.http.admin.table import PREFIX, ROUTES

TOKEN = "a-token-of-the-tests"

_ROUTES = {route.name: route for route in ROUTES}
_ROOT = "urn:document"


@dataclass(frozen=True)
class Response:
    status: int
    content: Any
    headers: CIMultiDictProxy[str]

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = self.content["error"]
        return error


@dataclass
class AdminClient:
    """Calls routes by their names. `called`: those that were called so far."""

    session: ClientSession
    url: str
    document: Mapping[str, Any]
    called: set[str] = field(default_factory=set)

    async def call(self, name: str, *values: str, query: str = "", body: Any = None) -> Response:
        """Call a route with the values of its ``{…}``. `body`: bytes are sent as they are, all else as JSON."""
        route = _ROUTES[name]
        path = path_of(route.path, values)
        sent = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        data = None if sent is None else BytesIO(sent)  # aiohttp warns of large bytes
        url = f"{self.url}{path}{query and '?'}{query}"
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with self.session.request(route.method, URL(url, encoded=True), data=data, headers=headers) as response:
            found = Response(response.status, await response.json(), response.headers)
        check_response(self.document, f"{PREFIX}{route.path}", route.method, found.status, found.content)
        self.called.add(name)
        return found

    async def done(self, name: str, *values: str, query: str = "", body: Any = None) -> Any:
        """Call a route that must succeed; what it replies."""
        response = await self.call(name, *values, query=query, body=body)
        assert response.status == _ROUTES[name].status, response.content
        return response.content


def check_response(document: Mapping[str, Any], path: str, method: str, status: int, content: Any) -> None:
    """Hold a response against the document."""
    responses = document["paths"][path][method.lower()]["responses"]
    assert str(status) in responses, f"{method} {path}: undocumented {status} {content}"
    place = f"#/paths/{_escaped(path)}/{method.lower()}/responses/{status}"
    registry: Registry[Any] = Registry().with_resource(_ROOT, DRAFT202012.create_resource(document))
    schema = {"$ref": f"{_ROOT}{place}/content/{_escaped('application/json')}/schema"}
    Draft202012Validator(schema, registry=registry).validate(content)


@asynccontextmanager
async def admin_client(url: str) -> AsyncIterator[AdminClient]:
    """A client of the node whose admin port is at `url`. It reads the document there."""
    async with ClientSession() as session:
        async with session.get(f"{url}{PREFIX}/openapi.json") as response:
            assert response.status == 200
            document = await response.json()
        yield AdminClient(session, url, document)


def path_of(template: str, values: Sequence[str]) -> str:
    """Return the path of a route of the table with the values of its ``{…}``."""
    path = template
    for value in values:
        start, end = path.index("{"), path.index("}")
        path = f"{path[:start]}{quote(value, safe='')}{path[end + 1 :]}"
    assert "{" not in path
    return PREFIX + path


def _escaped(part: str) -> str:
    return quote(part.replace("~", "~0").replace("/", "~1"), safe="")
