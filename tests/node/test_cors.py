"""Pages of other origins, as configured: what a browser is told, and real ones that call a node."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import ClientSession, web
from in_process import Node, api_key_on, serving
from node_commands import StartCommand
from other_clients import node_package
from ports import free_port

from benchmarks.lib.screenshot import browser, browser_paths
from limiter_node.addresses import check_origins
from limiter_node.errors import ConfigError
from limiter_node.http.cors import EXPOSED, Cors
from limiter_node.upstream.source import Delta

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

PAGE, OTHER = "https://app.example.com", "https://other.example.com"
CHAT = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
CALLERS = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings", "/v1/models", "/v1/models/m")


@pytest.fixture
async def node(embedded_single: str) -> AsyncIterator[Node]:
    async with serving(embedded_single, cors=Cors([PAGE, "tauri://localhost"])) as running:
        running.upstream.deltas = hello
        yield running


async def hello() -> AsyncGenerator[Sequence[Delta], None]:
    yield (Delta(0, "Hello", 1, "stop"),)


def preflight(origin: str, fields: str = "authorization,content-type,x-stainless-os") -> dict[str, str]:
    return {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": fields,
    }


@pytest.mark.parametrize("path", CALLERS)
async def test_a_preflight_needs_no_key(node: Node, path: str) -> None:
    async with node.session.options(node.url + path, headers=preflight(PAGE)) as response:
        assert response.status == 204
        assert await response.read() == b""
        headers = response.headers
    assert headers["Access-Control-Allow-Origin"] == PAGE
    methods = "GET, HEAD, OPTIONS" if "models" in path else "POST, OPTIONS"
    assert headers["Access-Control-Allow-Methods"] == methods
    assert headers["Access-Control-Allow-Headers"] == "authorization,content-type,x-stainless-os"
    assert headers["Access-Control-Max-Age"] == "3600"
    assert headers["Vary"] == "Origin"
    assert "Content-Length" not in headers
    assert "Access-Control-Allow-Credentials" not in headers


@pytest.mark.parametrize("origin", [OTHER, "null", f"{PAGE}:8443", PAGE.upper(), "http://app.example.com"])
async def test_other_origins_are_not_allowed(node: Node, embedded_single: str, origin: str) -> None:
    url = f"{node.url}/v1/chat/completions"
    async with node.session.options(url, headers=preflight(origin)) as response:
        assert "Access-Control-Allow-Origin" not in response.headers
        assert response.headers["Vary"] == "Origin"
    headers = {"Origin": origin, "Authorization": f"Bearer {api_key_on(embedded_single)}"}
    async with node.session.post(url, json=CHAT, headers=headers) as response:
        assert response.status == 200
        assert "Access-Control-Allow-Origin" not in response.headers
        assert "Access-Control-Expose-Headers" not in response.headers
        assert response.headers["Vary"] == "Origin"


@pytest.mark.parametrize("fields", ["a\tb", "x" * 10 + " y", "a,,b", "ü", '"quoted"'])
async def test_what_is_no_list_of_names_is_not_repeated(node: Node, fields: str) -> None:
    async with node.session.options(f"{node.url}/v1/models", headers=preflight(PAGE, fields)) as response:
        assert response.status == 204
        assert "Access-Control-Allow-Headers" not in response.headers


async def test_every_response_may_be_read_by_the_page(node: Node, embedded_single: str) -> None:
    key = api_key_on(embedded_single, rpm=2)
    for status, path, fields, api_key in (
        (200, "/v1/chat/completions", {}, key),
        (200, "/v1/chat/completions", {"stream": True}, key),
        (429, "/v1/chat/completions", {}, key),
        (400, "/v1/chat/completions", {"n": "x"}, key),
        (401, "/v1/chat/completions", {}, "sk-unknown"),
        (404, "/v1/nowhere", {}, key),
        (405, "/v1/models", {}, key),
        (413, "/v1/chat/completions", {"user": "x" * 20_000}, key),
    ):
        headers = {"Origin": PAGE, "Authorization": f"Bearer {api_key}"}
        async with node.session.post(node.url + path, json=CHAT | fields, headers=headers) as response:
            assert response.status == status
            assert response.headers.getall("Access-Control-Allow-Origin") == [PAGE]
            assert response.headers.getall("Vary") == ["Origin"]
            exposed = {name.lower() for name in response.headers["Access-Control-Expose-Headers"].split(", ")}
            told = {name.lower() for name in response.headers if name.lower().startswith(("x-", "ratelimit", "retry"))}
            assert told <= exposed


async def test_a_node_that_is_full_tells_pages(embedded_single: str) -> None:
    async with serving(embedded_single, cors=Cors(["*"])) as node:
        node.routes._in_flight._most = 0
        async with node.session.post(f"{node.url}/v1/completions", headers={"Origin": OTHER}) as response:
            assert response.status == 503
            assert response.headers["Access-Control-Allow-Origin"] == "*"
        node.server._max_connections = 0
        host, _, port = node.url.removeprefix("http://").rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        async with asyncio.timeout(20):
            refusal = await reader.read()
        writer.close()
    assert refusal.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nAccess-Control-Allow-Origin: *\r\n" in refusal
    assert b"retry-after-ms" in refusal


@pytest.mark.parametrize("raw", [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nHost: n\r\nx: " + b"y" * 9_000 + b"\r\n\r\n"])
async def test_all_origins_may_read_what_is_said_to_no_request(embedded_single: str, raw: bytes) -> None:
    async with serving(embedded_single, cors=Cors(["*"])) as node:
        host, _, port = node.url.removeprefix("http://").rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(raw)
        async with asyncio.timeout(20):
            assert b"\r\nAccess-Control-Allow-Origin: *\r\n" in await reader.read()
        writer.close()


async def test_all_origins(embedded_single: str) -> None:
    async with serving(embedded_single, cors=Cors(["*"])) as node:
        async with node.session.options(f"{node.url}/v1/models", headers=preflight(OTHER)) as response:
            assert response.headers["Access-Control-Allow-Origin"] == "*"
            assert "Vary" not in response.headers
        async with node.session.get(f"{node.url}/v1/models", headers={"Origin": OTHER}) as response:
            assert (response.status, response.headers["Access-Control-Allow-Origin"]) == (401, "*")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models"])
async def test_without_origins_nothing_is_said(embedded_single: str, path: str) -> None:
    async with serving(embedded_single) as node:
        async with node.session.options(node.url + path, headers=preflight(PAGE)) as response:
            assert response.status == 405
            assert "OPTIONS" not in response.headers["Allow"]
            assert not [name for name in response.headers if name.lower().startswith(("access-control", "vary"))]
        async with node.session.get(node.url + path, headers={"Origin": PAGE}) as response:
            assert not [name for name in response.headers if name.lower().startswith(("access-control", "vary"))]


def test_the_exposed_headers_are_those_of_the_documents() -> None:
    page = (Path(__file__).parents[2] / "docs" / "http-api.md").read_text("utf-8")
    table = page.partition("| header | value |\n|---|---|\n")[2].partition("\n\n")[0]
    names = set()
    for row in table.splitlines():
        first = row.split("|")[1]
        dimensions = ("requests", "input-tokens", "output-tokens")
        for name in re.findall(r"`([^`]+)`", first):
            if name.startswith("-"):
                names |= {f"x-ratelimit{name[:-1]}{dimension}" for dimension in dimensions}
            elif name.endswith("-D"):
                names |= {name[:-1] + dimension for dimension in dimensions}
            elif "{" in name:
                before, _, after = name.partition("{")
                within, _, after = after.partition("}")
                names |= {f"{before}{each}{after}" for each in within.split(",")}
            elif name not in ("D", *dimensions):
                names.add(name.partition(":")[0])
    assert names == set(EXPOSED)


@pytest.mark.parametrize(
    "origins", [("*",), (PAGE,), ("http://localhost:3000", "http://[::1]:5173"), ("tauri://localhost",), ()]
)
def test_origins_that_can_be(origins: tuple[str, ...]) -> None:
    check_origins(origins)


@pytest.mark.parametrize(
    "origins",
    [
        ("*", PAGE),
        (f"{PAGE}/",),
        ("app.example.com",),
        ("https://App.example.com",),
        ("https://*.example.com",),
        ("https://app.example.com:443",),
        ("http://app.example.com:80",),
        ("null",),
        ("",),
        ("https://a\r\nx: y",),
    ],
)
def test_origins_that_no_browser_sends(origins: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="--cors-origins"):
        check_origins(origins)


async def test_the_option_reaches_the_nodes(limiter_node: StartCommand) -> None:
    arguments = ("--nodes", 1, "--store", "single", "--port", free_port(), "--cors-origins", f"{PAGE}, {OTHER}")
    command = await limiter_node("up", *arguments)
    url = (await command.line(r"node 1 ready (\S+)"))[1]
    await command.line("ready")
    async with ClientSession() as session, session.options(f"{url}/v1/models", headers=preflight(OTHER)) as response:
        assert (response.status, response.headers["Access-Control-Allow-Origin"]) == (204, OTHER)
    assert await command.stop() == 0


# ---- in a real browser ---------------------------------------------------------------------------------------------

FETCHES = """
const [url, key, done] = arguments;
const headers = {authorization: `Bearer ${key}`, 'content-type': 'application/json'};
const ask = (fields) => fetch(`${url}/v1/chat/completions`, {method: 'POST', headers, body: JSON.stringify(
  {model: 'm', messages: [{role: 'user', content: 'x'}], ...fields})});
(async () => {
  const whole = await ask({}), stream = await ask({stream: true}), full = await ask({});
  return {
    whole: [whole.status, (await whole.json()).choices[0].message.content, whole.headers.get('x-request-id')],
    stream: [stream.status, await stream.text(), stream.headers.get('x-ratelimit-remaining-requests')],
    full: [full.status, (await full.json()).error.code, full.headers.get('retry-after-ms')],
  };
})().then(done, (error) => done({error: String(error)}));
"""
SDK = """
const [url, key, done] = arguments;
(async () => {
  const {default: OpenAI, RateLimitError} = await import('/openai/index.mjs');
  const client = new OpenAI({baseURL: `${url}/v1`, apiKey: key, dangerouslyAllowBrowser: true, maxRetries: 0});
  const asked = {model: 'm', messages: [{role: 'user', content: 'x'}]};
  const whole = await client.chat.completions.create(asked);
  let text = '';
  for await (const chunk of await client.chat.completions.create({...asked, stream: true})) {
    text += chunk.choices[0]?.delta?.content ?? '';
  }
  try {
    await client.chat.completions.create(asked);
  } catch (error) {
    return {whole: whole.choices[0].message.content, text, models: (await client.models.list()).data[0].id,
      full: [error instanceof RateLimitError, error.status, error.headers.get('retry-after-ms')]};
  }
})().then(done, (error) => done({error: String(error)}));
"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chrome]:
    if browser_paths() is None:
        pytest.skip("no chromium and chromedriver on this machine")
    with browser() as driver:
        driver.set_script_timeout(20)
        yield driver


@asynccontextmanager
async def pages(modules: Path | None = None) -> AsyncIterator[str]:
    """The origin of an empty page, with the files of `modules` below /openai/."""

    async def page(_request: web.Request) -> web.Response:
        return web.Response(text="<!doctype html><title>page</title>", content_type="text/html")

    app = web.Application()
    app.router.add_get("/", page)
    if modules is not None:
        app.router.add_static("/openai/", modules)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def run(
    chromium: Chrome, store: str, script: str, allowed: Callable[[str], Sequence[str]], modules: Path | None = None
) -> dict[str, Any]:
    """What the script returns in a page whose origin is given to `allowed`, for the node's origins."""
    async with pages(modules) as origin, serving(store, cors=Cors(allowed(origin))) as node:
        node.upstream.deltas = hello

        def work() -> dict[str, Any]:
            chromium.get(origin)
            told = chromium.execute_async_script(script, node.url, api_key_on(store, rpm=2))  # type: ignore[no-untyped-call]
            assert isinstance(told, dict)
            return told

        return await asyncio.to_thread(work)


@pytest.mark.parametrize("allowed", [lambda origin: [origin], lambda _: ["*"]])
async def test_a_page_can_fetch(
    chromium: Chrome, embedded_single: str, allowed: Callable[[str], Sequence[str]]
) -> None:
    told = await run(chromium, embedded_single, FETCHES, allowed)
    assert told["whole"][:2] == [200, "Hello"], told
    assert told["whole"][2].startswith("req_")
    assert told["stream"][0] == 200
    assert told["stream"][1].endswith("data: [DONE]\n\n")
    assert told["stream"][2] == "0"
    assert told["full"][:2] == [429, "rate_limit_exceeded"]
    assert 0 < int(told["full"][2]) <= 60_100


async def test_a_page_that_is_not_allowed_cannot(chromium: Chrome, embedded_single: str) -> None:
    for allowed in ([OTHER], []):
        told = await run(chromium, embedded_single, FETCHES, lambda _, allowed=allowed: allowed)  # type: ignore[misc]
        assert told == {"error": "TypeError: Failed to fetch"}


async def test_openais_client_works_in_a_page(chromium: Chrome, embedded_single: str) -> None:
    told = await run(chromium, embedded_single, SDK, lambda origin: [origin], node_package("openai"))
    assert told["whole"] == told["text"] == "Hello", told
    assert told["models"] == "m"
    assert told["full"][:2] == [True, 429]
    assert 0 < int(told["full"][2]) <= 60_100
