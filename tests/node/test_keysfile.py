"""Keys files: what they mean, what is refused, and that no message shows a key."""

from __future__ import annotations

import hashlib
import os
import re
import tomllib
from pathlib import Path

import pytest

from limiter_node.credentials import bearer_key
from limiter_node.errors import ConfigError, LimiterError
from limiter_node.keysfile.key_names import check_declared_key
from limiter_node.keysfile.making import generate_keys, new_key, write_private
from limiter_node.keysfile.reading import read_keys
from limiter_node.limits import MAX_LIMIT, KeyLimits
from limiter_node.policy import MAX_AMOUNT

SECRET = "sk-secret-1234"
DIGEST = hashlib.sha256(SECRET.encode()).hexdigest()
KID = DIGEST[:32]


def read(tmp_path: Path, text: str | bytes) -> dict[str, KeyLimits]:
    path = tmp_path / "keys.toml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    declared = read_keys(path)
    assert not declared.accounts
    assert not declared.keys
    return dict(declared.plain)


def test_a_file_is_understood(tmp_path: Path) -> None:
    keys = read(
        tmp_path,
        f"""
        [defaults]
        rpm = 10
        output_reserve = 7

        [keys."{SECRET}"]
        name = "alice"
        rpm = 0
        input_tpm = {MAX_LIMIT}

        [keys."sha256:{hashlib.sha256(b"sk-bob").hexdigest().upper()}"]
        """,
    )
    assert keys == {
        KID: KeyLimits(0, MAX_LIMIT, 50_000, 7, "alice"),
        hashlib.sha256(b"sk-bob").hexdigest()[:32]: KeyLimits(10, 100_000, 50_000, 7, ""),
    }


def test_an_empty_file_has_no_keys(tmp_path: Path) -> None:
    assert read(tmp_path, "") == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f'[defaults]\nname = "x"\n[keys."{SECRET}"]', "[defaults]: unknown field 'name': there are rpm, input_tpm"),
        ("[defaults]\nrpm = -1", '[defaults]: rpm must be an integer from 0 to 999,999,999,999,999, or "none"'),
        ("defaults = 1", "[defaults]: must be a section"),
        ("keys = 1", 'keys must be sections, as [keys."KEY"]'),
        ("[default]", "unknown section 'default'"),
        (f'["{SECRET}"]', "unknown section:"),
        (f'[keys]\n"{SECRET}" = 1', f"key {KID[:8]}…: must be a section of fields"),
        (f'[keys."{SECRET}"]\nrpm = true', f"key {KID[:8]}…: rpm must be an integer"),
        (f'[keys."{SECRET}"]\nrpm = 1.0', f"key {KID[:8]}…: rpm must be an integer"),
        (f'[keys."{SECRET}"]\nrpm = "1"', f"key {KID[:8]}…: rpm must be an integer"),
        (f'[keys."{SECRET}"]\ninput_tpm = {MAX_AMOUNT + 1}', f"key {KID[:8]}…: input_tpm must be an integer from 0 to"),
        (f'[keys."{SECRET}"]\noutput_reserve = 0', f"key {KID[:8]}…: output_reserve must be an integer from 1 to"),
        (f'[keys."{SECRET}"]\nname = "alice"\ntpd = 0', "key 'alice': unknown field 'tpd': there are rpm,"),
        (f'[keys."{SECRET}"]\n"{SECRET}" = 0', f"key {KID[:8]}…: unknown field:"),
        (f"[keys.{SECRET}.x]", f"key {KID[:8]}…: unknown sub-section: a key with a dot must be in quotes"),
        (f'[keys."{SECRET}"]\nname = 1', f"key {KID[:8]}…: name must be a text"),
        (f'[keys."{SECRET}"]\nname = "a\\nb"', f"key {KID[:8]}…: name must be a text"),
        (f'[keys."{SECRET}"]\nname = "{"x" * 129}"', f"key {KID[:8]}…: name must be a text"),
        (f'[keys."{SECRET}"]\nname = "{SECRET}"', f"key {KID[:8]}…: name must not be the key itself"),
        (f'[keys."sha256:{SECRET}"]', "a digest is sha256: and 64 hex digits"),
        (f'[keys."sha256:{DIGEST[:-1]}"]', "a digest is sha256: and 64 hex digits"),
        ('[keys.""]', "a key must not be empty"),
        (f'[keys."{SECRET} "]', "a key must not contain white space"),
        (f'[keys."{SECRET}\\u0000"]', "a key must not contain white space or control"),
        (f'[keys."{SECRET * 40}"]', "a key must not be longer than 512 characters"),
        (f'[keys."{SECRET}é"]', "a key must have ASCII characters only"),
        (f"[keys.'{SECRET}\u00a0']", "a key must not contain white space"),
        (
            f'[keys."{SECRET}"]\nname = "alice"\n[keys."sha256:{DIGEST}"]\nname = "bob"',
            "key 'bob' and key 'alice' are the same key",
        ),
        (f'[keys."{SECRET}"]\n[keys."{SECRET}"]', "something is declared twice at line 2"),
        (f'[keys."{SECRET}"]\nrpm = 1\n[keys]\n"{SECRET}" = {{}}\n', "declared twice at line"),
        (f'[keys."{SECRET}"\n', "syntax error at line 1"),
        (f'[keys."{SECRET}"]\nrpm =', "syntax error at "),
        (b"\xff", "not UTF-8"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line_without_the_key(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        read(tmp_path, text)
    assert message in str(error.value)
    assert re.match(rf"{re.escape(str(tmp_path / 'keys.toml'))}(, line \d+)?: ", str(error.value))
    assert "\n" not in str(error.value)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (f'# mine\n\n[keys."{SECRET}"]\nname = "alice"\n\nrpm = -1\n', 6),
        (f'[keys."a"]\nrpm = 1\n[keys."{SECRET}"]\nname = "alice"\nrpm = -1', 5),
        (f'[keys."a"]\nrpm = -1 # wrong\n[keys."{SECRET}"]\nrpm = -1', 2),
        ("[defaults]\n\ninput_tpm = -1", 3),
        (f'[keys]\na.rpm = 1\n"{SECRET}".rpm = -1', 3),
        (f'[keys]\na = {{rpm = 1}}\n"{SECRET}" = {{name = "x", rpm = -1}}', 3),
        (f'keys."{SECRET}".rpm = 1\nkeys."{SECRET}".name = 1', 2),
        (f'[keys."a"]\n[ keys . "{SECRET}" ]  # here\ntpd = 1', 3),
        (f'[keys."a"]\n[keys."{SECRET}é"]', 2),
        (f'[keys."a"]\n[keys."{SECRET}\\u00e9"]\nrpm = 1', 2),
        (f'[keys."a"]\n[keys."{SECRET}"]\n[keys."sha256:{DIGEST}"]', 3),
        ('[keys."a"]\n\n[default]', 3),
        ("\nkeys = 1", 2),
        (f'[keys."a"]\nname = """\\\n  [keys."b"]"""\n[keys."{SECRET}"]\nrpm = "x"', 5),
        (f'[keys."a"]\r\n[keys."{SECRET}"]\r\nrpm = -1', 3),
        (f'[keys."{SECRET}"]\nrpm = [\n  1,\n]', 2),
    ],
)
def test_what_is_wrong_is_named_by_its_line(tmp_path: Path, text: str, line: int) -> None:
    with pytest.raises(ConfigError) as error:
        read(tmp_path, text)
    assert str(error.value).startswith(f"{tmp_path / 'keys.toml'}, line {line}: "), error.value
    assert "secret" not in str(error.value)


def test_the_line_of_the_last_of_many_keys_is_found(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="line 30008: key 'last': rpm must be"):
        read(tmp_path, generate_keys(10_000, KeyLimits()) + '[keys."x"]\nname = "last"\nrpm = -1\n')


@pytest.mark.parametrize("key", ["sk-ü", "sk-✓", "a b", "x" * 513, ""])
def test_a_key_that_no_header_can_hold_is_refused_where_it_is_declared(tmp_path: Path, key: str) -> None:
    with pytest.raises(ConfigError):
        check_declared_key(key)
    assert bearer_key(f"Bearer {key}") is None
    with pytest.raises(ConfigError, match="line 2"):
        read(tmp_path, f'[keys."ok"]\n[keys."{key}"]')


@pytest.mark.parametrize("key", ["!", "~" * 512, "{x}", "sk-a.b:c", "sha255:x"])
def test_a_key_that_a_header_can_hold_is_declared(key: str) -> None:
    assert check_declared_key(key)
    assert bearer_key(f"Bearer {key}") == key


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: No such file or directory"):
        read_keys(tmp_path / "none.toml")


def test_a_digest_and_its_key_are_the_same() -> None:
    assert check_declared_key(SECRET) == check_declared_key(f"sha256:{DIGEST}") == KID


def test_generated_keys_can_be_read(tmp_path: Path) -> None:
    limits = KeyLimits(1, 2, 3, 4)
    text = generate_keys(1_000, limits)
    keys = read(tmp_path, text)
    assert [each.name for each in keys.values()] == [f"key-{number:04}" for number in range(1, 1_001)]
    assert {(each.rpm, each.input_tpm, each.output_tpm, each.output_reserve) for each in keys.values()} == {
        (1, 2, 3, 4)
    }
    assert all(key.startswith("sk-") and len(key) == 35 for key in tomllib.loads(text)["keys"])


def test_generated_keys_are_new_each_time() -> None:
    assert len({new_key() for _ in range(1_000)}) == 1_000


@pytest.mark.parametrize(("count", "limits"), [(0, KeyLimits()), (1_000_001, KeyLimits()), (1, KeyLimits(rpm=-1))])
def test_what_cannot_be_generated_is_refused(count: int, limits: KeyLimits) -> None:
    with pytest.raises(ConfigError):
        generate_keys(count, limits)


def test_a_file_is_private_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    write_private(path, "one")
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(ConfigError, match=r"keys\.toml exists: choose another --out, or overwrite it with --force"):
        write_private(path, "two")
    assert path.read_text() == "one"
    path.chmod(0o644)
    write_private(path, "three", overwrite=True)
    assert path.read_text() == "three"
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["keys.toml"]


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UnicodeEncodeError):
        write_private(tmp_path / "keys.toml", "\ud800")
    assert os.listdir(tmp_path) == []


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(LimiterError, match=r"none/keys\.toml: No such file or directory"):
        write_private(tmp_path / "none" / "keys.toml", "")
