"""The live view on a terminal: its alternate screen, its size, its keys, and the terminal given back as it was.

Works on simple terminals: sixteen colours or none (NO_COLOR), over ssh, 80 columns and 24 lines. Of the frame, this
module knows only how to draw it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import termios
import tty
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live

from limiter_node.chart import glyphs_for
from limiter_node.top.frame import Frame
from limiter_node.top.screen import screen_lines

_QUIT = b"qQ"


class Terminal:
    """Draw each frame on the terminal while the block runs, and call `on_quit` when q is pressed.

    Ctrl-C is a signal as ever; Ctrl-Z gives the terminal back until the job goes on; a resize draws the frame anew.
    """

    def __init__(self, console: Console, on_quit: Callable[[], None]) -> None:
        self._console, self._on_quit = console, on_quit
        self._glyphs = glyphs_for(console.encoding)
        self._loop = asyncio.get_running_loop()
        self._frame: Frame | None = None
        self._live: Live | None = None
        self._keyboard = sys.stdin.fileno() if sys.stdin is not None and sys.stdin.isatty() else None
        self._modes: list[Any] | None = None
        self._handlers = ExitStack()

    def __enter__(self) -> Self:
        for number, handler in ((signal.SIGWINCH, self._draw), (signal.SIGTSTP, self._suspend)):
            self._loop.add_signal_handler(number, handler)
            self._handlers.callback(self._loop.remove_signal_handler, number)
        if self._keyboard is not None:
            self._loop.add_reader(self._keyboard, self._pressed)
            self._handlers.callback(self._loop.remove_reader, self._keyboard)
        self._take()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._handlers:
            self._give_back()

    def show(self, frame: Frame) -> None:
        """Draw `frame`, and keep it for a resize."""
        self._frame = frame
        self._draw()

    def _draw(self) -> None:
        if self._frame is None or self._live is None:
            return
        width, height = self._console.size
        hint = "q quits" if self._keyboard is not None else ""
        self._live.update(Group(*screen_lines(self._frame, width, height, self._glyphs, hint)), refresh=True)

    def _take(self) -> None:
        if self._keyboard is not None:
            self._modes = termios.tcgetattr(self._keyboard)
            tty.setcbreak(self._keyboard, termios.TCSANOW)
        self._live = Live(
            console=self._console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
        )
        self._live.start()

    def _give_back(self) -> None:
        try:
            if self._live is not None:
                self._live.stop()
                self._live = None
        finally:
            if self._keyboard is not None and self._modes is not None:
                termios.tcsetattr(self._keyboard, termios.TCSANOW, self._modes)

    def _suspend(self) -> None:
        self._give_back()
        os.kill(os.getpid(), signal.SIGSTOP)  # stops here until the shell continues the process
        self._take()
        self._draw()

    def _pressed(self) -> None:
        assert self._keyboard is not None
        try:
            pressed = os.read(self._keyboard, 64)
        except OSError:
            pressed = b""
        if not pressed:  # the terminal has gone; a signal will follow
            self._loop.remove_reader(self._keyboard)
        elif any(key in _QUIT for key in pressed):
            self._on_quit()
