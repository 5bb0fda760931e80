"""`make demo`: the whole system in under a minute, by the commands that users run.

An embedded cluster of three masters and two nodes. A third of the load comes from keys of an account with two teams,
the rest from keys with limits of their own only; it asks for two models. About half of it is above some limit. Then the
result table and the audit's verdict. Exit code 1 if the audit refutes.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from limiter_node.keysfile.making import write_private

NODES = 2
KEYS = 20
MEMBERS = 10
# Every third key meets its limit of requests first, the next one that of input tokens, the next that of output tokens.
LIMITS = ("rpm = 250", "input_tpm = 9_000", "output_tpm = 25_000")
ACCOUNT = """
[accounts.acme]
key_defaults = { rpm = 1_200 }
limits = [
  { requests = 3_500, per = "1d" },
  { output_tokens = 60_000, per = "1m", models = ["gpt-4.1*"], name = "newest model" },
  { requests = 200, per = "1s", name = "burst", mode = "audit" },
]
[accounts.acme.teams.research]
limits = [{ requests = 100, per = "1s" }]
[accounts.acme.teams.sales]
tpm = 200_000
"""
"""Each of these limits, but for the audited one, rejects at some time: the day's when 3,500 requests are admitted."""
TEAMS = ("research", "sales")
MODELS = "gpt-4o:3,gpt-4.1:1"
QPS = 800
SECONDS = 25


def _run(*arguments: str, check: bool = True) -> int:
    shown = " ".join(
        "limiter-node" if a == "limiter_node" else "bench-client" if a == "bench_client" else a for a in arguments
    )
    print(f"\n$ {shown}", flush=True)
    return subprocess.run([sys.executable, "-m", *arguments], check=check).returncode


def _member(number: int) -> str:
    """Return the section of a key of the account."""
    team = TEAMS[number % len(TEAMS)]
    return f'[keys."sk-acme-{number}"]\nname = "member-{number}"\naccount = "acme"\nteam = "{team}"\n'


def main() -> int:
    """Run it; the exit code."""
    with tempfile.TemporaryDirectory(prefix="limiter-demo-") as directory:
        keys, results = str(Path(directory) / "keys.toml"), str(Path(directory) / "results")
        write_private(
            keys,
            "[defaults]\nrpm = 600\ninput_tpm = 30_000\noutput_tpm = 100_000\n"
            + "".join(f'[keys."sk-demo-{n}"]\nname = "demo-{n}"\n{LIMITS[n % 3]}\n' for n in range(KEYS))
            + ACCOUNT
            + "".join(_member(n) for n in range(MEMBERS)),
        )
        print(f"\n$ limiter-node up --nodes {NODES} --port 0 --store cluster --keys {keys}", flush=True)
        fleet = subprocess.Popen(
            [sys.executable, "-m", "limiter_node", "up", "--nodes", str(NODES), "--port", "0", "--keys", keys],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert fleet.stdout is not None
            targets: list[str] = []
            for line in fleet.stdout:
                print(line, end="", flush=True)
                words = line.split()
                if words[:1] == ["node"]:
                    targets += ["--target", words[3]]
                elif words == ["ready"]:
                    break
            if len(targets) != 2 * NODES:
                return 1
            _run("bench_client", "run", *targets, "--keys", keys, "--qps", str(QPS), "--duration", str(SECONDS),
                 "--zipf", "0.8", "--input-tokens", "uniform:10:80", "--models", MODELS, "--out", results)  # fmt: skip
            return _run("bench_client", "audit", results, check=False)
        finally:
            fleet.send_signal(signal.SIGTERM)
            fleet.wait()


if __name__ == "__main__":
    sys.exit(main())
