"""``limiter-node serve``: one node in the foreground, what systemd and Kubernetes run."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping
from typing import Any

import cloup

from limiter_node import logs
from limiter_node.commands.help import EXAMPLES
from limiter_node.commands.options import keys_file, node_options, node_settings, store_url
from limiter_node.keysfile import read_keys
from limiter_node.model import ConfigError, KeyLimits, StoreUnavailable
from limiter_node.settings import STORE
from limiter_node.store.admin import administering
from limiter_node.store.process import free_ports
from limiter_node.store.url import parse_store_url
from limiter_node.upstreamsfile import services_of

log = logging.getLogger(__name__)

_CHECK_TIMEOUT_S = 3.0


@cloup.command(epilog=EXAMPLES["serve"])
@node_options(without=("store",), first={STORE: (store_url, keys_file)})
def serve(keys: str | None, **options: Any) -> int:
    """Run one node in the foreground.

    Prints "node ID ready http://HOST:PORT" once it accepts requests; SIGINT and SIGTERM drain it.
    """
    if options["store"] in ("cluster", "single"):
        raise ConfigError(
            f"serve needs the URL of a running store: 'limiter-node up --store {options['store']}' starts one for its "
            f"nodes, 'limiter-node store --mode {options['store']}' one for itself"
        )
    if options["port"] == 0:
        # Chosen here, so that the node knows its own address from the start.
        options["port"] = free_ports(1, options["host"])[0]
    settings = node_settings({**options, "keys_file": options["keys_file"] or keys or ""})
    services_of(settings, os.environ)
    logs.configure(settings.log_format, settings.log_level, settings.node_id)
    asyncio.run(_prepare_store(settings.store, read_keys(keys) if keys else {}))

    # Late, because a node's imports take most of a second: a mistake in the options shows at once.
    from limiter_node.app import run_node

    return run_node(settings)


async def _prepare_store(url: str, keys: Mapping[str, KeyLimits]) -> None:
    """Check the store and load the keys. Raises StoreUnavailable if it cannot be reached at all.

    A cluster that is down in parts only gets a warning: a node that is restarted during an outage has the healthy
    shards to serve, and finds the others when they return.
    """
    address = parse_store_url(url)
    async with administering(address) as admin:
        try:
            async with asyncio.timeout(_CHECK_TIMEOUT_S):
                for warning in await admin.check_store():
                    log.warning("%s", warning)
        except (StoreUnavailable, TimeoutError) as error:
            if keys or not address.cluster:
                raise StoreUnavailable(str(error) or f"{address.describe()} does not answer: is it running?") from None
            event = {"event": "store_partly_down"}
            log.warning("a part of the store is down: %s", error or "it does not answer", extra=event)
        if keys:
            await admin.load_limits(keys)
            log.info("loaded %d keys", len(keys), extra={"event": "keys_loaded", "keys": len(keys)})
