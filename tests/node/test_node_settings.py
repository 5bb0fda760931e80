"""Settings: defaults that hold together, and one clear line for what cannot be."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from limiter_node.errors import ConfigError
from limiter_node.settings import NodeSettings

STORE = "redis://127.0.0.1"


def test_the_defaults_are_valid() -> None:
    settings = NodeSettings(store=STORE)
    assert (settings.host, settings.port, settings.decision_timeout_ms) == ("127.0.0.1", 8080, 100)
    assert (settings.max_body_bytes, settings.window_ms, settings.drain_timeout_s) == (20_971_520, 60_000, 10)
    assert settings.node_id.endswith("-8080")


def test_settings_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        NodeSettings(store=STORE).port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    "values",
    [
        {"mock_length": "fixed:10"},
        {"mock_length": "uniform:0:10"},
        {"window_ms": 100},
        {"port": 0},
        {"node_id": "pod-1.a:8080_x"},
        {"models": ("one",)},
        {"drain_timeout_s": 0.5},
    ],
)
def test_what_can_be_is_kept(values: dict[str, Any]) -> None:
    settings = NodeSettings(store=STORE, **values)
    assert {name: getattr(settings, name) for name in values} == values


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"store": ""}, "--store must be a URL"),
        ({"host": ""}, "--host must be"),
        ({"host": "a b"}, "--host must be"),
        ({"port": -1}, "--port must be from 0 to 65535"),
        ({"port": 65536}, "--port must be"),
        ({"node_id": "a b"}, "--node-id must be"),
        ({"node_id": "x" * 65}, "--node-id must be"),
        ({"decision_timeout_ms": 0}, "--decision-timeout-ms must be from 1"),
        ({"on_store_failure": "lax"}, "--on-store-failure must be one of local, closed, open"),
        ({"max_body_bytes": 0}, "--max-body-bytes must be"),
        ({"max_held_bytes": 20_971_520}, "--max-held-bytes must be from 41943040"),
        ({"mock_latency_ms": -1}, "--mock-latency-ms must be"),
        ({"mock_latency_ms": float("nan")}, "--mock-latency-ms must be"),
        ({"mock_ttft_ms": -1}, "--mock-ttft-ms must be from 0"),
        ({"mock_tokens_per_s": -1}, "--mock-tokens-per-s must be from 0"),
        ({"mock_tokens_per_s": float("inf")}, "--mock-tokens-per-s must be from 0"),
        ({"mock_tool_rate": 1.1}, "--mock-tool-rate must be from 0"),
        ({"mock_tool_rate": float("nan")}, "--mock-tool-rate must be from 0"),
        ({"mock_length": "fixed"}, "--mock-length 'fixed' is not a length distribution: "),
        ({"mock_length": "uniform:2:1"}, "--mock-length 'uniform:2:1' is not "),
        ({"models": ()}, "--models must be names"),
        ({"models": ("",)}, "--models must be names"),
        ({"models": ("a", "a")}, "--models names a model twice: name each once"),
        ({"drain_delay_s": -1}, "--drain-delay must be"),
        ({"drain_timeout_s": -1}, "--drain-timeout must be"),
        ({"drain_timeout_s": float("inf")}, "--drain-timeout must be"),
        ({"window_ms": 150}, "--window-ms must be a multiple of 100"),
        ({"window_ms": 60_100}, "--window-ms must be from 100 to 60000"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        NodeSettings(**{"store": STORE} | values)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
