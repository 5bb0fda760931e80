"""The gateway: an upstream that asks services over HTTP; `sending` sends, `answers` reads what comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib.metadata import version
from time import monotonic

import orjson

from limiter_node.telemetry import Telemetry
from limiter_node.upstream.base import (
    AnswerStream,
    Draft,
    Prepared,
    UpstreamError,
    UpstreamRefusal,
    WholeAnswer,
)
from limiter_node.upstream.gateway.answers import (
    BROKEN,
    MAX_BODY_BYTES,
    PassingStream,
    read_body,
    refused,
    whole_answer,
)
from limiter_node.upstream.gateway.drafting import DraftedAsk, ServiceDrafter
from limiter_node.upstream.gateway.outgoing import (
    PATHS,
    Ask,
    OutgoingBody,
    Question,
    outgoing_headers,
)
from limiter_node.upstream.gateway.sending import Patience, Sender
from limiter_node.upstream.gateway.service import Service

_MODELS_S = 10.0
"""How long a list of models is remembered: asking for it costs callers nothing."""
_NO_MODELS_S = 1.0
"""How long it is remembered that there is none: those who waited for it needn't ask again, one after the other."""


class Gateway:
    """Asks `services`. `clock` is for the ejection of failing addresses, in seconds, monotonic."""

    stops_at_once = True

    def __init__(
        self,
        services: Sequence[Service],
        telemetry: Telemetry,
        patience: Patience = Patience(),  # noqa: B008 - a NamedTuple of numbers
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.drafter = ServiceDrafter(services)
        self._services = self.drafter.services
        self._sender = Sender(services, telemetry, patience, clock)
        self._clock = clock
        self._user_agent = f"llm-rate-limiter/{version('llm-rate-limiter')}"
        self._models: tuple[str, ...] | UpstreamError = ()
        self._models_until_s = float("-inf")
        self._asking_models = asyncio.Lock()

    def prepared(self, draft: Draft) -> Prepared:
        """A request of which `drafter` made a draft."""
        drafted: DraftedAsk = draft.content
        question, added, cap_field = drafted
        return _PreparedAsk(self._ask, question, OutgoingBody(draft.body, added, cap_field))

    async def _ask(self, ask: Ask, prepared: OutgoingBody) -> WholeAnswer | AnswerStream:
        """The service's answer, as it is."""
        found = self._services.find(ask.request.model)
        assert found is not None, "found when it was prepared"
        service = found.service
        path, headers = PATHS[ask.request.kind], outgoing_headers(ask, service, self._user_agent)
        body = prepared.with_cap(ask.cap_per_choice)
        del prepared
        response, target = await self._sender.send(service, "POST", path, body, headers)
        del body  # what streams through has no use for it
        ended = self._sender.ended(service, target)
        try:
            if response.status != 200:
                raise await refused(response, service)
            is_stream = response.headers.get("Content-Type", "").lower().startswith("text/event-stream")
            if is_stream and ask.request.stream:
                return PassingStream(response, ask, service, f"upstream {service.name}: {target.name}", ended)
            if is_stream:
                raise UpstreamError("answered with a stream that nobody asked for")
            answer = await whole_answer(response, ask, service)
        except UpstreamRefusal as error:
            ended("rate_limited" if error.status == 429 else "refused", "")
            response.close()
            raise
        except UpstreamError as error:
            raise self._sender.failure(service, target, "failed", str(error), response, error) from None
        except TimeoutError:
            raise self._sender.failure(service, target, "timeout", "fell silent in its answer", response) from None
        except BROKEN as error:
            what = f"broke off its answer ({type(error).__name__})"
            raise self._sender.failure(service, target, "broken", what, response) from None
        except BaseException:
            ended("gone", "")
            response.close()
            raise
        ended("ok", "")
        return answer

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
        response, target = await self._sender.send(service, "GET", "models", None, headers)
        try:
            if response.status != 200:
                raise await refused(response, service)
            said = orjson.loads(await read_body(response, MAX_BODY_BYTES))
            return [str(model["id"]) for model in said["data"]]
        except UpstreamError:
            raise
        except (*BROKEN, TimeoutError, orjson.JSONDecodeError, LookupError, TypeError):
            raise UpstreamError(f"upstream {service.name}: {target.name} could not list its models") from None
        finally:
            response.close()


class _PreparedAsk:
    """A question and a body, until they are asked. `ask` is the gateway's."""

    __slots__ = ("_ask", "_body", "_question")

    def __init__(
        self,
        ask: Callable[[Ask, OutgoingBody], Awaitable[WholeAnswer | AnswerStream]],
        question: Question,
        body: OutgoingBody,
    ) -> None:
        self._ask, self._question = ask, question
        self._body: OutgoingBody | None = body

    async def ask(
        self, reserved_tokens: int, request_id: str, headers: Mapping[str, str]
    ) -> WholeAnswer | AnswerStream:
        """Ask, and hold the body no longer than that needs it."""
        body, self._body = self._body, None
        assert body is not None, "asked twice"
        asking = self._ask(Ask(self._question, reserved_tokens, request_id, headers), body)
        del body
        return await asking
