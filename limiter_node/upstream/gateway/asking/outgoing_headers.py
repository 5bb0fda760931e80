"""The headers that a service gets.

Of the caller's headers only those about the request pass: none that names a host, a user or a connection, none that
could give one caller's answer to another.
"""

from __future__ import annotations

from limiter_node.credentials import given_key
from limiter_node.upstream.gateway.asking.admitted_request import AdmittedRequest
from limiter_node.upstream.gateway.service import Service

_PASSED = ("openai-beta", "traceparent", "tracestate")
_MAX_VALUE_CHARS = 1_024


def outgoing_headers(admitted: AdmittedRequest, service: Service, user_agent: str) -> dict[str, str]:
    """Return the headers for `service`, except those that HTTP itself needs."""
    headers = {
        "Content-Type": "application/json",
        # The usage has to be readable, and callers agree on encodings with this node only.
        "Accept-Encoding": "identity",
        "User-Agent": user_agent,
        "x-request-id": admitted.request_id,
    }
    given = admitted.headers
    if service.forwards_key:
        headers["Authorization"] = f"Bearer {given_key(given) or ''}"
    elif service.key:
        headers["Authorization"] = f"Bearer {service.key}"
    for name in _PASSED:
        value = given.get(name)
        if value is not None and len(value) <= _MAX_VALUE_CHARS and value.isascii() and value.isprintable():
            headers[name] = value
    return headers
