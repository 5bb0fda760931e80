"""The audit on made-up runs over a tree of limits: what is right is proved, and each way of being wrong is found."""

from __future__ import annotations

from random import Random

import pytest
from test_bench_audit import INCONSISTENT, RETRY, TOO_LITTLE, TOO_MUCH, UNJUSTIFIED, WINDOW
from tree_ledger import TreeLedger, key_id, limit

from bench_client.audit.paths import Paths
from bench_client.load.declared_limits import DeclaredTree, KeyPath
from bench_client.records.record import Record

AUDITED = "wrong x-limiter-audit"
PAID_OFF = "admitted before an overrun was paid off"

TREE = [
    limit("acme requests/1m", 40),
    limit("acme requests/1s", 10),
    limit("acme tokens/1h", 5_000),
    limit("acme output_tokens/1m", 1_500, models=["o3*"]),
    limit("acme input_tokens/1s", 60, mode="audit", name="tight, äh"),
    limit("acme/research requests/1m", 25),
    limit("acme/research tokens/1s", 300),
    limit("acme/research/vision input_tokens/1m", 800),
    limit("acme/alice requests/1m", 15),
    limit("acme/alice requests/1s", 2),
    limit("acme/bob requests/1s", 1, mode="audit"),
    limit("lonely, key requests/1m", 12),
    limit("lonely, key tokens/1m", 900),
    limit("lonely, key requests/1s", 2),
]
TEAMS = {"acme/alice": "research/vision", "acme/bob": "research", "acme/carol": ""}


def random_run(seed: int, *, show: str = "path", faults: set[str] | None = None, requests: int = 500) -> TreeLedger:
    """Random needs, models, slow and fast responses, usage from before the run."""
    rng, at_ms = Random(seed), 0
    ledger = TreeLedger(list(TREE), show=show, faults=faults or set(), teams=TEAMS)
    for _ in range(8):
        ledger.carry(-rng.randrange(1, 50_000), rng.choice([*TEAMS]), 1, rng.randrange(60), rng.randrange(60))
    for _ in range(requests):
        at_ms += int(rng.expovariate(1 / 150))
        cap = rng.randrange(1, 120)
        ledger.ask(
            at_ms,
            rng.choice([*TEAMS, "lonely, key"]),
            model=rng.choice(["gpt-4o", "O3-mini"]),
            inputs=rng.randrange(1, 80),
            cap=cap,
            output=rng.randrange(1, cap + 1),
            took_ms=rng.expovariate(1 / 200),
        )
    rng.shuffle(ledger.records)
    return ledger


@pytest.mark.parametrize("show", ["path", "own"])
@pytest.mark.parametrize("seed", range(4))
def test_an_exact_limiter_of_trees_is_proved_whatever_the_load(seed: int, show: str) -> None:
    report = random_run(seed, show=show).audit()
    assert report.findings.counts == {}, report.text()
    assert report.proved
    assert report.rejected > 100
    rejecting = {each.declared.subject for each in report.limits if each.rejected}
    assert rejecting >= {"acme", "acme/research", "acme/alice", "lonely, key"}
    assert sum(each.would_have_rejected for each in report.limits) > 10
    assert report.verdict.startswith("audit: PROVED no window over its limit (")
    assert report.rejections_held == report.rejected


@pytest.mark.parametrize(("fault", "kind"), [("counts rejected", TOO_MUCH), ("forgets", TOO_LITTLE)])
def test_wrong_limiters_are_refuted(fault: str, kind: str) -> None:
    assert random_run(1, faults={fault}, requests=150).found()[kind]


# ---- windows --------------------------------------------------------------------------------------------------------

SUBJECTS = ["acme", "acme/research", "acme/research/vision", "acme/alice"]


@pytest.mark.parametrize("per", ["1s", "1m", "1h"])
@pytest.mark.parametrize("subject", SUBJECTS)
def test_a_window_over_by_one_request_is_found_wherever_it_is(subject: str, per: str) -> None:
    limits = [limit(f"{each} requests/{per}", 5 if each == subject else 50) for each in SUBJECTS]
    ledger = TreeLedger(limits, teams=TEAMS)
    for index in range(5):
        ledger.ask(100 * index)
    assert ledger.audit().proved
    (fullest, *others) = ledger.audit().limits
    assert (fullest.declared.subject, fullest.used, fullest.ratio, fullest.windows) == (subject, 5, 1.0, 5)
    assert {each.used for each in others} == {5}
    ledger.ask(900, admit=True)
    report = ledger.audit()
    assert dict(report.findings.counts) == {WINDOW: 1}
    assert report.findings.examples[0].message.startswith(f"{subject} requests/{per}: 6 requests admitted in the ")
    assert [each.over for each in report.limits] == [1, 0, 0, 0]


def test_a_window_for_one_model_counts_that_model_alone() -> None:
    ledger = TreeLedger([limit("acme requests/1m", 3, models=["o3*"]), limit("acme requests/1h", 100)])
    for index in range(20):
        ledger.ask(100 * index, model="gpt-4o")
    for index in range(3):
        ledger.ask(3_000 + index, model="O3-mini")
    report = ledger.audit()
    assert report.proved, report.text()
    assert [(each.used, each.declared.models) for each in report.limits] == [(3, ("o3*",)), (23, ())]
    ledger.ask(4_000, model="gpt-4o")
    assert ledger.audit().proved
    ledger.ask(5_000, model="o3", admit=True)
    report = ledger.audit()
    assert dict(report.findings.counts) == {WINDOW: 1}
    assert "acme requests/1m for o3*: 4 requests" in report.findings.examples[0].message


def test_a_record_without_a_model_is_of_the_runs_only_one() -> None:
    ledger = TreeLedger([limit("acme requests/1m", 3, models=["gpt-4*"])])
    for index in range(3):
        ledger.ask(index)
    assert ledger.audit().limits[0].used == 3


def test_tokens_are_the_sum_of_input_and_output() -> None:
    ledger = TreeLedger([limit("acme tokens/1m", 60)])
    ledger.ask(0, inputs=10, cap=20, output=20)
    ledger.ask(100, inputs=20, cap=10, output=10)
    rejected = ledger.ask(200, inputs=0, cap=1)
    assert (rejected.exceeded, rejected.requested) == ("tokens", 1)
    report = ledger.audit()
    assert report.proved, report.text()
    assert (report.limits[0].used, report.limits[0].rejected) == (60, 1)
    ledger.ask(300, inputs=1, cap=0, output=0, admit=True)
    assert ledger.found() == {WINDOW: 1}


def test_keys_of_one_account_share_its_windows_and_flat_keys_of_one_name_do_not() -> None:
    shared = TreeLedger([limit("acme requests/1m", 3)])
    for index, who in enumerate(["acme/alice", "acme/bob", "acme/carol"]):
        shared.ask(index, who)
    assert shared.audit().proved
    shared.ask(5, "acme/dave", admit=True)
    assert shared.found() == {WINDOW: 1}
    ledger = TreeLedger([limit("ci requests/1s", 3)])
    for index in range(3):
        ledger.ask(index, "ci")
    twin = [each._replace(key="ffffffffffff", request=100 + each.request) for each in ledger.records]
    ledger.records += twin
    (path,) = ledger.tree().keys.values()
    tree = DeclaredTree(
        (*ledger.limits, *ledger.limits), {key_id("ci"): path, "ffffffffffff": path._replace(limits=(1,))}
    )
    report = ledger.audit(tree=tree)
    assert report.proved, report.text()
    assert [each.used for each in report.limits] == [3, 3]


@pytest.mark.parametrize(("per", "bucket_ms"), [("1s", 100), ("1m", 100), ("1h", 6_000), ("121s", 300)])
def test_a_rejection_may_be_late_by_one_bucket_of_its_window(per: str, bucket_ms: int) -> None:
    """A bucket of 300 ms doesn't divide 121 s: there it is what is missing to whole buckets, and one more."""
    per_ms = limit(f"acme requests/{per}", 1).per_ms
    life_ms = (-(-per_ms // bucket_ms) + 1) * bucket_ms
    for later_ms, found in ((life_ms, {}), (life_ms + 1, {UNJUSTIFIED: 1})):
        ledger = TreeLedger([limit(f"acme requests/{per}", 1), limit("acme requests/1d", 100)])
        ledger.ask(7)
        record = ledger.ask(7 + later_ms, by=0, retry_after_ms=1)
        assert record.states is not None
        ledger.change(states=record.states.replace("r=1;", "r=0;"))
        counts = ledger.found()
        assert {kind: n for kind, n in counts.items() if kind == UNJUSTIFIED} == found


# ---- rejections -----------------------------------------------------------------------------------------------------


def test_a_rejection_counts_in_no_window_of_its_path() -> None:
    ledger = TreeLedger([limit("acme requests/1h", 100), limit("acme/alice requests/1m", 3)])
    for index in range(6):
        ledger.ask(100 * index)
    ledger.ask(1_000, "acme/bob")
    assert ledger.audit().proved
    assert [(each.used, each.rejected) for each in ledger.audit().limits] == [(3, 3), (4, 0)]
    ledger = TreeLedger(ledger.limits, faults={"counts rejected"})
    for index in range(4):
        ledger.ask(100 * index)
    ledger.ask(1_000, "acme/bob")
    report = ledger.audit()
    assert dict(report.findings.counts) == {TOO_MUCH: 2}, "the rejected request's own response, and the next one"
    assert "acme requests/1h: at " in report.findings.examples[0].message


def test_a_rejection_whose_limit_had_room_is_found() -> None:
    ledger = TreeLedger([limit("acme requests/1m", 10), limit("acme/alice requests/1m", 3)])
    for index in range(3):
        ledger.ask(100 * index)
    ledger.ask(1_000)
    assert ledger.audit().proved
    ledger.change(limit="acme requests/1m")
    report = ledger.audit()
    assert dict(report.findings.counts) == {UNJUSTIFIED: 1, INCONSISTENT: 1}
    messages = {each.kind: each.message for each in report.findings.examples}
    assert "acme requests/1m: at " in messages[UNJUSTIFIED]
    assert messages[INCONSISTENT] == "rejected for 1 requests while 7 remained"


@pytest.mark.parametrize(
    ("named", "problem"),
    [
        ("acme tokens/1h", "rejected by acme tokens/1h, which it is not subject to for requests"),
        ("acme requests/1h", "rejected by acme requests/1h, which is only audited"),
        ("acme requests/1d", "rejected by acme requests/1d, which it is not subject to for requests"),
        (None, "a rejection without x-limiter-limit"),
    ],
)
def test_a_rejection_must_name_a_limit_that_rejects(named: str | None, problem: str) -> None:
    ledger = TreeLedger(
        [
            limit("acme requests/1m", 2),
            limit("acme tokens/1h", 1_000),
            limit("acme requests/1h", 2, mode="audit"),
            limit("acme requests/1d", 2, models=["o3"]),
        ]
    )
    ledger.ask(0)
    ledger.ask(100)
    ledger.ask(200)
    assert ledger.audit().proved
    ledger.change(limit=named)
    report = ledger.audit()
    assert dict(report.findings.counts) == {INCONSISTENT: 1}
    assert report.findings.examples[0].message == problem


def test_what_never_fits_names_the_smallest_limit_that_is_too_small() -> None:
    limits = [limit("acme tokens/1m", 50), limit("acme/alice output_tokens/1m", 40), limit("acme input_tokens/1s", 100)]
    ledger = TreeLedger(limits)
    ledger.ask(0, inputs=5, cap=60)
    assert ledger.audit().proved
    record = ledger.ask(100, inputs=5, cap=60)
    assert record.limit == "acme/alice output_tokens/1m"
    ledger.change(limit="acme tokens/1m", exceeded="tokens", requested=65)
    report = ledger.audit()
    assert dict(report.findings.counts) == {INCONSISTENT: 1}
    assert "though the smaller one of 40 is too small as well" in report.findings.examples[0].message


# ---- retry times ----------------------------------------------------------------------------------------------------


def test_a_retry_time_has_to_suit_all_limits_on_the_path() -> None:
    ledger = TreeLedger([limit("acme requests/1m", 3), limit("acme/alice requests/1s", 3)])
    for index in range(3):
        ledger.ask(100 * index)
    record = ledger.ask(500)
    assert (record.limit, record.retry_after_ms) == ("acme requests/1m", 59_600)
    assert ledger.audit().proved
    ledger.change(limit="acme/alice requests/1s", retry_after_ms=600)
    report = ledger.audit()
    assert dict(report.findings.counts) == {RETRY: 1}
    assert report.findings.examples[0].message.startswith("acme requests/1m: 600 ms are too short: 3 requests will ")


def test_the_input_of_what_tokens_reject_is_what_the_reservation_leaves() -> None:
    ledger = TreeLedger([limit("acme tokens/1s", 30), limit("acme/alice input_tokens/1m", 15)])
    ledger.ask(0, inputs=10, cap=20)
    assert ledger.ask(500, inputs=10, cap=20).limit == "acme/alice input_tokens/1m"
    assert ledger.audit().proved
    ledger.change(limit="acme tokens/1s", exceeded="tokens", requested=30, retry_after_ms=600)
    report = ledger.audit()
    assert dict(report.findings.counts) == {RETRY: 1}
    assert "10 input_tokens will still be in use and 10 requested, limit 15" in report.findings.examples[0].message


def test_a_retry_time_that_is_too_long_is_found_by_another_keys_admission() -> None:
    ledger = TreeLedger([limit("acme requests/1s", 3)])
    for index in range(3):
        ledger.ask(100 * index)
    ledger.ask(500, "acme/bob")
    ledger.ask(1_100, "acme/carol")
    assert ledger.audit().proved
    ledger.change(3, retry_after_ms=601)
    assert ledger.found() == {RETRY: 1}


# ---- counters -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("by", "kind"), [(1, TOO_LITTLE), (-1, TOO_MUCH)])
@pytest.mark.parametrize("name", ["acme tokens/1h", "acme/research requests/2m", "acme/alice requests/1s"])
def test_a_single_counter_that_is_wrong_by_one_is_found(name: str, by: int, kind: str) -> None:
    limits = [limit("acme tokens/1h", 900), limit("acme/research requests/2m", 90), limit("acme/alice requests/1s", 9)]
    ledger = TreeLedger(limits, teams=TEAMS)
    for index in range(4):
        ledger.ask(100 * index)
    assert ledger.audit().proved
    states = (ledger.records[-1].states or "").split(", ")
    for place, each in enumerate(states):
        item, left, rest = each.split(";")
        if item == f'"{name}"':
            states[place] = f"{item};r={int(left[2:]) + by};{rest}"
    ledger.change(states=", ".join(states))
    report = ledger.audit()
    assert dict(report.findings.counts) == {kind: 1}
    assert report.findings.examples[0].message.startswith(f"{name}: at ")


def test_an_admission_that_one_window_forgot_is_found() -> None:
    ledger = TreeLedger([limit("acme requests/1h", 100), limit("acme/alice requests/1m", 50)])
    ledger.ask(0)
    ledger.ask(100, uncounted_in=[0])
    ledger.ask(200)
    report = ledger.audit()
    assert dict(report.findings.counts) == {TOO_LITTLE: 2}
    assert all(each.message.startswith("acme requests/1h: at ") for each in report.findings.examples)


def test_states_and_policies_must_be_of_the_same_limits() -> None:
    ledger = TreeLedger([limit("acme requests/1h", 100), limit("acme/alice requests/1m", 50)])
    ledger.ask(0)
    ledger.change(states='"acme requests/1h";r=99;t=1')
    assert ledger.found() == {INCONSISTENT: 1}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"limit_requests": 9}, "x-ratelimit-* tell 6 of 9 requests, RateLimit 6 of 7 per minute"),
        ({"limit_requests": 7, "remaining_requests": 5}, "tell 5 of 7 requests, RateLimit 6 of 7 per minute"),
        ({"limit_input": 9, "remaining_input": 8}, "tell 8 of 9 input_tokens, RateLimit None of None per minute"),
    ],
)
def test_the_usual_headers_are_of_the_tightest_limit_of_a_minute(values: dict[str, int], said: str) -> None:
    """That has the fewest remaining, and of those that have as few the smallest."""
    limits = [limit("acme requests/1m", 90), limit("acme/alice requests/1m", 7), limit("acme/alice requests/1s", 3)]
    ledger = TreeLedger(limits)
    ledger.ask(0)
    assert ledger.audit().proved
    ledger.change(**values)
    report = ledger.audit()
    assert dict(report.findings.counts) == {INCONSISTENT: 1}
    assert said in report.findings.examples[0].message


# ---- audited limits -------------------------------------------------------------------------------------------------


def audited_run(**changes: str) -> TreeLedger:
    limits = [limit("acme requests/1m", 100), limit("acme/alice tokens/1s", 60, mode="audit", **changes)]  # type: ignore[arg-type]
    ledger = TreeLedger(limits)
    for at_ms in (0, 100, 200, 300, 5_000):
        ledger.ask(at_ms)
    return ledger


def test_an_audited_limit_rejects_nothing_and_is_never_over() -> None:
    ledger = audited_run()
    assert [each.audited for each in ledger.records] == [None, None, *["acme/alice tokens/1s"] * 2, None]
    report = ledger.audit()
    assert report.proved, report.text()
    (audited, _) = report.limits
    assert (audited.used, audited.limit, audited.over, audited.would_have_rejected) == (120, 60, 0, 2)
    assert "acme/alice tokens/1s (audited)" in report.text()
    assert "would have rejected 2" in report.text()
    assert report.as_dict()["limits"][0] == {  # type: ignore[index]
        "subject": "acme/alice",
        "unit": "tokens",
        "per_ms": 1_000,
        "models": [],
        "name": "",
        "mode": "audit",
        "limit": 60,
        "windows": 5,
        "used": 120,
        "ratio": 2.0,
        "time_ms": ledger.records[3].time_ms,
        "over": 0,
        "rejected": 0,
        "would_have_rejected": 2,
        "slid": True,
        "own": True,
    }


@pytest.mark.parametrize(("index", "named"), [(2, None), (0, "acme/alice tokens/1s"), (4, "acme/alice tokens/1s")])
def test_an_audited_limit_that_is_named_wrongly_or_not_at_all_is_found(index: int, named: str | None) -> None:
    """The first one could be right if the limit had been in use before the run: the account's window says it wasn't."""
    ledger = audited_run()
    ledger.change(index, audited=named)
    report = ledger.audit()
    assert dict(report.findings.counts) == {AUDITED: 1}
    assert report.findings.examples[0].message.startswith("acme/alice tokens/1s: at ")


def test_usage_of_before_the_run_explains_what_is_named() -> None:
    ledger = TreeLedger([limit("acme requests/1m", 100), limit("acme/alice tokens/1h", 60, mode="audit")])
    ledger.carry(-1_000, "acme/alice", 1, 30, 20)
    ledger.ask(0)
    assert ledger.records[0].audited == "acme/alice tokens/1h"
    assert ledger.audit().proved


def test_a_request_without_tokens_may_have_been_there_although_no_tokens_were() -> None:
    ledger = TreeLedger([limit("acme input_tokens/1m", 100), limit("acme requests/1m", 1, mode="audit")])
    ledger.carry(-1_000, "acme/alice", 1, 0, 0)
    ledger.ask(0)
    assert ledger.records[0].audited == "acme requests/1m"
    assert ledger.audit().proved


@pytest.mark.parametrize(
    ("outer", "inner", "contains"),
    [
        ("acme requests/1h", "acme/research requests/1m", True),
        ("acme requests/1h", "acme requests/1h", True),
        ("acme/research requests/1h", "acme/research/vision requests/1m", True),
        ("acme/research requests/1m", "acme/research requests/1h", False),
        ("acme/research requests/1h", "acme requests/1m", False),
        ("acme/sales requests/1h", "acme/research requests/1m", False),
    ],
)
@pytest.mark.parametrize(
    "models", [((), (), True), (("o3*",), ("o3*",), True), ((), ("o3*",), True), (("o3*",), (), False)]
)
def test_only_a_window_around_another_shows_that_it_was_empty(
    outer: str, inner: str, contains: bool, models: tuple[tuple[str, ...], tuple[str, ...], bool]
) -> None:
    limits = [limit(outer, 9, models=models[0]), limit(inner, 9, models=models[1], mode="audit")]
    windows = []
    for each in limits:
        subject = each.subject.partition("/")[2]
        tree = DeclaredTree((each,), {"k": KeyPath("acme", subject, "path", (0,))})
        (path_limit,) = Paths(tree, "o3").of(Record._make([None] * len(Record._fields))._replace(key="k")).limits
        windows.append(path_limit.window)
    assert windows[0].contains(windows[1]) is (contains and models[2])


def test_rejected_requests_are_told_what_else_would_have_rejected_them() -> None:
    ledger = TreeLedger([limit("acme requests/1m", 2), limit("acme requests/1h", 1, mode="audit")])
    for index in range(3):
        ledger.ask(index)
    assert [each.audited for each in ledger.records] == [None, *["acme requests/1h"] * 2]
    assert ledger.audit().proved
    ledger.change(audited=None)
    assert ledger.found() == {AUDITED: 1}


# ---- usage from before the run, overruns ----------------------------------------------------------------------------


def test_an_hours_window_carries_in_what_was_used_before_the_run() -> None:
    ledger = TreeLedger([limit("acme requests/1h", 5), limit("acme tokens/1h", 900)])
    for at_ms in (-60_000, -50_000, -40_000):
        ledger.carry(at_ms, "acme/bob", 1, 10, 20)
    for at_ms in range(0, 400, 100):
        ledger.ask(at_ms)
    report = ledger.audit()
    assert report.proved, report.text()
    assert (report.admitted, report.rejected) == (2, 2)
    assert {each.slid for each in report.limits} == {False}
    assert "no 1h window has slid" in report.text()
    ledger.records.pop(0)
    ledger.records.insert(0, TreeLedger(ledger.limits).ask(0))
    assert ledger.found() == {TOO_MUCH: 6, UNJUSTIFIED: 2}


@pytest.mark.parametrize(("beyond", "found"), [(840, {}), (841, {PAID_OFF: 1})])
@pytest.mark.parametrize("unit", ["input_tokens", "tokens"])
def test_overruns_are_in_no_window_and_paid_off_before_the_next_admission(
    unit: str, beyond: int, found: dict[str, int]
) -> None:
    limits = [limit(f"acme {unit}/1h", 1_000 if unit == "tokens" else 960), limit("acme/alice requests/1s", 9)]
    ledger = TreeLedger(limits)
    ledger.ask(0, inputs=100, cap=20, output=20, told=100 + beyond)
    ledger.ask(2_000, "acme/bob", inputs=20, cap=20, output=20, admit=True)
    report = ledger.audit()
    assert dict(report.findings.counts) == found, report.text()
    assert report.overruns.input_tokens == beyond
    assert report.limits[0].used == (160 if unit == "tokens" else 120)


# ---- names, long paths, hidden limits -------------------------------------------------------------------------------


def test_percent_encoded_names_are_read() -> None:
    who = ' flät, "100%"\\ key '
    limits = [limit(f"{who} requests/1s", 2), limit(f"{who} tokens/1m", 500)]
    limits += [limit(f"{who} input_tokens/1s", 15, mode="audit", name="eng, sehr")]
    ledger = TreeLedger(limits)
    for index in range(3):
        ledger.ask(100 * index, who)
    assert ledger.records[2].limit == "%20fl%C3%A4t%2C %22100%25%22%5C key  requests/1s"
    assert ledger.records[1].audited == "eng%2C sehr"
    report = ledger.audit()
    assert report.proved, report.text()
    ledger.change(1, audited=None)
    assert ledger.found() == {AUDITED: 1}


def test_of_seventeen_limits_sixteen_are_announced_and_all_are_judged() -> None:
    limits = [limit(f"acme requests/{n}h", 100 + n) for n in range(1, 17)] + [limit("acme requests/1d", 10_000)]
    ledger = TreeLedger(limits)
    for index in range(20):
        ledger.ask(100 * index)
    assert (ledger.records[0].policies or "").count(";q=") == 16
    assert "1d" not in (ledger.records[0].policies or "")
    report = ledger.audit()
    assert report.proved, report.text()
    assert len(report.limits) == 17
    assert {each.used for each in report.limits} == {20}
    ledger.limits[16] = limit("acme requests/1d", 15)
    assert ledger.found()[WINDOW] == 5


def test_full_keys_leave_room_in_the_table_for_their_account() -> None:
    names = [f"acme/key-{n}" for n in range(15)]
    ledger = TreeLedger([limit("acme requests/1m", 30), *(limit(f"{name} requests/1m", 1) for name in names)])
    for name in names:
        ledger.ask(0, name)
    lines = ledger.audit().text().splitlines()
    begin = lines.index("  fullest windows of accounts, teams and their keys, 10 of 16:") + 1
    assert [line.split()[0] for line in lines[begin : begin + 10]] == [names[0], "acme", *names[1:9]]


@pytest.mark.parametrize(("shown", "word"), [(5, "PROVED"), (4, "INCOMPLETE")])
def test_long_names_let_a_header_hold_fewer_limits(shown: int, word: str) -> None:
    """A header has at most 4,096 characters of limits: of these, five."""
    who = "a" * 700
    ledger = TreeLedger([limit(f"{who} requests/{n}h", 100 + n) for n in range(1, 9)])
    ledger.ask(0, who)
    record = ledger.records[0]
    ledger.change(
        0,
        policies=", ".join((record.policies or "").split(", ")[:shown]),
        states=", ".join((record.states or "").split(", ")[:shown]),
    )
    assert ledger.audit().word == word


def own_run(*, rejected_by: int | None = None) -> TreeLedger:
    """The account's limit is hidden; after 5 s its window holds nothing from before the run."""
    ledger = TreeLedger([limit("acme requests/1s", 3), limit("acme/alice requests/1m", 50)], show="own")
    for at_ms in (0, 5_000, 5_100, 5_200):
        ledger.ask(at_ms)
    ledger.ask(5_300 if rejected_by is None else 7_000, by=rejected_by)
    return ledger


def test_hidden_limits_are_judged_by_what_is_declared() -> None:
    ledger = own_run()
    assert ledger.records[-1].limit == "account"
    assert ledger.records[-1].policies == '"alice requests/1m";q=50;w=60'
    report = ledger.audit()
    assert report.proved, report.text()
    assert [(each.declared.subject, each.used, each.rejected) for each in report.limits] == [
        ("acme", 3, 1),
        ("acme/alice", 4, 0),
    ]
    ledger.records.pop()
    ledger.ask(5_400, admit=True)
    assert ledger.found() == {WINDOW: 1}


def test_a_hidden_limit_that_had_room_does_not_justify() -> None:
    assert own_run(rejected_by=0).found() == {UNJUSTIFIED: 1}


def test_one_of_several_hidden_limits_has_to_justify() -> None:
    """The response says ``account``, which may be either."""
    ledger = TreeLedger([limit("acme requests/1s", 3), limit("acme/research requests/1s", 9)], show="own", teams=TEAMS)
    for at_ms in (0, 5_000, 5_100, 5_200, 5_300):
        ledger.ask(at_ms)
    assert ledger.audit().proved
    ledger.ask(7_000, by=0)
    report = ledger.audit()
    assert dict(report.findings.counts) == {UNJUSTIFIED: 1}, "once, not for each"
    assert [each.rejected for each in report.limits] == [2, 2]


def alike(amounts: tuple[int, int]) -> TreeLedger:
    limits = [
        limit("acme requests/2m", amount, models=[model])
        for amount, model in zip(amounts, ("gpt*", "*4o"), strict=True)
    ]
    ledger = TreeLedger(limits)
    for at_ms, model in enumerate(["gpt-4o", "gpt-4o", "gpt-5", "gpt-5", "x-4o", "gpt-4o", "gpt-4o"]):
        ledger.ask(100 * at_ms, model=model)
    return ledger


@pytest.mark.parametrize("amounts", [(5, 9), (5, 5), (9, 4)])
def test_limits_that_differ_in_their_models_only_are_told_apart_as_far_as_possible(amounts: tuple[int, int]) -> None:
    report = alike(amounts).audit()
    assert report.proved, report.text()
    assert report.rejected >= 1


def test_their_counters_are_checked_one_by_one_if_their_amounts_differ() -> None:
    """Five and nine: two and five are left of the second and first one at most, and they are listed by share."""
    ledger = alike((5, 9))
    first = ledger.records[1]
    assert first.states == '"acme requests/2m";r=3;t=1, "acme requests/2m";r=7;t=1'
    ledger.change(1, states='"acme requests/2m";r=3;t=1, "acme requests/2m";r=8;t=1')
    assert ledger.found() == {TOO_LITTLE: 1}


def test_other_amounts_than_declared_leave_limits_of_one_name_unjudged() -> None:
    """Nobody can tell which is which."""
    ledger = alike((5, 9))
    tree = DeclaredTree((ledger.limits[0]._replace(amount=6), ledger.limits[1]), ledger.tree().keys)
    assert "acme requests/2m differ in their models only, and have other amounts" in ledger.audit(tree=tree).verdict


def test_more_limits_of_one_name_than_declared_are_not_judged() -> None:
    ledger = alike((5, 9))
    (key, path) = next(iter(ledger.tree().keys.items()))
    tree = DeclaredTree((ledger.limits[0],), {key: path._replace(limits=(0,))})
    assert "announce more limits acme requests/2m than the keys file declares" in ledger.audit(tree=tree).verdict


def test_the_wider_bounds_count_if_their_amounts_do_not_differ() -> None:
    ledger = alike((5, 5))
    assert ledger.records[5].states == '"acme requests/2m";r=0;t=1, "acme requests/2m";r=1;t=1'
    ledger.change(5, states='"acme requests/2m";r=1;t=1, "acme requests/2m";r=1;t=1')
    assert ledger.found() == {TOO_LITTLE: 1}, "one of the two is in use wholly"
    ledger.change(5, states='"acme requests/2m";r=0;t=1, "acme requests/2m";r=0;t=1')
    assert ledger.found() == {TOO_MUCH: 1}


# ---- files that are not those of the run ----------------------------------------------------------------------------


def small_run() -> TreeLedger:
    ledger = TreeLedger([limit("acme requests/1m", 50), limit("acme/alice requests/1s", 5)])
    for at_ms in range(0, 500, 100):
        ledger.ask(at_ms)
        ledger.ask(at_ms + 50, "acme/bob")
    return ledger


def test_another_amount_than_declared_is_taken_as_announced_and_noted() -> None:
    ledger = small_run()
    tree = DeclaredTree((ledger.limits[0]._replace(amount=7), ledger.limits[1]), ledger.tree().keys)
    report = ledger.audit(tree=tree)
    assert report.proved
    assert "announced 1 limits with other amounts than the keys file declares" in report.text()
    assert report.limits[-1].limit == 50
    assert "other amounts" not in ledger.audit().text()


@pytest.mark.parametrize(
    ("changed", "why", "keys"),
    [
        ({"per_ms": 3_600_000}, "whose responses announce acme requests/1m, which the keys file doesn't declare", 2),
        (None, "whose responses announce acme requests/1m, which the keys file doesn't declare", 2),
        ({}, "whose responses don't announce acme tokens/1d, which the keys file declares", 2),
    ],
)
def test_keys_with_other_limits_than_declared_are_not_judged(
    changed: dict[str, int] | None, why: str, keys: int
) -> None:
    ledger = small_run()
    first = [] if changed is None else [ledger.limits[0]._replace(**changed)]  # type: ignore[arg-type]
    limits = [*first, ledger.limits[1]]
    if changed == {}:
        limits.append(limit("acme tokens/1d", 99))
    paths = {}
    for key, path in ledger.tree().keys.items():
        shared = [n for n, each in enumerate(limits) if each.subject == "acme"]
        paths[key] = path._replace(limits=(*shared, *([len(first)] if len(path.limits) == 2 else [])))
    report = ledger.audit(tree=DeclaredTree(tuple(limits), paths))
    assert report.word == "INCOMPLETE"
    assert report.verdict == f"audit: INCOMPLETE not judged: 10 requests of {keys} keys {why}"
    assert (report.keys_not_judged, report.requests_not_judged, report.keys) == (keys, 10, 0)


def test_what_keys_that_are_not_judged_count_explains_rejections_of_others() -> None:
    ledger = TreeLedger([limit("acme requests/1m", 6), limit("acme/bob requests/1h", 50)])
    for at_ms in range(0, 700, 100):
        ledger.ask(at_ms, "acme/bob" if at_ms < 500 else "acme/alice")
    assert ledger.audit().proved
    tree = ledger.tree()
    bob = tree.keys[key_id("acme/bob")]
    tree.keys[key_id("acme/bob")] = bob._replace(limits=bob.limits[:1])
    report = ledger.audit(tree=tree)
    assert report.word == "INCOMPLETE", report.text()
    assert (report.keys, report.rejected) == (1, 1)


def test_limits_that_this_client_does_not_know_leave_the_audit_incomplete() -> None:
    ledger = small_run()
    tree = DeclaredTree(tuple(ledger.limits), ledger.tree().keys, ("acme: cost per month",))
    assert ledger.audit(tree=tree).verdict == (
        "audit: INCOMPLETE the keys file has limits that this client doesn't know: acme: cost per month"
    )


def test_a_limit_that_rejects_and_is_not_declared_leaves_its_key_unjudged() -> None:
    ledger = small_run()
    ledger.ask(600, by=0)
    ledger.change(limit="acme cost/1d")
    assert "whose requests acme cost/1d rejects, which the keys file doesn't declare" in ledger.audit().verdict


# ---- failures and unknown outcomes ----------------------------------------------------------------------------------


def test_lost_and_failed_requests_count_in_all_windows_of_their_path() -> None:
    ledger = TreeLedger([limit("acme requests/1h", 6), limit("acme/alice requests/1m", 4)])
    for at_ms in range(0, 400, 100):
        ledger.ask(at_ms)
    figures = dict.fromkeys(("policies", "states", "prompt_tokens", "completion_tokens"))
    ledger.change(1, status=None, error="timeout", time_ms=None, **figures)
    ledger.change(2, status=502, upstream_status=500, **figures)
    for counted in ledger.counted.values():
        counted[2].settled = (1, 0, 0)
    ledger.ask(2_000)
    for index in range(3):
        ledger.ask(2_100 + index, "acme/bob")
    report = ledger.audit()
    assert report.proved, report.text()
    assert (report.unknown, report.failed, report.rejected) == (1, 1, 2)


@pytest.mark.parametrize("kept", [True, False])
def test_dropped_records_are_missed(kept: bool) -> None:
    ledger = small_run()
    if not kept:
        del ledger.records[2]
    assert bool(ledger.found().get(TOO_MUCH)) is not kept
