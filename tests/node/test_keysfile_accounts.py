"""Keys files with accounts, teams, models and windows: what they mean, what is refused and where, and the warnings."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from limiter_node.credentials import key_id
from limiter_node.declarations import MAX_WINDOWS, AccountKey, Declarations, to_account
from limiter_node.errors import ConfigError
from limiter_node.keysfile.limit_warnings import warnings_of
from limiter_node.keysfile.reading import read_keys
from limiter_node.keysfile.watching import KeysFile
from limiter_node.limits import KeyLimits
from limiter_node.policy import (
    AUDIT,
    INPUT_TOKENS,
    MAX_AMOUNT,
    OUTPUT_TOKENS,
    REQUESTS,
    TOKENS,
    AccountPolicy,
    KeyPolicy,
    Limit,
    PolicyWindow,
    Subject,
    window_id,
)

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
SECRET = "sk-secret-1234"
KID = key_id(SECRET)

ORGANISATION = """
[accounts.acme]
rpm = 5_000
tpm = 2_000_000
show = "own"
output_reserve = 300
key_defaults = { rpm = 120, tpm = 9 }
limits = [
  { requests = 50_000, per = "1d" },
  { output_tokens = 100_000, per = "1m", models = ["o3*", "gpt-5*"], name = "big models" },
  { requests = 100, per = "1s", mode = "audit" },
  { input_tokens = 7, per = "60s", models = ["GPT-5*", "o3*", "O3*"] },
]

[accounts.acme.teams.research]
rpm = 1_000
[accounts.acme.teams."research/vision"]
output_reserve = 100

[accounts.empty]

[keys."sk-alice"]
name = "alice"
account = "acme"
team = "research/vision"
rpm = 60
weight = 2
limits = [{ input_tokens = 1_000_000, per = "1d" }]

[keys."sk-bob"]
account = "acme"
tpm = "none"
limits = [{ requests = 5, per = "1m" }]

[keys."sk-carol"]
account = "empty"

[keys."sk-dave"]
name = "dave"
"""


def read(tmp_path: Path, text: str) -> Declarations:
    path = tmp_path / "keys.toml"
    path.write_text(text)
    path.chmod(0o600)
    return read_keys(path)


def minute(*limits: Limit) -> PolicyWindow:
    return PolicyWindow(MINUTE, limits=limits)


def test_an_organisation_is_understood(tmp_path: Path) -> None:
    found = read(tmp_path, ORGANISATION)
    acme = AccountPolicy(
        "acme",
        (
            Subject(
                "",
                (
                    minute(Limit(REQUESTS, 5_000), Limit(TOKENS, 2_000_000)),
                    PolicyWindow(DAY, limits=(Limit(REQUESTS, 50_000),)),
                    PolicyWindow(
                        MINUTE,
                        ("o3*", "gpt-5*"),
                        (Limit(OUTPUT_TOKENS, 100_000, name="big models"), Limit(INPUT_TOKENS, 7)),
                    ),
                    PolicyWindow(1_000, limits=(Limit(REQUESTS, 100, AUDIT),)),
                ),
                300,
            ),
            Subject("research", (minute(Limit(REQUESTS, 1_000)),)),
            Subject("research/vision", (), 100),
        ),
        "own",
        (("rpm", 120), ("tpm", 9)),
    )
    empty = AccountPolicy("empty", (Subject(""),))
    alice, bob, carol, dave = (key_id(f"sk-{name}") for name in ("alice", "bob", "carol", "dave"))
    day = PolicyWindow(DAY, limits=(Limit(INPUT_TOKENS, 1_000_000),))
    assert found.accounts == {"acme": acme, "empty": empty}
    assert acme.tag == "@acme"
    assert found.keys == {
        alice: AccountKey(
            acme,
            KeyPolicy(alice, "alice", "research/vision", (minute(Limit(REQUESTS, 60), Limit(TOKENS, 9)), day), None, 2),
        ),
        bob: AccountKey(acme, KeyPolicy(bob, windows=(minute(Limit(REQUESTS, 5)),))),
        carol: AccountKey(empty, KeyPolicy(carol)),
    }
    assert found.plain == {dave: KeyLimits(name="dave")}
    assert found.key_count == 4


@pytest.mark.parametrize(
    ("defaults", "fields", "limits"),
    [
        ("", "", KeyLimits()),
        ("rpm = 5\ninput_tpm = 6\noutput_tpm = 7\noutput_reserve = 8", "", KeyLimits(5, 6, 7, 8)),
        ("rpm = 5", "rpm = 4_000_000_000", KeyLimits(4_000_000_000)),
        ("tpm = 9", 'tpm = "none"', KeyLimits()),
        ('rpm = "none"', "rpm = 3", KeyLimits(3)),
        ("rpm = 4_000_000_001", "rpm = 1", KeyLimits(1)),
    ],
)
def test_a_key_that_needs_nothing_else_stays_plain(
    tmp_path: Path, defaults: str, fields: str, limits: KeyLimits
) -> None:
    found = read(tmp_path, f'[defaults]\n{defaults}\n[keys."{SECRET}"]\n{fields}')
    assert found == Declarations({KID: limits})


ALL_THREE = (Limit(REQUESTS, 600), Limit(INPUT_TOKENS, 100_000), Limit(OUTPUT_TOKENS, 50_000))


@pytest.mark.parametrize(
    ("defaults", "fields", "windows", "reserve"),
    [
        ("", "tpm = 9", (minute(*ALL_THREE, Limit(TOKENS, 9)),), 256),
        ("tpm = 9\noutput_reserve = 7", "", (minute(*ALL_THREE, Limit(TOKENS, 9)),), 7),
        ("", 'rpm = "none"', (minute(*ALL_THREE[1:]),), 256),
        ("", "rpm = 4_000_000_001", (minute(Limit(REQUESTS, 4_000_000_001), *ALL_THREE[1:]),), 256),
        ("", f"rpm = {MAX_AMOUNT}", (minute(Limit(REQUESTS, MAX_AMOUNT), *ALL_THREE[1:]),), 256),
        ('rpm = "none"\ninput_tpm = "none"\noutput_tpm = "none"', "output_reserve = 3", (), 3),
        (
            "",
            'limits = [{ requests = 1, per = "1d" }]',
            (minute(*ALL_THREE), PolicyWindow(DAY, limits=(Limit(REQUESTS, 1),))),
            256,
        ),
        # What is written for a minute takes the place of the default.
        (
            "rpm = 7",
            'limits = [{ requests = 1, per = "60s", mode = "audit" }]',
            (minute(*ALL_THREE[1:], Limit(REQUESTS, 1, AUDIT)),),
            256,
        ),
        (
            "",
            'limits = [{ requests = 0, per = "1m", models = ["a"] }]',
            (minute(*ALL_THREE), PolicyWindow(MINUTE, ("a",), (Limit(REQUESTS, 0),))),
            256,
        ),
    ],
)
def test_a_key_that_needs_more_is_an_account_of_its_own(
    tmp_path: Path, defaults: str, fields: str, windows: tuple[PolicyWindow, ...], reserve: int
) -> None:
    found = read(tmp_path, f'[defaults]\n{defaults}\n[keys."{SECRET}"]\nname = "x"\n{fields}')
    key = KeyPolicy(KID, "x", windows=windows, output_reserve=reserve)
    assert found == Declarations(keys={KID: AccountKey(AccountPolicy(key=key), key)})
    assert found.keys[KID].account.tag == KID


def test_a_plain_key_as_an_account_has_the_same_limits(tmp_path: Path) -> None:
    limits = KeyLimits(1, 2, 3, 4, "x")
    found = to_account(KID, limits)
    assert found.key is not None
    assert found.key == KeyPolicy(
        KID,
        "x",
        windows=(minute(Limit(REQUESTS, 1), Limit(INPUT_TOKENS, 2), Limit(OUTPUT_TOKENS, 3)),),
        output_reserve=4,
    )


@pytest.mark.parametrize(
    ("per", "ms"),
    [("1s", 1_000), ("90s", 90_000), ("1m", MINUTE), ("60s", MINUTE), ("24h", DAY), ("31d", 31 * DAY)],
)
def test_lengths(tmp_path: Path, per: str, ms: int) -> None:
    found = read(tmp_path, f'[accounts.a]\nlimits = [{{ requests = 1, per = "{per}" }}]')
    assert found.accounts["a"].subjects[0].windows == (PolicyWindow(ms, limits=(Limit(REQUESTS, 1),)),)


def test_order_and_case_of_patterns_make_no_other_window(tmp_path: Path) -> None:
    def window(models: str) -> bytes:
        text = f'[accounts.a]\nlimits = [{{ requests = 1, per = "1h", models = {models} }}]'
        (found,) = read(tmp_path, text).accounts["a"].subjects[0].windows
        return window_id("", found)

    assert window('["a*", "B"]') == window('["b", "A*", "a*"]') != window('["a*"]')


ACME = "[accounts.acme]\n"
KEY = f'[keys."{SECRET}"]\nname = "alice"\n'
IN_ACME = f'{ACME}{KEY}account = "acme"\n'


def entry(text: str) -> str:
    return f"{ACME}limits = [{text}]"


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("accounts = 1", 1, "accounts must be sections, as [accounts.NAME]"),
        ('[accounts."a b"]', 1, "the name of an account is 1 to 64 of the characters"),
        (f"[accounts.{'a' * 65}]", 1, "the name of an account is 1 to 64"),
        ("[accounts]\nacme = 1", 2, "account 'acme': must be a section"),
        (f"{ACME}rpn = 1", 2, "account 'acme': unknown field 'rpn': there are rpm, input_tpm, output_tpm, tpm, limits"),
        (f"{ACME}rpm = -1", 2, "account 'acme': rpm must be an integer from 0 to 999,999,999,999,999"),
        (f"{ACME}rpm = {MAX_AMOUNT + 1}", 2, "rpm must be an integer from 0 to 999,999,999,999,999"),
        (f"{ACME}tpm = 1.0", 2, "tpm must be an integer"),
        (f"{ACME}output_reserve = 0", 2, "output_reserve must be an integer from 1 to 1,000,000"),
        (f'{ACME}show = "all"', 2, "show must be 'path' or 'own'"),
        (f"{ACME}key_defaults = 1", 2, "account 'acme': key_defaults: must be a section of fields"),
        (f"{ACME}key_defaults = {{ rpm = -1 }}", 2, "key_defaults: rpm must be an integer"),
        (f"{ACME}key_defaults = {{ name = 1 }}", 2, "unknown field 'name': there are rpm, input_tpm, output_tpm, tpm"),
        ("[accounts.a.b]\nrpm = 1", 1, 'account with a dot must be in quotes, as [accounts."a.b"]'),
        (f"{ACME}teams = 1", 2, "teams must be sections"),
        (f"{ACME}[accounts.acme.teams.r]\nrpm = true", 3, "account 'acme': team 'r': rpm must be an integer"),
        (f"{ACME}[accounts.acme.teams.r]\nshow = 'own'", 3, "team 'r': unknown field 'show'"),
        (f'{ACME}[accounts.acme.teams."r/v"]', 2, "team 'r/v': its parent 'r' must be declared, too"),
        (f"{ACME}[accounts.acme.teams.r.v]\nrpm = 1", 2, 'must be in quotes, as [accounts.NAME.teams."a/b"]'),
        (f'{ACME}[accounts.acme.teams."r/"]', 2, "a team is up to 4 names with a / between"),
        (f'{ACME}[accounts.acme.teams."a/b/c/d/e"]', 2, "a team is up to 4 names"),
        (f"{ACME}limits = 1", 2, "limits must be a list, as"),
        (entry("1"), 2, "limits, entry 1: must be a section of fields"),
        (entry('{ per = "1d" }'), 2, "must have exactly one of requests, input_tokens, output_tokens, tokens"),
        (entry('{ requests = 1, tokens = 1, per = "1d" }'), 2, "must have exactly one of"),
        (entry("{ requests = 1 }"), 2, 'per must be a length from "1s" to "31d"'),
        (entry('{ requests = 1, per = "0s" }'), 2, "per must be a length"),
        (entry('{ requests = 1, per = "32d" }'), 2, "per must be a length"),
        (entry('{ requests = 1, per = "1w" }'), 2, "per must be a length"),
        (entry("{ requests = 1, per = 60 }"), 2, "per must be a length"),
        (entry("{ requests = 1, per = [] }"), 2, "per must be a length"),
        (entry('{ requests = -1, per = "1d" }'), 2, "requests must be an integer from 0 to 999,999,999,999,999"),
        (entry('{ requests = "none", per = "1d" }'), 2, "requests must be an integer"),
        (entry('{ requests = 1, per = "1d", models = [] }'), 2, "models must be a list of 1 to 64 patterns"),
        (entry('{ requests = 1, per = "1d", models = "a" }'), 2, "models must be a list"),
        (entry('{ requests = 1, per = "1d", models = [""] }'), 2, "models: a pattern has 1 to 128"),
        (entry('{ requests = 1, per = "1d", models = ["*a*b*c*d*"] }'), 2, "a pattern may have at most 4 *"),
        (entry('{ requests = 1, per = "1d", mode = "shadow" }'), 2, "mode must be 'enforce' or 'audit'"),
        (entry('{ requests = 1, per = "1d", name = 1 }'), 2, "name must be a text"),
        (entry('{ requests = 1, per = "1d", count = 1 }'), 2, "unknown field 'count': there are requests"),
        (
            entry('\n  { requests = 1, per = "1d" },\n  { requests = 2, per = "24h" },\n'),
            4,
            "limits, entry 2: two limits of requests on the same window: same length, same models",
        ),
        (f'{ACME}rpm = 1\nlimits = [{{ requests = 1, per = "60s" }}]', 3, "two limits of requests on the same window"),
        (
            entry('\n{ tokens = 1, per = "1h", models = ["a", "B"] }, # [\n\n{ tokens=1, per="1h", models=["b","A"] }'),
            5,
            "limits, entry 2: two limits of tokens",
        ),
        (f"{ACME}[[accounts.acme.limits]]\ntokens = 1\nper = '1d'\n[[accounts.acme.limits]]\nper = '1d'", 5, "entry 2"),
        (entry(", ".join(f'{{ requests = 1, per = "{n}s" }}' for n in range(1, 34))), 2, "on 33 windows: at most 32"),
        (f'{KEY}account = "acme"', 3, "key 'alice': account 'acme' is not declared: there must be an [accounts.NAME]"),
        (f"{KEY}account = 1", 3, "key 'alice': account is not declared"),
        (f'{IN_ACME}team = "r"', 5, "key 'alice': team 'r' is not declared: account 'acme' must have a section for it"),
        (f'{IN_ACME}team = "r/s"', 5, "team 'r/s' is not declared"),
        (f'{IN_ACME}team = "r s"', 5, "key 'alice': team is not declared"),
        (f'{IN_ACME}team = ""', 5, "team is not declared"),
        (f"{IN_ACME}team = 1", 5, "team is not declared"),
        (f"{IN_ACME}weight = 0", 5, "weight must be an integer from 1 to 1000"),
        (f"{IN_ACME}weight = 1001", 5, "weight must be an integer from 1 to 1000"),
        (f"{KEY}weight = 1", 3, "weight is for keys of an account: set account, too"),
        (f'{KEY}team = "r"', 3, "team is for keys of an account: set account, too"),
        (f'{ACME}[keys."{SECRET}"]\nname = "a b"\naccount = "acme"', 3, "the name of a key of an account is 1 to 64"),
        (f'{ACME}[keys."{SECRET}"]\nname = "acme"', 3, "can't be called like an account"),
        (f'{ACME}[keys."{SECRET}"]\nname = "acme"\ntpm = 1', 3, "can't be called like an account"),
        (
            f'{ACME}[accounts.acme.teams.alice]\n{KEY}account = "acme"',
            4,
            "key 'alice': a team of account 'acme' is called 'alice', too",
        ),
        (
            f'{IN_ACME}[keys.b]\nname = "alice"\naccount = "acme"',
            6,
            "key 'alice': another key of account 'acme' is called 'alice', too",
        ),
        (
            f'{IN_ACME}[keys."sha256:{hashlib.sha256(SECRET.encode()).hexdigest()}"]\nname = "bob"',
            5,
            "key 'bob' and key 'alice' are the same key",
        ),
        # What later versions bring.
        (f"{ACME}in_flight = 1", 2, "account 'acme': in_flight is not supported by this version: take it out"),
        (f'{ACME}max_wait = "20s"', 2, "max_wait is not supported by this version"),
        (f"{ACME}[accounts.acme.teams.r]\nin_flight = 1", 3, "team 'r': in_flight is not supported"),
        (f"{ACME}key_defaults = {{ in_flight = 1 }}", 2, "in_flight is not supported by this version"),
        (entry('{ cost = 5.0, per = "1d" }'), 2, "limits, entry 1: cost is not supported by this version"),
        (entry('{ requests = 5, per = "month" }'), 2, 'per = "month" is not supported by this version'),
        (entry('{ requests = 5, per = "day" }'), 2, 'per = "day" is not supported by this version'),
        (entry('{ requests = 5, per = "day", tz = "UTC" }'), 2, "tz is not supported by this version"),
        (f"{KEY}in_flight = 1", 3, "key 'alice': in_flight is not supported by this version"),
        (f"{ACME}expires = 2027-06-30T00:00:00Z", 2, "account 'acme': unknown field 'expires'"),
        ("[defaults]\nmax_wait = 1", 2, "[defaults]: max_wait is not supported by this version"),
        ('[prices."gpt-4o*"]\ninput = 2.5', 1, "prices is not supported by this version"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_place(tmp_path: Path, text: str, line: int, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        read(tmp_path, text)
    assert message in str(error.value)
    assert str(error.value).startswith(f"{tmp_path / 'keys.toml'}, line {line}: "), error.value
    assert "\n" not in str(error.value)
    assert "secret" not in str(error.value)


def test_limits_of_zero_are_limits(tmp_path: Path) -> None:
    found = read(tmp_path, f'{IN_ACME}rpm = 0\nlimits = [{{ tokens = 0, per = "1d" }}]')
    assert [window.limits for window in found.keys[KID].key.windows] == [(Limit(REQUESTS, 0),), (Limit(TOKENS, 0),)]


def test_as_many_windows_as_possible(tmp_path: Path) -> None:
    found = read(tmp_path, entry(", ".join(f'{{ requests = 1, per = "{n}s" }}' for n in range(1, MAX_WINDOWS + 1))))
    assert len(found.accounts["acme"].subjects[0].windows) == MAX_WINDOWS


def test_deeply_nested_values_are_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"keys\.toml: (its values are nested too deeply|syntax error)"):
        read(tmp_path, "x = " + "[" * 50_000)


TREE = """
[accounts.acme]
rpm = 100
limits = [{ tokens = 10, per = "1d", models = ["gpt-*"] }, { requests = 5, per = "1s", mode = "audit" }]
[accounts.acme.teams.r]
rpm = 50
limits = [{ tokens = 11, per = "24h", models = ["GPT-*"] }]
[accounts.acme.teams."r/v"]
rpm = 50
"""


@pytest.mark.parametrize(
    ("text", "models", "expected"),
    [
        (
            TREE,
            (),
            ["acme/r: tokens/1d for GPT-* 11 is above the 10 of acme, which rejects first"],
        ),
        (
            '[accounts.a]\nrpm = 5\n[keys.k]\nname = "x"\naccount = "a"\nrpm = 6\ntpm = 9',
            (),
            ["a/x: requests/1m 6 is above the 5 of a, which rejects first"],
        ),
        # The nearest of those that are lower.
        (
            f'{TREE}[keys.k]\naccount = "acme"\nteam = "r/v"\nrpm = 120',
            (),
            [
                "acme/r: tokens/1d for GPT-* 11 is above the 10 of acme, which rejects first",
                f"acme/{key_id('k')[:12]}: requests/1m 120 is above the 50 of acme/r/v, which rejects first",
            ],
        ),
        # An audited limit rejects nothing, another length or another set of models is another window.
        (
            '[accounts.a]\nlimits = [{ requests = 1, per = "1m", mode = "audit" }, { requests = 1, per = "1d" }, '
            '{ requests = 1, per = "1h", models = ["x"] }]\n'
            '[accounts.a.teams.t]\nrpm = 9\nlimits = [{ requests = 5, per = "1h" }, { tokens = 5, per = "1d" }]',
            (),
            [],
        ),
        (
            '[accounts.a]\nlimits = [{ requests = 1, per = "1d", models = ["GPT-4*", "o3", "*-5"] }]',
            ("gpt-4o", "Claude-5"),
            ["a: no model matches 'o3' of the limit requests/1d for GPT-4*, o3, *-5: the models are gpt-4o, claude-5"],
        ),
        ('[accounts.a]\nlimits = [{ requests = 1, per = "1d", models = ["o3*"] }]', (), []),
        (
            '[keys.k]\nname = "x"\nlimits = [{ tokens = 1, per = "1d", models = ["o3"] }]',
            ("gpt-4o",),
            ["x: no model matches 'o3' of the limit tokens/1d for o3: the models are gpt-4o"],
        ),
        (
            '[keys.a]\nname = "x"\n[keys.b]\nname = "x"\ntpm = 1\n[keys.c]\n[keys.d]',
            (),
            ["2 keys are called 'x': only their digests tell them apart"],
        ),
    ],
)  # fmt: skip
def test_warnings(tmp_path: Path, text: str, models: tuple[str, ...], expected: list[str]) -> None:
    assert warnings_of(read(tmp_path, text), models) == expected


@pytest.mark.parametrize(
    ("defaults", "account", "reserve"),
    [("", "", None), ("output_reserve = 9", "", 9), ("output_reserve = 9", "output_reserve = 8", 8)],
)
def test_the_reserve_of_an_account_is_its_own_else_the_defaults(
    tmp_path: Path, defaults: str, account: str, reserve: int | None
) -> None:
    declared = read(tmp_path, f"[defaults]\nrpm = 1\n{defaults}\n[accounts.a]\nrpm = 2\n{account}\n")
    (subject,) = declared.accounts["a"].subjects
    assert subject.output_reserve == reserve


def test_many_warnings_are_counted(tmp_path: Path) -> None:
    keys = "".join(f'[keys.k{n}]\naccount = "a"\nrpm = 2\n' for n in range(150))
    found = warnings_of(read(tmp_path, f"[accounts.a]\nrpm = 1\n{keys}"))
    assert len(found) == 101
    assert found[-1] == "50 more warnings of these kinds"


def test_a_watched_file_gives_plain_keys_and_all_that_it_declares(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(ORGANISATION)
    file = KeysFile(path)
    assert file.declarations().plain == {key_id("sk-dave"): KeyLimits(name="dave")}
    assert file.declarations() is file.declarations()
    assert file.declarations() == read_keys(path)
    assert all(file.was_declared(key_id(key)) for key in ("sk-dave", "sk-alice"))
    assert not file.was_declared(key_id("sk-nobody"))
