"""The services behind the gateway: addresses, key, and the models that go there, with their names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from yarl import URL

from limiter_node.model_patterns import matches, starred

CAP_FIELDS = ("max_tokens", "max_completion_tokens")
"""The names of a chat's cap; a service may know only one of them."""

UNNAMED = "upstream"
"""The name in metrics of a service that was given by its URL alone."""

_NEWER_CAP_HOSTS = (".openai.com", ".openai.azure.com", ".services.ai.azure.com")
_MAX_CACHED_MODELS = 1_024
"""A bound, because model names come from callers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """Describe one OpenAI-compatible service, reached at one or more addresses that answer alike."""

    name: str
    """The service's name in logs and metrics."""
    urls: tuple[URL, ...]
    """Base URLs: the part before ``/chat/completions``."""
    models: tuple[str, ...] = ("*",)
    """Patterns: ``*`` stands for any characters. Of several services the first that matches a model serves it."""
    rename: tuple[tuple[str, str], ...] = ()
    """Pattern of a caller's model → the service's name; its ``*`` stands for the pattern's match."""
    key: str = field(default="", repr=False)
    """The bearer token to send; empty for none."""
    forwards_key: bool = False
    """Whether the caller's own key is sent instead."""
    enforces_cap: bool = True
    """Whether requests without a cap are sent with the cap that was reserved for them."""
    cap_field: str = CAP_FIELDS[0]
    """The name of a chat's cap that we add."""
    asks_usage: bool = True
    """Whether streams are asked for their usage."""
    extra_fields: frozenset[str] = frozenset()
    """Unknown fields that requests may have; they count for nothing."""

    def renamed(self, model: str) -> str:
        """Return the service's own name for `model`."""
        for pattern, name in self.rename:
            if matches(pattern, model):
                return name.replace("*", starred(pattern, model), 1) if "*" in pattern else name
        return model

    def serves(self, model: str) -> bool:
        """Whether the service serves `model`: one of its patterns matches."""
        return any(matches(pattern, model) for pattern in self.models)

    def offered(self, listed: Sequence[str]) -> list[str]:
        """Return the callers' names of the models that the service lists as `listed`."""
        plain = [model for model in self.models if "*" not in model]
        names = [name for name, _ in self.rename if "*" not in name and self.serves(name)]
        for model in listed:
            names += [
                pattern.replace("*", starred(name, model), 1)
                for pattern, name in self.rename
                if "*" in pattern and "*" in name and matches(name, model)
            ]
            names.append(model)
        # A name that leads to another model is offered where it leads to one that is listed, or that nobody lists.
        return [*plain, *(name for name in names if self.serves(name))]


class ModelRoute(NamedTuple):
    """Hold the route of a model's requests."""

    service: Service
    model: str
    """The service's name for the model."""


class Services:
    """Find the service of a model; of several, the first."""

    def __init__(self, services: Sequence[Service]) -> None:
        self.all = tuple(services)
        self.find = lru_cache(_MAX_CACHED_MODELS)(self._find)
        """Return the route of a caller's model, None if no service has it. Results are cached."""

    def _find(self, model: str) -> ModelRoute | None:
        for service in self.all:
            if service.serves(model):
                return ModelRoute(service, service.renamed(model))
        return None


def cap_field_of(urls: Sequence[URL]) -> str:
    """Return the name of a chat's cap at the services at `urls`, as far as that is known.

    OpenAI's newer models refuse ``max_tokens``; all others accept it, and some know no other.
    """
    newer = all(f".{url.host}".endswith(_NEWER_CAP_HOSTS) for url in urls)
    return CAP_FIELDS[1] if newer else CAP_FIELDS[0]
