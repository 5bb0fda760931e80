"""Starting and stopping a limiter by its command line: a script in its place that is ready, fails, or won't end."""

from __future__ import annotations

import os
import signal
import sys
import tomllib
from pathlib import Path

import pytest

from bench_client.errors import BenchError
from bench_client.servers import limiter_under_test
from bench_client.servers.limiter_under_test import GeneratedAccount, LimiterUnderTest, generate_keys

SCRIPT = """
import os, signal, sys
options = dict(zip(sys.argv[2::2], sys.argv[3::2]))
assert (sys.argv[1], options["--port"]) == ("up", "0")
{before}
for node in reversed(range(int(options["--nodes"]))):
    print(f"node {{node + 1}} ready http://127.0.0.1:{{9000 + node}}", flush=True)
print("ready", flush=True)
{after}
print("pid", os.getpid(), flush=True)
signal.pause()
"""
ENDS = "signal.signal(signal.SIGTERM, lambda *_: (print('drained', flush=True), sys.exit(0)))"


def scripted(tmp_path: Path, *, before: str = ENDS, after: str = "", nodes: int = 2) -> LimiterUnderTest:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(before=before, after=after))
    return LimiterUnderTest(
        nodes=nodes,
        store="single",
        keys=tmp_path / "keys.toml",
        log=tmp_path / "log",
        command=[sys.executable, str(script)],
    )


def test_it_is_started_with_the_nodes_in_order_and_drained(tmp_path: Path) -> None:
    with scripted(tmp_path, nodes=3) as limiter:
        ports = [int(url.rpartition(":")[2]) for url in limiter.targets]
        assert ports == [9000, 9001, 9002]
        process = limiter._process
        assert process is not None
        assert process.poll() is None
        assert os.getsid(process.pid) != os.getsid(0)
    assert process.returncode == 0
    assert "drained" in (tmp_path / "log").read_text()


def test_it_is_stopped_when_the_run_fails(tmp_path: Path) -> None:
    limiter = scripted(tmp_path)
    processes = []

    def interrupted() -> None:
        with limiter:
            processes.append(limiter._process)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    (process,) = processes
    assert process is not None
    assert process.returncode == 0


def test_one_that_will_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limiter_under_test, "STOP_TIMEOUT_S", 0.2)
    with scripted(tmp_path, before="signal.signal(signal.SIGTERM, signal.SIG_IGN)") as limiter:
        process = limiter._process
    assert process is not None
    assert process.returncode == -signal.SIGKILL


def test_its_last_words_are_told_when_it_ends_before_it_is_ready(tmp_path: Path) -> None:
    limiter = scripted(tmp_path, before="print('limiter-node: error: no such file', file=sys.stderr); sys.exit(2)")
    with pytest.raises(BenchError, match="ended before it was ready: limiter-node: error: no such file"):
        limiter.__enter__()


def test_one_that_never_gets_ready_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limiter_under_test, "READY_TIMEOUT_S", 0.3)
    limiter = scripted(tmp_path, before="signal.pause()")
    with pytest.raises(BenchError, match="was not ready within"):
        limiter.__enter__()
    assert limiter._process is None


def test_an_account_is_generated_by_the_limiters_command(tmp_path: Path) -> None:
    account = GeneratedAccount("acme", 2, ("research", "sales"), ("requests=5/1s as burst audit",), ("tokens=7/1h",))
    generate_keys(tmp_path / "keys.toml", count=3, rpm=1, input_tpm=2, output_tpm=3, account=account)
    document = tomllib.loads((tmp_path / "keys.toml").read_text())
    assert [(key.get("account"), key.get("team")) for key in document["keys"].values()] == [
        (None, None),
        ("acme", "research"),
        ("acme", "sales"),
    ]
    (acme,) = document["accounts"].values()
    assert acme["key_defaults"] == {"rpm": 1, "input_tpm": 2, "output_tpm": 3}
    assert acme["limits"] == [{"requests": 5, "per": "1s", "name": "burst", "mode": "audit"}]
    assert list(acme["teams"]) == ["research", "sales"]
    assert all(team["limits"] == [{"tokens": 7, "per": "1h"}] for team in acme["teams"].values())


def test_a_keys_file_that_cannot_be_made_is_told_in_the_commands_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        limiter_under_test, "COMMAND", (sys.executable, "-c", "import sys; sys.exit('bad\\nrpm too large')")
    )
    with pytest.raises(BenchError, match="keys generate failed: rpm too large"):
        generate_keys(tmp_path / "keys.toml", count=1, rpm=1, input_tpm=1, output_tpm=1)
