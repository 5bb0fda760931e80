"""``limiter-node up``: nodes and, unless one is given, a store, in the foreground of one terminal."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import click
import cloup

from limiter_node import logs
from limiter_node.commands.help import EXAMPLES
from limiter_node.commands.options import (
    ENVIRONMENT_PREFIX,
    check_files,
    keys_file,
    node_arguments,
    node_options,
    node_settings,
    option,
    replicas,
    server_binary,
)
from limiter_node.commands.ports import check_ports, chosen_ports, shared
from limiter_node.commands.runtime import Stopped, StopSignals, watch_servers
from limiter_node.credentials import key_id
from limiter_node.declarations import Declarations
from limiter_node.errors import ConfigError, LimiterError
from limiter_node.keysfile.limit_warnings import warnings_of
from limiter_node.keysfile.making import new_key
from limiter_node.keysfile.reading import read_keys
from limiter_node.limits import KeyLimits
from limiter_node.settings import LISTENING, STORE, NodeSettings
from limiter_node.store.admin.store_admin import administering
from limiter_node.store.embedded.stores import EmbeddedStore
from limiter_node.store.url import parse_store_url
from limiter_node.supervisor import NodePlan, Supervisor
from limiter_node.upstreamsfile import KEY_VARIABLE, services_of

log = logging.getLogger(__name__)

_EMBEDDED = ("cluster", "single")


@cloup.command(short_help="Run nodes and, by default, an embedded store.", epilog=EXAMPLES["up"])
@node_options(
    without=("port", "store", "node_id", "reuse_port", "admin_port"),
    defaults={"log_level": "warning"},  # `up` itself prints what it starts and stops
    first={
        LISTENING: (
            option("--nodes", type=click.IntRange(1, 64), metavar="N", default=2, help="Number of node processes."),
            option(
                "--port",
                type=click.IntRange(0, 65535),
                metavar="N",
                default=8080,
                help="Port of the first node; 0 for any free ones.",
            ),
            option(
                "--shared-port",
                is_flag=True,
                help="Let all nodes listen on --port; the kernel divides connections among them (Linux).",
            ),
            option(
                "--admin-port",
                type=click.IntRange(0, 65535),
                metavar="N",
                default=0,
                help="Port of the first node for /healthz, /readyz and /metrics, which --port then doesn't serve; "
                "0 for none.",
            ),
        ),
        STORE: (
            option(
                "--store",
                default="cluster",
                metavar="STORE",
                help="Embedded store to start (cluster or single), or the URL of a running store.",
            ),
            keys_file,
            replicas,
            server_binary,
        ),
    },
)
def up(
    nodes: int,
    port: int,
    shared_port: bool,
    admin_port: int,
    store: str,
    keys: str | None,
    replicas: int,
    server_binary: str | None,
    **options: Any,
) -> None:
    """Run nodes on PORT, PORT+1, … and, unless --store is a URL, an embedded store.

    Without --keys, the command makes and shows one demo key. It prints "node I ready http://HOST:PORT" for each node
    when each shard of the store has decided once for that node ("node I admin http://HOST:PORT" comes before it with
    --admin-port), then "ready". SIGINT and SIGTERM drain the nodes and end everything.
    """
    embedded = None
    if store in _EMBEDDED:
        embedded = EmbeddedStore("cluster" if store == "cluster" else "single", replicas=replicas, binary=server_binary)
    elif replicas or server_binary:
        raise ConfigError("--replicas and --server-binary are for an embedded store: --store cluster or single")
    check_ports(port, 1 if shared_port else nodes, admin_port, nodes)
    # Check all options before anything is started.
    given = {"port": port, "admin_port": admin_port, "reuse_port": shared_port}
    first = node_settings({**options, **given, "store": store if embedded is None else "redis://127.0.0.1"})
    logs.configure(first.log_format, first.log_level)
    services = services_of(first, os.environ)
    check_files(first)
    declared = read_keys(keys) if keys else Declarations()
    for warning in warnings_of(declared, () if services else first.models):
        log.warning("%s: %s", keys, warning, extra={"event": "keys_file_warning"})
    file = str(Path(keys).absolute()) if keys else ""
    with ExitStack() as held:
        admin_ports = [0] * nodes
        if admin_port:
            admin_ports = chosen_ports("--admin-port", first.admin_host or first.host, admin_port, nodes)
        ports = chosen_ports("--port", first.host, port, 1 if shared_port else nodes, avoid=admin_ports)
        if shared_port:
            held.enter_context(shared(first.host, ports[0]))
            ports *= nodes
        settings = [
            replace(first, port=each, admin_port=admin, node_id=str(n), keys_file=file)
            for n, (each, admin) in enumerate(zip(ports, admin_ports, strict=True), 1)
        ]
        for service in services:
            click.echo(f"upstream {' '.join(str(url.with_query(None)) for url in service.urls)}")
        asyncio.run(_run(settings, embedded, declared, with_demo_key=keys is None))


async def _run(
    settings: Sequence[NodeSettings],
    embedded: EmbeddedStore | None,
    declared: Declarations,
    *,
    with_demo_key: bool,
) -> None:
    signals = StopSignals()
    with signals.installed():
        try:
            if embedded is not None:
                await signals.unless_stopped(embedded.start())
            url = settings[0].store if embedded is None else embedded.url
            click.echo(f"store {parse_store_url(url).describe()}")
            await signals.unless_stopped(_load(url, declared))
            async with _demo_key(url, settings[0], with_demo_key, temporary=embedded is None):
                await _run_nodes([replace(each, store=url) for each in settings], embedded, signals)
        except Stopped:
            pass
        finally:
            if embedded is not None:
                embedded.stop()


async def _load(url: str, declared: Declarations) -> None:
    async with administering(parse_store_url(url)) as admin:
        for warning in await admin.check_store():
            log.warning("%s", warning)
        for warning in await admin.declare(declared):
            log.warning("%s", warning)


@asynccontextmanager
async def _demo_key(url: str, settings: NodeSettings, wanted: bool, *, temporary: bool) -> AsyncIterator[None]:
    """Make and show the demo key. Delete it at the end from a store that goes on running."""
    if not wanted:
        yield
        return
    key, address = new_key("sk-demo-"), parse_store_url(url)
    async with administering(address) as admin:
        await admin.put_limits(key_id(key), KeyLimits(name="demo"))
    try:
        has_services = settings.upstream or settings.upstreams
        model = "YOUR-MODEL" if has_services else settings.models[0]
        body = {"model": model, "messages": [{"role": "user", "content": "Hello"}]}
        curl = "curl -i --insecure" if settings.tls_cert else "curl -i"
        click.echo(f"demo key {key}; try it:")
        click.echo(
            f"  {curl} {_here(settings).base_url}/v1/chat/completions -H 'Authorization: Bearer {key}' "
            f"-H 'Content-Type: application/json' -d '{json.dumps(body)}'"
        )
        yield
    finally:
        if temporary:
            try:
                async with administering(address) as admin:
                    await admin.delete(key_id(key))
            except LimiterError as error:
                log.warning("the demo key could not be deleted: %s", error)


async def _run_nodes(settings: Sequence[NodeSettings], embedded: EmbeddedStore | None, signals: StopSignals) -> None:
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(KEY_VARIABLE) or not name.startswith(ENVIRONMENT_PREFIX)
    }
    started = {each.node_id: _here(each) for each in settings}
    plans = [
        NodePlan(
            each.node_id,
            [sys.executable, "-m", "limiter_node", "serve", *node_arguments(each)],
            {**inherited, f"{ENVIRONMENT_PREFIX}STORE": each.store},
        )
        for each in settings
    ]
    supervisor = Supervisor(
        plans,
        drain_timeout_s=settings[0].drain_delay_s + settings[0].drain_timeout_s,
        on_ready=lambda plan: _show_ready(started[plan.name]),
        on_line=_json_line if settings[0].log_format == "json" else _text_line,
    )
    hurry = asyncio.create_task(_pass_on(signals.twice, supervisor.hurry))
    try:
        async with supervisor:
            await signals.unless_stopped(supervisor.start())
            click.echo("ready")
            await signals.unless_stopped(watch_servers(embedded) if embedded is not None else _forever())
    finally:
        hurry.cancel()


def _text_line(plan: NodePlan, line: str) -> None:
    click.echo(f"node {plan.name}: {line}", err=True)


def _json_line(plan: NodePlan, line: str) -> None:
    if line.startswith("{"):
        click.echo(line, err=True)  # a node's own log, which names it
    else:
        log.warning("node %s: %s", plan.name, line, extra={"event": "node_output", "node": plan.name})


async def _pass_on(source: asyncio.Event, target: asyncio.Event) -> None:
    await source.wait()
    target.set()


async def _forever() -> NoReturn:
    while True:
        await asyncio.Event().wait()


def _show_ready(node: NodeSettings) -> None:
    if node.admin_port:
        click.echo(f"node {node.node_id} admin {node.admin_url}")
    click.echo(f"node {node.node_id} ready {node.base_url}")


def _here(settings: NodeSettings) -> NodeSettings:
    """Return `settings` with addresses to connect to from this machine: loopback for a node that listens everywhere."""
    local = {"0.0.0.0": "127.0.0.1", "::": "::1"}
    host, admin_host = settings.host, settings.admin_host
    return replace(settings, host=local.get(host, host), admin_host=local.get(admin_host, admin_host))
