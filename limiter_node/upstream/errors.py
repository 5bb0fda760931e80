"""The errors of upstreams: that one fails, or refuses, or can't be asked a request at all.

The HTTP layer makes responses of them.
"""

from __future__ import annotations

from limiter_node.errors import LimiterError


class UpstreamError(LimiterError):
    """Raised when an upstream fails. Before that it produced `produced_tokens`, which have to be paid for."""

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
        """The OpenAI error object that the caller is told; None to tell no more than that the upstream failed."""
        self.headers = headers
        """Header lines as `WholeAnswer.headers`; the response leaves out its own headers of the same names."""


class UpstreamRefusal(UpstreamError):
    """Raised when an upstream won't answer this request, which says nothing about the upstream's health."""


class NotServed(LimiterError):
    """Raised before admission for a request that no upstream can be asked."""

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
