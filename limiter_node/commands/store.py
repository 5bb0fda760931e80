"""``limiter-node store``: an embedded store in the foreground, for nodes that are started separately."""

from __future__ import annotations

import asyncio

import click
import cloup

from limiter_node import logs
from limiter_node.commands.help import EXAMPLES
from limiter_node.commands.options import grouped, logging_options, option, replicas, server_binary
from limiter_node.commands.runtime import Stopped, StopSignals, watch_servers
from limiter_node.store.embedded.server import HOST
from limiter_node.store.embedded.stores import EmbeddedStore, Mode


@cloup.command(epilog=EXAMPLES["store"])
@grouped(
    "Servers",
    option(
        "--mode",
        type=click.Choice(["cluster", "single"]),
        metavar="MODE",
        default="cluster",
        help="Three masters (cluster), or one server (single).",
    ),
    option(
        "--port",
        type=click.IntRange(0, 65535),
        metavar="N",
        default=7000,
        help="Port of the first server; 0 for any free ones.",
    ),
    replicas,
    server_binary,
)
@logging_options
def store(mode: Mode, port: int, replicas: int, server_binary: str | None, log_format: str, log_level: str) -> None:
    """Run an embedded store in the foreground.

    Masters listen on PORT, PORT+1, PORT+2, replicas on the ports after them. Nothing is kept on disk. Prints "ready"
    when the store can be used. SIGINT and SIGTERM end it.
    """
    logs.configure(log_format, log_level)
    embedded = EmbeddedStore(mode, port=port, replicas=replicas, binary=server_binary)
    asyncio.run(_run(embedded))


async def _run(embedded: EmbeddedStore) -> None:
    signals = StopSignals()
    with signals.installed():
        try:
            await signals.unless_stopped(_start(embedded))
            await signals.unless_stopped(watch_servers(embedded))
        except Stopped:
            pass
        finally:
            embedded.stop()


async def _start(embedded: EmbeddedStore) -> None:
    await embedded.start()
    for server in embedded.servers:
        if server.master_port is None:
            click.echo(f"master {HOST}:{server.port}")
        else:
            click.echo(f"replica {HOST}:{server.port} of {HOST}:{server.master_port}")
    click.echo(f"store {embedded.url}")
    click.echo("ready")
