"""The figures of hand-made records, and their table."""

from __future__ import annotations

import re
from typing import Any

import pytest
from bench_fakes import Ledger, run_info

from bench_client.load.declared_limits import DeclaredTree, KeyPath
from bench_client.records.record import Record
from bench_client.results.summary import Summary, summarize
from bench_client.results.tables import summary_text, table


def summary_of(records: list[Record], **changes: Any) -> Summary:
    return summarize(records, run_info(**changes))


@pytest.fixture
def mixed(ledger: Ledger) -> list[Record]:
    ledger.admit(0, took_ms=10)
    ledger.admit(100, took_ms=20, node="n2")
    ledger.reject(200, 0)
    ledger.reject(300, 1, requested=30)
    ledger.reject(400, 2, requested=40)
    ledger.reject(500, 2, requested=4000, never_fits=True)
    ledger.reject(600, 0, exceeded=None)
    ledger.reject(650, 0, exceeded="tokens")
    ledger.lose(700, error=None, status=503)
    ledger.lose(800)
    ledger.lose(900, error="connect", sent_us=None)
    ledger.admit(1000, degraded="local")
    return ledger.records


def test_counts_by_status_reason_and_error(mixed: list[Record]) -> None:
    total = summary_of(mixed).as_dict()["total"]
    assert isinstance(total, dict)
    del total["latency_ms"]
    assert total == {
        "requests": 12,
        "admitted": 3,
        "rejected": {"requests": 1, "input_tokens": 1, "output_tokens": 1, "tokens": 1, "never_fits": 1, "other": 1},
        "rejected_total": 6,
        "other_statuses": {"503": 1},
        "upstream_failures": {},
        "errors": {"connect": 1, "timeout": 1},
        "errors_total": 2,
        "degraded": 1,
    }


def test_failures_of_the_upstream_are_not_rejections(ledger: Ledger) -> None:
    ledger.reject(0, 0)
    ledger.fail_limited(10)
    ledger.fail_limited(20, never_fits=True)
    ledger.fail(30, upstream_status=500)
    ledger.fail(40)
    ledger.lose(50, error=None, status=502)
    total = summary_of(ledger.records).total
    figures = total.as_dict()
    assert figures["rejected"] == {"requests": 1}
    assert figures["rejected_total"] == 1
    assert figures["other_statuses"] == {"429": 2, "502": 3}
    assert figures["upstream_failures"] == {"429": 2, "502": 2}
    rows = re.findall(r"(?m)^  (\S+(?: upstream)?) +(\d+)", summary_text(summary_of(ledger.records)))
    shown = dict(rows)
    assert (shown["429"], shown["429 upstream"], shown["502"], shown["502 upstream"]) == ("1", "2", "1", "2")


def test_each_node_has_its_own_figures(mixed: list[Record]) -> None:
    summary = summary_of(mixed)
    assert list(summary.nodes) == ["n1", "n2", "(no node)"]
    assert [figures.requests for figures in summary.nodes.values()] == [8, 1, 3]
    assert sum(figures.requests for figures in summary.nodes.values()) == summary.total.requests
    assert summary.sent == 11


def test_latency_counts_from_the_due_time_and_lateness_apart(ledger: Ledger) -> None:
    for at_ms in range(1000):
        record = ledger.admit(at_ms, took_ms=1)
        ledger.records[-1] = record._replace(due_us=record.due_us - (50_000 if at_ms >= 980 else 0))
    summary = summary_of(ledger.records)
    latency = summary.as_dict()["total"]["latency_ms"]  # type: ignore[index]
    assert latency["p50"] == pytest.approx(1, rel=0.01)
    assert latency["p90"] == pytest.approx(1, rel=0.01)
    assert latency["p99"] == pytest.approx(51, rel=0.01)
    assert latency["max"] == pytest.approx(51, rel=0.01)
    lateness = summary.as_dict()["send_lateness_ms"]
    assert lateness["p99"] == pytest.approx(50, rel=0.01)  # type: ignore[index]
    assert "send lateness p99 50.0" in summary_text(summary)


def test_the_warm_up_is_left_out_of_the_figures(ledger: Ledger) -> None:
    """Ten requests in a second of warm-up, then ten in two seconds, of which the last is answered too late."""
    for request in range(20):
        at_ms = request * 100 if request < 10 else 1000 + (request - 10) * 200
        ledger.admit(at_ms, took_ms=900 if request < 10 or request == 19 else 5, node="cold" if request < 10 else "n1")
    summary = summary_of(ledger.records, planned=20, planned_s=3.0, sending_s=3.0, warmup=10, warmup_s=1.0)
    assert (summary.planned, summary.total.requests, summary.sent, summary.warmup) == (10, 10, 10, 10)
    assert (summary.target_qps, summary.achieved_qps, summary.sending_s) == (5.0, 4.5, 2.0)
    assert list(summary.nodes) == ["n1"]
    assert summary.total.latency_us.get_value_at_percentile(80) == pytest.approx(5000, rel=0.01)
    assert "over 2.0 s after a warm-up of 10 requests" in summary_text(summary)


def test_a_run_interrupted_in_its_warm_up_has_no_figures(ledger: Ledger) -> None:
    ledger.admit(0)
    changes = {"planned": 20, "planned_s": 3.0, "sending_s": 0.5, "warmup": 10, "warmup_s": 1.0, "interrupted": True}
    summary = summary_of(ledger.records, **changes)
    assert (summary.total.requests, summary.achieved_qps, summary.sending_s) == (0, 0.0, 0.0)
    assert "(interrupted)" in summary_text(summary)


def test_achieved_is_what_came_while_load_was_offered(ledger: Ledger) -> None:
    for at_ms in range(0, 2000, 10):
        ledger.admit(at_ms, took_ms=5 if at_ms < 1000 else 5000)
    summary = summary_of(ledger.records, planned=200, planned_s=2.0, sending_s=2.0)
    assert (summary.target_qps, summary.achieved_qps) == (100.0, 50.0)


def test_the_table_shows_what_happened_and_leaves_out_what_did_not(mixed: list[Record], ledger: Ledger) -> None:
    text = summary_text(summary_of(mixed))
    for row in ("200", "429", "  never fits", "  timeout", "503", "degraded decisions", "p99.9 ms", "n2"):
        assert any(line.strip().startswith(row.strip()) or row in line for line in text.splitlines()), row
    plain = summary_text(summary_of(mixed[:1]))
    assert "503" not in plain
    assert "never fits" not in plain
    assert "(interrupted)" in summary_text(summary_of(mixed, interrupted=True))


@pytest.fixture
def in_groups(ledger: Ledger) -> tuple[list[Record], dict[str, Any]]:
    """Two accounts, a key of none, two models: which request is whose, and the run that it belongs to."""
    whose = {"aa": "acme", "bb": "globex", "cc": "acme", "dd": ""}
    for index, key in enumerate(["aa", "aa", "bb", "cc", "dd", "aa", "ee"]):
        ledger.admit(index) if index % 2 == 0 else ledger.reject(index, 0, exceeded="tokens")
        model = "o3" if index == 1 else "gpt-4o"
        ledger.records[-1] = ledger.records[-1]._replace(key=key, model=model)
    ledger.lose(7)
    ledger.records[-1] = ledger.records[-1]._replace(key="bb", model="o3")
    changes = {
        "keys": [(key, key) for key in whose],
        "tree": DeclaredTree(keys={key: KeyPath(name, "", "path", ()) for key, name in whose.items() if name}),
        "settings": {"models": {"gpt-4o": 3, "o3": 1}},
    }
    return ledger.records, changes


def test_accounts_and_models_have_their_own_counts(in_groups: tuple[list[Record], dict[str, Any]]) -> None:
    records, changes = in_groups
    summary = summary_of(records, **changes)
    told: dict[str, Any] = summary.as_dict()
    assert {name: counts["requests"] for name, counts in told["accounts"].items()} == {
        "acme": 4,
        "globex": 2,
        "(no account)": 1,  # the last key is none of the run's
    }
    assert {name: counts["requests"] for name, counts in told["models"].items()} == {"gpt-4o": 6, "o3": 2}
    acme, o3 = told["accounts"]["acme"], told["models"]["o3"]
    assert (acme["admitted"], acme["rejected"], acme["errors_total"]) == (1, {"tokens": 3}, 0)
    assert (o3["admitted"], o3["rejected"], o3["errors"]) == (0, {"tokens": 1}, {"timeout": 1})
    assert "latency_ms" not in o3
    lines = summary_text(summary).splitlines()
    assert [line.split() for line in lines if line.split()[:1] in (["globex"], ["o3"])] == [
        ["globex", "2", "1", "0", "1"],
        ["o3", "2", "0", "1", "1"],
    ]
    assert ["account", "requests", "200", "429", "other"] in [line.split() for line in lines]


def test_one_account_and_one_model_are_not_counted_apart(in_groups: tuple[list[Record], dict[str, Any]]) -> None:
    records, changes = in_groups
    summary = summary_of(records, **{**changes, "keys": [("aa", "a"), ("cc", "c")], "settings": {"models": {"m": 1}}})
    assert (summary.accounts, summary.models) == ({}, {})
    assert "account" not in summary_text(summary)
    assert summary_of(records, settings={}).models == {}  # of an earlier version


def test_the_table_lists_the_accounts_with_the_most_requests(ledger: Ledger) -> None:
    names = [f"{number:012x}" for number in range(12)]
    for name in [*names, names[7]]:
        ledger.admit(0)
        ledger.records[-1] = ledger.records[-1]._replace(key=name)
    tree = DeclaredTree(keys={name: KeyPath(f"account-{name}", "", "path", ()) for name in names})
    text = summary_text(summary_of(ledger.records, keys=[(name, name) for name in names], tree=tree))
    shown = [line.split()[0] for line in text.splitlines() if "account-" in line]
    assert shown == [f"account-{names[number]}" for number in (7, 0, 1, 2, 3, 4, 5, 6, 8, 9)]
    assert "  2 more accounts: see summary.json" in text


def test_nothing_at_all_makes_a_table_too() -> None:
    assert "p99 -" in summary_text(summary_of([], sending_s=0.0, planned_s=0.0, planned=0))


def test_tables_are_aligned() -> None:
    assert table([["a", "1"], ["long", "1000"]]) == "  a        1\n  long  1000"
