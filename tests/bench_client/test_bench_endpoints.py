"""Where a run is sent and where it asks: nodes with another port for /readyz and /metrics, and nodes with TLS."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.typedefs import Handler
from bench_fakes import FakeLimiter, application, held_until, serving
from test_bench_servers import PAGE

from bench_client import cli
from bench_client.records.run_directory import read_info

CERTIFICATE = Path(__file__).parent / "loopback.pem"
RUN = ("run", "--qps", 50, "--duration", 0.3)
FIND_MAX = ("find-max", "--slo-p99-ms", 5000, "--from", 60, "--to", 60, "--trial", 0.2, "--warmup", 0)
SAMPLED = 3
"""How often a target's metrics are asked for in a run of `RUN`: to see that it is a node, before and after."""


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    code = cli._run_cli([str(argument) for argument in arguments])
    return code, capsys.readouterr().err


class Admin:
    """A node's other port."""

    def __init__(self) -> None:
        self.ready = True
        self.asked: list[str] = []
        self.samples = 0
        """So many are waited for."""

    def application(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/readyz", self.readyz)
        app.router.add_get("/metrics", self.metrics)
        return app

    async def readyz(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path)
        return web.Response(status=200 if self.ready else 503, text="store unreachable")

    async def metrics(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path)
        return web.Response(text=PAGE)


@pytest.fixture
def asked() -> list[str]:
    """What callers' ports were asked, but for chats."""
    return []


@pytest.fixture
def admins() -> list[Admin]:
    """Other ports. No chat is answered before the metrics of each were sampled, however slow the machine is."""
    return []


@pytest.fixture
def url(asked: list[str], admins: list[Admin]) -> Iterator[str]:
    """A callers' port, which has no other routes."""

    @web.middleware
    async def note(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not request.path.startswith("/v1/"):
            asked.append(request.path)
            return web.Response(status=404)
        return await handler(request)

    def were_sampled() -> bool:
        return all(admin.asked.count("/metrics") >= admin.samples for admin in admins)

    app = application(held_until(were_sampled, FakeLimiter().chat))
    app.middlewares.append(note)
    with serving(app) as address:
        yield address


@pytest.mark.parametrize("command", [RUN, FIND_MAX])
@pytest.mark.parametrize("nodes", [1, 2])
def test_readiness_and_metrics_are_asked_at_the_admin_ports(
    capsys: pytest.CaptureFixture[str],
    url: str,
    asked: list[str],
    admins: list[Admin],
    keys_file: Path,
    tmp_path: Path,
    command: tuple[object, ...],
    nodes: int,
) -> None:
    """Two nodes may share the callers' port."""
    for _ in range(nodes):
        admins.append(Admin())
        admins[-1].samples = SAMPLED if command is RUN else 1
    with serving(admins[0].application()) as first, serving(admins[-1].application()) as second:
        urls = [first, second][:nodes]
        options = [text for each in urls for text in ("--admin-target", each)]
        out = tmp_path / "out"
        code, said = call(capsys, *command, "--target", url, *options, "--keys", keys_file, "--out", out)
    assert code == 0, said
    assert all({"/readyz", "/metrics"} == set(admin.asked) for admin in admins)
    assert "/metrics" not in asked
    if command is RUN:
        servers = json.loads((out / "servers.json").read_bytes())["targets"]
        assert [(target["url"], len(target["samples"]) >= 2) for target in servers] == [(each, True) for each in urls]
        info = read_info(out)
        assert (info.targets, info.settings["admin_targets"]) == ([url], urls)


def test_an_admin_port_that_is_not_ready_is_named(
    capsys: pytest.CaptureFixture[str], url: str, keys_file: Path, tmp_path: Path
) -> None:
    admin = Admin()
    admin.ready = False
    with serving(admin.application()) as admin_url:
        options = ("--target", url, "--admin-target", admin_url, "--keys", keys_file, "--wait-ready", 0)
        code, said = call(capsys, *RUN, *options, "--out", tmp_path / "out")
    assert code == 1
    assert f"{admin_url} is not ready (store unreachable); start it or correct --admin-target\n" in said


def test_the_commands_on_a_page_have_the_admin_targets(
    capsys: pytest.CaptureFixture[str], url: str, keys_file: Path, tmp_path: Path
) -> None:
    with serving(Admin().application()) as admin_url:
        options = ("--target", url, "--admin-target", admin_url, "--keys", keys_file)
        assert call(capsys, *RUN, *options, "--out", tmp_path / "out")[0] == 0
    assert call(capsys, "report", tmp_path / "out", "--html", tmp_path / "page.html")[0] == 0
    assert f"--admin-target {admin_url}" in (tmp_path / "page.html").read_text()


@pytest.fixture
def tls_url() -> Iterator[str]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(CERTIFICATE)
    admin = Admin()
    app = application(held_until(lambda: admin.asked.count("/metrics") >= SAMPLED, FakeLimiter().chat))
    app.router.add_get("/metrics", admin.metrics)
    with serving(app, tls=context) as address:
        yield address


@pytest.mark.parametrize("processes", [1, 2])
def test_a_target_with_a_certificate_of_its_own(
    capsys: pytest.CaptureFixture[str], tls_url: str, keys_file: Path, tmp_path: Path, processes: int
) -> None:
    out = tmp_path / "out"
    arguments = (*RUN, "--target", tls_url, "--keys", keys_file, "--out", out, "--processes", processes)
    code, said = call(capsys, *arguments, "--wait-ready", 0)
    assert (code, said.count("\n")) == (1, 1)
    reason = "its certificate is not trusted, self-signed certificate"
    assert f"{reason}: pass its authority's certificate as --ca-file" in said
    code, said = call(capsys, *arguments, "--ca-file", CERTIFICATE)
    assert code == 0, said
    assert json.loads((out / "summary.json").read_bytes())["total"]["errors_total"] == 0
    assert json.loads((out / "servers.json").read_bytes())["targets"][0]["samples"]


@pytest.mark.parametrize(("content", "says"), [(None, "No such file"), ("hello", "it has no certificate in PEM")])
def test_a_file_without_certificates_is_told(
    capsys: pytest.CaptureFixture[str], keys_file: Path, tmp_path: Path, content: str | None, says: str
) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    options = ("--target", "https://127.0.0.1:1", "--keys", keys_file, "--ca-file", path)
    code, said = call(capsys, *RUN, *options, "--out", tmp_path / "out")
    assert (code, said.count("\n")) == (2, 1)
    assert f"cannot use --ca-file {path}: {says}" in said
