"""Which models are known to reason: to produce output that is charged, but that nobody is shown."""

from __future__ import annotations

from limiter_node.upstream.gateway.cost.account import Account
from limiter_node.upstream.gateway.cost.whole_answer import WholeReader

_MAX_MODELS = 1_024
"""Models that are remembered: their names come from callers."""


class ReasoningModels:
    """Remember the models, by service and by their name there, whose usages have told reasoning tokens."""

    def __init__(self) -> None:
        self._models: set[tuple[str, str]] = set()

    def note(self, service: str, model: str, reader: Account | WholeReader) -> None:
        """Remember that a model reasons, if the answer that `reader` has read tells so."""
        if reader.told_reasoning and (service, model) not in self._models:
            if len(self._models) >= _MAX_MODELS:
                self._models.clear()
            self._models.add((service, model))

    def hides(self, service: str, model: str, account: Account) -> bool:
        """Whether the stream of `account` may have cost more than it shows; first notes what it tells."""
        self.note(service, model, account)
        return (service, model) in self._models

    def has(self, service: str, model: str) -> bool:
        """Whether the model is known to reason."""
        return (service, model) in self._models
