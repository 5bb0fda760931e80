"""How a change is said, to people, in JSON and in the log."""

from __future__ import annotations

import logging

import pytest

from limiter_node.changes import Change, change_between, log_change


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
            "key ci rotated: credentials [sha256:000000000000] -> [sha256:000000000000 until 2027-01-01T00:00:00Z, "
            "sha256:111111111111, sha256:222222222222 revoked]",
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
