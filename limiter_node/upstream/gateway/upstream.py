"""The gateway: an upstream that asks services over HTTP; `sending` sends, `answering` reads the responses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from time import monotonic

from limiter_node.held import HeldBytes, Hold
from limiter_node.telemetry import Telemetry
from limiter_node.upstream.answers import AnswerStream, WholeAnswer
from limiter_node.upstream.errors import UpstreamError, UpstreamRefusal
from limiter_node.upstream.gateway.answering import to_answer
from limiter_node.upstream.gateway.asking.admitted_request import PATHS, AdmittedRequest, RequestOutline
from limiter_node.upstream.gateway.asking.drafting import DraftedRequest, ServiceDrafter
from limiter_node.upstream.gateway.asking.outgoing_body import OutgoingBody
from limiter_node.upstream.gateway.asking.outgoing_headers import outgoing_headers
from limiter_node.upstream.gateway.model_list import ModelList
from limiter_node.upstream.gateway.reasoning_models import ReasoningModels
from limiter_node.upstream.gateway.sending.service_sender import ServiceSender
from limiter_node.upstream.gateway.sending.timeouts import UpstreamTimeouts
from limiter_node.upstream.gateway.service import Service
from limiter_node.upstream.gateway.service_errors.error_response import response_error
from limiter_node.upstream.gateway.wire.exchange import Broken
from limiter_node.upstream.interface import Draft, Prepared

_HELD_BYTES = 268_435_456


class Gateway:
    """Answer requests by asking `services` over HTTP.

    `clock`: for the ejection of failing addresses, in seconds, monotonic. `held`: counts the bytes that are kept of
    passing answers to know their cost.
    """

    stops_at_once = True

    def __init__(
        self,
        services: Sequence[Service],
        telemetry: Telemetry,
        timeouts: UpstreamTimeouts = UpstreamTimeouts(),  # noqa: B008 - a NamedTuple of numbers
        clock: Callable[[], float] = monotonic,
        held: HeldBytes | None = None,
    ) -> None:
        self._held = HeldBytes(_HELD_BYTES) if held is None else held
        self.drafter = ServiceDrafter(services)
        self._services = self.drafter.services
        self._sender = ServiceSender(services, telemetry, timeouts, clock)
        self._user_agent = f"llm-rate-limiter/{version('llm-rate-limiter')}"
        self._model_list = ModelList(self._services, self._sender, self._user_agent, clock)
        self._reasoning = ReasoningModels()

    def prepared(self, draft: Draft) -> Prepared:
        """Return the request of `draft`, ready to be sent."""
        drafted: DraftedRequest = draft.content
        outline, added, cap_field = drafted
        return _PreparedRequest(self, outline, OutgoingBody(draft.body, added, cap_field))

    async def ask(
        self, admitted: AdmittedRequest, outgoing: OutgoingBody, on_sent: Callable[[], None]
    ) -> WholeAnswer | AnswerStream:
        """Return the service's answer. `on_sent` is called when the service may begin to work on it."""
        found = self._services.find(admitted.request.model)
        assert found is not None, "found when it was prepared"
        service, model = found
        path, headers = PATHS[admitted.request.kind], outgoing_headers(admitted, service, self._user_agent)
        body = outgoing.with_cap(admitted.cap_per_choice)
        del outgoing
        exchange, address = await self._sender.send(service, "POST", path, body, headers, on_sent)
        del body  # a passing answer doesn't need it
        note_outcome = self._sender.outcome_recorder(service, address)
        try:
            if exchange.status != 200:
                raise await response_error(exchange, service)
            reasoning = self._reasoning
            note, hides = partial(reasoning.note, service.name, model), partial(reasoning.hides, service.name, model)
            answer = await to_answer(
                exchange, admitted, service, address.described, note_outcome, Hold(self._held), hides, note
            )
        except UpstreamRefusal as error:
            note_outcome("rate_limited" if error.status == 429 else "refused", "")
            exchange.close()
            raise
        except UpstreamError as error:
            exchange.close()
            if note_outcome.has_ended:
                raise
            raise self._sender.failure(service, address, "failed", str(error), error) from None
        except TimeoutError:
            exchange.close()
            raise self._sender.failure(service, address, "timeout", "fell silent in its answer") from None
        except Broken as error:
            exchange.close()
            raise self._sender.failure(service, address, "broken", f"broke off its answer: {error}") from None
        except BaseException:
            note_outcome("gone", "")
            exchange.close()
            raise
        if isinstance(answer, WholeAnswer):
            note_outcome("ok", "")
        return answer

    def hides_output(self, model: str) -> bool:
        """Whether the callers' model `model` is known to produce output that they don't see."""
        found = self._services.find(model)
        return found is not None and self._reasoning.has(found.service.name, found.model)

    async def models(self) -> tuple[str, ...]:
        """Return the services' models, under the names that callers use. Raises `UpstreamError` if none answers."""
        return await self._model_list.names()

    async def close(self) -> None:
        """Close all connections."""
        await self._sender.close()


class _PreparedRequest:
    """Hold a request and its body until it is sent."""

    __slots__ = ("_body", "_gateway", "_outline", "is_sent")

    def __init__(self, gateway: Gateway, outline: RequestOutline, body: OutgoingBody) -> None:
        self._gateway, self._outline = gateway, outline
        self._body: OutgoingBody | None = body
        self.is_sent = False

    @property
    def is_uncertain(self) -> bool:
        """Whether output may have been produced unseen: a whole answer, or a stream whose model reasons."""
        return not self._outline.stream or self._gateway.hides_output(self._outline.model)

    def _on_sent(self) -> None:
        self.is_sent = True

    async def ask(
        self, reserved_tokens: int, request_id: str, headers: Mapping[str, str]
    ) -> WholeAnswer | AnswerStream:
        """Send the request; hold its body no longer than that needs it."""
        body, self._body = self._body, None
        assert body is not None, "asked twice"
        admitted = AdmittedRequest(self._outline, reserved_tokens, request_id, headers)
        asking = self._gateway.ask(admitted, body, self._on_sent)
        del body
        return await asking
