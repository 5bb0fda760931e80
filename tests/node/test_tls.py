"""Nodes that speak TLS: callers are served, and whatever goes wrong in a handshake is nobody else's business."""

from __future__ import annotations

import asyncio
import datetime
import re
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
import trustme
from aiohttp import web
from in_process import api_key_on
from node_commands import Command, StartCommand, eventually
from ports import free_port, free_ports

from limiter_node.errors import ConfigError
from limiter_node.http.responses.whole_response import WholeResponse
from limiter_node.http.server import handshakes as handshakes_module
from limiter_node.http.server.http_server import HttpServer
from limiter_node.http.server.listening import Listener
from limiter_node.http.server.tls import Certificate, server_context

CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 5}


@dataclass(frozen=True)
class Files:
    """A certificate for 127.0.0.1 and its key, as PEM files, and who signed it."""

    authority: trustme.CA
    cert: Path
    key: Path

    @property
    def options(self) -> tuple[object, ...]:
        return ("--tls-cert", self.cert, "--tls-key", self.key)

    def client(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        return context


def issue(folder: Path, authority: trustme.CA, *names: str, expires: datetime.datetime | None = None) -> Files:
    issued = authority.issue_cert(*(names or ("127.0.0.1",)), not_after=expires)
    files = Files(authority, folder / "cert.pem", folder / "key.pem")
    files.cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    files.key.write_bytes(issued.private_key_pem.bytes())
    return files


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return issue(tmp_path, trustme.CA())


@dataclass(frozen=True)
class Secured:
    command: Command
    url: str
    port: int
    session: aiohttp.ClientSession
    client: ssl.SSLContext
    api_key: str

    async def chat(self, stream: bool = False) -> tuple[int, str]:
        headers = {"Authorization": f"Bearer {self.api_key}"}
        async with self.session.post(
            f"{self.url}/v1/chat/completions", json=CHAT | {"stream": stream}, headers=headers, ssl=self.client
        ) as response:
            return response.status, await response.text()


Serve = Callable[..., Awaitable[Secured]]


@pytest.fixture
async def serve(
    limiter_node: StartCommand, embedded_single: str, files: Files
) -> AsyncIterator[Callable[..., Awaitable[Secured]]]:
    async with aiohttp.ClientSession() as session:

        async def start(*options: object, with_files: Files = files) -> Secured:
            arguments = ("--store", embedded_single, "--port", free_port(), *with_files.options)
            command = await limiter_node("serve", *arguments, *options)
            url = (await command.line(r"node \S+ ready (https://\S+)"))[1]
            return Secured(
                command, url, int(url.rpartition(":")[2]), session, with_files.client(), api_key_on(embedded_single)
            )

        yield start


async def ended_quietly(node: Secured) -> None:
    """The node stops, and has logged nothing but its own start and end."""
    assert await node.command.stop() == 0
    errors = await node.command.errors()
    assert not re.search(r"WARNING|ERROR|Traceback", errors), errors


async def test_callers_are_served_by_tls(serve: Serve) -> None:
    (admin,) = free_ports(1)
    node = await serve("--admin-port", admin)
    status, body = await node.chat()
    assert status == 200
    assert '"usage"' in body
    status, body = await node.chat(stream=True)
    assert status == 200
    assert body.endswith("data: [DONE]\n\n")
    # Who probes a node needs no trust in its certificate.
    async with node.session.get(f"http://127.0.0.1:{admin}/readyz") as response:
        assert response.status == 200
    await ended_quietly(node)


async def test_the_curl_line_of_up_works(limiter_node: StartCommand, files: Files) -> None:
    command = await limiter_node("up", "--store", "single", "--nodes", 1, "--port", free_port(), *files.options)
    line = (await command.line(r"  (curl -i --insecure https://.*)"))[1]
    await command.line(r"node 1 ready https://127\.0\.0\.1:\d+")
    await command.line("ready")
    key = re.search(r"Bearer (\S+)'", line)
    url = re.search(r"(https://\S+)", line)
    assert key
    assert url
    async with (
        aiohttp.ClientSession() as session,
        session.post(url[1], json=CHAT, headers={"Authorization": f"Bearer {key[1]}"}, ssl=False) as response,
    ):
        assert response.status == 200
    assert await command.stop() == 0


def trusting() -> ssl.SSLContext:
    """A client's, of one that doesn't look."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


async def gone(reader: asyncio.StreamReader) -> bytes:
    """Everything until the connection is closed."""
    async with asyncio.timeout(20):
        try:
            return await reader.read()
        except ConnectionError:
            return b""


async def test_plain_http_on_it_is_closed(serve: Serve) -> None:
    node = await serve()
    for request in (b"GET /v1/models HTTP/1.1\r\nHost: n\r\n\r\n", b"\r\n\r\n", b"\x16\x03\x01\x00\x05hello", b"\x00"):
        reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
        writer.write(request)
        if len(request) < 5:
            writer.write_eof()
        assert b"HTTP/" not in await gone(reader)
        writer.close()
        assert (await node.chat())[0] == 200
    await ended_quietly(node)


async def test_half_handshakes_end_and_count_as_connections(serve: Serve) -> None:
    """With room for one connection (and 50 that are only told so), silent ones don't take all files of the node."""
    node = await serve("--header-timeout", 0.5, "--max-connections", 1)
    half = [await asyncio.open_connection("127.0.0.1", node.port) for _ in range(60)]
    for _, writer in half[::2]:
        writer.write(b"\x16\x03\x01\x02\x00\x01")  # the beginning of a ClientHello
    assert [await gone(reader) for reader, _ in half] == [b""] * 60
    for _, writer in half:
        writer.close()
    assert (await node.chat())[0] == 200
    await ended_quietly(node)


async def test_a_connection_too_many_is_told_so(serve: Serve) -> None:
    node = await serve("--max-connections", 1)
    _, first = await asyncio.open_connection("127.0.0.1", node.port, ssl=node.client)
    reader, second = await asyncio.open_connection("127.0.0.1", node.port, ssl=node.client)
    assert (await gone(reader)).startswith(b"HTTP/1.1 503 ")
    for writer in (first, second):
        writer.close()
    await ended_quietly(node)


@pytest.mark.parametrize(
    ("names", "days", "trusts", "reason"),
    [
        (("elsewhere.example",), 1, True, "(mismatch|not valid for)"),
        ((), -1, True, "expired"),
        ((), 1, False, "(unable to get|self.signed)"),
    ],
)
async def test_clients_that_do_not_trust_it_are_nobody_elses_business(
    serve: Serve, tmp_path: Path, names: tuple[str, ...], days: int, trusts: bool, reason: str
) -> None:
    expires = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
    node = await serve(with_files=issue(tmp_path, trustme.CA(), *names, expires=expires))
    with pytest.raises(ssl.SSLCertVerificationError, match=reason):
        await asyncio.open_connection(
            "127.0.0.1", node.port, ssl=node.client if trusts else ssl.create_default_context()
        )
    reader, writer = await asyncio.open_connection("127.0.0.1", node.port, ssl=trusting())
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: n\r\nConnection: close\r\n\r\n")
    assert (await gone(reader)).startswith(b"HTTP/1.1 200 ")
    writer.close()
    await ended_quietly(node)


async def test_old_versions_and_renegotiation_are_refused(serve: Serve) -> None:
    node = await serve()
    address = f"127.0.0.1:{node.port}"
    old = subprocess.run(
        ["openssl", "s_client", "-connect", address, "-tls1_1", "-cipher", "ALL:@SECLEVEL=0"],
        input=b"", capture_output=True, timeout=20, check=False,
    )  # fmt: skip
    assert old.returncode != 0
    assert b"New, (NONE)" in old.stdout
    process = await asyncio.create_subprocess_exec(
        "openssl", "s_client", "-connect", address, "-tls1_2",
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    async with asyncio.timeout(20):
        await process.stdout.readuntil(b"Extended master secret")
        process.stdin.write(b"R\n")
        told = await process.stdout.read()
        await process.wait()
    assert b"RENEGOTIATING" in told
    assert b"no renegotiation" in told
    assert (await node.chat())[0] == 200
    await ended_quietly(node)


async def test_the_first_request_may_come_with_the_end_of_the_handshake(serve: Serve) -> None:
    """TLS 1.3 lets a client send both in one segment, and most do."""
    node = await serve()
    inside, outside = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = node.client.wrap_bio(inside, outside, server_hostname="127.0.0.1")
    reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
    while True:
        try:
            tls.do_handshake()
            break
        except ssl.SSLWantReadError:
            writer.write(outside.read())
            inside.write(await reader.read(65_536))
    tls.write(b"GET /healthz HTTP/1.1\r\nHost: n\r\n\r\n")
    writer.write(outside.read())  # the client's Finished and its request
    answer = b""
    async with asyncio.timeout(20):
        while b'{"status":"ok"}' not in answer:
            inside.write(await reader.read(65_536))
            try:
                answer += tls.read(65_536)
            except ssl.SSLWantReadError:
                continue
    assert answer.startswith(b"HTTP/1.1 200 ")
    writer.close()
    await ended_quietly(node)


# ---- certificates that cannot be, and renewed ones -----------------------------------------------------------------


@pytest.mark.parametrize("command_name", ["serve", "up"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda files: files.cert.unlink(), "--tls-cert {cert}: No such file or directory"),
        (lambda files: files.key.unlink(), "--tls-key {key}: No such file or directory"),
        (lambda files: files.key.write_text("x"), "--tls-cert {cert}, --tls-key {key}: they must be PEM files"),
        (
            lambda files: files.key.write_bytes(files.authority.issue_cert("a").private_key_pem.bytes()),
            "--tls-key {key} is not the key of --tls-cert {cert}",
        ),
    ],
)
async def test_what_cannot_be_used_is_said_in_one_line(
    limiter_node: StartCommand, files: Files, change: Callable[[Files], object], message: str, command_name: str
) -> None:
    change(files)
    command = await limiter_node(command_name, "--store", "redis://127.0.0.1:1", *files.options)
    assert await command.ended() == 2
    errors = await command.errors()
    assert message.format(cert=files.cert, key=files.key) in errors
    assert errors.count("\n") == 1


def test_an_encrypted_key_asks_nobody(files: Files) -> None:
    subprocess.run(
        ["openssl", "pkey", "-in", files.key, "-aes256", "-passout", "pass:secret", "-out", f"{files.key}.aes"],
        check=True,
        capture_output=True,
    )
    with pytest.raises(ConfigError, match="not encrypted"):
        server_context(str(files.cert), f"{files.key}.aes")


async def test_both_files_or_none(limiter_node: StartCommand, files: Files) -> None:
    command = await limiter_node("serve", "--store", "redis://127.0.0.1:1", "--tls-cert", files.cert)
    assert await command.ended() == 2
    assert "--tls-cert and --tls-key need each other: give both or neither" in await command.errors()


@asynccontextmanager
async def listening(certificate: Certificate) -> AsyncIterator[Listener]:
    async def handler(_request: web.BaseRequest) -> WholeResponse:
        return WholeResponse(b"{}", "")

    server = HttpServer(handler, keepalive_s=75)
    listener = Listener(server, "127.0.0.1", 0, certificate=certificate)
    await listener.open()
    try:
        yield listener
    finally:
        await listener.close(0.1)


async def shown(listener: Listener) -> bytes:
    """The certificate that a new connection is shown."""
    _, writer = await asyncio.open_connection("127.0.0.1", listener.port, ssl=trusting())
    found = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    assert isinstance(found, bytes)
    return found


async def test_a_renewed_certificate_is_taken_up_by_itself(
    files: Files, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(handshakes_module, "LOOK_S", 0.01)
    async with listening(Certificate(str(files.cert), str(files.key))) as listener:
        before = await shown(listener)
        _, kept = await asyncio.open_connection("127.0.0.1", listener.port, ssl=files.client())
        issue(files.cert.parent, files.authority)

        async def is_renewed() -> bool:
            return await shown(listener) != before

        await eventually(is_renewed)
        assert not kept.is_closing(), "connections of the old one are kept"
        kept.close()
    assert "can't be used" not in caplog.text or "was renewed" in caplog.text


def test_half_a_renewal_changes_nothing(files: Files, caplog: pytest.LogCaptureFixture) -> None:
    certificate = Certificate(str(files.cert), str(files.key))
    before, key = certificate.context, files.key.read_bytes()
    issue(files.cert.parent, files.authority)
    new_key = files.key.read_bytes()
    files.key.write_bytes(key)  # the certificate is new already, the key isn't yet
    certificate.refresh()
    assert certificate.context is before
    assert "can't be used" not in caplog.text, "the other half may still come"
    certificate.refresh()
    certificate.refresh()
    assert certificate.context is before
    assert caplog.text.count("the renewed certificate can't be used, the old one stays: --tls-key") == 1
    files.key.write_bytes(new_key)
    certificate.refresh()
    assert certificate.context is not before
    now = certificate.context
    certificate.refresh()
    assert certificate.context is now
