"""SIGINT and SIGTERM, turned into calls while a run goes on."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress


@contextmanager
def interrupts_to(interrupt: Callable[[], object]) -> Iterator[None]:
    """Call ``interrupt`` in the running loop for each signal while the block runs."""
    loop = asyncio.get_running_loop()
    with ExitStack() as stack:
        for signum in (signal.SIGINT, signal.SIGTERM):
            with suppress(ValueError, RuntimeError):  # only a process's main thread can
                loop.add_signal_handler(signum, interrupt)
                stack.callback(loop.remove_signal_handler, signum)
        yield
