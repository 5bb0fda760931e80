"""Services' answers without a node: events, their accounts, and the errors in them."""

from __future__ import annotations

import json
from typing import Any

from limiter_node.tokens.vocabulary import O200K_BASE, count_anew
from limiter_node.upstream.gateway.cost.chunk_account import ChunkAccount
from limiter_node.upstream.gateway.lenient_json import read_json
from limiter_node.upstream.gateway.service_errors.error_finding import find_event_error
from limiter_node.upstream.gateway.service_errors.in_band import InBandError, find_in_band_error, to_in_band_error
from limiter_node.upstream.gateway.sse import first_data


def event(fields: Any, **dump: Any) -> bytes:
    """An event that says `fields`, written as `dump` says."""
    return b"data: %b\n\n" % json.dumps(fields, **dump).encode()


def chunk_account(*, hides_usage: bool = False, choices: int = 1, **options: Any) -> ChunkAccount:
    """The account of a new stream of chunks."""
    return ChunkAccount(O200K_BASE, hides_usage=hides_usage, choices=choices, **options)


def counted(*texts: str, encoding: str = O200K_BASE) -> int:
    """The tokens of `texts`, each for itself."""
    return sum(count_anew(text, encoding) for text in texts)


def first_event_error(stream: bytes) -> InBandError | None:
    """The error that the first event of a stream is."""
    try:
        return to_in_band_error(find_event_error(read_json(first_data(stream)), is_first=True))
    except ValueError:
        return None


def answer_error(held: bytes, *, is_stream: bool, is_complete: bool = True) -> InBandError | None:
    """The error that an answer is, whole or by its first event."""
    return first_event_error(held) if is_stream else find_in_band_error(held, is_complete)
