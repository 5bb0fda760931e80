"""The gateway: an upstream that asks services over HTTP; `sending` sends, `answering` reads what comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from time import monotonic

import orjson

from limiter_node.held import HeldBytes, Hold
from limiter_node.telemetry import Telemetry
from limiter_node.upstream.answers import AnswerStream, WholeAnswer
from limiter_node.upstream.errors import UpstreamError, UpstreamRefusal
from limiter_node.upstream.gateway.answering import response_error, to_answer
from limiter_node.upstream.gateway.asking.drafting import DraftedAsk, ServiceDrafter
from limiter_node.upstream.gateway.asking.outgoing import PATHS, Ask, OutgoingBody, Question, outgoing_headers
from limiter_node.upstream.gateway.cost.account import Account
from limiter_node.upstream.gateway.cost.whole_answer import WholeReader
from limiter_node.upstream.gateway.sending.service_sender import ServiceSender
from limiter_node.upstream.gateway.sending.timeouts import UpstreamTimeouts
from limiter_node.upstream.gateway.service import Service
from limiter_node.upstream.gateway.wire.exchange import Broken
from limiter_node.upstream.interface import Draft, Prepared

_MODELS_S = 10.0
"""How long a list of models is remembered: asking for it costs callers nothing."""
_NO_MODELS_S = 1.0
"""How long it is remembered that there is none: those who waited for it needn't ask again, one after the other."""
_LISTING_S = 5.0
"""How long a service may take for its list: a model that thinks is worth waiting for, this isn't."""
_MAX_LISTING_BYTES = 4 * 1024 * 1024
_HELD_BYTES = 268_435_456
_MAX_REASONING = 1_024
"""Models that are remembered to reason: their names come from callers."""


class Gateway:
    """Asks `services`. `clock` is for the ejection of failing addresses, in seconds, monotonic.

    What has to be kept of answers that pass, to know what they cost, counts in `held`.
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
        self._clock = clock
        self._user_agent = f"llm-rate-limiter/{version('llm-rate-limiter')}"
        self._models: tuple[str, ...] | UpstreamError = ()
        self._models_until_s = float("-inf")
        self._asking_models = asyncio.Lock()
        self._reasoning: set[tuple[str, str]] = set()
        """Services and their models whose usages have told reasoning tokens."""

    def prepared(self, draft: Draft) -> Prepared:
        """A request of which `drafter` made a draft."""
        drafted: DraftedAsk = draft.content
        question, added, cap_field = drafted
        return _PreparedAsk(self, question, OutgoingBody(draft.body, added, cap_field))

    async def ask(self, ask: Ask, prepared: OutgoingBody, on_sent: Callable[[], None]) -> WholeAnswer | AnswerStream:
        """The service's answer, as it is. `on_sent` is called when the service may begin to work on it."""
        found = self._services.find(ask.request.model)
        assert found is not None, "found when it was prepared"
        service, model = found
        path, headers = PATHS[ask.request.kind], outgoing_headers(ask, service, self._user_agent)
        body = prepared.with_cap(ask.cap_per_choice)
        del prepared
        exchange, address = await self._sender.send(service, "POST", path, body, headers, on_sent)
        del body  # an answer that passes has no use for it
        ended = self._sender.outcome_recorder(service, address)
        try:
            if exchange.status != 200:
                raise await response_error(exchange, service)
            note, hides = partial(self._note, service.name, model), partial(self._hides, service.name, model)
            who = address.described
            answer = await to_answer(exchange, ask, service, who, ended, Hold(self._held), hides, note)
        except UpstreamRefusal as error:
            ended("rate_limited" if error.status == 429 else "refused", "")
            exchange.close()
            raise
        except UpstreamError as error:
            exchange.close()
            if ended.has_ended:
                raise
            raise self._sender.failure(service, address, "failed", str(error), error) from None
        except TimeoutError:
            exchange.close()
            raise self._sender.failure(service, address, "timeout", "fell silent in its answer") from None
        except Broken as error:
            exchange.close()
            raise self._sender.failure(service, address, "broken", f"broke off its answer: {error}") from None
        except BaseException:
            ended("gone", "")
            exchange.close()
            raise
        if isinstance(answer, WholeAnswer):
            ended("ok", "")
        return answer

    def hides_output(self, model: str) -> bool:
        """Whether callers' model `model` is known to produce output that nobody is shown."""
        found = self._services.find(model)
        return found is not None and (found.service.name, found.model) in self._reasoning

    def _hides(self, service: str, model: str, account: Account) -> bool:
        self._note(service, model, account)
        return (service, model) in self._reasoning

    def _note(self, service: str, model: str, reader: Account | WholeReader) -> None:
        """Remember that a model reasons, as its usages tell."""
        if reader.told_reasoning and (service, model) not in self._reasoning:
            if len(self._reasoning) >= _MAX_REASONING:
                self._reasoning.clear()
            self._reasoning.add((service, model))

    async def models(self) -> tuple[str, ...]:
        """What the services list, under the names that callers use. Raises `UpstreamError` if none of them answers."""
        async with self._asking_models:
            if self._clock() >= self._models_until_s:
                self._models = await self._all_listed()
                is_failure = isinstance(self._models, UpstreamError)
                self._models_until_s = self._clock() + (_NO_MODELS_S if is_failure else _MODELS_S)
            if isinstance(self._models, UpstreamError):
                raise self._models
            return self._models

    async def close(self) -> None:
        """Let go of all connections."""
        await self._sender.close()

    async def _all_listed(self) -> tuple[str, ...] | UpstreamError:
        """The names of all services' models, or why there are none."""
        names: dict[str, None] = {}
        failure: UpstreamError | None = None
        for service in self._services.all:
            listed: list[str] = []
            try:
                listed = await self._listed(service)
            except UpstreamError as error:
                failure = error
            for name in service.offered(listed):
                # Another service before this one may be who serves it.
                if (found := self._services.find(name)) is not None and found.service is service:
                    names[name] = None
        return tuple(names) if names or failure is None else failure

    async def _listed(self, service: Service) -> list[str]:
        if service.forwards_key:
            return []  # it lists them to its own callers only
        headers = {"Accept-Encoding": "identity", "User-Agent": self._user_agent}
        if service.key:
            headers["Authorization"] = f"Bearer {service.key}"
        try:
            async with asyncio.timeout(_LISTING_S):
                exchange, address = await self._sender.send(service, "GET", "models", None, headers)
        except TimeoutError:
            raise UpstreamError(f"upstream {service.name} did not list its models in time", status=504) from None
        try:
            if exchange.status != 200:
                raise await response_error(exchange, service)
            async with asyncio.timeout(_LISTING_S):
                said = orjson.loads(await exchange.read(_MAX_LISTING_BYTES))
            return [str(model["id"]) for model in said["data"]]
        except UpstreamError:
            raise
        except (Broken, TimeoutError, orjson.JSONDecodeError, LookupError, TypeError):
            raise UpstreamError(f"{address.described} could not list its models") from None
        finally:
            exchange.close()


class _PreparedAsk:
    """A question and a body, until they are asked."""

    __slots__ = ("_body", "_gateway", "_question", "is_sent")

    def __init__(self, gateway: Gateway, question: Question, body: OutgoingBody) -> None:
        self._gateway, self._question = gateway, question
        self._body: OutgoingBody | None = body
        self.is_sent = False

    @property
    def is_uncertain(self) -> bool:
        """Whole answers tell nothing until they come; streams would have begun, unless their models reason."""
        return not self._question.stream or self._gateway.hides_output(self._question.model)

    def _on_sent(self) -> None:
        self.is_sent = True

    async def ask(
        self, reserved_tokens: int, request_id: str, headers: Mapping[str, str]
    ) -> WholeAnswer | AnswerStream:
        """Ask, and hold the body no longer than that needs it."""
        body, self._body = self._body, None
        assert body is not None, "asked twice"
        asking = self._gateway.ask(Ask(self._question, reserved_tokens, request_id, headers), body, self._on_sent)
        del body
        return await asking
