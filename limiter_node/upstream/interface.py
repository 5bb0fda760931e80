"""The interface of an upstream: it drafts a request, prepares it, and answers it once it is admitted.

There are two upstreams: `rendered`, which renders the answers of a model in this process (the mock), and `gateway`,
which passes on the answers of services over HTTP. The HTTP layer calls them; `requests` and `answers` hold what goes in
and comes out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from limiter_node.upstream.answers import AnswerStream, WholeAnswer
from limiter_node.upstream.requests import LimitedRequest


class Draft(NamedTuple):
    """Hold all that an upstream needs of a request, so that its source needn't be kept while it waits."""

    content: Any
    """The upstream's own data; small, and can be pickled."""
    body: bytes | bytearray = b""
    """The bytes to send, if they are many; the received object itself if it is sent unchanged."""
    models: tuple[str, ...] = ()
    """All names of the request's model, if the upstream calls it otherwise than the caller; else empty."""


class Drafter(Protocol):
    """Make drafts of requests before they are admitted. Pure, and can be pickled: another process may do it."""

    def extra_fields(self, model: str) -> frozenset[str]:
        """Return the unknown fields that requests for `model` may have; they count for nothing."""
        ...

    def model_names(self, model: str) -> tuple[str, ...]:
        """Return the caller's name of a model, and the upstream's if it differs: limits may be for either."""
        ...

    def draft(self, request: LimitedRequest, body: bytes) -> Draft:
        """Return all that is needed to send `request`, which was read from `body`. O(length).

        Raises `NotServed` for a request that can't be sent, so that it counts for nothing.
        """
        ...


class Prepared(Protocol):
    """Send a request once it is admitted."""

    @property
    def is_sent(self) -> bool:
        """Whether the upstream may be at work on the request."""
        ...

    @property
    def is_uncertain(self) -> bool:
        """Whether a request whose answer never began may have cost more than its input: the reservation then stands."""
        ...

    async def ask(
        self, reserved_tokens: int, request_id: str, headers: Mapping[str, str]
    ) -> WholeAnswer | AnswerStream:
        """Return the answer; to be called once. A request for a stream may get a whole answer. Raises `UpstreamError`.

        Args:
            reserved_tokens: output tokens that are reserved in all: more may not be produced.
            request_id: the `x-request-id`, for the upstream's own records.
            headers: the caller's, checked only as HTTP.
        """
        ...


class Upstream(Protocol):
    """Answer the requests of OpenAI's routes."""

    stops_at_once: bool
    """Whether a request that nobody waits for can be stopped before it is answered, so that it costs nothing."""

    @property
    def drafter(self) -> Drafter:
        """The maker of the drafts for `prepared`."""
        ...

    def prepared(self, draft: Draft) -> Prepared:
        """Return the request of `draft`, ready to be sent."""
        ...

    async def models(self) -> tuple[str, ...]:
        """Return the names of the models served. Raises `UpstreamError`."""
        ...

    async def close(self) -> None:
        """Let go of connections. Idempotent."""
        ...
