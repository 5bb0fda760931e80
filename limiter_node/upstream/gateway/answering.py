"""Turns a service's response of status 200 into an answer, whole or still to come, or into the error that it holds."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from limiter_node.held import Hold
from limiter_node.tokens.vocabulary import encoding_name
from limiter_node.upstream.answers import AnswerStream, Cost, WholeAnswer
from limiter_node.upstream.errors import UpstreamError
from limiter_node.upstream.gateway.asking.admitted_request import AdmittedRequest
from limiter_node.upstream.gateway.cost.account import Account
from limiter_node.upstream.gateway.cost.chunk_account import ChunkAccount
from limiter_node.upstream.gateway.cost.responses_api_account import ResponsesApiAccount
from limiter_node.upstream.gateway.cost.usage import MOST_TOKENS
from limiter_node.upstream.gateway.cost.whole_answer import WholeReader
from limiter_node.upstream.gateway.lenient_json import read_json
from limiter_node.upstream.gateway.passing.stream import PassingStream
from limiter_node.upstream.gateway.passing.whole_body import PassingBody
from limiter_node.upstream.gateway.response_headers import body_length, header, is_packed, passed_headers
from limiter_node.upstream.gateway.service import Service
from limiter_node.upstream.gateway.service_errors.in_band import InBandError, find_in_band_error
from limiter_node.upstream.gateway.sse import EVENT_STREAM, looks_like_stream
from limiter_node.upstream.gateway.wire.exchange import HELD_BYTES, Exchange, Fields
from limiter_node.upstream.requests import EmbeddingRequest, ResponsesApiRequest

_CLOSING_S: Final = 0.5
"""Seconds that a complete answer may take to end, so that its connection is kept."""
_MAX_PACKING_CHARS: Final = 64

_JSON: Final = "application/json"


async def to_answer(
    exchange: Exchange,
    admitted: AdmittedRequest,
    service: Service,
    who: str,
    note_outcome: Callable[[str, str], None],
    hold: Hold,
    hides: Callable[[Account], bool],
    note: Callable[[WholeReader], None],
) -> WholeAnswer | AnswerStream:
    """Return the answer in a response with status 200, as soon as it is known not to be an error.

    By then a stream's first event has come, or of any other answer all, or `HELD_BYTES`.

    Args:
        who: the address that answers, for our log.
        note_outcome: called with the outcome of an error or of an answer that passes; not for a whole answer.
        hold: counts the bytes that are kept of an answer that passes.
        hides: see `PassingStream`.
        note: called with the reader of a whole answer.

    Raises `UpstreamError` for an error in place of an answer, and the exchange's errors.
    """
    fields, outline = exchange.fields, admitted.request
    kind = header(fields, "content-type").lower()
    headers = passed_headers(fields, service.key)
    if is_packed(fields):
        # Not unpacked: a few bytes may become any number. Its cost stays unknown.
        packing = header(fields, "content-encoding")
        is_plain = len(packing) <= _MAX_PACKING_CHARS and packing.isascii() and packing.isprintable()
        if is_plain and not (service.key and service.key in packing):
            headers += f"content-encoding: {packing}\r\n"
        await exchange.read(1)
        is_events = outline.stream and kind.startswith(EVENT_STREAM)
        shown = EVENT_STREAM if is_events else _JSON
        body = PassingBody(exchange, None, headers, who, note_outcome, hold, shown, body_length(fields))
        await body.begin()
        return body
    is_stream = kind.startswith(EVENT_STREAM) or (outline.stream and await _begins_as_stream(exchange))
    if is_stream and not outline.stream:
        raise UpstreamError("answered with a stream that was not asked for")
    to_error = partial(_to_error, fields, service, who)
    if is_stream:
        stream = PassingStream(exchange, _account(admitted, service), headers, who, note_outcome, hold, hides, to_error)
        await stream.begin()
        return stream
    held, is_complete = await _beginning(exchange)
    if (in_band := find_in_band_error(held, is_complete)) is not None:
        note_outcome(in_band.outcome, in_band.what)
        raise to_error(in_band, False, 0)
    reader = WholeReader(
        encoding_name(outline.model),
        choices=outline.reserved_choices,
        at_most=_most_counted(admitted, service),
        has_output=outline.kind is not EmbeddingRequest,
        hold=None if is_complete else hold,
    )
    if not is_complete:
        passing = PassingBody(exchange, reader, headers, who, note_outcome, hold, _JSON, body_length(fields))
        await passing.begin()
        return passing
    reader.feed(held)
    reader.finish()
    note(reader)
    return WholeAnswer(held, Cost(reader.output_tokens, reader.input_tokens), headers)


async def _beginning(exchange: Exchange) -> tuple[bytes, bool]:
    """Return the first `HELD_BYTES` of an answer, or all of it, and whether it is all.

    An object that is whole is all, though blanks follow it, which some services send until something comes.
    """
    held = await exchange.read(1)
    looked_at = b""
    while not exchange.is_complete and len(held) < HELD_BYTES:
        size = len(held)
        held = await exchange.read(size + 1)
        if exchange.is_complete or not held[size:].isspace():
            continue
        whole = held.rstrip()
        if whole == looked_at or not whole.endswith(b"}"):
            continue
        looked_at = whole
        try:
            read_json(whole)
        except ValueError:
            continue
        exchange.end_within(_CLOSING_S)
        return whole, True
    return held, exchange.is_complete


async def _begins_as_stream(exchange: Exchange) -> bool:
    """Whether the answer's first bytes are an event stream, whatever its content type says."""
    begun = 1
    while (looks := looks_like_stream(held := await exchange.read(begun))) is None and not exchange.is_complete:
        begun = len(held) + 1
        if begun > HELD_BYTES:
            return False
    return bool(looks)


def _to_error(
    fields: Fields, service: Service, who: str, in_band: InBandError, has_begun: bool, tokens: int
) -> UpstreamError:
    error = in_band.to_upstream_error(
        service.key, fields, forwards_key=service.forwards_key, produced_tokens=tokens, has_begun=has_begun
    )
    error.args = (f"{who} {error}",)
    return error


def _account(admitted: AdmittedRequest, service: Service) -> Account:
    outline = admitted.request
    encoding, at_most = encoding_name(outline.model), _most_counted(admitted, service)
    if outline.kind is ResponsesApiRequest:
        return ResponsesApiAccount(encoding, at_most=at_most)
    return ChunkAccount(encoding, hides_usage=outline.hides_usage, choices=outline.n, at_most=at_most)


def _most_counted(admitted: AdmittedRequest, service: Service) -> int:
    """Return the bound of a count by our tokenizer: a service that has a cap keeps to it, by its own tokenizer."""
    is_capped = service.enforces_cap or admitted.request.cap is not None
    return admitted.reserved_tokens if is_capped else MOST_TOKENS
