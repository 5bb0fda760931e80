"""The models that are known to reason: to produce output that is charged, but not shown to callers."""

from __future__ import annotations

from limiter_node.upstream.gateway.cost.account import Account
from limiter_node.upstream.gateway.cost.whole_answer import WholeReader

_MAX_MODELS = 1_024
"""The most models to remember, because their names come from callers."""


class ReasoningModels:
    """Remember the models, by service and name there, whose usage has reported reasoning tokens."""

    def __init__(self) -> None:
        self._models: set[tuple[str, str]] = set()

    def note(self, service: str, model: str, reader: Account | WholeReader) -> None:
        """Remember that a model reasons, if the answer that `reader` has read reported reasoning."""
        if reader.reported_reasoning and (service, model) not in self._models:
            if len(self._models) >= _MAX_MODELS:
                self._models.clear()
            self._models.add((service, model))

    def hides(self, service: str, model: str, account: Account) -> bool:
        """Return whether the stream of `account` may have cost more than it shows, after noting its reasoning."""
        self.note(service, model, account)
        return (service, model) in self._models

    def has(self, service: str, model: str) -> bool:
        """Whether the model is known to reason."""
        return (service, model) in self._models
