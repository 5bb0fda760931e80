"""The tables that commands print of keys, accounts, teams and limits, from views made by hand."""

from __future__ import annotations

from dataclasses import replace

from limiter_node.commands.account_tables import (
    account_lines,
    account_listing_lines,
    team_lines,
    team_listing_lines,
)
from limiter_node.commands.key_tables import key_lines, listing_lines
from limiter_node.commands.limit_tables import explanation_lines, limit_lines
from limiter_node.commands.tables import table
from limiter_node.management.views import (
    AccountView,
    CredentialView,
    ExplainedLimit,
    Explanation,
    KeyEntry,
    KeyView,
    LimitView,
    TeamView,
)

DIGEST = "sha256:0123456789abcdef0123456789abcdef"
OTHER = "sha256:fedcba98765432100123456789abcdef"
TIGHT = LimitView(None, "acme/alice", "requests", "1m", (), 60, 48, None, 12, 41_230, "enforce", None)
LOOSE = LimitView(
    "big models",
    "acme",
    "output_tokens",
    "1d",
    ("o3*", "gpt-5*"),
    1_000_000,
    2_000,
    None,
    998_000,
    7_200_000,
    "audit",
    None,
)
UNUSED = LimitView(None, "acme", "tokens", "1h", (), 5_000, 0, None, 5_000, 0, "enforce", None)
KEY = KeyView(
    "acme/alice", DIGEST, "acme", "research", "alice", "active", None,
    (CredentialView(DIGEST, None, "active"),), 256, 1, (TIGHT, LOOSE, UNUSED),
)  # fmt: skip
ENTRY = KeyEntry("acme/alice", DIGEST, "acme", "research", "alice", "active", None, 256, 1, {"rpm": 60})


TABLE = [
    "LIMIT                                    AMOUNT   USED     LEFT  ALL FREE IN  MODE   CALLED",
    "acme/alice requests/1m                       60     48       12       41.2 s  -      -",
    "acme output_tokens/1d for o3*,gpt-5*  1,000,000  2,000  998,000      2 hours  audit  big models",
    "acme tokens/1h                            5,000      0    5,000            -  -      -",
]


def test_limits_are_a_table_with_thousands_separated() -> None:
    assert limit_lines(KEY.limits) == TABLE
    assert limit_lines([UNUSED]) == ["LIMIT           AMOUNT  USED   LEFT", "acme tokens/1h   5,000     0  5,000"]
    assert limit_lines([]) == ["no limits"]


def test_columns_are_aligned_beside_wide_and_combining_characters() -> None:
    rows = [["漢字", "1"], ["e\u0301", "22"], ["name", "3"]]
    assert table(["NAME", "RPM"], rows, left={"NAME"}) == ["NAME  RPM", "漢字    1", "e\u0301      22", "name    3"]


def test_a_key_shows_its_state_and_limits() -> None:
    assert key_lines(KEY) == [
        "acme/alice",
        f"  digest   {DIGEST}",
        "  state    active",
        "  expires  never",
        "  team     research",
        "  reserve  256 output tokens for a request without a cap",
        "",
        *TABLE,
    ]


def test_a_key_with_several_secrets_shows_each_with_its_end() -> None:
    old = CredentialView(DIGEST, "2027-06-30T00:00:00Z", "active")
    lines = key_lines(replace(KEY, team=None, weight=2, credentials=(old, CredentialView(OTHER, None, "revoked"))))
    assert lines[3:11] == [
        "  expires  never",
        "  weight   2",
        "  reserve  256 output tokens for a request without a cap",
        "",
        "CREDENTIAL    STATE    EXPIRES",
        "0123456789ab  active   2027-06-30T00:00:00Z",
        "fedcba987654  revoked  never",
        "",
    ]
    assert lines[11:] == TABLE


def test_lists_show_columns_in_which_something_stands() -> None:
    flat = replace(
        ENTRY,
        who=OTHER,
        digest=OTHER,
        account=None,
        team=None,
        name="",
        state="disabled",
        expires="2027-06-30T00:00:00Z",
        weight=3,
        limits={
            "rpm": 600,
            "input_tpm": 100_000,
            "tpm": {"amount": 7_000, "mode": "audit"},
            "requests/1s for m": {"amount": 10, "name": "bursts"},
            "input_tokens/1d": 1_000_000,
        },
    )
    other = "7,000 tpm (audit), 10 requests/1s for m, 1,000,000 input_tokens/1d"
    assert listing_lines([ENTRY, flat]) == [
        "NAME        DIGEST        STATE     EXPIRES               TEAM      RPM  INPUT TPM  RESERVE  WEIGHT"
        "  OTHER LIMITS",
        "acme/alice  0123456789ab  active    -                     research   60          -      256       -  -",
        f"-           fedcba987654  disabled  2027-06-30T00:00:00Z  -         600    100,000      256       3  {other}",
    ]
    assert listing_lines([replace(ENTRY, team=None)]) == [
        "NAME        DIGEST        STATE   RPM  RESERVE",
        "acme/alice  0123456789ab  active   60      256",
    ]
    assert listing_lines([]) == ["no keys"]


def test_accounts_and_teams() -> None:
    teams = ("research", "research/vision")
    account = AccountView("acme", "own", 100, {"rpm": 1_200}, (LOOSE, UNUSED), teams, 12_000)
    assert account_lines(account)[:-3] == [
        "acme",
        "  keys          12,000",
        "  key defaults  rpm 1,200",
        "  teams         research, research/vision",
        "  show          callers see the limits of their key only",
        "  reserve       100 output tokens for a request without a cap",
        "",
    ]
    assert account_listing_lines([account, replace(account, name="b", limits=(), teams=(), keys=0)]) == [
        "NAME    KEYS  TEAMS  LIMITS",
        "acme  12,000      2  1,000,000 output_tokens/1d for o3*,gpt-5* (audit), 5,000 tokens/1h",
        "b          0      0  -",
    ]
    team = TeamView("acme/research", "acme", "research", None, (UNUSED,), 1, 2)
    assert team_lines(team)[:4] == ["acme/research", "  keys   2", "  teams  1", ""]
    assert team_listing_lines([team]) == [
        "NAME           KEYS  TEAMS  LIMITS",
        "acme/research     2      1  5,000 tokens/1h",
    ]
    assert account_listing_lines([]) == ["no accounts"]
    assert team_listing_lines([]) == ["no teams"]


def test_an_explanation_is_in_words() -> None:
    applying = ExplainedLimit(TIGHT, True, False, "")
    other = ExplainedLimit(LOOSE, False, False, "no pattern matches gpt-4o")
    found = Explanation("acme/alice", DIGEST, "gpt-4o", "active", (applying, other), TIGHT, "Nothing rejects now.")
    assert explanation_lines(found) == [
        "acme/alice (active), model gpt-4o",
        "Nothing rejects now.",
        "",
        "These limits apply, the tightest first:",
        "  acme/alice requests/1m: 12 of 60 left, all free in 41.2 s",
        "",
        "These do not apply:",
        "  acme output_tokens/1d for o3*,gpt-5*: no pattern matches gpt-4o",
    ]


def test_an_explanation_leaves_out_that_a_limit_is_for_all_models() -> None:
    full = replace(TIGHT, used=60, remaining=0)
    audited = replace(TIGHT, mode="audit")
    limits = (
        ExplainedLimit(full, True, True, "it is for all models; nothing is left"),
        ExplainedLimit(audited, True, False, "it is for all models; it is audited only, and never rejects"),
    )
    lines = explanation_lines(Explanation("acme/alice", DIGEST, "gpt-4o", "active", limits, full, "."))
    assert lines[-2:] == [
        "  acme/alice requests/1m: 0 of 60 left, all free in 41.2 s (nothing is left)",
        "  acme/alice requests/1m: 12 of 60 left, all free in 41.2 s (it is audited only, and never rejects)",
    ]
