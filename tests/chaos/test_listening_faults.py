"""Rows 47 to 49: browsers of other origins, the admin port, and hostile TLS."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest
from asking import node_pid
from chaos_scene import Outcome, Row, Scene, scene, write_keys
from edge_scene import PATIENCE_S, Answer, address, ask, assert_unharmed, chat, http_request, read_answer
from ports import free_port
from test_client_faults import node_pids, open_files, quiet

ORIGIN, FOREIGN = "https://app.example", "https://evil.example"
ROUTES = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings", "/v1/models", "/v1/rate_limits")
EXPOSED = ("retry-after-ms", "retry-after", "x-request-id", "x-ratelimit-remaining-tokens", "x-limiter-exceeded")


async def one_key(on: Scene, name: str, rpm: int = 1_000_000) -> str:
    await on.declare(write_keys(on.directory / f"{name}.toml", rpm, name, 1))
    return f"sk-{name}-0"


@pytest.mark.chaos
async def test_47_browsers_of_other_origins(directory: Path, binary: str | None, row: Row) -> None:
    async with scene(directory, binary, "--cors-origins", ORIGIN, rpm=1_000_000) as on:
        node, key, full = on.fleet.nodes[0], await one_key(on, "browser"), await one_key(on, "full", rpm=1)
        asks = ("Access-Control-Request-Method: POST", "Access-Control-Request-Headers: authorization,content-type")
        preflights: dict[tuple[str, str], Answer] = {}
        answers: dict[tuple[str, str], Answer] = {}

        async def ask_all() -> None:
            for origin in (ORIGIN, FOREIGN, f"{ORIGIN}.evil.example", "null"):
                for path in ROUTES:
                    asked = ask(node, None, b"", f"Origin: {origin}", *asks, path=path, method="OPTIONS")
                    preflights[path, origin] = await asked
                origin_line, body = f"Origin: {origin}", chat("gpt-4o")
                answers["admitted", origin] = await ask(node, key, body, origin_line)
                answers["streamed", origin] = await ask(node, key, chat("gpt-4o", stream=True), origin_line)
                answers["no key", origin] = await ask(node, None, body, origin_line)
                answers["unknown key", origin] = await ask(node, "sk-nobody", body, origin_line)
                answers["no JSON", origin] = await ask(node, key, b"{", origin_line)
                answers["nowhere", origin] = await ask(node, key, body, origin_line, path="/nowhere")
                await ask(node, full, body, origin_line)
                answers["rejected", origin] = await ask(node, full, body, origin_line)

        outcome = await on.under_load(ask_all, 5, qps=100, before_s=0.5)
        row("47", "browsers of other origins, asked by four kinds of them", outcome)
        statuses = {"admitted": 200, "streamed": 200, "no key": 401, "unknown key": 401}
        statuses |= {"no JSON": 400, "nowhere": 404, "rejected": 429}
        for (path, origin), answer in preflights.items():
            allowed = answer.headers.get("access-control-allow-origin")
            assert allowed == (ORIGIN if origin == ORIGIN else None), (path, origin)
            if origin == ORIGIN:
                assert answer.status in (200, 204), path
                names = answer.headers["access-control-allow-headers"].lower()
                assert names == "*" or {"authorization", "content-type"} <= {n.strip() for n in names.split(",")}, path
                assert "access-control-allow-credentials" not in answer.headers, path
        for (what, origin), answer in answers.items():
            assert answer.status == statuses[what], (what, origin)
            allowed = answer.headers.get("access-control-allow-origin")
            assert allowed == (ORIGIN if origin == ORIGIN else None), (what, origin)
            if origin == ORIGIN:
                shown = {name.strip().lower() for name in answer.headers["access-control-expose-headers"].split(",")}
                assert set(EXPOSED) <= shown, what
                assert "origin" in answer.headers["vary"].lower(), what
        assert_unharmed(outcome)


def listens_at(pid: int) -> set[int]:
    """The TCP ports of loopback or of all addresses at which this process listens."""
    inodes = set()
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            inodes.add(fd.readlink().name)
    ports = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
            ports.add(int(fields[1].rpartition(":")[2], 16))
    return ports


@pytest.mark.chaos
async def test_48_the_admin_port(directory: Path, binary: str | None, row: Row) -> None:
    """It tells operators what callers aren't told, also while callers hold all connections of their port."""
    admin, most = free_port(), 200
    arguments = ("--admin-port", str(admin), "--max-connections", str(most))
    async with scene(directory, binary, *arguments, rpm=1_000_000) as on:
        node, key = on.fleet.nodes[0], await one_key(on, "admin")
        operators = f"http://127.0.0.1:{admin}"
        held: list[asyncio.StreamWriter] = []
        told: dict[tuple[str, str], int] = {}

        async def ask_all() -> None:
            for path in ("/metrics", "/readyz", "/healthz"):
                told["callers", path] = (await ask(node, None, path=path, method="GET")).status
                told["operators", path] = (await ask(operators, None, path=path, method="GET")).status
            for path in ROUTES:
                method = "GET" if path in ROUTES[4:] else "POST"
                told["operators", path] = (await ask(operators, key, chat("gpt-4o"), path=path, method=method)).status

        outcome = await on.under_load(ask_all, 5, qps=100, before_s=0.5)
        row("48", "callers at the admin port, operators at the callers'", outcome)
        assert {who_path: status for who_path, status in told.items() if status != 404} == {
            ("operators", path): 200 for path in ("/metrics", "/readyz", "/healthz")
        }
        assert listens_at(node_pid(on, 0)) == {admin, address(node)[1]}
        for _ in range(most + 50):
            _, writer = await asyncio.open_connection(*address(node))
            held.append(writer)
        turned_away = await ask(node, key, chat("gpt-4o"))
        assert turned_away.status == 503
        assert (await ask(operators, None, path="/readyz", method="GET")).status == 200
        for writer in held:
            writer.transport.abort()
        assert_unharmed(outcome)


def certificate(directory: Path, name: str, *, days: int = 2) -> tuple[Path, Path]:
    """A certificate for that name, signed by itself, and its key."""
    cert, key = directory / f"{name}.pem", directory / f"{name}.key"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", str(days), "-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name},IP:127.0.0.1"]
    subprocess.run([*command, "-keyout", str(key), "-out", str(cert)], check=True, capture_output=True)
    return cert, key


async def over_tls(url: str, context: ssl.SSLContext, name: str, shot: bytes) -> Answer:
    reader, writer = await asyncio.open_connection(*address(url), ssl=context, server_hostname=name)
    try:
        async with asyncio.timeout(PATIENCE_S):
            writer.write(shot)
            return await read_answer(reader)
    finally:
        writer.transport.abort()


async def is_closed(url: str, sent: bytes, patience_s: float = 30) -> bytes:
    """Send this without TLS; what comes until the node closes the connection."""
    reader, writer = await asyncio.open_connection(*address(url))
    try:
        writer.write(sent)
        async with asyncio.timeout(patience_s):
            with suppress(ConnectionError):
                return await reader.read()
            return b""
    finally:
        writer.transport.abort()


@pytest.mark.chaos
@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl on this machine")
async def test_49_hostile_tls(directory: Path, binary: str | None, row: Row) -> None:
    cert, key_file = certificate(directory, "limiter.example")
    arguments = ("--tls-cert", str(cert), "--tls-key", str(key_file), "--header-timeout", "3")
    async with scene(directory, binary, *arguments, rpm=1_000_000) as on:
        node, key = on.fleet.nodes[0], await one_key(on, "tls")
        assert node.startswith("https://")
        trusting = ssl.create_default_context(cafile=str(cert))
        stranger = ssl.create_default_context()
        shot = http_request(key, chat("gpt-4o"))
        await over_tls(node, trusting, "limiter.example", shot)
        pids = node_pids(on)
        files = open_files(pids)
        answers: list[Answer] = []
        plain: list[bytes] = []
        said: list[str] = []

        async def misbehave() -> None:
            for _ in range(20):
                for context, name in ((trusting, "other.example"), (stranger, "limiter.example")):
                    with pytest.raises((ssl.SSLError, OSError)):
                        await over_tls(node, context, name, shot)
                answers.append(await over_tls(node, trusting, "limiter.example", shot))
            plain.append(await is_closed(node, shot))
            plain.append(await is_closed(node, b"\x16\x03\x01\x40\x00" + b"\xff" * 100))
            plain.append(await is_closed(node, b"\x16\x03\x01\x02\x00\x01"))  # a handshake that doesn't go on
            plain.append(await is_closed(node, b""))
            said.append(await asyncio.to_thread(openssl_client, node, "-tls1_2", asked="R\n" * 50))
            said.append(await asyncio.to_thread(openssl_client, node, "-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"))

        outcome = await beside_tls_load(on, node, trusting, misbehave)
        row("49", "wrong names, strangers' certificates, old TLS, half handshakes, renegotiation, plain HTTP", outcome)
        assert [answer.status for answer in answers] == [200] * 20
        assert all(b"200 OK" not in each for each in plain), plain
        assert "RENEGOTIATING" in said[0]
        assert said[0].count("verify return:1") < 10, "renegotiated again and again"
        assert "Cipher is (NONE)" in said[1], said[1]
        await quiet(on, files)
        log = (directory / "stderr").read_text()
        assert "Traceback" not in log
        assert log.count("\n") < 20, log
        assert not outcome.errors
        assert outcome.counted == outcome.admitted == outcome.requests


def openssl_client(url: str, *arguments: str, asked: str = "") -> str:
    """What openssl says of a connection to that node, on which it sends these lines; an R renegotiates."""
    host, port = address(url)
    command = ["openssl", "s_client", "-connect", f"{host}:{port}", *arguments]
    done = subprocess.run(command, input=asked, capture_output=True, text=True, timeout=30, check=False)
    return done.stdout + done.stderr


async def beside_tls_load(
    on: Scene, url: str, context: ssl.SSLContext, fault: Callable[[], Awaitable[None]]
) -> Outcome:
    """Ask over TLS on kept connections until the fault is over; the client of other faults has no TLS."""
    outcome, over = Outcome(), asyncio.Event()
    file = write_keys(on.directory / "beside.toml", 1_000_000, "beside", 1)
    await on.declare(file)
    shot = http_request("sk-beside-0", chat("gpt-4o"))

    async def go_on() -> None:
        reader, writer = await asyncio.open_connection(*address(url), ssl=context, server_hostname="limiter.example")
        while not over.is_set():
            began = time.monotonic()
            outcome.requests += 1
            writer.write(shot)
            try:
                async with asyncio.timeout(PATIENCE_S):
                    answer = await read_answer(reader)
            except (OSError, EOFError, TimeoutError) as error:
                outcome.errors[type(error).__name__] += 1
                break
            outcome.admitted += answer.status == 200
            if answer.status != 200:
                outcome.errors[str(answer.status)] += 1
            outcome.slowest_ms = max(outcome.slowest_ms, int((time.monotonic() - began) * 1000))
            await asyncio.sleep(0.05)
        writer.transport.abort()

    async with asyncio.TaskGroup() as going:
        for _ in range(4):
            going.create_task(go_on())
        await fault()
        over.set()
    outcome.counted = sum(usage.used.requests for usage in await on.usages(file))
    outcome.proved = outcome.counted == outcome.admitted
    return outcome
