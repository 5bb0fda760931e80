"""The list of all services' models, under the names that callers use, remembered for a while."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import orjson

from limiter_node.upstream.errors import UpstreamError
from limiter_node.upstream.gateway.sending.service_sender import ServiceSender
from limiter_node.upstream.gateway.service import Service, Services
from limiter_node.upstream.gateway.service_errors.error_response import response_error
from limiter_node.upstream.gateway.wire.exchange import Broken

_REMEMBERED_S = 10.0
"""Seconds to remember a list, because asking for it costs callers nothing."""
_FAILURE_REMEMBERED_S = 1.0
"""Seconds to remember a failure, so that callers who waited don't ask again one after the other."""
_LISTING_S = 5.0
"""Seconds that a service may take for its list, less than for an answer."""
_MAX_LISTING_BYTES = 4 * 1024 * 1024


class ModelList:
    """List the models of `services`, asked by `sender`. `clock` is in seconds, monotonic."""

    def __init__(self, services: Services, sender: ServiceSender, user_agent: str, clock: Callable[[], float]) -> None:
        self._services, self._sender, self._user_agent, self._clock = services, sender, user_agent, clock
        self._names: tuple[str, ...] | UpstreamError = ()
        self._until_s = float("-inf")
        self._asking = asyncio.Lock()

    async def names(self) -> tuple[str, ...]:
        """Return the models' names, as callers use them. Raises `UpstreamError` if no service answers."""
        async with self._asking:
            if self._clock() >= self._until_s:
                self._names = await self._all_listed()
                is_failure = isinstance(self._names, UpstreamError)
                self._until_s = self._clock() + (_FAILURE_REMEMBERED_S if is_failure else _REMEMBERED_S)
            if isinstance(self._names, UpstreamError):
                raise self._names
            return self._names

    async def _all_listed(self) -> tuple[str, ...] | UpstreamError:
        """Return the names of all services' models, or the error if no service answers."""
        names: dict[str, None] = {}
        failure: UpstreamError | None = None
        for service in self._services.all:
            listed: list[str] = []
            try:
                listed = await self._listed(service)
            except UpstreamError as error:
                failure = error
            for name in service.offered(listed):
                # A service before this one may serve the model.
                if (found := self._services.find(name)) is not None and found.service is service:
                    names[name] = None
        return tuple(names) if names or failure is None else failure

    async def _listed(self, service: Service) -> list[str]:
        if service.forwards_key:
            return []  # it lists its models only to callers with their own keys
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
                listing = orjson.loads(await exchange.read(_MAX_LISTING_BYTES))
            return [str(model["id"]) for model in listing["data"]]
        except UpstreamError:
            raise
        except (Broken, TimeoutError, orjson.JSONDecodeError, LookupError, TypeError):
            raise UpstreamError(f"{address.described} could not list its models") from None
        finally:
            exchange.close()
