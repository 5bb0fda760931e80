"""glibc's allocator, told to give memory back to the system. Elsewhere (musl, macOS) this module does nothing.

glibc raises its own threshold for memory maps each time a large block is freed, up to 32 MiB. From then on blocks of
that size come from the heap, which is given back only from its end: one small block that lives on behind a thousand
bodies of 1 MiB keeps a gigabyte. A threshold that is set stays. A large block then costs its page faults each time,
some 0.1 ms a MiB, which is little beside reading it. Bodies come in blocks of up to 64 KiB, of which the same is true.

``MALLOC_MMAP_THRESHOLD_`` and ``MALLOC_TRIM_THRESHOLD_`` in the environment have the last word.
"""

from __future__ import annotations

import ctypes
import os
from typing import Final

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
MMAP_BYTES: Final = 32_768
"""Blocks of at least this size have a memory map of their own, which goes when they do."""
TRIM_BYTES: Final = 1_048_576
"""So much may be free at the heap's end before it is given back."""


def give_memory_back() -> bool:
    """Set both thresholds for this process, unless its environment does; whether the allocator took them."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    wanted = (
        ("MALLOC_MMAP_THRESHOLD_", _M_MMAP_THRESHOLD, MMAP_BYTES),
        ("MALLOC_TRIM_THRESHOLD_", _M_TRIM_THRESHOLD, TRIM_BYTES),
    )
    taken = [mallopt(option, size) for name, option, size in wanted if name not in os.environ]
    return all(taken)
