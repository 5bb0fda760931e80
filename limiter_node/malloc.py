"""Makes glibc's allocator give memory back to the system. Elsewhere (musl, macOS) this module does nothing.

glibc raises its own threshold for memory maps each time a large block is freed, up to 32 MiB. From then on blocks of
that size come from the heap, which is given back only from its end: one small block that lives on behind a thousand
bodies of 1 MiB keeps a gigabyte. A threshold that is set stays. A large block then costs its page faults each time,
some 0.1 ms a MiB, which is little beside reading it.

Its weakness: bodies come in blocks from 64 KiB on, so that floods of them by known keys leave up to 140 MB of the heap,
free for the next. A threshold of 64 KiB leaves nothing, but others wait ten times as long during a flood of unknown
keys.

``MALLOC_MMAP_THRESHOLD_``, ``MALLOC_TRIM_THRESHOLD_`` and ``MALLOC_TOP_PAD_`` in the environment have the last word.
"""

from __future__ import annotations

import ctypes
import os
from typing import Final

_M_TRIM_THRESHOLD: Final = -1
_M_TOP_PAD: Final = -2
_M_MMAP_THRESHOLD: Final = -3
MMAP_BYTES: Final = 131_072
"""Blocks of at least this size have a memory map of their own, which is given back with them."""
TRIM_BYTES: Final = 1_048_576
"""The bytes that may be free at the heap's end before they are given back."""
PAD_BYTES: Final = 16_384
"""The bytes by which the heap grows beyond a request: a block that fits in there gets no map of its own."""


def give_memory_back() -> bool:
    """Set all three for this process, unless its environment does. Return whether the allocator accepted them."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    wanted = (
        ("MALLOC_MMAP_THRESHOLD_", _M_MMAP_THRESHOLD, MMAP_BYTES),
        ("MALLOC_TRIM_THRESHOLD_", _M_TRIM_THRESHOLD, TRIM_BYTES),
        ("MALLOC_TOP_PAD_", _M_TOP_PAD, PAD_BYTES),
    )
    taken = [mallopt(option, size) for name, option, size in wanted if name not in os.environ]
    return all(taken)
