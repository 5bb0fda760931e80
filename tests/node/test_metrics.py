"""What a node tells Prometheus: each thing that happens is counted once, under the name that dashboards know."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import pytest
from in_process import Node, serving
from prometheus_client.parser import text_string_to_metric_families
from store_tools import declare, new_api_key

from limiter_node.credentials import key_id
from limiter_node.decisions import Outcome
from limiter_node.keysfile.reading import read_keys_text
from limiter_node.policy import UNITS
from limiter_node.store.admin.store_admin import administering
from limiter_node.store.url import parse_store_url
from limiter_node.telemetry import LATENCY_BOUNDS_S, SIZE_BOUNDS, BatchSizes, DecisionCounts, Latencies
from limiter_node.upstream.errors import UpstreamError
from limiter_node.upstream.requests import ChatRequest
from limiter_node.upstream.source import Completion

Samples = dict[tuple[str, tuple[str, ...]], float]


async def metrics(node: Node) -> Samples:
    """``(name, label values)`` → value; the shard's address left out, as it differs each time."""
    async with node.session.get(f"{node.url}/metrics") as response:
        assert response.status == 200
        text = await response.text()
    samples: Samples = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation, family.name
        for sample in family.samples:
            labels = tuple(value for name, value in sorted(sample.labels.items()) if name != "shard")
            assert (sample.name, labels) not in samples
            samples[sample.name, labels] = sample.value
    return samples


def counted(samples: Samples, name: str) -> dict[Any, float]:
    """The values of a counter by its labels, without those that are 0."""
    return {
        labels[0] if len(labels) == 1 else labels: value
        for (n, labels), value in samples.items()
        if n == name and value
    }


async def test_what_happens_is_counted_once(embedded_single: str) -> None:
    api_key, wide_key = new_api_key(), new_api_key()
    declare(embedded_single, api_key, rpm=3, output_tpm=1_000, name="somebody")
    declare(embedded_single, wide_key, rpm=100, input_tpm=20)
    async with serving(embedded_single) as node:
        before = await metrics(node)
        assert not counted(before, "limiter_decisions_total")
        assert {labels for name, labels in before if name == "limiter_decisions_total"} == {
            ("admitted", "none"),
            *((f"{what}_key", "none") for what in ("unknown", "revoked", "expired", "disabled")),
            *(
                (outcome, reason)
                for outcome in ("rejected", "never_fits")
                for reason in ("requests", "input_tokens", "output_tokens", "tokens")
            ),
        }
        assert (await node.chat(api_key, max_tokens=50))[0] == 200

        async def fails(request: ChatRequest, cap: int) -> Completion:
            raise UpstreamError("no", status=502)

        node.upstream.answer, whole = fails, node.upstream.answer
        assert (await node.chat(api_key, max_tokens=60))[0] == 502
        node.upstream.answer = whole
        assert (await node.chat(api_key, max_tokens=70, n=2))[0] == 200
        assert (await node.chat(api_key, max_tokens=1))[0] == 429
        assert (await node.chat(api_key, max_tokens=1_001))[0] == 429
        assert (await node.chat(wide_key))[0] == 200
        assert (await node.chat(wide_key, messages=[{"role": "user", "content": "Hi there " * 4}]))[0] == 429
        assert (await node.chat("sk-nobody"))[0] == 401
        assert (await node.chat(api_key, messages=1))[0] == 400
        assert await node.dispatcher.drain(20)
        after = await metrics(node)

    assert counted(after, "limiter_decisions_total") == {
        ("admitted", "none"): 4,
        ("rejected", "requests"): 1,
        ("never_fits", "output_tokens"): 1,
        ("rejected", "input_tokens"): 1,
        ("unknown_key", "none"): 1,
    }
    assert counted(after, "limiter_rejections_total") == {
        ("key", "requests", "1m"): 1,
        ("key", "output_tokens", "1m"): 1,
        ("key", "input_tokens", "1m"): 1,
    }
    assert (after["limiter_known_keys", ()], after["limiter_known_accounts", ()]) == (2, 0)
    assert after["limiter_unsent_charges", ()] == 0
    # Of the answers only: the page itself is one, and so was the one before.
    assert counted(after, "limiter_responses_total") == {"200": 4, "400": 1, "401": 1, "429": 3, "502": 1}
    assert after["limiter_decision_seconds_count", ()] == 7, "those of known keys"
    assert after["limiter_decision_seconds_bucket", ("+Inf",)] == 7
    assert counted(after, "limiter_settles_total") == {"settled": 3, "refunded": 1}
    input_tokens = 8 * 4
    assert after["limiter_input_tokens_total", ()] == input_tokens
    assert after["limiter_reserved_output_tokens_total", ()] == 50 + 60 + 140 + 256
    assert after["limiter_output_tokens_total", ()] == 3
    batches = after["limiter_batch_operations_count", ()]
    assert after["limiter_batch_operations_sum", ()] == 7 + 4, "seven decisions, four settles; no unknown key"
    assert 7 <= batches <= 11
    assert after["limiter_shard_call_seconds_count", ()] >= 8, "requests came one by one, so each write was timed"
    assert (
        after["limiter_requests_in_flight", ()],
        after["limiter_waiting_requests", ()],
        after["limiter_batches_in_flight", ()],
    ) == (1, 0, 0)
    assert after["limiter_build_info", ("n", version("llm-rate-limiter"))] == 1
    assert after["process_cpu_seconds_total", ()] > 0
    assert set(before) <= set(after), "what is there once stays"


ORGANISATION = """
[accounts.counted]
rpm = 3
[accounts.counted.teams.small]
limits = [{ requests = 1, per = "1d" }, { tokens = 9, per = "1s", models = ["tiny"] }]
[keys.sk-counted-1]
account = "counted"
[keys.sk-counted-2]
account = "counted"
team = "small"
[keys.sk-counted-3]
account = "counted"
limits = [{ output_tokens = 5, per = "10s" }]
[keys.sk-counted-flat]
limits = [{ requests = 1, per = "1h" }]
[keys.sk-counted-over]
expires = 2001-01-01T00:00:00Z
"""


async def test_rejections_are_told_apart_by_unit_level_and_window(embedded_single: str) -> None:
    async with administering(parse_store_url(embedded_single)) as admin:
        await admin.declare(read_keys_text(ORGANISATION.encode(), "keys.toml"))
    async with serving(embedded_single) as node:
        asked = ["2", "2", "3", "1", "1", "1", "flat", "flat", "over"]
        codes = [(await node.chat(f"sk-counted-{each}", max_tokens=6))[0] for each in asked]
        assert codes == [200, 429, 429, 200, 200, 429, 200, 429, 401]
        after = await metrics(node)
    assert counted(after, "limiter_rejections_total") == {
        ("team", "requests", "longer"): 1,
        ("key", "output_tokens", "shorter"): 1,
        ("account", "requests", "1m"): 1,
        ("key", "requests", "longer"): 1,
    }
    assert counted(after, "limiter_decisions_total")["expired_key", "none"] == 1
    assert len([1 for name, _ in after if name == "limiter_rejections_total"]) == 4 * 3 * 3
    assert after["limiter_known_keys", ()] >= 4
    assert after["limiter_known_accounts", ()] >= 2


async def test_no_key_is_told(embedded_single: str) -> None:
    api_key = new_api_key()
    declare(embedded_single, api_key, name="secret-name")
    async with serving(embedded_single) as node:
        await node.chat(api_key)
        async with node.session.get(f"{node.url}/metrics") as response:
            text = await response.text()
    for part in (api_key, "secret-name", key_id(api_key)[:8]):
        assert part not in text


async def test_a_scraper_gets_the_format_that_it_accepts(embedded_single: str) -> None:
    async with serving(embedded_single) as node:
        for accept, content_type, last in (
            ("*/*", "text/plain", ""),
            ("application/openmetrics-text; version=1.0.0", "application/openmetrics-text", "# EOF"),
        ):
            async with node.session.get(f"{node.url}/metrics", headers={"Accept": accept}) as response:
                assert response.content_type == content_type
                assert response.headers["x-limiter-node"] == "n"
                assert (await response.text()).splitlines()[-1].startswith(last)


@pytest.mark.parametrize("at", range(len(LATENCY_BOUNDS_S)))
def test_a_time_is_counted_at_its_bound(at: int) -> None:
    latencies, bound = Latencies(), LATENCY_BOUNDS_S[at]
    latencies.note(bound * 0.999)
    latencies.note(bound * 1.001)
    expected = [0] * (len(LATENCY_BOUNDS_S) + 1)
    expected[at] += 1
    expected[at + 1] += 1
    assert latencies.counts == expected
    assert latencies.sum_s == pytest.approx(2 * bound)


def test_long_times_are_above_all_bounds_and_sizes_below_theirs() -> None:
    latencies, sizes = Latencies(), BatchSizes(100)
    latencies.note(3_600.0)
    latencies.note(0.0)
    assert (latencies.counts[0], latencies.counts[-1]) == (1, 1)
    for size in (1, 2, 3, 4, 5, 64, 65, 100):
        sizes[size] += 1
    assert dict(zip((*SIZE_BOUNDS, "more"), sizes.by_bound(), strict=True)) == {
        1: 1, 2: 1, 4: 2, 8: 1, 16: 0, 32: 0, 64: 1, "more": 2,
    }  # fmt: skip
    assert (sizes.batches, sizes.operations) == (8, 1 + 2 + 3 + 4 + 5 + 64 + 65 + 100)


def test_decisions_of_each_outcome_and_unit_are_told_apart() -> None:
    decisions = DecisionCounts()
    by_limit = (Outcome.REJECTED, Outcome.NEVER_FITS)
    possible = [(outcome, -1) for outcome in Outcome if outcome not in by_limit]
    possible += [(each, unit) for each in by_limit for unit in range(len(UNITS))]
    for times, (outcome, unit) in enumerate(possible, start=1):
        for _ in range(times):
            decisions.count(outcome, unit)
    assert decisions.by_reason() == {
        (outcome.name.lower(), "none" if unit < 0 else UNITS[unit]): times
        for times, (outcome, unit) in enumerate(possible, start=1)
    }
