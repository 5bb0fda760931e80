"""What the gateway makes of a checked request before it is admitted, in whichever process that is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from limiter_node.upstream.base import Draft, LimitedRequest, UnknownModel
from limiter_node.upstream.gateway.disguise import refuse_disguised
from limiter_node.upstream.gateway.outgoing import OutgoingBody, Question, outgoing_body, question_of
from limiter_node.upstream.gateway.service import Service, Services


class DraftedAsk(NamedTuple):
    """The content of a draft: all but the bytes."""

    question: Question
    added: Mapping[str, Any]
    cap_field: str

    def outgoing(self, data: bytes) -> OutgoingBody:
        """The body of which `data` are the bytes."""
        return OutgoingBody(data, self.added, self.cap_field)


class ServiceDrafter:
    """Drafts for `services`. Pickled, it knows neither their keys nor where they are."""

    def __init__(self, services: Sequence[Service]) -> None:
        self.services = Services(services)

    def __reduce__(self) -> tuple[Any, ...]:
        return ServiceDrafter, ([replace(service, key="", urls=()) for service in self.services.all],)

    def draft(self, request: LimitedRequest, body: bytes) -> Draft:
        """Raise `UnknownModel`, or `NotServed` for a body that a service might read in another way."""
        found = self.services.find(request.model)
        if found is None:
            raise UnknownModel(request.model)
        refuse_disguised(request, body)
        outgoing = outgoing_body(request, body, found.service, found.model)
        question = question_of(request, found.service)
        return Draft(DraftedAsk(question, outgoing.added, outgoing.cap_field), outgoing.data)
