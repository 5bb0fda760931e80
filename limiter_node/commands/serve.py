"""``limiter-node serve``: one node in the foreground, as systemd and Kubernetes run it."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from types import FrameType
from typing import Any, NoReturn

import cloup

from limiter_node import logs
from limiter_node.commands.help import EXAMPLES
from limiter_node.commands.options import check_files, keys_file, node_options, node_settings, store_url
from limiter_node.declarations import Declarations
from limiter_node.errors import ConfigError
from limiter_node.keysfile.limit_warnings import warnings_of
from limiter_node.keysfile.watching import KeysFile
from limiter_node.processes import free_ports
from limiter_node.settings import STORE
from limiter_node.store.admin.preparation import Preparation
from limiter_node.store.url import parse_store_url
from limiter_node.upstreamsfile import services_of

log = logging.getLogger(__name__)

_FIRST_CHECK_TIMEOUT_S = 1.0


@cloup.command(epilog=EXAMPLES["serve"])
@node_options(without=("store",), first={STORE: (store_url, keys_file)})
def serve(keys: str | None, **options: Any) -> int:
    """Run one node in the foreground.

    The node listens at once. It prints "node ID ready http://HOST:PORT" when the keys are loaded and each shard of the
    store has decided once; until then /readyz says 503 and the reason. SIGINT and SIGTERM drain it.
    """
    if options["store"] in ("cluster", "single"):
        raise ConfigError(
            f"serve needs the URL of a running store: 'limiter-node up --store {options['store']}' starts one for its "
            f"nodes, 'limiter-node store --mode {options['store']}' one for itself"
        )
    if options["port"] == 0:
        # Chosen here, because the node needs its own address from the start.
        options["port"] = free_ports(1, options["host"], avoid=[options["admin_port"]])[0]
    settings = node_settings({**options, "keys_file": keys or options["keys_file"]})
    services = services_of(settings, os.environ)
    check_files(settings)
    logs.configure(settings.log_format, settings.log_level, settings.node_id)
    # Until the node has its own handlers: process 1 of a container ignores a signal that it has no handler for.
    signal.signal(signal.SIGTERM, _end_at_once)
    # Read once for both uses: to load the keys now, and to declare them again if the store loses them.
    file = KeysFile(settings.keys_file) if settings.keys_file else None
    # A node started by `up` gets --keys-file only: `up` has loaded the keys.
    loaded = file if keys else None
    declared = loaded.declarations() if loaded else Declarations()
    for warning in warnings_of(declared, () if services else settings.models):
        log.warning("%s: %s", settings.keys_file, warning, extra={"event": "keys_file_warning"})
    preparation = Preparation(parse_store_url(settings.store), declared, loaded.declarations if loaded else None)
    # A store that must not be used fails here, before anything listens; one that is away is tried again later.
    asyncio.run(preparation.check(_FIRST_CHECK_TIMEOUT_S))

    # Late, because a node's imports take most of a second: a mistake in the options shows at once.
    from limiter_node.node_process import run_node

    return run_node(settings, preparation, declared=file)


def _end_at_once(number: int, frame: FrameType | None) -> NoReturn:
    sys.exit(0)
