"""Keys files with credentials and ends: what they mean, what is refused and where, and who may read such a file."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from node_commands import StartCommand

from limiter_node.credentials import key_id
from limiter_node.declarations import AccountKey, Declarations
from limiter_node.errors import ConfigError
from limiter_node.key_states import Credential
from limiter_node.keysfile.credential_fields import MAX_CREDENTIALS
from limiter_node.keysfile.limit_warnings import warnings_of
from limiter_node.keysfile.reading import read_keys, read_keys_text
from limiter_node.limits import KeyLimits
from limiter_node.policy import AccountPolicy, KeyPolicy, Limit, PolicyWindow

SECRET, OTHER = "sk-secret-1234", "sk-secret-5678"
KID, OTHER_KID = key_id(SECRET), key_id(OTHER)
THREE = (PolicyWindow(60_000, limits=(Limit(0, 600), Limit(1, 100_000), Limit(2, 50_000))),)
END_MS = 1_814_313_600_000
END = "2027-06-30T00:00:00Z"


def digest_of(secret: str) -> str:
    return f"sha256:{hashlib.sha256(secret.encode()).hexdigest()}"


def read(text: str) -> Declarations:
    return read_keys_text(text.encode(), "keys.toml")


def flat(key: KeyPolicy) -> AccountKey:
    return AccountKey(AccountPolicy(key=key), key)


def test_a_key_with_an_end_is_an_account_of_its_own() -> None:
    found = read(f'[keys."{SECRET}"]\nname = "alice"\nexpires = {END}')
    key = KeyPolicy(KID, "alice", windows=THREE, output_reserve=256, expires_ms=END_MS)
    assert found == Declarations(keys={KID: flat(key)})


@pytest.mark.parametrize(
    ("credentials", "expected"),
    [
        (f'["{SECRET}", "{OTHER}"]', (Credential(KID), Credential(OTHER_KID))),
        (f'["{digest_of(OTHER)}", "{SECRET}"]', (Credential(OTHER_KID), Credential(KID))),
        (f'["{digest_of(SECRET).upper().replace("SHA", "sha")}", "{OTHER}"]', (Credential(KID), Credential(OTHER_KID))),
        (f'[{{ secret = "{SECRET}", expires = {END} }}]', (Credential(KID, END_MS),)),
        (
            f'["{SECRET}", {{ secret = "{digest_of(OTHER)}", expires = 2027-06-30T02:00:00.0019+02:00 }}]',
            (Credential(KID), Credential(OTHER_KID, END_MS + 1)),
        ),
    ],
)
def test_a_label_names_a_key_with_several_credentials(credentials: str, expected: tuple[Credential, ...]) -> None:
    found = read(f"[keys.ci]\ncredentials = {credentials}")
    key = KeyPolicy(expected[0].digest, "ci", windows=THREE, output_reserve=256, credentials=expected)
    assert found == Declarations(keys={key.kid: flat(key)})


def test_one_credential_without_an_end_leaves_a_key_plain() -> None:
    found = read(f'[keys.ci]\ncredentials = ["{SECRET}"]')
    assert found == Declarations({KID: KeyLimits(name="ci")}, listed=frozenset((KID,)))
    named = read(f'[keys.ci]\nname = "x"\ncredentials = ["{digest_of(SECRET)}"]')
    assert replace(named, listed=frozenset()) == read(f'[keys."{SECRET}"]\nname = "x"')


def test_a_key_of_an_account_states_its_credentials_or_nothing_of_them() -> None:
    found = read(
        f'[accounts.a]\n[keys.ci]\naccount = "a"\ncredentials = ["{SECRET}"]\nexpires = {END}\n'
        f'[keys."{OTHER}"]\naccount = "a"\nname = "x"'
    )
    assert found.keys[KID].key == KeyPolicy(KID, "ci", credentials=(Credential(KID),), expires_ms=END_MS)
    assert found.keys[OTHER_KID].key == KeyPolicy(OTHER_KID, "x")


def test_a_name_takes_the_place_of_the_label() -> None:
    found = read(f'[accounts.a]\n[keys."any label"]\naccount = "a"\nname = "x"\ncredentials = ["{SECRET}"]')
    assert found.keys[KID].key.name == "x"


CI = "[keys.ci]\n"


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (f"{CI}credentials = []", 2, "credentials must be a list of 1 to 100 secrets or digests"),
        (f'{CI}credentials = "{SECRET}"', 2, "credentials must be a list"),
        (f"{CI}credentials = 1", 2, "credentials must be a list"),
        (f"{CI}credentials = {[f'k{n}' for n in range(MAX_CREDENTIALS + 1)]}", 2, "must be a list of 1"),
        (f"{CI}credentials = [1]", 2, "key 'ci'"),
        (f"{CI}credentials = [\n  \"a\",\n  1,\n]", 4, "credentials, entry 2: must be a secret, a digest, or"),
        (f'{CI}credentials = [\n"a",\n{{ secret = 1 }}]', 4, "credentials, entry 2: secret must be a text"),
        (f"{CI}credentials = [{{ expires = {END} }}]", 2, "credentials, entry 1: secret must be a text"),
        (f'{CI}credentials = [{{ secret = "a", ends = 1 }}]', 2, "unknown field 'ends': there are secret, expires"),
        (f'{CI}credentials = [{{ secret = "a", name = {{}} }}]', 2, "an entry of credentials is a table of single"),
        (f'{CI}credentials = [""]', 2, "credentials, entry 1: a secret must not be empty"),
        (f'{CI}credentials = ["{SECRET} "]', 2, "credentials, entry 1: a secret must not contain white space"),
        (f'{CI}credentials = ["{SECRET}é"]', 2, "a secret must have ASCII characters only"),
        (f'{CI}credentials = ["{SECRET * 40}"]', 2, "a secret must not be longer than 512"),
        (f'{CI}credentials = ["sha256:{SECRET}"]', 2, "credentials, entry 1: a digest is sha256: and 64 hex digits"),
        (f'{CI}credentials = [\n"{SECRET}",\n"{digest_of(SECRET)}",\n]', 4, "entry 2: is in the list already"),
        (f'{CI}credentials = [{{ secret = "a", expires = 2027-06-30 }}]', 2, "entry 1: expires must be a date"),
        (f'[keys."{SECRET}"]\ncredentials = ["{SECRET}"]', 1, "the section's name is a label"),
        (f'[keys."{SECRET}"]\ncredentials = ["{OTHER}", "{digest_of(SECRET)}"]', 1, "the section's name is a label"),
        (f'[keys."{digest_of(SECRET)}"]\ncredentials = ["{OTHER}"]', 1, "the section's name is a label"),
        (f'[keys.""]\ncredentials = ["{OTHER}"]', 1, "the section's name is a label"),
        (f'[keys."a\\nb"]\ncredentials = ["{OTHER}"]', 1, "the section's name is the key's: name must"),
        (f'{CI}name = "{OTHER}"\ncredentials = ["a", "{OTHER}"]', 2, "name must not be the key itself"),
        (f'{CI}name = "{OTHER}"\ncredentials = ["a", "{digest_of(OTHER)}"]', 2, "name must not be the key itself"),
        (f'[keys."{digest_of(SECRET)}"]\nname = "{SECRET}"', 2, "name must not be the key itself"),
        (
            f'[accounts.a]\n[keys."a b"]\naccount = "a"\ncredentials = ["{SECRET}"]',
            2,
            "key 'a b': the name of a key of an account is 1 to 64 of the characters",
        ),
        (f'[accounts.ci]\n{CI}credentials = ["{SECRET}"]', 2, "can't be called like an account"),
        (
            f'[accounts.a]\n{CI}account = "a"\ncredentials = ["{SECRET}"]\n[keys.x]\nname = "ci"\naccount = "a"',
            6,
            "another key of account 'a' is called 'ci', too",
        ),
        (
            f'{CI}credentials = ["{SECRET}"]\n[keys."{SECRET}"]\nname = "alice"',
            3,
            "key 'alice' and key 'ci' are the same key",
        ),
        (
            f'{CI}credentials = ["a", "{OTHER}"]\n[keys.cd]\ncredentials = ["b", "{digest_of(OTHER)}"]',
            3,
            "key 'cd' and key 'ci' have a credential in common",
        ),
        (
            f'{CI}credentials = ["a", "{OTHER}"]\n[keys."{OTHER}"]',
            3,
            f"key {OTHER_KID[:8]}… and key 'ci' have a credential in common",
        ),
        (
            f'[keys."{OTHER}"]\n{CI}credentials = ["a", "{OTHER}"]',
            2,
            f"key 'ci' and key {OTHER_KID[:8]}… have a credential in common",
        ),
        (f"{CI}expires = 2027-06-30T00:00:00", 2, "key"),
        (f"{CI}expires = 2027-06-30T00:00:00", 2, "expires must be a date and time with its offset, as 2027-06-30T00"),
        (f"{CI}expires = 2027-06-30", 2, "expires must be a date and time with its offset"),
        (f"{CI}expires = 10:00:00", 2, "expires must be a date and time with its offset"),
        (f'{CI}expires = "{END}"', 2, "expires must be a date and time without quotes"),
        (f"{CI}expires = 1", 2, "expires must be a date and time without quotes"),
        (f"{CI}expires = 1970-01-01T00:00:00Z", 2, "expires must be a time from 1970 to 9999"),
        (f"{CI}expires = 0001-01-01T00:00:00+23:59", 2, "expires must be a time from 1970 to 9999"),
        (f"{CI}expires = 9999-12-31T23:59:59-23:59", 2, "expires must be a time from 1970 to 9999"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_place(text: str, line: int, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        read(text)
    assert message in str(error.value)
    assert str(error.value).startswith(f"keys.toml, line {line}: "), error.value
    assert "\n" not in str(error.value)
    assert "secret-" not in str(error.value)


@pytest.mark.parametrize("rest", ["1", '["a"]', '["sha256:"]', '["a", 1]', '["a"]\nname = 1', '["a"]\nname = "x"'])
def test_a_secret_that_stands_where_a_label_belongs_is_refused_and_not_shown(rest: str) -> None:
    """A section by secret to which a list was added: whoever does it will hardly think of the section's name."""
    with pytest.raises(ConfigError) as error:
        read(f'[keys."{SECRET}"]\ncredentials = {rest}')
    assert "secret-" not in str(error.value)


secrets = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20).map("s-".__add__)
offsets = st.integers(-23 * 60, 23 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
times = st.datetimes(datetime(1970, 1, 3), datetime(9999, 12, 28), timezones=offsets)
entries = st.lists(
    st.tuples(secrets, st.booleans(), st.none() | times), min_size=1, max_size=6, unique_by=lambda e: e[0]
)


@settings(deadline=None, max_examples=150)
@given(entries, st.none() | times)
def test_whatever_is_stated_is_read(listed: list[tuple[str, bool, datetime | None]], end: datetime | None) -> None:
    def ms(at: datetime | None) -> int:
        return 0 if at is None else (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)

    parts = [
        f"{{ secret = {json.dumps(digest_of(secret) if as_digest else secret)}"
        f"{'' if at is None else f', expires = {at.isoformat()}'} }}"
        for secret, as_digest, at in listed
    ]
    expires = "" if end is None else f"expires = {end.isoformat()}\n"
    found = read(f'[accounts.a]\n[keys.x]\naccount = "a"\n{expires}credentials = [{", ".join(parts)}]')
    (key,) = (each.key for each in found.keys.values())
    assert key.credentials == tuple(Credential(key_id(secret), ms(at)) for secret, _, at in listed)
    assert (key.kid, key.expires_ms) == (key_id(listed[0][0]), ms(end))


values = st.recursive(
    st.sampled_from([f'"{SECRET}"', f'"{digest_of(OTHER)}"', '""', '"sha256:"', "1", "true", END, "2027-06-30", '"ci"'])
    | st.text(st.characters(codec="ascii"), max_size=5).map(json.dumps),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda each: f"[{', '.join(each)}]")
        | st.dictionaries(st.sampled_from(["secret", "expires", "x"]), inner, max_size=3).map(
            lambda each: f"{{ {', '.join(f'{k} = {v}' for k, v in each.items())} }}"
        )
    ),
    max_leaves=6,
)


fields = st.dictionaries(st.sampled_from(["credentials", "expires", "account"]), values, max_size=3)


@settings(deadline=None, max_examples=400)
@given(fields, st.sampled_from(["", "ci", SECRET, OTHER, digest_of(SECRET)]), st.booleans())
def test_any_section_is_read_or_refused_in_one_line_without_a_secret(
    found: dict[str, str], title: str, has_secret_as_name: bool
) -> None:
    if has_secret_as_name:
        found = {**found, "credentials": f'[{found.get("credentials", "1")}, "{OTHER}"]', "name": f'"{OTHER}"'}
    text = "\n".join(f"{field} = {value}" for field, value in found.items())
    refusal = ""
    try:
        read(f"[accounts.a]\n[keys.{json.dumps(title)}]\n{text}")
    except ConfigError as error:
        refusal = str(error)
    assert not refusal or refusal.startswith("keys.toml, line ")
    assert "\n" not in refusal
    assert "secret-" not in refusal


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o602, 0o660])
@pytest.mark.parametrize(
    "text", [f'[keys."{SECRET}"]', f'[keys.ci]\ncredentials = ["{digest_of(SECRET)}", {{ secret = "{OTHER}" }}]']
)
def test_a_file_with_secrets_that_others_can_read_is_warned_about(tmp_path: Path, mode: int, text: str) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(text)
    path.chmod(mode)
    (warning,) = warnings_of(read_keys(path))
    reason = "others than its owner can read or change this file, which holds keys in plain text"
    assert warning == f"{reason}: chmod 600 {path}"


@pytest.mark.parametrize(("user", "is_exposed"), [(0, True), (1_000, True), (1_001, False)])
def test_the_right_of_a_group_is_no_mistake_if_it_is_the_readers_way_to_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user: int, is_exposed: bool
) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(f'[keys."{SECRET}"]')
    path.chmod(0o640)
    owner = path.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: {0: 0, 1_000: owner, 1_001: owner + 1}[user])
    assert bool(warnings_of(read_keys(path))) is is_exposed


@pytest.mark.parametrize(
    ("mode", "text"),
    [
        (0o600, f'[keys."{SECRET}"]'),
        (0o400, f'[keys."{SECRET}"]'),
        (0o644, f'[keys."{digest_of(SECRET)}"]'),
        (0o644, f'[keys.ci]\ncredentials = ["{digest_of(SECRET)}", {{ secret = "{digest_of(OTHER)}" }}]'),
        (0o644, "[accounts.a]\nrpm = 1"),
    ],
)
def test_a_private_file_or_one_of_digests_is_not(tmp_path: Path, mode: int, text: str) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(text)
    path.chmod(mode)
    assert warnings_of(read_keys(path)) == []


@pytest.mark.parametrize("command", [("keys", "load"), ("serve", "--keys"), ("up", "--keys")])
async def test_each_command_that_reads_such_a_file_warns(
    limiter_node: StartCommand, tmp_path: Path, command: tuple[str, str], embedded_single: str, free_port: int
) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(f'[keys."{SECRET}"]\nname = "exposed"')
    path.chmod(0o644)
    more = () if command[0] == "keys" else ("--port", free_port)
    started = await limiter_node(*command, path, "--store", embedded_single, *more)
    if command[0] == "keys":
        assert await started.ended() == 0
    else:
        await started.line(r"node \S+ ready \S+")
        assert await started.stop() == 0
    said = await started.errors()
    assert said.count(f"chmod 600 {path}") == 1
    assert SECRET not in said
