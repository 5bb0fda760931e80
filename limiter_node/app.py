"""The composition root: builds one node from its settings, runs it, and takes it apart in reverse order."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

from limiter_node.errors import ConfigError, LimiterError, OtherFormat
from limiter_node.held import HeldBytes
from limiter_node.http.admin.api import AdminApi
from limiter_node.http.admin.connection import ManagerConnection
from limiter_node.http.admin.token_file import TokenFile
from limiter_node.http.cors import Cors
from limiter_node.http.probes import AdminRoutes, Handler
from limiter_node.http.requests.reader import RequestReader
from limiter_node.http.routes import Routes
from limiter_node.http.server import aiohttp_private
from limiter_node.http.server.client_connection import Deadlines
from limiter_node.http.server.http_server import HttpServer
from limiter_node.http.server.listening import Listener
from limiter_node.http.server.overload import LoopLoad
from limiter_node.http.server.tls import Certificate
from limiter_node.limiter.admission import Decider, Limiter
from limiter_node.limiter.policies import policy
from limiter_node.limits import BUCKET_MS
from limiter_node.management.manager import Manager
from limiter_node.settings import NodeSettings
from limiter_node.start import Start
from limiter_node.store.admin.store_admin import administering
from limiter_node.store.decisions.declared_file import DeclaredKeys
from limiter_node.store.decisions.dispatcher import Dispatcher
from limiter_node.store.url import StoreAddress, parse_store_url
from limiter_node.store.wire.topology import Topology
from limiter_node.telemetry import Telemetry
from limiter_node.tokens import vocabulary
from limiter_node.upstream.gateway.sending.timeouts import UpstreamTimeouts
from limiter_node.upstream.gateway.upstream import Gateway
from limiter_node.upstream.interface import Upstream
from limiter_node.upstream.mock.model import MockModel
from limiter_node.upstream.rendered import RenderedUpstream
from limiter_node.upstreamsfile import services_of

log = logging.getLogger(__name__)

# For kubelets, load balancers and Prometheus.
_ADMIN_CONNECTIONS = 100
# Time beyond --drain-timeout: to close connections (aiohttp waits this long, twice), flush settles, leave the fleet.
_CLOSE_S, _SETTLE_S, _LEAVE_S = 0.5, 2.0, 0.2


@dataclass(frozen=True, slots=True)
class RunningNode:
    """Hold the port on which a node accepts requests, and the limiter that decides them."""

    port: int
    limiter: Limiter


@asynccontextmanager
async def running_node(
    settings: NodeSettings,
    start: Start,
    *,
    declared: DeclaredKeys | None = None,
    on_other_format: Callable[[OtherFormat], None] = lambda _: None,
    decider: Decider | None = None,
) -> AsyncIterator[RunningNode]:
    """Run a node that accepts requests until the block is left: then it drains, settles and closes.

    The caller completes `start`. `declared`: the keys file, whose keys are declared again if the store loses them.
    `on_other_format`: called when the node finds that it must not use this store; the caller then leaves the block.
    `decider`: replaces the store's dispatcher, if given.

    Raises:
        ConfigError: the settings don't fit each other or this installation.
        LimiterError: the node can't listen on its address.
    """
    if not aiohttp_private.has_c_parser():
        raise ConfigError("aiohttp is installed without its C parser, which a node needs: install aiohttp from a wheel")
    address = parse_store_url(settings.store)
    telemetry = Telemetry()
    held = HeldBytes(settings.max_held_bytes)
    # A node stops in the reverse order of these lines. Each resource stands beside its end, so that a start that fails
    # half-way ends everything started by then.
    async with AsyncExitStack() as stack:
        upstream = _upstream(settings, telemetry, held)
        stack.push_async_callback(upstream.close)
        topology = Topology(address, client_name=f"limiter-{settings.node_id}", replica_acks=settings.replica_acks)
        dispatcher = Dispatcher(
            topology,
            timeout_ms=settings.decision_timeout_ms,
            window_buckets=settings.window_ms // BUCKET_MS,
            declared=declared,
            policy=lambda fleet: policy(settings.on_store_failure, lambda: fleet.nodes),
            telemetry=telemetry,
            on_other_format=on_other_format,
            finish_move=partial(_finish_move, address),
        )
        stack.push_async_callback(dispatcher.close)
        stack.push_async_callback(dispatcher.fleet.leave, _LEAVE_S)
        stack.push_async_callback(_settle, dispatcher)
        vocabulary.warm()
        load = LoopLoad()
        reader = RequestReader(upstream)
        stack.push_async_callback(reader.close)
        limiter = Limiter(decider or dispatcher, telemetry)
        cors = Cors(settings.cors_origins)
        routes = Routes(
            limiter=limiter,
            upstream=upstream,
            reader=reader,
            node_id=settings.node_id,
            max_body_bytes=settings.max_body_bytes,
            held=held,
            window_ms=settings.window_ms,
            max_in_flight=settings.max_in_flight,
            load=load,
            read_on_s=settings.read_on_s,
            not_started=lambda: start.problem,
            probes_apart=settings.admin_port != 0,
            cors=cors,
        )
        api = None
        if settings.admin_token_file:
            connection = ManagerConnection(partial(_managing, address))
            stack.push_async_callback(connection.close)
            api = AdminApi(TokenFile(settings.admin_token_file), connection, routes.probes.headers).answer
        listeners = _listeners(settings, routes, load, cors.last_lines, api)
        for listener in reversed(listeners):
            stack.push_async_callback(listener.close, _CLOSE_S)
        callers = listeners[0]
        stack.push_async_callback(_drain, routes, settings.drain_timeout_s)
        stack.callback(callers.refuse_new)
        for listener, option in zip(listeners, ("--port", "--admin-port"), strict=False):
            await _open(listener, option)
        # The store comes after the listeners, because it may hang; requests that arrive meanwhile wait for it.
        await dispatcher.start()
        dispatcher.fleet.start()
        load.start()
        stack.callback(load.stop)
        _log_started(settings, callers.port, address.describe())
        yield RunningNode(callers.port, limiter)
        log.info(
            "stopping: %d requests under way",
            routes.under_way,
            extra={"event": "node_stopping", "requests_in_flight": routes.under_way},
        )
        # Load balancers see /readyz and stop sending before the node refuses connections and closes idle ones.
        routes.is_draining = True
        await asyncio.sleep(settings.drain_delay_s)


def _log_started(settings: NodeSettings, port: int, store: str) -> None:
    policy_name = settings.on_store_failure
    asked = settings.upstreams or settings.upstream.partition("?")[0] or "mock"
    event = {"event": "node_started", "port": port, "store": store, "policy": policy_name, "upstream": asked}
    log.info("serves on port %d, store %s, policy %s, upstream %s", port, store, policy_name, asked, extra=event)
    if aiohttp_private.MISSING:
        version, missing = aiohttp_private.VERSION, ", ".join(aiohttp_private.MISSING)
        log.warning(
            "aiohttp %s lacks %s: the node serves by its public API, slower and weaker against floods of tiny chunks",
            version,
            missing,
            extra={"event": "aiohttp_unknown", "aiohttp": version, "missing": missing},
        )


@asynccontextmanager
async def _managing(address: StoreAddress) -> AsyncIterator[Manager]:
    async with administering(address) as admin:
        yield Manager(admin, takes_secrets=False)  # they would be in URLs, which end up in logs


async def _finish_move(address: StoreAddress, kid: str, tag: str) -> None:
    async with administering(address) as admin:
        await admin.finish_move(kid, tag)


async def _drain(routes: Routes, timeout_s: float) -> None:
    if not await routes.drain(timeout_s):
        log.warning(
            "requests were still under way at the end of --drain-timeout: the node cuts them off, charges streams for "
            "the output sent, and refunds the others",
            extra={"event": "drain_timeout"},
        )


async def _settle(dispatcher: Dispatcher) -> None:
    if not await dispatcher.drain(_SETTLE_S):
        log.warning(
            "some reservations were not settled: the store did not reply in time", extra={"event": "settles_unfinished"}
        )


def _listeners(
    settings: NodeSettings, routes: Routes, load: LoopLoad, last_lines: str, api: Handler | None
) -> list[Listener]:
    """Return the listener for callers, and the one for operators if the settings have it. Raises ConfigError."""
    # First, because loading it may fail, and a server starts a timer when it is made.
    certificate = Certificate(settings.tls_cert, settings.tls_key) if settings.tls_cert else None
    deadlines = Deadlines(settings.header_timeout_s, settings.body_timeout_s)
    callers = HttpServer(
        routes.answer,
        keepalive_s=settings.keepalive_timeout_s,
        deadlines=deadlines,
        max_connections=settings.max_connections,
        load=load,
        last_lines=last_lines,
    )
    listeners = [
        Listener(
            callers,
            settings.host,
            settings.port,
            certificate=certificate,
            handshake_s=settings.header_timeout_s,
            most_connections=settings.max_connections,
            shares_port=settings.reuse_port,
        )
    ]
    if settings.admin_port:
        operators = HttpServer(
            AdminRoutes(routes.probes, api).answer,
            keepalive_s=settings.keepalive_timeout_s,
            deadlines=deadlines,
            max_connections=_ADMIN_CONNECTIONS,
        )
        listeners.append(Listener(operators, settings.admin_host or settings.host, settings.admin_port))
    return listeners


async def _open(listener: Listener, option: str) -> None:
    """Begin to listen. Raises LimiterError that names the option to change."""
    try:
        await listener.open()
    except OSError as error:
        raise LimiterError(
            f"cannot listen on {listener.address}: {error.strerror or error}: choose another {option}"
        ) from None


def _upstream(settings: NodeSettings, telemetry: Telemetry, held: HeldBytes) -> Upstream:
    """Return the services that the settings name, or the mock. Raises ConfigError."""
    services = services_of(settings, os.environ)
    if services:
        timeouts = UpstreamTimeouts(
            settings.upstream_connect_timeout_s,
            settings.upstream_read_timeout_s,
            settings.upstream_keepalive_timeout_s,
        )
        return Gateway(services, telemetry, timeouts, held=held)
    return RenderedUpstream(
        MockModel(
            latency_ms=settings.mock_latency_ms,
            length=settings.mock_length,
            seed=settings.mock_seed,
            models=settings.models,
            ttft_ms=settings.mock_ttft_ms,
            tokens_per_s=settings.mock_tokens_per_s,
            tool_rate=settings.mock_tool_rate,
        )
    )
