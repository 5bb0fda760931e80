"""What a report says of limits that keys share: the windows that the audit found, counted again and shown."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from bench_fakes import T0
from report_fakes import Simulation
from report_tree_fakes import TreeSimulation, found_by_hand

from bench_client.audit.judge import audit_records
from bench_client.load.declared_limits import AUDIT, DeclaredLimit, DeclaredTree, KeyPath
from bench_client.records.record import Record
from bench_client.report import write_report
from bench_client.report.audit_figures import AuditedLimit, audit_of, audited_limit
from bench_client.report.choosing import SHOWN_LIMITS, choose_limits, in_order
from bench_client.report.gather import ReportedRun, gather
from bench_client.report.limit_table import MAX_ROWS, left_out, limit_rows
from bench_client.report.shown_limits import TreeLimit, matches, shared_subjects, tree_limits
from bench_client.report.sources import find_sources
from bench_client.report.verdict import remarks, sentence
from bench_client.report.windows import window_series
from bench_client.report.words import limit_note, limit_title, limits_label


def gathered(directory: Path) -> ReportedRun:
    (source,) = find_sources([directory])
    return gather(source)


@pytest.fixture(scope="module")
def simulation() -> TreeSimulation:
    return TreeSimulation(qps=30, error_share=0.01, warmup_s=3)


@pytest.fixture(scope="module")
def run(simulation: TreeSimulation, tmp_path_factory: pytest.TempPathFactory) -> ReportedRun:
    directory = tmp_path_factory.mktemp("report") / "tree"
    simulation.write(directory)
    return gathered(directory)


def limit(**changes: Any) -> AuditedLimit:
    values: dict[str, Any] = {
        "subject": "acme",
        "unit": "requests",
        "per_ms": 60_000,
        "models": (),
        "name": "",
        "mode": "enforce",
        "limit": 100,
        "used": 50,
        "windows": 9,
        "rejected": 0,
        "would_have_rejected": 0,
        "slid": True,
    }
    return AuditedLimit(**{**values, **changes})


def audited_limits(simulation: TreeSimulation, records: list[Record]) -> list[AuditedLimit]:
    """What the audit finds of the limits."""
    report = audit_records(records, simulation.info(records))
    assert report.proved, report.text()
    return [audited_limit(each.as_dict()) for each in report.limits]


# ---- the second count -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_every_window_is_counted_as_the_audit_must(seed: int, own: bool) -> None:
    """Whatever its length and unit, of account, team and key, for all models and for some."""
    simulation = TreeSimulation(seed=seed, qps=30, own=own)
    records = simulation.records()
    audited = {limit[:4]: limit for limit in audited_limits(simulation, records)}
    limits = tree_limits(simulation.tree, "")
    series = window_series(records, limits, clock_ms=T0, until_s=75)
    assert [each.shown for each in series] == limits
    for place, window in enumerate(series):
        found = found_by_hand(records, simulation.tree, place)
        assert (window.worst_used, window.worst_time_ms) == (found["used"], found["time_ms"])
        assert window.worst_limit == found["limit"]
        assert max(window.highest) == found["used"]
        assert sum(window.rejected) == found["rejected"]
        assert audited[simulation.tree.limits[place][:4]]._asdict().items() <= found.items()
    enforced = [each for each in series if isinstance(each.shown, TreeLimit) and each.shown.limit.mode != AUDIT]
    for window in enforced:
        assert all(
            low <= high <= most for low, high, most in zip(window.lowest, window.highest, window.limit, strict=True)
        )
    rejected = sum(record.limit is not None for record in records)
    marks = sum(sum(window.rejected) for window in series)
    assert marks > rejected if own else marks == rejected, "a hidden limit may be each one that the caller can't see"


def test_the_figures_of_a_page_are_those_of_the_audit(run: ReportedRun) -> None:
    assert len(run.tree_windows) == SHOWN_LIMITS
    for audited, series in run.tree_windows:
        assert (series.worst_used, series.worst_limit) == (audited.used, audited.limit)
        assert sum(series.rejected) == audited.rejected
    assert {window.shown.name for window in run.windows}.isdisjoint(run.source.info.tree.keys)
    assert len(run.windows) == 3, "the plain keys' windows are shown beside"


def window_of(records: list[Record], *limits: DeclaredLimit, show: str = "path", account: str = "acme") -> list[Any]:
    """The windows of limits on the path of one key."""
    path = KeyPath(account, "", show, tuple(range(len(limits))))
    tree = DeclaredTree(limits, {record.key: path for record in records})
    return window_series(records, tree_limits(tree, "o3"), clock_ms=T0, until_s=10)


def record(at_ms: int, **changes: Any) -> Record:
    values: dict[str, Any] = dict.fromkeys(Record._fields)
    values |= {"request": at_ms, "due_us": at_ms * 1_000, "sent_us": at_ms * 1_000, "done_us": at_ms * 1_000 + 500}
    values |= {"target": 0, "key": "a", "input_tokens": 3, "status": 200, "time_ms": T0 + at_ms, "never_fits": False}
    return Record(**{**values, "prompt_tokens": 3, "completion_tokens": 4, "has_other_limits": True, **changes})


def test_a_limit_is_the_one_announced_by_its_name() -> None:
    """Percent-encoded, by its number where limits for other models have the same name, else as declared.

    An audited limit is never announced, but one that rejects may have its name.
    """
    day = 86_400_000
    odd = DeclaredLimit('a "b", 100%', "requests", day, (), 7, "enforce", "")
    some = DeclaredLimit("acme", "requests", 60_000, ("o3*",), 5, "enforce", "")
    others = DeclaredLimit("acme", "requests", 60_000, ("*o*", "x"), 6, "enforce", "")
    unseen = DeclaredLimit("acme", "tokens", 1_000, (), 9, "enforce", "")
    policies = '"a %22b%22%2C 100%25 requests/1d";q=8;w=86400, "acme requests/1m";q=6;w=60, "acme requests/1m";q=5;w=60'
    audited = odd._replace(models=("o3",), amount=4, mode=AUDIT)
    windows = window_of([record(0, policies=policies)], odd, some, others, unseen, audited)
    assert [window.worst_limit for window in windows] == [8, 5, 6, 9, 4]
    assert [window.worst_used for window in windows] == [1, 1, 1, 7, 1]
    (minute, flat_day) = window_of(
        [record(0, policies='"rpm";q=3;w=60, "ali/ce requests/1d";q=4;w=86400')],
        DeclaredLimit("ali/ce", "requests", 60_000, (), 7, "enforce", ""),
        DeclaredLimit("ali/ce", "requests", day, (), 7, "enforce", ""),
        account="",
    )
    assert (minute.worst_limit, flat_day.worst_limit) == (3, 4)
    (own,) = window_of(
        [record(0, policies='"bob requests/1m";q=3;w=60')], some._replace(subject="acme/bob"), show="own"
    )
    assert own.worst_limit == 3


def test_what_failed_counts_as_a_request_and_what_the_service_told_beyond_the_reservation_does_not() -> None:
    limits = [
        DeclaredLimit("acme", unit, 60_000, (), 99, "enforce", "") for unit in ("requests", "output_tokens", "tokens")
    ]
    records = [
        record(0, status=502, upstream_status=502),
        record(1, reserved_output=10, completion_tokens=30),
        record(2, status=429, upstream_status=429, limit="acme requests/1m"),
        record(3, status=429, limit="acme requests/1m", exceeded="requests"),
        record(4, degraded="local"),
        record(5, time_ms=None),
    ]
    windows = window_of(records, *limits)
    assert [window.worst_used for window in windows] == [3, 10, 13]
    assert [sum(window.rejected) for window in windows] == [1, 0, 0]


@pytest.mark.parametrize(
    ("pattern", "model", "found"),
    [
        ("o3", "O3", True),
        ("o3", "o3-mini", False),
        ("o3*", "o3", True),
        ("*o*", "gpt-4o", True),
        ("a*b*c", "a-b-c", True),
        ("a*bc*c", "abc", False),
        ("*", "", True),
        ("ab*ba", "aba", False),
        ("*x*x*", "x", False),
        ("x.z", "xyz", False),
    ],
)
def test_patterns_of_models(pattern: str, model: str, found: bool) -> None:
    assert matches((pattern,), model) is found


# ---- which, and what is said ----------------------------------------------------------------------------------------


def test_limits_that_rejected_come_first_and_one_keys_own_for_all_alike() -> None:
    a, b = limit(used=99, rejected=5), limit(unit="tokens", used=98, rejected=1)
    key, alike = (limit(subject=f"acme/{n}", used=60 - n, rejected=9) for n in (1, 2))
    team, low = limit(subject="acme/x", used=60, rejected=1), limit(subject="acme/3", used=1, per_ms=1_000, rejected=1)
    audited = limit(mode=AUDIT, per_ms=1_000, used=300, would_have_rejected=4)
    full, other = limit(unit="input_tokens", used=100), limit(unit="output_tokens")
    everything = [other, full, audited, alike, low, team, key, b, a]
    assert in_order(everything, {"acme", "acme/x"}) == [a, b, team, key, low, alike, audited, full, other]
    full_ones = [limit(name="x", rejected=1), limit(name="y", used=100_000, limit=100_001, rejected=2)]
    assert in_order(full_ones, {"acme"})[0].name == "y"
    declared = [TreeLimit(DeclaredLimit(*each[:4], 100, each.mode, ""), {}, "", "") for each in everything]
    chosen = choose_limits([limit(subject="undeclared"), *everything], declared)
    assert [each for each, _ in chosen] == everything[:SHOWN_LIMITS]
    assert all(each[:4] == shown.limit[:4] for each, shown in chosen)
    first, *_ = choose_limits([a, b], [*declared, declared[-1]])
    assert first[0] == b, "which of two limits called alike is full is not known"


def test_accounts_and_teams_are_no_single_keys(simulation: TreeSimulation) -> None:
    assert shared_subjects(simulation.tree) == {"acme", "acme/research", "acme/research/vision", "acme/sales"}


def test_the_table_says_how_full_how_often_and_what_to_mind(run: ReportedRun) -> None:
    rows = {name: cells for name, *cells in limit_rows(run)}
    assert rows["acme/research: requests in any 10s"][0] == "100 %"
    assert rows["acme: output tokens in any 1m"][3:] == ["gpt-5*, o3*", ""]
    assert rows["acme: requests in any 1h"][-1] == "longer than the run"
    burst = rows["acme: requests in any 1s"]
    assert burst[-1] == "audited"
    assert re.fullmatch(r"\d+ would be", burst[1])
    assert left_out(run) == ""
    many = [limit(subject=f"{n}", used=n) for n in reversed(range(MAX_ROWS + 2))]
    run = ReportedRun(run.source, run.records, run.audit, [], many, [], False, None, [])
    assert len(limit_rows(run)) == MAX_ROWS
    assert left_out(run) == "2 more, of which the fullest window held 1.0 % of its limit"


def test_a_window_longer_than_the_run_says_so_wherever_it_is_shown(run: ReportedRun) -> None:
    (audited, series), *_ = run.tree_windows
    longer = run.tree_windows[0].__class__(audited._replace(slid=False), series)
    assert limit_note(longer).endswith(", longer than the run")
    assert "longer than the run" not in limit_note(run.tree_windows[0])
    assert "No 90s, 1h window has slid" in " ".join(remarks(run))
    notes = [limit_note(each) for each in run.tree_windows]
    assert any(re.search(r"would be rejected\naudited in any 1s$", each) for each in notes)
    assert any(each.endswith("in any 1m; for gpt-5*, o3*") for each in notes)
    assert limit_title(audited) == "acme: tokens"
    assert "acme/research: fullest window 40 of 40 requests in any 10s, " in limits_label(run)
    assert sentence([run]).startswith(f"None of {run.audit.windows:,} true windows was above its limit")


@pytest.mark.parametrize(
    "damage", [{}, {"slid": "no"}, {"unit": "x"}, {"per_ms": 0}, {"models": [1]}, {"used": "1"}, []]
)
def test_an_audit_with_damaged_limits_is_made_again(tmp_path: Path, damage: dict[str, Any] | list[Any]) -> None:
    TreeSimulation(duration_s=2).write(tmp_path)
    path = tmp_path / "audit.json"
    document = json.loads(path.read_bytes())
    first = document["limits"][0]
    document["limits"][0] = {**first, **damage} if isinstance(damage, dict) and damage else damage
    path.write_text(json.dumps(document))
    audit_of(tmp_path)
    assert json.loads(path.read_bytes()) != document


# ---- the page -------------------------------------------------------------------------------------------------------


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are there and empty: drawing them takes seconds, and the test in a browser draws them."""
    empty = '<svg xmlns="http://www.w3.org/2000/svg" width="1pt" height="1pt"/>'
    monkeypatch.setattr("bench_client.report.figures.canvas.draw", lambda *arguments: empty)


def test_a_flat_and_a_tree_run_stand_side_by_side(undrawn: None, tmp_path: Path) -> None:
    TreeSimulation(duration_s=5).write(tmp_path / "tree")
    Simulation(duration_s=5).write(tmp_path / "flat")
    only = TreeSimulation(duration_s=5, keys=6)
    only.write(tmp_path / "only")
    directories = [tmp_path / name for name in ("flat", "tree", "only")]
    written = write_report(directories, html=tmp_path / "page.html", figures=tmp_path / "figures")
    html = (tmp_path / "page.html").read_text()
    names = {path.stem for path in written.figures}
    assert names >= {"windows-1", "windows-2", "limits-2", "limits-3"}
    assert names.isdisjoint({"windows-3", "limits-1"})
    assert html.count("<h2>Limits of accounts, teams and their keys</h2>") == 1
    assert html.count('<table class="limits">') == 2
    assert "flat: no key used has other limits than its three per minute." in html
    assert "only: every key used has other limits than three per minute; they are below." in html
    assert "--models gpt-4o:1,o3-mini:1" in html


def test_a_page_of_plain_keys_says_nothing_of_accounts(undrawn: None, tmp_path: Path) -> None:
    Simulation(duration_s=5).write(tmp_path / "flat")
    write_report([tmp_path / "flat"], html=tmp_path / "page.html")
    html = (tmp_path / "page.html").read_text()
    assert "accounts" not in html
    assert "true 60 s windows" in html
