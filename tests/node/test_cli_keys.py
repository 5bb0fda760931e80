"""``limiter-node keys``: against a real store, in this process where nothing depends on it being one."""

from __future__ import annotations

import asyncio
import hashlib
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from dispatching import dispatching
from store_tools import declare
from stores import running_store

from limiter_node.cli import run
from limiter_node.decisions import Need

Run = Callable[..., tuple[int, str, str]]


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


def test_generate_load_show_list_delete(cli: Run, own_cluster: str) -> None:
    arguments = "--count 3 --rpm 60 --input-tpm 1000 --output-tpm 500 --output-reserve 16 --out"
    assert cli("keys", "generate", *arguments.split(), "made.toml") == (0, "3 keys in made.toml\n", "")
    assert Path("made.toml").stat().st_mode & 0o777 == 0o600
    first, *_ = declared = tomllib.loads(Path("made.toml").read_text())["keys"]

    assert cli("keys", "load", "made.toml", "--store", own_cluster) == (0, "3 keys loaded\n", "")
    code, out, _ = cli("keys", "list", "--store", own_cluster)
    assert code == 0
    lines = out.splitlines()
    assert lines[0].split() == ["NAME", "DIGEST", "RPM", "INPUT", "TPM", "OUTPUT", "TPM", "OUTPUT", "RESERVE"]
    digest = hashlib.sha256(first.encode()).hexdigest()
    assert f"key-0001  {digest[:8]}   60       1000         500              16" in lines
    _, out, err = cli("keys", "list", "--limit", 1, "--store", own_cluster)
    assert len(out.splitlines()) == 2
    assert re.fullmatch(r"showing the first 1 of 3 keys; raise --limit to see more\n", err)

    for key in (first, f"sha256:{digest}"):
        code, out, _ = cli("keys", "show", key, "--store", own_cluster)
        assert code == 0
        assert out.splitlines() == [
            f"key-0001 (key {digest[:8]}…), output reserve 16",
            "PER 60 s       LIMIT  USED  REMAINING  ALL FREE IN",
            "requests          60     0         60            -",
            "input tokens    1000     0       1000            -",
            "output tokens    500     0        500            -",
            "no usage in the last 60 s",
        ]

    for key in declared:
        code, out, _ = cli("keys", "delete", key, "--store", own_cluster)
        assert (code, out.split()[0], key in out) == (0, "key", False)
    message = f"error: key {digest[:8]}… is not in the store: add it with 'keys set' or 'keys load'\n"
    assert cli("keys", "delete", first, "--store", own_cluster) == (1, "", message)
    assert cli("keys", "show", first, "--store", own_cluster) == (1, "", message)


def test_set_changes_what_is_given(cli: Run, embedded_single: str) -> None:
    store = ("--store", embedded_single)
    called = f"key {hashlib.sha256(b'sk-set').hexdigest()[:8]}…"
    defaults = "input_tpm 100000, output_tpm 50000, output_reserve 256\n"
    assert cli("keys", "set", "sk-set", "--rpm", 5, *store) == (0, f"{called}: rpm 5, {defaults}", "")
    assert cli("keys", "set", "sk-set", "--name", "bob", *store) == (0, f"bob ({called}): rpm 5, {defaults}", "")
    code, out, _ = cli("keys", "set", "sk-set", "--rpm", 0, "--output-reserve", 1, *store)
    assert (code, out) == (0, f"bob ({called}): rpm 0, input_tpm 100000, output_tpm 50000, output_reserve 1\n")
    assert cli("keys", "delete", "sk-set", *store)[0] == 0


def test_show_draws_what_is_used(cli: Run, embedded_single: str) -> None:
    kid = declare(embedded_single, "sk-drawn", rpm=3, input_tpm=2_000, output_tpm=1_000, output_reserve=100)

    async def use() -> None:
        async with dispatching(embedded_single) as dispatcher:
            for _ in range(3):
                await dispatcher.admit(kid, Need(500, 300, 0))

    asyncio.run(use())
    code, out, err = cli("keys", "show", "sk-drawn", "--store", embedded_single)
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert re.fullmatch(r"requests 3 3 0 \d\d\.\d s", lines[2])
    assert "requests ██████████████████████████████ 100 % 3 of 3" in lines
    assert "input tokens ██████████████████████▌░░░░░░░ 75 % 1,500 of 2,000" in lines
    assert any(re.fullmatch(r"full: frees [123] requests? in \d\d\.\d s", line) for line in lines)
    assert sum(line.endswith("now") for line in lines) == 3
    assert cli("keys", "delete", "sk-drawn", "--store", embedded_single)[0] == 0


def test_the_store_comes_from_the_environment(cli: Run, embedded_single: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMITER_STORE", embedded_single)
    monkeypatch.setenv("LIMITER_RPM", "7")
    assert "rpm 7," in cli("keys", "set", "sk-environment")[1]
    assert cli("keys", "delete", "sk-environment")[0] == 0


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
        ("keys", "Make, load and look at API keys"),
        ("keys nothing", "No such command 'nothing'. (see limiter-node keys --help)"),
        ("keys list", "Missing option '--store'"),
        ("keys list --store cluster", "--store must be a URL"),
        ("keys list --store redis://:secret@/", "each endpoint needs a host"),
        ("keys show --store redis://127.0.0.1", "Missing argument 'KEY'"),
        ("keys set sha256:secret --store redis://127.0.0.1", "a digest is sha256: and 64 hex digits"),
        ("keys set sk-secret --rpm -1 --store redis://127.0.0.1", "Invalid value for '--rpm'"),
        ("keys set sk-secret --output-reserve 0 --store redis://127.0.0.1", "Invalid value for '--output-reserve'"),
        ("keys set sk-secret --name a\nb --store redis://127.0.0.1", "name must be a text"),
        ("keys load nothing.toml --store redis://127.0.0.1", "nothing.toml: No such file or directory"),
        ("keys generate --count 0", "--count must be from 1 to 1000000"),
        ("keys list --unknown", "No such option"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(cli: Run, arguments: str, message: str) -> None:
    code, out, err = cli(*arguments.split(" "))
    assert (code, out) == (2, "")
    assert message in err
    assert "secret" not in err
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

    monkeypatch.setattr("limiter_node.commands.keys.generate_keys", fail)
    assert cli("keys", "generate") == (
        1, "", "error: unexpected RuntimeError: something odd (set LIMITER_DEBUG=1 to see where)\n"
    )  # fmt: skip
