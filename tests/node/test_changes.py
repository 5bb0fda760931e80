"""How a change is said, to people, in JSON and in the log."""

from __future__ import annotations

import logging

import pytest

from limiter_node.changes import Change, change_between, log_change, log_changes, newly_revoked


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            Change("key", "acme/alice", "changed", {"rpm": 60}, {"rpm": 120, "weight": 2}),
            "key acme/alice changed: rpm 60 -> 120, weight 1 -> 2",
        ),
        (Change("account", "acme", "created", {}, {"rpm": 5}), "account acme created: rpm 5"),
        (Change("team", "acme/research", "created"), "team acme/research created"),
        (Change("key", "ci", "deleted", {"rpm": 5}), "key ci deleted"),
        (
            Change("key", "ci", "changed", {"tpm": 1_000}, {"tpm": {"amount": 2_000_000, "mode": "audit"}}),
            "key ci changed: tpm 1,000 -> 2,000,000 audit",
        ),
        (Change("key", "ci", "disabled", {}, {"disabled": True}), "key ci disabled: disabled no -> yes"),
        (Change("key", "ci", "moved", {}, {"account": "acme"}), "key ci moved: account none -> acme"),
        (
            Change("key", "ci", "changed", {"tpm": 1}, {"tpm": {"amount": 1, "mode": "audit", "name": "big models"}}),
            'key ci changed: tpm 1 -> 1 audit "big models"',
        ),
        (
            Change(
                "key",
                "ci",
                "rotated",
                {"credentials": [{"digest": "0" * 32}]},
                {
                    "credentials": [
                        {"digest": "0" * 32, "expires": "2027-01-01T00:00:00Z"},
                        {"digest": "1" * 32},
                        {"digest": "2" * 32, "revoked": True},
                    ]
                },
            ),
            "key ci rotated: credentials sha256:000000000000 valid -> until 2027-01-01T00:00:00Z, "
            "sha256:111111111111 none -> valid, sha256:222222222222 none -> revoked",
        ),
        (
            Change(
                "key",
                "ci",
                "revoked",
                {"credentials": [{"digest": "0" * 32}, {"digest": "1" * 32}]},
                {"credentials": [{"digest": "0" * 32}, {"digest": "1" * 32, "revoked": True}]},
            ),
            "key ci revoked: credentials sha256:111111111111 valid -> revoked",
        ),
        (
            Change("key", "ci", "rotated", {}, {"credentials": [{"digest": "0" * 32}, {"digest": "1" * 32}]}),
            "key ci rotated: credentials sha256:000000000000 valid, sha256:111111111111 valid",
        ),
        (
            Change("key", "ci", "created", {}, {"credentials": [{"digest": "0" * 32}, {"digest": "1" * 32}]}),
            "key ci created: credentials sha256:000000000000 valid, sha256:111111111111 valid",
        ),
    ],
)
def test_lines(change: Change, line: str) -> None:
    assert change.line() == line


def test_only_fields_that_differ_are_kept() -> None:
    change = change_between("key", "ci", "changed", {"a": 1, "b": 2, "c": 3}, {"a": 1, "b": 3, "d": 4})
    assert change == Change("key", "ci", "changed", {"b": 2, "c": 3}, {"b": 3, "d": 4})
    assert change.to_json() == {
        "kind": "key",
        "who": "ci",
        "action": "changed",
        "before": {"b": 2, "c": 3},
        "after": {"b": 3, "d": 4},
    }


def test_a_change_is_logged_with_its_fields(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    log_change(Change("key", "ci", "changed", {"rpm": 1}, {"rpm": 2}))
    (record,) = caplog.records
    assert record.getMessage() == "key ci changed: rpm 1 -> 2"
    found = {name: getattr(record, name) for name in ("event", "what", "action", "before", "after")}
    assert found == {
        "event": "key_changed",
        "what": "key ci",
        "action": "changed",
        "before": {"rpm": 1},
        "after": {"rpm": 2},
    }


def test_many_creations_are_one_line_and_other_changes_one_each(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    keys = [Change("key", f"k{number}", "created") for number in range(1_000)]
    account, changed = Change("account", "acme", "created"), Change("key", "ci", "changed", {"rpm": 1}, {"rpm": 2})
    log_changes([account, *keys, changed])
    one, summary = caplog.records
    assert one.getMessage() == "key ci changed: rpm 1 -> 2"
    assert summary.getMessage() == "created: 1 account, 1,000 keys"
    assert {name: getattr(summary, name) for name in ("event", "account", "key")} == {
        "event": "many_created",
        "account": 1,
        "key": 1_000,
    }
    caplog.clear()
    log_changes([account, *keys[:99], changed])
    assert len(caplog.records) == 101


def test_only_what_a_change_revokes_is_newly_revoked() -> None:
    listed = [{"digest": "0" * 32}, {"digest": "1" * 32, "revoked": True}]
    revoked = [{**each, "revoked": True} for each in listed]
    assert newly_revoked(Change("key", "ci", "changed", {"credentials": listed}, {"credentials": revoked})) == {
        "0" * 32
    }
    assert newly_revoked(Change("key", "ci", "changed", {"credentials": revoked}, {"credentials": listed})) == set()
    assert newly_revoked(Change("key", "ci", "changed", {}, {"credentials": revoked})) == {"0" * 32, "1" * 32}
