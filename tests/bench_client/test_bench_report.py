"""What a report's figures show, as series: they are those of the summary and the audit, whatever the load was."""

from __future__ import annotations

import dataclasses
import json
from itertools import pairwise
from math import ceil
from pathlib import Path
from random import Random

import pytest
from bench_fakes import T0, Ledger, run_info
from report_fakes import Simulation, write_comparison

from bench_client.audit.outcomes import Admission
from bench_client.audit.timeline import build_timelines
from bench_client.audit.units import DIMENSIONS
from bench_client.audit.window_timeline import window_timeline
from bench_client.audit.windows import Fill, check_windows
from bench_client.errors import BenchError, BenchUsageError
from bench_client.records.record import Record
from bench_client.records.record_file import REQUESTS_NAME, write_records
from bench_client.records.run_directory import write_info
from bench_client.report.audit_figures import audit_of
from bench_client.report.axes import NARROW, WIDE, legend_columns, legend_height, log_ms_axis, merged, nines
from bench_client.report.choosing import choose_keys
from bench_client.report.collect import MAX_BINS, MAX_LATE_BINS, KeyUse
from bench_client.report.gather import ReportedRun, gather
from bench_client.report.loads import batches_of, processes_of
from bench_client.report.rows import figure_groups
from bench_client.report.shown_limits import PlainLimit
from bench_client.report.sources import find_sources, printable
from bench_client.report.verdict import big_figures, remarks, sentence
from bench_client.report.windows import LEVELS, window_series
from bench_client.report.words import share
from bench_client.servers.servers_file import ProcessUse, Servers, read_servers


def gathered(directory: Path) -> ReportedRun:
    (source,) = find_sources([directory])
    return gather(source)


def audited_window(records: list[Record]) -> tuple[list[Admission], list[Fill | None]]:
    """The admissions of a plain key in order of time, and its fullest windows, as the audit has them."""
    (path,) = build_timelines(records).paths
    (window,) = path.path.ordinals
    timeline = window_timeline(window, [path])
    return timeline.admitted, check_windows(window, timeline.admitted, timeline.limits, None).worst


@pytest.fixture(scope="module")
def simulation() -> Simulation:
    return Simulation(error_share=0.01, warmup_s=5)


@pytest.fixture(scope="module")
def run(simulation: Simulation, tmp_path_factory: pytest.TempPathFactory) -> ReportedRun:
    directory = tmp_path_factory.mktemp("report") / "a run"
    simulation.write(directory)
    return gathered(directory)


# ---- over time ------------------------------------------------------------------------------------------------------


def test_series_add_up_to_the_summary(run: ReportedRun) -> None:
    summary = json.loads((run.source.directory / "summary.json").read_bytes())
    total, timeline = summary["total"], run.records.timeline
    assert run.records.summary.as_dict() == summary
    assert sum(timeline.offered) == total["requests"] == summary["planned"]
    assert sum(timeline.admitted) == total["admitted"]
    assert {reason: sum(counts) for reason, counts in timeline.rejected.items()} == total["rejected"]
    assert len(total["rejected"]) == 3, "the load is such that every limit binds"
    assert sum(timeline.errors) == total["errors_total"] > 0
    assert sum(timeline.other) == 0
    lengths = {len(each) for each in (timeline.offered, timeline.errors, timeline.p50_ms, *timeline.rejected.values())}
    assert lengths == {len(timeline.edges_s) - 1}


def test_bins_are_seconds_from_the_end_of_the_warm_up(simulation: Simulation, run: ReportedRun) -> None:
    timeline, records = run.records.timeline, simulation.records()
    assert timeline.edges_s[:3] == [0, 1, 2]
    assert timeline.edges_s[75] == run.seconds == 75
    second = [record for record in records if 7e6 <= record.due_us < 8e6]
    assert timeline.offered[2] == len(second)
    answered = [record for record in records if record.error is None and record.request >= run.source.info.warmup]
    assert timeline.admitted[2] == sum(r.status == 200 and 7e6 <= r.done_us < 8e6 for r in answered)
    latencies = sorted((r.done_us - r.due_us) / 1_000 for r in second if r.error is None)
    assert timeline.p99_ms[2] == pytest.approx(latencies[-1], rel=0.02)
    assert timeline.p50_ms[2] == pytest.approx(latencies[(len(latencies) - 1) // 2], rel=0.02)


def test_errors_that_come_after_the_last_request_have_bins_of_their_own(tmp_path: Path) -> None:
    ledger = Ledger()
    ledger.admit(500)
    ledger.lose(1_900, took_ms=10_000)
    timeline = gathered(written(tmp_path, ledger.records, sending_s=2.0, planned_s=2.0)).records.timeline
    assert timeline.edges_s[-1] == pytest.approx(12.0)
    assert sum(timeline.errors) == timeline.errors[-1] == 1


@pytest.mark.parametrize("seconds", [0.05, 1.0, 9.9, 75.3, 2_000.0, 90_000.0, 5e6])
def test_bins_cover_any_duration_with_few_of_them(tmp_path: Path, seconds: float) -> None:
    ledger = Ledger(limits=(10**6, 10**6, 10**6))
    for place in range(20):
        ledger.admit(int(seconds * 1_000 * place / 20))
    timeline = gathered(written(tmp_path, ledger.records, sending_s=seconds, planned_s=seconds)).records.timeline
    edges = timeline.edges_s
    assert len(edges) <= MAX_BINS + MAX_LATE_BINS + 1
    assert all(after > before for before, after in pairwise(edges))
    assert sum(timeline.offered) == sum(timeline.admitted) == 20
    assert sum(
        rate * (b - a) for rate, a, b in zip(timeline.rates(timeline.offered), edges, edges[1:], strict=False)
    ) == (pytest.approx(20))


# ---- windows --------------------------------------------------------------------------------------------------------


def test_windows_never_exceed_the_limit_and_reach_the_audits_worst_fill(run: ReportedRun) -> None:
    worst = json.loads((run.source.directory / "audit.json").read_bytes())["worst_fill"]
    shown = {(window.shown.name, window.shown.unit): window for window in run.windows}
    for dimension, fill in worst.items():
        window = shown[fill["key"], dimension]
        assert (window.worst_used, window.worst_limit) == (fill["used"], fill["limit"])
        assert window.worst_time_ms == fill["time_ms"]
        assert max(window.highest) == fill["used"]
    assert len(run.windows) == 4
    for window in run.windows:
        assert all(low <= high <= limit for low, high, limit in zip(*series_of(window), strict=True))
        assert len(window.edges_s) == len(window.highest) + 1 == len(window.rejected) + 1 <= LEVELS + 1
        use = run.records.keys[window.shown.name]
        assert sum(window.rejected) == use.rejected[window.shown.unit] > 0
    assert run.windows[0].edges_s[0] < 0, "the warm-up is in the windows"


def series_of(window: object) -> tuple[list[int], list[int], list[int]]:
    return window.lowest, window.highest, window.limit  # type: ignore[attr-defined]


@pytest.mark.parametrize("seed", range(3))
def test_windows_agree_with_the_audits_own_on_any_records(seed: int) -> None:
    """Also where limits change, where they are exceeded, and where much happens in one millisecond."""
    draw, ledger = Random(seed), Ledger()
    for _ in range(400):
        ledger.limits = (draw.choice([10, 20]), draw.choice([300, 900]), 2_000)
        ledger.admit(
            draw.randrange(0, 150_000, draw.choice([1, 500])), inputs=draw.randrange(200), output=draw.randrange(20)
        )
    records = ledger.records
    admitted, worst = audited_window(records)
    for dimension, fill in zip(DIMENSIONS, worst, strict=True):
        (window,) = window_series(records, [PlainLimit(ledger.key, dimension)], clock_ms=T0, until_s=150)
        assert fill is not None
        assert (window.worst_used, window.worst_limit, window.worst_time_ms) == (fill.used, fill.limit, fill.time_ms)
        amounts = [(a.time_ms, a.least[DIMENSIONS.index(dimension)]) for a in admitted]
        first_ms, spans = admitted[0].time_ms, len(window.highest)
        length_ms = round(window.edges_s[-1] * 1_000) + T0 - first_ms
        for place in draw.sample(range(spans), 5):
            ends = range(
                first_ms + ceil(place * length_ms / spans) - 1, first_ms + ceil((place + 1) * length_ms / spans)
            )
            held = [sum(amount for ms, amount in amounts if end - 60_000 < ms <= end) for end in ends]
            assert (window.highest[place], window.lowest[place]) == (max(held), min(held))


def test_windows_count_what_failed_at_the_upstream_and_take_no_limits_from_it() -> None:
    draw, ledger = Random(5), Ledger(limits=(12, 900, 2_000))
    for _ in range(300):
        how = draw.choice([ledger.admit, ledger.fail, ledger.fail_limited])
        how(draw.randrange(150_000), inputs=draw.randrange(200))  # type: ignore[operator]
    _, worst = audited_window(ledger.records)
    for dimension, fill in zip(DIMENSIONS, worst, strict=True):
        (window,) = window_series(ledger.records, [PlainLimit(ledger.key, dimension)], clock_ms=T0, until_s=150)
        assert fill is not None
        assert (window.worst_used, window.worst_limit, window.worst_time_ms) == (fill.used, fill.limit, fill.time_ms)
        assert set(window.limit) == {ledger.limits[DIMENSIONS.index(dimension)]}


@pytest.mark.parametrize("dimension", range(3))
def test_windows_agree_with_the_audits_own_where_limits_are_lowered_and_services_tell_more(dimension: int) -> None:
    """An overrun is charged afterwards and in no window; what needs nothing of a limit fits a lowered one, too."""
    ledger = Ledger(limits=(4, 400, 400))
    ledger.admit(0, inputs=200, output=300, cap=100)
    ledger.admit(10, inputs=100, output=70, cap=100)
    ledger.limits = (2, 50, 50)
    ledger.admit(20, inputs=0, output=0, cap=0)
    fill = audited_window(ledger.records)[1][dimension]
    assert fill is not None
    (window,) = window_series(ledger.records, [PlainLimit(ledger.key, DIMENSIONS[dimension])], clock_ms=T0, until_s=150)
    assert (window.worst_used, window.worst_limit, window.worst_time_ms) == (fill.used, fill.limit, fill.time_ms)
    assert fill.used == (3, 300, 170)[dimension]


def test_a_window_fills_holds_and_empties_again() -> None:
    ledger = Ledger(limits=(3, 1_000, 1_000))
    for at_ms in (0, 10_000, 20_000):
        ledger.admit(at_ms)
    ledger.reject(30_000, 0)
    ledger.admit(60_100)
    (window,) = window_series(ledger.records, [PlainLimit(ledger.key, "requests")], clock_ms=T0 - 2_000, until_s=121)
    assert (window.edges_s[0], window.edges_s[-1]) == (2.0, 121.0)

    def level(at_s: float) -> int:
        return window.highest[int((at_s - 2) / (121 - 2) * len(window.highest))]

    assert [level(at_s) for at_s in (5, 15, 25, 61, 65, 75, 85, 120)] == [1, 2, 3, 3, 3, 2, 1, 1]
    assert sum(window.rejected) == 1
    assert window.rejected[int(30 / 119 * len(window.highest))] == 1


def test_the_fullest_windows_and_then_the_busiest_keys_are_shown() -> None:
    def use(count: int, **rejected: int) -> KeyUse:
        made = KeyUse(count, used=[count, 5 * count, 1], limits=(100, 100, 100))
        made.rejected.update(rejected)
        return made

    keys = {"a": use(50, requests=3), "b": use(60, input_tokens=2), "c": use(40), "d": use(70), "e": use(30)}
    fullest = {"requests": "a", "input_tokens": "b", "output_tokens": "e"}
    assert choose_keys(keys, fullest) == [
        ("a", "requests"),
        ("b", "input_tokens"),
        ("d", "input_tokens"),
        ("c", "input_tokens"),
    ]
    unbound = {key: use(each.requests) for key, each in keys.items()}
    assert choose_keys(unbound, fullest)[:3] == [("a", "requests"), ("b", "input_tokens"), ("e", "output_tokens")]
    assert choose_keys({}, {}) == []


# ---- servers and audit ----------------------------------------------------------------------------------------------


def test_batches_are_those_between_the_first_and_the_last_sample(simulation: Simulation, run: ReportedRun) -> None:
    assert run.batches is not None
    assert run.batches.labels == ["1", "2", "3–4", "5–8", "9–16", "17–32", "33–64", ">64"]
    assert run.batches.calls == [140, 40, 0, 0, 0, 0, 0, 20]
    assert sum(run.batches.shares) == pytest.approx(1)
    assert [use.kind for use in run.processes] == ["node", "node", "store", "client"]


def test_a_node_that_was_started_again_has_counted_from_zero(simulation: Simulation, tmp_path: Path) -> None:
    document = simulation.servers()
    first, last = document["targets"][0]["samples"]
    document["targets"] = document["targets"][:1]
    document["targets"][0]["samples"] = [
        {**first, "batch_operations": [50] + [0] * 7},
        last | {"batch_operations": [9] + [0] * 7},
    ]
    (tmp_path / "servers.json").write_text(json.dumps(document))
    batches = batches_of(read_servers(tmp_path))
    assert batches is not None
    assert batches.calls == [9] + [0] * 7


def test_of_many_processes_the_busiest_are_shown_and_nothing_is_lost() -> None:
    processes = [ProcessUse(f"node {n}", "node", n, n / 100) for n in range(40)]
    processes += [ProcessUse(f"store {n}", "store", n, n / 10) for n in range(6)] + [
        ProcessUse("client", "client", 1, 0.01)
    ]
    shown = processes_of(Servers(1.0, (), tuple(processes)))
    assert len(shown) <= 12
    assert [use.kind for use in shown] == sorted((use.kind for use in shown), key=["node", "store", "client"].index)
    assert sum(use.cores for use in shown) == pytest.approx(sum(use.cores for use in processes))
    assert any(use.name.endswith(" more") for use in shown)
    assert processes_of(None) == []


@pytest.mark.parametrize("damage", ["", "{}", "[1]", '{"proved": "yes"}'])
def test_an_audit_that_is_missing_or_damaged_is_made(ledger: Ledger, tmp_path: Path, damage: str) -> None:
    ledger.admit(0)
    written(tmp_path, ledger.records)
    if damage:
        (tmp_path / "audit.json").write_text(damage)
    audit = audit_of(tmp_path)
    assert audit.proved is True
    assert audit.windows == 1
    assert json.loads((tmp_path / "audit.json").read_bytes())["proved"] is True


def test_a_run_without_a_limiter_has_no_verdict_and_no_windows(ledger: Ledger, tmp_path: Path) -> None:
    ledger.admit(0)
    undecided = ledger.records[0]._replace(time_ms=None, limit_requests=None)
    run = gathered(written(tmp_path, [undecided]))
    assert run.audit.proved is None
    assert run.windows == []
    assert "nothing to audit" in run.audit.verdict
    assert sentence([run]).startswith("No limiter signed its decisions")
    assert big_figures(run)[-1] == ("windows over the limit", "–", "not audited")


def test_failures_of_the_upstream_are_neither_rejections_nor_lost_from_a_keys_use(
    ledger: Ledger, tmp_path: Path
) -> None:
    ledger.admit(0)
    ledger.fail_limited(10)
    ledger.fail(20, upstream_status=500)
    run = gathered(written(tmp_path, ledger.records))
    (use,) = run.records.keys.values()
    assert (use.used[0], use.limits, use.rejected.total()) == (3, ledger.limits, 0)
    assert sum(run.records.timeline.other) == 2
    assert run.records.timeline.rejected == {}
    assert ("rejected", "0", "none") in big_figures(run)
    assert "2 requests were admitted and failed at the service behind the limiter." in remarks(run)
    (answers,) = [group for group in figure_groups([run]) if group.name == "Answers"]
    cells = [(row.name, row.cells) for row in answers.rows]
    for status in (429, 502):
        place = cells.index((f"status {status}", ["1"]))
        assert cells[place + 1] == ("admitted, failed upstream", ["1"])


# ---- what is said ---------------------------------------------------------------------------------------------------


def test_the_sentence_says_what_was_proved_and_how_quick(run: ReportedRun) -> None:
    said = sentence([run])
    assert said.startswith(f"None of {run.audit.windows:,} true 60 s windows was above its limit and each of ")
    assert said.count(".") >= 1
    assert f"{run.audit.held:,} rejections" in said
    other = dataclasses.replace(run, source=dataclasses.replace(run.source, label="other"))
    assert f"None of {2 * run.audit.windows:,}" in sentence([run, other])


def test_the_sentence_says_first_what_was_refuted(run: ReportedRun) -> None:
    refuted = dataclasses.replace(
        run, audit=dataclasses.replace(run.audit, proved=False, findings=(("window over the limit", 3),))
    )
    assert sentence([run, refuted]).startswith("The audit refutes a run: 3 × window over the limit, at ")


def test_what_to_mind_is_said(simulation: Simulation, tmp_path: Path, run: ReportedRun) -> None:
    assert [said.split()[1] for said in remarks(run)] == ["outcome", "warm-up"]
    simulation.write(tmp_path, finished=False, interrupted=True, sending_s=40.0)
    said = "\n".join(remarks(gathered(tmp_path)))
    assert "The run was cut off" in said
    assert "interrupted after 35 s of 75 s" in said


@pytest.mark.parametrize(
    ("used", "limit", "said"),
    [
        (100, 100, "100 %"),
        (9_999_999, 10_000_000, "99.9 %"),
        (10_000_001, 10_000_000, "100.1 %"),
        (0, 5, "0.0 %"),
        (3, 2, "150.0 %"),
    ],
)
def test_a_share_is_never_rounded_to_the_limit(used: int, limit: int, said: str) -> None:
    assert share(used, limit) == said


# ---- which runs -----------------------------------------------------------------------------------------------------


def test_a_comparison_stands_for_its_runs(tmp_path: Path) -> None:
    load = Simulation(duration_s=5)
    comparison = write_comparison(tmp_path / "both", load)
    load.write(tmp_path / "alone")
    sources = find_sources([comparison, tmp_path / "alone"])
    assert [source.label for source in sources] == ["cluster", "single", "alone"]
    assert sources[0].comparison["keys_count"] == 5
    assert sources[2].comparison == {}
    twice = [source.label for source in find_sources([comparison, comparison, tmp_path / "alone"])]
    assert twice == ["both cluster (1)", "both single (1)", "both cluster (2)", "both single (2)", "alone"]
    with pytest.raises(BenchUsageError, match="8 runs don't fit on one page"):
        find_sources([comparison] * 4)


def test_what_an_interrupted_comparison_has_not_measured_is_left_out(tmp_path: Path) -> None:
    comparison = write_comparison(tmp_path, Simulation(duration_s=5))
    document = json.loads((comparison / "compare.json").read_bytes())
    del document["stores"]["single"]
    (comparison / "compare.json").write_text(json.dumps(document))
    assert [source.label for source in find_sources([comparison])] == ["cluster"], "single is of an earlier one"


def test_a_comparison_that_did_not_finish_says_what_can_be_shown(tmp_path: Path) -> None:
    Simulation(duration_s=2).write(tmp_path / "cluster")
    with pytest.raises(BenchError, match=r"did not finish; pass .*cluster"):
        find_sources([tmp_path])


def test_labels_are_fit_to_be_shown() -> None:
    assert printable("a\x00b\u202ec\nd") == "a\ufffdb\ufffdc\ufffdd"
    assert printable("x" * 100, 10) == "x" * 9 + "…"


# ---- scales ---------------------------------------------------------------------------------------------------------


class Axes:
    """What a scale sets."""

    def __getattr__(self, name: str) -> object:
        return lambda *values, **_: self.__dict__.__setitem__(name, values[0] if len(values) == 1 else values)

    @property
    def yaxis(self) -> Axes:
        return self


@pytest.mark.parametrize("values", [[], [0.5], [8.0, 12.0], [0.2, 5_000.0], [0.001, 3_600_000.0], [1.0, 1.0]])
def test_a_logarithmic_scale_has_a_few_round_ticks(values: list[float]) -> None:
    axes = Axes()
    log_ms_axis(axes, values)  # type: ignore[arg-type]
    low, high = axes.__dict__["set_ylim"]
    ticks = axes.__dict__["set_yticks"]
    assert all(low <= each <= high for each in (*values, *ticks))
    assert len(ticks) <= 7


def test_the_scale_of_nines() -> None:
    assert [round(nines(fraction), 6) for fraction in (0, 0.9, 0.99, 0.999)] == [0, 1, 2, 3]


def test_steps_on_one_level_are_merged() -> None:
    assert merged([0, 1, 2, 3, 4], [5, 5, 6, 6], [1, 1, 1, 2]) == ([0, 2, 3, 4], [[5, 6, 6], [1, 1, 2]])


def test_panels_stand_side_by_side_where_there_is_room() -> None:
    assert [WIDE.grid(count) for count in (1, 2, 4, 5)] == [(1, 1), (1, 2), (2, 2), (3, 2)]
    assert NARROW.grid(4) == (4, 1)


def test_as_many_entries_of_a_legend_stand_side_by_side_as_fit() -> None:
    assert legend_columns(WIDE, ["offered", "admitted", *["rejected: output tokens"] * 3]) == 5
    assert legend_columns(WIDE, ["x" * 28] * 6) == 4
    assert legend_columns(NARROW, ["cluster", "single"]) == 2
    assert legend_columns(NARROW, ["x" * 28] * 2) == 1
    assert legend_height(NARROW, ["a\nb"] * 3) > legend_height(NARROW, ["a"] * 3) > legend_height(NARROW, []) == 0


def written(directory: Path, records: list[Record], **info: float) -> Path:
    directory.mkdir(exist_ok=True)
    write_info(directory, run_info(planned=len(records), dispatched=len(records), **info))
    write_records(directory / REQUESTS_NAME, records)
    return directory


def test_what_a_service_told_beyond_its_admissions_is_said(simulation: Simulation, tmp_path: Path) -> None:
    simulation.write(tmp_path)
    path = tmp_path / "audit.json"
    document = json.loads(path.read_bytes())
    document["overruns"] = {"requests": 3, "input_tokens": 4_000, "output_tokens": 50}
    path.write_text(json.dumps(document))
    assert any(said.startswith("For 3 requests the service reported more") for said in remarks(gathered(tmp_path)))
