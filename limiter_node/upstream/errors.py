"""The errors of upstreams: one fails, refuses, or can't be asked a request at all.

The HTTP layer turns them into responses.
"""

from __future__ import annotations

from limiter_node.errors import LimiterError


class UpstreamError(LimiterError):
    """Raised when an upstream fails. The `produced_tokens` that it produced before are charged."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 502,
        produced_tokens: int = 0,
        body: bytes | None = None,
        headers: str = "",
    ) -> None:
        super().__init__(message)
        self.status = status
        """The HTTP status that says best what happened."""
        self.produced_tokens = produced_tokens
        self.body = body
        """The OpenAI error object for the caller; None if the caller learns only that the upstream failed."""
        self.headers = headers
        """Header lines as `WholeAnswer.headers`; the response leaves out its own headers of the same names."""


class UpstreamRefusal(UpstreamError):
    """Raised when an upstream won't answer this request, although it is healthy."""


class NotServed(LimiterError):
    """Raised before admission for a request that can't be sent to any upstream."""

    status = 400

    def __init__(self, message: str, param: str | None, code: str | None) -> None:
        super().__init__(message)
        self.param, self.code = param, code


class UnknownModel(NotServed):
    """Raised for a model that no service has."""

    status = 404

    def __init__(self, model: str) -> None:
        super().__init__("there is no such model", "model", "model_not_found")
        self.model = model
