"""Drafts: the parts of a checked request that are kept until it is admitted. The process that read it makes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from limiter_node.upstream.errors import UnknownModel
from limiter_node.upstream.gateway.asking.admitted_request import RequestOutline, outline_of
from limiter_node.upstream.gateway.asking.disguise import refuse_disguised
from limiter_node.upstream.gateway.asking.outgoing_body import outgoing_parts
from limiter_node.upstream.gateway.service import Service, Services
from limiter_node.upstream.interface import Draft
from limiter_node.upstream.requests import LimitedRequest

DraftedRequest = tuple[RequestOutline, Mapping[str, Any], str]
"""The content of a draft: the outline, and the fields of `OutgoingBody` without the bytes."""


class ServiceDrafter:
    """Draft requests for `services`. The pickled form holds neither their keys nor their addresses."""

    def __init__(self, services: Sequence[Service]) -> None:
        self.services = Services(services)

    def __reduce__(self) -> tuple[Any, ...]:
        return ServiceDrafter, ([replace(service, key="", urls=()) for service in self.services.all],)

    def extra_fields(self, model: str) -> frozenset[str]:
        """Return the fields that operators let pass uncounted to the service of `model`; none if no service has it."""
        found = self.services.find(model)
        return frozenset() if found is None else found.service.extra_fields

    def model_names(self, model: str) -> tuple[str, ...]:
        """Return the caller's name of a model, and its service's if that differs."""
        found = self.services.find(model)
        return (model,) if found is None or found.model == model else (model, found.model)

    def draft(self, request: LimitedRequest, body: bytes) -> Draft:
        """Return the draft of `request`.

        Raises `UnknownModel`, and `NotServed` for a body that a service might read in another way.
        """
        found = self.services.find(request.model)
        if found is None:
            raise UnknownModel(request.model)
        refuse_disguised(request, found.service.extra_fields)
        data, added, cap_field = outgoing_parts(request, body, found.service, found.model)
        models = () if found.model == request.model else (request.model, found.model)
        return Draft((outline_of(request, found.service), added, cap_field), data, models)
