"""``limiter-node keys``: against a real store, in this process where nothing depends on it being one."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import pytest
from dispatching import dispatching
from own_commands import Terminal
from store_tools import declare, store_client
from stores import running_store

from limiter_node.cli import run
from limiter_node.decisions import Need

Run = Callable[..., tuple[int, str, str]]
SECRET_WARNING = (
    "warning: the secret stands in your shell's history now, and in ps: give - instead, and pipe the secret in\n"
)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("LIMITER_STORE", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs one command: exit code, stdout, stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        code = run([str(each) for each in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def own_cluster() -> Iterator[str]:
    """The URL of a cluster in which other tests leave no keys."""
    with running_store("cluster") as store:
        yield store.url


def test_generated_keys_are_loaded_listed_and_deleted(cli: Run, own_cluster: str) -> None:
    arguments = "--count 3 --rpm 60 --input-tpm 1000 --output-tpm 500 --output-reserve 16 --out"
    assert cli("keys", "generate", *arguments.split(), "made.toml") == (0, "3 keys in made.toml\n", "")
    assert Path("made.toml").stat().st_mode & 0o777 == 0o600
    first, *_ = declared = tomllib.loads(Path("made.toml").read_text())["keys"]
    end = ("--store", own_cluster)

    code, out, err = cli("keys", "load", "made.toml", *end)
    assert (code, err) == (0, "")
    *changes, summary = out.splitlines()
    limits = "rpm 60, input_tpm 1,000, output_tpm 500, output_reserve 16, name key-000"
    assert sorted(changes) == [f"key key-000{number} created: {limits}{number}" for number in (1, 2, 3)]
    assert summary == "3 keys created; the file declares 3 keys"
    assert cli("keys", "load", "made.toml", *end) == (0, "nothing to change: the file declares 3 keys\n", "")

    code, out, _ = cli("keys", "list", *end)
    assert code == 0
    lines = out.splitlines()
    assert lines[0].split() == ["NAME", "DIGEST", "STATE", "RPM", "INPUT", "TPM", "OUTPUT", "TPM", "RESERVE"]
    digest = hashlib.sha256(first.encode()).hexdigest()
    assert f"key-0001  {digest[:12]}  active   60      1,000         500       16" in lines
    _, out, err = cli("keys", "list", "--limit", 1, *end)
    assert len(out.splitlines()) == 2
    assert re.fullmatch(r"showing the first 1 of 3 keys; raise --limit to see more\n", err)

    for who in ("key-0001", digest[:12], digest[:8], f"sha256:{digest[:12]}", f"sha256:{digest}"):
        code, out, err = cli("keys", "show", who, *end)
        assert (code, err) == (0, "")
        assert out.splitlines() == [
            "key-0001",
            f"  digest   sha256:{digest[:32]}",
            "  state    active",
            "  expires  never",
            "  reserve  16 output tokens for a request without a cap",
            "",
            "LIMIT                      AMOUNT  USED   LEFT",
            "key-0001 requests/1m           60     0     60",
            "key-0001 output_tokens/1m     500     0    500",
            "key-0001 input_tokens/1m    1,000     0  1,000",
            "",
            "no usage in the last 60 s",
        ]

    for number, key in enumerate(declared, 1):
        code, out, err = cli("keys", "delete", key, "--yes", *end)
        assert (code, out) == (0, f"key key-000{number} deleted\n")
        assert err == SECRET_WARNING
    for command in (("delete", "--yes"), ("show",), ("set", "--rpm", 1), ("disable",)):
        code, out, err = cli("keys", *command, first, *end)
        assert (code, out) == (1, "")
        assert err.startswith("error: ")
        assert first not in err
    assert cli("keys", "list", *end) == (0, "no keys\n", "")


def test_create_prints_the_secret_alone(cli: Run, embedded_single: str) -> None:
    end = ("--store", embedded_single)
    code, out, err = cli("keys", "create", "made-here", "--rpm", 5, *end)
    assert code == 0
    assert re.fullmatch(r"sk-[\w-]{32}\n", out), "KEY=$(limiter-node keys create …) works"
    assert out.strip() not in err
    assert "made-here" in err
    assert "only time" in err
    digest = hashlib.sha256(out.strip().encode()).hexdigest()

    code, shown, _ = cli("keys", "show", "made-here", "--json", *end)
    key = json.loads(shown)
    assert (code, key["who"], key["state"], key["digest"]) == (0, "made-here", "active", f"sha256:{digest[:32]}")
    assert {each["unit"]: each["limit"] for each in key["limits"]} == {
        "requests": 5, "input_tokens": 100_000, "output_tokens": 50_000,
    }  # fmt: skip
    code, again, err = cli("keys", "create", "made-here", *end)
    assert (code, again) == (1, "")
    assert err.startswith("error: ")
    assert cli("keys", "delete", "made-here", "--yes", *end)[0] == 0


def test_create_takes_the_digest_of_a_secret_made_elsewhere(cli: Run, embedded_single: str) -> None:
    end = ("--store", embedded_single)
    digest = hashlib.sha256(b"sk-elsewhere").hexdigest()
    code, out, err = cli("keys", "create", "elsewhere", "--digest", f"sha256:{digest}", *end)
    assert (code, err) == (0, "")
    assert out.startswith("key elsewhere created: ")
    assert cli("keys", "show", "sk-elsewhere", *end)[2] == SECRET_WARNING
    assert cli("keys", "delete", "elsewhere", "--yes", *end)[0] == 0
    code, out, err = cli("keys", "create", "other", "--digest", "sha256:secret", *end)
    assert (code, out) == (2, "")
    assert "secret" not in err


def test_set_changes_what_is_given_and_creates_nothing(cli: Run, embedded_single: str) -> None:
    end = ("--store", embedded_single)
    code, out, err = cli("keys", "set", "sk-alice", "--rpm", 5, *end)
    assert (code, out) == (1, ""), "an earlier version made a key whose secret was this name"
    assert err.count("\n") == 1
    assert cli("keys", "create", "bob", "--rpm", 5, *end)[0] == 0
    assert cli("keys", "set", "bob", "--rpm", 7, *end) == (0, "key bob changed: rpm 5 -> 7\n", "")
    assert cli("keys", "set", "bob", "--rpm", 7, *end) == (0, "nothing to change: key bob is so already\n", "")
    assert cli("keys", "set", "bob", "--name", "rob", *end)[0] == 0
    code, out, _ = cli("keys", "set", "rob", "--rpm", 0, "--output-reserve", 1, *end)
    assert (code, out) == (0, "key rob changed: rpm 7 -> 0, output_reserve 256 -> 1\n")
    limits = ("--limit", "input_tokens=1_000_000/1d", "--limit", "requests=10/1s audit", "--tpm", 9_000)
    code, out, _ = cli("keys", "set", "rob", *limits, "--input-tpm", "none", *end)
    assert code == 0
    assert set(out.partition(": ")[2].strip().split(", ")) == {
        "input_tokens/1d none -> 1,000,000",
        "requests/1s none -> 10 audit",
        "tpm none -> 9,000",
        "input_tpm 100,000 -> none",
    }
    code, out, _ = cli("keys", "set", "rob", "--limit", "requests=none/1s", *end)
    assert (code, out) == (0, "key rob changed: requests/1s 10 audit -> none\n")
    code, out, _ = cli("keys", "list", "--limit", 1_000_000, *end)
    [row] = [line.split() for line in out.splitlines() if line.startswith("rob ")]
    shown = [cell for cell in row if cell != "-"]  # other tests' keys may need more columns
    assert shown == ["rob", row[1], "active", "0", "50,000", "9,000", "1", "1,000,000", "input_tokens/1d"]
    assert cli("keys", "delete", "rob", "--yes", *end)[0] == 0
    assert cli("keys", "set", "rob", *end) == (
        2, "", "error: nothing to set: give at least one option, such as --rpm 120\n"
    )  # fmt: skip


def test_a_secret_may_come_on_standard_input(cli: Run, embedded_single: str, monkeypatch: pytest.MonkeyPatch) -> None:
    end = ("--store", embedded_single)
    secret = cli("keys", "create", "piped", *end)[1].strip()
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{secret}\n"))
    code, out, err = cli("keys", "show", "-", *end)
    assert (code, err) == (0, "")
    assert out.startswith("piped\n")
    monkeypatch.setattr("sys.stdin", io.StringIO("piped\n"))
    code, out, err = cli("keys", "show", "-", *end)
    assert (code, out) == (1, ""), "what comes there is a secret, never a name"
    monkeypatch.setattr("sys.stdin", Terminal(f"{secret}\n"))
    monkeypatch.setattr("click.termui.hidden_prompt_func", lambda _: secret)
    code, out, err = cli("keys", "set", "-", "--rpm", 3, *end)
    assert (code, out) == (0, "key piped changed: rpm 600 -> 3\n")
    assert secret not in err
    assert cli("keys", "delete", "piped", "--yes", *end)[0] == 0


@pytest.mark.parametrize(
    "command",
    [
        *("keys show", "keys set --rpm 1", "keys rotate --yes", "keys revoke --yes", "keys disable", "keys enable"),
        *("keys expire --never", "keys move --no-account", "keys delete --yes", "limits show --model m"),
    ],
)
def test_a_secret_that_proves_no_key_is_not_shown(cli: Run, embedded_single: str, command: str) -> None:
    code, out, err = cli(*command.split(), "sk-secret-of-nobody", "--store", embedded_single)
    assert (code, out) == (1, "")
    assert err == "error: no key has that name, digest or secret: 'limiter-node keys list' shows all\n"


def test_what_loses_something_asks_first(cli: Run, embedded_single: str, monkeypatch: pytest.MonkeyPatch) -> None:
    end = ("--store", embedded_single)
    assert cli("keys", "create", "asked-for", *end)[0] == 0
    for command in ("delete", "revoke", "rotate"):
        monkeypatch.setattr("sys.stdin", Terminal("n\n"))
        code, out, err = cli("keys", command, "asked-for", *end)
        assert (code, out) == (1, "")
        assert err.endswith("error: nothing was changed\n")
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    code, out, err = cli("keys", "delete", "asked-for", *end)
    assert (code, out) == (0, "key asked-for deleted\n")
    assert "asked-for and its usage will be deleted. Go on? [y/N]: " in err


def test_a_script_is_not_asked(cli: Run, embedded_single: str, monkeypatch: pytest.MonkeyPatch) -> None:
    end = ("--store", embedded_single)
    assert cli("keys", "create", "scripted", *end)[0] == 0
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    for command in ("rotate", "revoke", "delete"):
        code, _, err = cli("keys", command, "scripted", *(("--all",) if command == "revoke" else ()), *end)
        assert (code, "Go on?" in err) == (0, False)


def test_ctrl_c_ends_a_question(cli: Run, embedded_single: str) -> None:
    assert cli("keys", "create", "interrupted", "--store", embedded_single)[0] == 0
    command = [sys.executable, "-m", "limiter_node", "keys", "delete", "interrupted", "--store", embedded_single]
    mine, theirs = pty.openpty()
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=subprocess.PIPE) as process:
        try:
            assert process.stderr is not None
            said = b""
            while b"Go on?" not in said and (more := os.read(process.stderr.fileno(), 1_000)):
                said += more
            # A Ctrl-C between the question and the read of its answer is only seen with the next one.
            for _ in range(20):
                process.send_signal(signal.SIGINT)
                with suppress(subprocess.TimeoutExpired):
                    said += process.communicate(timeout=1)[1]
                    break
        finally:
            process.kill()
            os.close(theirs)
            os.close(mine)
    assert process.returncode == 1
    assert said.endswith(b"error: interrupted\n")
    assert cli("keys", "delete", "interrupted", "--yes", "--store", embedded_single)[0] == 0


def test_a_key_is_disabled_enabled_and_ended(cli: Run, embedded_single: str) -> None:
    end = ("--store", embedded_single)
    assert cli("keys", "create", "bounded", "--expires", "2030-01-01T00:00:00+01:00", *end)[0] == 0

    def state() -> tuple[str, str | None]:
        key = json.loads(cli("keys", "show", "bounded", "--json", *end)[1])
        return key["state"], key["expires"]

    assert state() == ("active", "2029-12-31T23:00:00Z")
    assert cli("keys", "disable", "bounded", *end)[0] == 0
    assert state() == ("disabled", "2029-12-31T23:00:00Z")
    assert cli("keys", "enable", "bounded", *end)[0] == 0
    assert cli("keys", "expire", "bounded", "--never", *end)[0] == 0
    assert state() == ("active", None)
    assert cli("keys", "expire", "bounded", "--at", "2020-01-01T00:00:00Z", *end)[0] == 0
    assert state() == ("expired", "2020-01-01T00:00:00Z")
    assert "expired" in cli("keys", "show", "bounded", *end)[1]
    assert cli("keys", "expire", "bounded", "--in", "1h", *end)[0] == 0
    assert state()[0] == "active"
    for wrong in ((), ("--never", "--in", "1h")):
        assert cli("keys", "expire", "bounded", *wrong, *end) == (
            2, "", "error: give one of --at TIME, --in LENGTH and --never\n"
        )  # fmt: skip
    assert cli("keys", "delete", "bounded", "--yes", *end)[0] == 0


def test_an_end_in_some_time_is_counted_by_the_stores_clock(
    cli: Run, embedded_single: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = ("--store", embedded_single)
    assert cli("keys", "create", "far-away", *end)[0] == 0
    with store_client(embedded_single) as client:
        store_s = client.time()[0]
    with monkeypatch.context() as patch:
        patch.setattr("time.time", lambda: 4_000_000_000.0)
        assert cli("keys", "expire", "far-away", "--in", "1h", *end)[0] == 0
    ends = datetime.fromisoformat(json.loads(cli("keys", "show", "far-away", "--json", *end)[1])["expires"])
    assert 0 <= ends.timestamp() - (store_s + 3_600) < 60
    assert cli("keys", "delete", "far-away", "--yes", *end)[0] == 0


def test_numbers_can_be_typed_as_tables_show_them(cli: Run, embedded_single: str) -> None:
    end = ("--store", embedded_single)
    assert cli("keys", "create", "thousands", "--rpm", "1,000", *end)[0] == 0
    assert cli("keys", "set", "thousands", "--rpm", "2,345", "--limit", "tokens=1,000,000/1d", *end) == (
        0, "key thousands changed: rpm 1,000 -> 2,345, tokens/1d none -> 1,000,000\n", ""
    )  # fmt: skip
    code, out, err = cli("keys", "set", "thousands", "--rpm", "1,00", *end)
    assert (code, out) == (2, "")
    assert 'rpm must be an integer from 0 to 999,999,999,999,999, or "none"' in err
    assert cli("keys", "delete", "thousands", "--yes", *end)[0] == 0


def test_secrets_are_rotated_and_revoked(cli: Run, embedded_single: str) -> None:
    end = ("--store", embedded_single)
    former = cli("keys", "create", "rotating", *end)[1].strip()
    code, out, err = cli("keys", "rotate", "rotating", "--grace", "24h", *end)
    assert code == 0
    assert re.fullmatch(r"sk-[\w-]{32}\n", out)
    latter = out.strip()
    assert former not in err
    assert latter not in err
    shown = cli("keys", "show", "rotating", *end)[1]
    assert "CREDENTIAL" in shown
    digests = [hashlib.sha256(each.encode()).hexdigest() for each in (former, latter)]
    key = json.loads(cli("keys", "show", "rotating", "--json", *end)[1])
    states = {each["digest"]: (each["state"], each["expires"] is None) for each in key["credentials"]}
    assert states == {f"sha256:{digests[0][:32]}": ("active", False), f"sha256:{digests[1][:32]}": ("active", True)}
    code, out, err = cli("keys", "revoke", "rotating", "--yes", *end)
    assert (code, out) == (1, "")
    assert all(digest[:8] in err for digest in digests), "it lists those that there are"
    assert cli("keys", "revoke", "rotating", "--credential", digests[0][:8], "--yes", *end)[0] == 0
    key = json.loads(cli("keys", "show", digests[1][:12], "--json", *end)[1])
    assert [each["state"] for each in key["credentials"]] == ["revoked", "active"]
    assert cli("keys", "rotate", "rotating", "--yes", *end)[0] == 0
    assert cli("keys", "revoke", "rotating", "--all", "--yes", *end)[0] == 0
    key = json.loads(cli("keys", "show", "rotating", "--json", *end)[1])
    assert {each["state"] for each in key["credentials"]} == {"revoked"}
    assert cli("keys", "revoke", "rotating", "--all", "--credential", "00000000", "--yes", *end) == (
        2, "", "error: give either --credential or --all\n"
    )  # fmt: skip
    assert cli("keys", "delete", "rotating", "--yes", *end)[0] == 0


def test_show_draws_what_is_used(cli: Run, embedded_single: str) -> None:
    kid = declare(embedded_single, "sk-drawn", rpm=3, input_tpm=2_000, output_tpm=1_000, name="drawn")

    async def use() -> None:
        async with dispatching(embedded_single) as dispatcher:
            for _ in range(3):
                await dispatcher.admit(kid, Need(500, 300, 0))

    asyncio.run(use())
    code, out, err = cli("keys", "show", "drawn", "--store", embedded_single)
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert re.fullmatch(r"drawn requests/1m 3 3 0 \d\d\.\d s", lines[lines.index("") + 2])
    assert "requests ██████████████████████████████ 100 % 3 of 3" in lines
    assert "input tokens ██████████████████████▌░░░░░░░ 75 % 1,500 of 2,000" in lines
    assert any(re.fullmatch(r"full: frees [123] requests? in \d\d\.\d s", line) for line in lines)
    assert sum(line.endswith("now") for line in lines) == 3
    code, out, _ = cli("limits", "show", "drawn", "--model", "gpt-4o", "--store", embedded_single)
    assert code == 0
    assert "drawn requests/1m: 0 of 3 left" in out
    assert cli("keys", "delete", "drawn", "--yes", "--store", embedded_single)[0] == 0


def test_the_store_comes_from_the_environment(cli: Run, embedded_single: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMITER_STORE", embedded_single)
    monkeypatch.setenv("LIMITER_RPM", "7")
    monkeypatch.setenv("LIMITER_LIMITS", "requests=50/1d;input_tokens=1000/1h for m as x audit")
    assert "rpm 7," in cli("keys", "create", "from-outside")[2]
    (key,) = (
        each
        for each in json.loads(cli("keys", "list", "--limit", 1_000_000, "--json")[1])["entries"]
        if each["who"] == "from-outside"
    )
    assert key["limits"]["input_tokens/1h for m"] == {"amount": 1_000, "mode": "audit", "name": "x"}
    assert key["limits"]["requests/1d"] == 50
    assert cli("keys", "delete", "from-outside", "--yes")[0] == 0


def test_generate_keeps_what_exists(cli: Run) -> None:
    assert cli("keys", "generate") == (0, "1 key in keys.toml\n", "")
    before = Path("keys.toml").read_text()
    assert cli("keys", "generate") == (
        2, "", "error: keys.toml exists: choose another --out, or overwrite it with --force\n"
    )  # fmt: skip
    assert Path("keys.toml").read_text() == before
    assert cli("keys", "generate", "--force")[0] == 0
    assert Path("keys.toml").read_text() != before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("keys", "Make, change and look at keys"),
        ("keys nothing", "No such command 'nothing'. (see limiter-node keys --help)"),
        ("keys list", "Missing option '--store'"),
        ("keys list --store cluster", "--store must be a URL"),
        ("keys list --store redis://:secret@/", "each endpoint needs a host"),
        ("keys show --store redis://127.0.0.1", "Missing argument 'WHO'"),
        ("keys set sk-secret --rpm -1 --store redis://127.0.0.1", "Invalid value for '--rpm'"),
        ("keys set sk-secret --rpm many --store redis://127.0.0.1", "rpm must be an integer from 0 to"),
        ("keys set sk-secret --output-reserve 0 --store redis://127.0.0.1", "Invalid value for '--output-reserve'"),
        ("keys set sk-secret --limit requests=5 --store redis://127.0.0.1", "a limit is written as UNIT=AMOUNT/PER"),
        ("keys set sk-secret --rpm 5 --limit requests=5/1m --store redis://127.0.0.1", "rpm is given twice"),
        ("keys set sk-secret --expires 2027-06-30 --store redis://127.0.0.1", "is not a time with an offset"),
        ("keys rotate sk-secret --grace 24 --store redis://127.0.0.1", "is not a length of time"),
        ("keys move sk-secret --store redis://127.0.0.1", "give the ACCOUNT that gets the key, or --no-account"),
        ("keys load nothing.toml --store redis://127.0.0.1", "nothing.toml: No such file or directory"),
        ("keys generate --count 0", "--count must be from 1 to 1000000"),
        ("keys list --unknown", "No such option"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(cli: Run, arguments: str, message: str) -> None:
    code, out, err = cli(*arguments.split(" "))
    assert (code, out) == (2, "")
    assert message in err
    assert not re.search("sk-secret|:secret", err)
    if arguments != "keys":
        assert err.startswith("error: ")
        assert err.count("\n") == 1


def test_a_store_that_is_away_is_exit_code_1(cli: Run, free_port: int) -> None:
    code, out, err = cli("keys", "list", "--store", f"redis://me:secret@127.0.0.1:{free_port}")
    assert (code, out) == (1, "")
    assert err.startswith(f"error: cannot reach the store at redis://me@127.0.0.1:{free_port}: is it running")
    assert err.count("\n") == 1
    assert "secret" not in err


def test_what_nobody_expected_is_one_line_too(cli: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise RuntimeError("something\nodd")

    monkeypatch.setattr("limiter_node.commands.keys.generating.generate_keys", fail)
    assert cli("keys", "generate") == (
        1, "", "error: unexpected RuntimeError: something odd (set LIMITER_DEBUG=1 to see where)\n"
    )  # fmt: skip
