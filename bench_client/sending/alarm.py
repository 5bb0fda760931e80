"""Wakes the event loop when the next request is due.

uvloop's timers have a grain of 1 ms: sleeping below that becomes a busy loop, which would take a core from the servers
under test. On Linux a timer descriptor wakes the loop to within some 50 µs for two system calls; elsewhere the loop's
own timer is used and requests leave up to about 1 ms late. Python offers timer descriptors from 3.13 on only, hence
ctypes.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
import time
from collections.abc import Callable
from typing import Protocol

from bench_client.clock import NS_PER_S, clock_ns


class Alarm(Protocol):
    """Hold one pending wake-up; setting it again moves it."""

    def set(self, at_ns: int) -> None: ...

    def close(self) -> None: ...


def make_alarm(loop: asyncio.AbstractEventLoop, wake: Callable[[], None]) -> Alarm:
    """Return the most precise alarm that this system has; it calls ``wake`` in ``loop``."""
    if sys.platform == "linux":
        try:
            return TimerFdAlarm(loop, wake)
        except (OSError, AttributeError):  # a sandbox, or a C library without it
            pass
    return LoopAlarm(loop, wake)


class TimerFdAlarm:
    """Wake by a timer descriptor on the monotonic clock; on Linux only."""

    class _Spec(ctypes.Structure):
        _fields_ = (
            ("interval_s", ctypes.c_long),
            ("interval_ns", ctypes.c_long),
            ("at_s", ctypes.c_long),
            ("at_ns", ctypes.c_long),
        )

    _ABSOLUTE = 1

    def __init__(self, loop: asyncio.AbstractEventLoop, wake: Callable[[], None]) -> None:
        """Raises OSError or AttributeError where timer descriptors aren't to be had."""
        library = ctypes.CDLL(None, use_errno=True)
        self._settime = library.timerfd_settime
        self._fd: int = library.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._spec = self._Spec()
        self._pointer = ctypes.byref(self._spec)
        self._loop = loop
        self._wake = wake
        loop.add_reader(self._fd, self._on_timer)

    def set(self, at_ns: int) -> None:
        self._spec.at_s, self._spec.at_ns = divmod(max(at_ns, 1), NS_PER_S)  # zero would disarm it
        self._settime(self._fd, self._ABSOLUTE, self._pointer, None)

    def close(self) -> None:
        self._loop.remove_reader(self._fd)
        os.close(self._fd)

    def _on_timer(self) -> None:
        try:
            os.read(self._fd, 8)
        except BlockingIOError:  # moved since it fired
            return
        self._wake()


class LoopAlarm:
    """Wake by the loop's own timer, never below its grain; on any system."""

    GRAIN_S = 0.001

    def __init__(self, loop: asyncio.AbstractEventLoop, wake: Callable[[], None]) -> None:
        self._loop = loop
        self._wake = wake
        self._handle: asyncio.TimerHandle | None = None

    def set(self, at_ns: int) -> None:
        if self._handle is not None:
            self._handle.cancel()
        delay_s = (at_ns - clock_ns()) / NS_PER_S
        self._handle = self._loop.call_later(max(delay_s, self.GRAIN_S), self._wake)

    def close(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
