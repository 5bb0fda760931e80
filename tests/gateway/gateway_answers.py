"""What tests of the gateway read out of services' answers, apart from a node."""

from __future__ import annotations

from limiter_node.upstream.gateway.lenient_json import read_json
from limiter_node.upstream.gateway.service_errors.finding import find_event_error
from limiter_node.upstream.gateway.service_errors.in_band import InBandError, find_in_band_error, to_in_band_error
from limiter_node.upstream.gateway.sse import first_data


def first_event_error(stream: bytes) -> InBandError | None:
    """The error that the first event of a stream is."""
    try:
        return to_in_band_error(find_event_error(read_json(first_data(stream)), is_first=True))
    except ValueError:
        return None


def answer_error(held: bytes, *, is_stream: bool, is_complete: bool = True) -> InBandError | None:
    """The error that an answer is, whole or by its first event."""
    return first_event_error(held) if is_stream else find_in_band_error(held, is_complete)
