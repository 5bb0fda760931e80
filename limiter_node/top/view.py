"""The command as a whole: watches the sources and shows them in one of three ways.

Live on a terminal; as lines without one (or on a dumb one); once, as plain text, with ``--once``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from rich.console import Console, Group

from limiter_node.chart import glyphs_for
from limiter_node.store.url import StoreAddress
from limiter_node.top.frame import Frame
from limiter_node.top.lines import frame_lines
from limiter_node.top.loop import refresh, watching
from limiter_node.top.polling import Target
from limiter_node.top.screen import screen_lines
from limiter_node.top.terminal import Terminal

_PIPE_WIDTH = 120
"""Width of a snapshot that is not written to a terminal."""


@dataclass(frozen=True, slots=True)
class Watching:
    """Hold the sources to watch, and the form of the view."""

    targets: Sequence[Target]
    store: StoreAddress | None
    interval_s: float
    most_keys: int
    refreshes: int
    """Number of refreshes; 0: no end."""
    once: bool


async def view(what: Watching, on_quit: Callable[[], None]) -> None:
    """Show `what` until all refreshes are done or the task is cancelled. `on_quit` is called when q is pressed."""
    console = Console(highlight=False)
    is_live = console.is_terminal and not console.is_dumb_terminal and not what.once
    show = _print_all if what.once else _print_lines
    async with watching(what.targets, what.store, interval_s=what.interval_s, most_keys=what.most_keys) as sources:
        with ExitStack() as stack:
            if is_live:
                show = stack.enter_context(Terminal(console, on_quit)).show
            await refresh(
                sources,
                show,
                interval_s=what.interval_s,
                refreshes=1 if what.once else what.refreshes,
                with_first=is_live,
            )


def _print_lines(frame: Frame) -> None:
    print("\n".join(frame_lines(frame, glyphs_for(sys.stdout.encoding))), flush=True)


def _print_all(frame: Frame) -> None:
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _PIPE_WIDTH)
    lines = screen_lines(frame, console.width, None, glyphs_for(console.encoding))
    console.print(Group(*lines))
