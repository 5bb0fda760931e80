"""Turns a response whose status is not 200 into the error to raise."""

from __future__ import annotations

import asyncio
from typing import Final

from limiter_node.upstream.errors import UpstreamError, UpstreamRefusal
from limiter_node.upstream.gateway.response_headers import header, is_packed, refusal_headers
from limiter_node.upstream.gateway.service import Service
from limiter_node.upstream.gateway.service_errors.in_band import KEEPS_STATUS, OUR_FAULT
from limiter_node.upstream.gateway.service_errors.openai_shape import openai_error, quoted_message
from limiter_node.upstream.gateway.wire.exchange import HELD_BYTES, Exchange

MAX_ERROR_BYTES: Final = HELD_BYTES
_ERROR_S: Final = 5.0
"""Seconds that the body of an error may take; its status has come."""


async def response_error(exchange: Exchange, service: Service) -> UpstreamError:
    """Return the error to raise for a response whose status is not 200. Raises the exchange's errors."""
    status = exchange.status
    if not 400 <= status < 600:
        return UpstreamError(f"answered with status {status}")
    try:
        async with asyncio.timeout(_ERROR_S):
            await exchange.read(MAX_ERROR_BYTES)
    except TimeoutError:
        pass
    body = await exchange.read(0)
    if not exchange.is_complete or len(body) > MAX_ERROR_BYTES or is_packed(exchange.fields):
        body = b""  # too long to pass on (some repeat the whole input); the status says enough
    kind = header(exchange.fields, "content-type")
    if status in OUR_FAULT and not service.forwards_key:
        quoted = quoted_message(status, body, service.key, kind)
        return UpstreamError(f"does not accept this node's key (status {status}){quoted}")
    passed = openai_error(status, body, service.key, kind)
    headers = refusal_headers(status, exchange.fields, service.key)
    if status < 500:
        return UpstreamRefusal(f"refused with status {status}", status=status, body=passed, headers=headers)
    shown = status if status in KEEPS_STATUS else 502
    return UpstreamError(f"failed with status {status}", status=shown, body=passed, headers=headers)
