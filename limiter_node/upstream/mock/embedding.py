"""The mock's embeddings: unit vectors whose components are ±1/√d, the signs taken from a digest of the input.

The same input has the same vector on every node, different inputs are nearly orthogonal, and a shorter vector is the
normalized beginning of a longer one, as with OpenAI's. A vector is joined from rendered pieces of eight components: the
1,536 dimensions take some 20 µs, where drawing and writing as many floats would take several hundred.
"""

from __future__ import annotations

import hashlib
import math
import struct
from base64 import b64encode
from functools import lru_cache

import orjson

DEFAULT_DIMENSIONS = 1_536
_DIMENSIONS = {"text-embedding-3-large": 3_072}
_MAX_CACHED = 16


def embedding(text: str | list[int], model: str, dimensions: int | None, *, base64: bool) -> bytes:
    """Return the vector of `text`: a JSON array of numbers, or a JSON string of base64 little-endian float32.

    `dimensions`: if None, those of OpenAI's model of that name.
    """
    if dimensions is None:
        dimensions = _DIMENSIONS.get(model, DEFAULT_DIMENSIONS)
    source = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else orjson.dumps(text)
    signs = hashlib.shake_128(source).digest((dimensions + 7) // 8)
    if base64:
        packed = b"".join(map(_packed(dimensions).__getitem__, signs))
        return b'"%b"' % b64encode(packed[: 4 * dimensions])
    # All numbers have the same width, comma included, because a plus is written as a space.
    width, pieces = _rendered(dimensions)
    return b"[%b]" % b"".join(map(pieces.__getitem__, signs))[: width * dimensions - 1]


@lru_cache(_MAX_CACHED)
def _packed(dimensions: int) -> list[bytes]:
    """Return for each byte of signs its eight components as float32."""
    size = 1 / math.sqrt(dimensions)
    return [struct.pack("<8f", *[-size if byte >> bit & 1 else size for bit in range(8)]) for byte in range(256)]


@lru_cache(_MAX_CACHED)
def _rendered(dimensions: int) -> tuple[int, list[bytes]]:
    """Return the width of a number with its comma, and for each byte of signs its eight components as text."""
    # More digits than a float32 holds: both encodings give the same number.
    size = f"{1 / math.sqrt(dimensions):.12f}"
    numbers = f" {size},".encode(), f"-{size},".encode()
    return len(numbers[0]), [b"".join([numbers[byte >> bit & 1] for bit in range(8)]) for byte in range(256)]
