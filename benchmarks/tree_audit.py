"""The audit at saturation: the same load on plain keys and on the same keys in a tree, four nodes, all windows judged.

The tree has three levels (account, teams, keys), limits on windows of 1 s, 1 min and 1 h on each, some for some of four
models only, some that are only audited. Limits are shares of the load, so that each level rejects a part of it. Ends
with code 1 unless both runs are proved; the page shows them side by side.

    python -m benchmarks.tree_audit [--qps RATE] [--seconds S] [--nodes N] [--store KIND] [--seed N] [--out DIR]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from bench_client.servers.limiter_under_test import LimiterUnderTest
from limiter_node.keysfile.making import write_private

RUNS = ("flat", "tree")
TEAMS = ("chat", "search", "research", "batch")
KEYS = 200
MODELS = "gpt-4o:4,gpt-4o-mini:3,o3-mini:2,gpt-5:1"
INPUT_TOKENS, OUTPUT_TOKENS = 50, 60
"""Per request, on average."""
TOKENS = INPUT_TOKENS + OUTPUT_TOKENS


def flat_keys(qps: float) -> str:
    """Return a keys file of plain keys. The busiest ones are above their limits."""
    requests = qps * 60 / KEYS
    limits = {"rpm": requests, "input_tpm": 1.2 * INPUT_TOKENS * requests, "output_tpm": 1.5 * OUTPUT_TOKENS * requests}
    text = "[defaults]\n" + "".join(f"{name} = {_amount(amount)}\n" for name, amount in limits.items())
    return text + "".join(f'[keys."sk-audit-{n}"]\nname = "key-{n}"\n' for n in range(KEYS))


def tree_keys(qps: float, seconds: float) -> str:
    """Return a keys file of the same keys in an account with teams."""
    asked = qps * seconds
    account = [
        _limit("requests", 0.7 * qps, "1s"),
        _limit("requests", 0.38 * qps * 60, "1m"),
        _limit("tokens", 0.32 * TOKENS * asked, "1h"),
        _limit("output_tokens", 0.26 * OUTPUT_TOKENS * qps * 60, "1m", 'models = ["gpt-4o*"], name = "usual models"'),
        _limit("output_tokens", 0.1 * OUTPUT_TOKENS * qps * 60, "1m", 'models = ["O3*", "gpt-5"]'),
        _limit("tokens", 0.4 * TOKENS * qps, "1s", 'mode = "audit", name = "too much, at once"'),
    ]
    team = [
        _limit("requests", 0.2 * qps, "1s"),
        _limit("tokens", 0.095 * TOKENS * qps * 60, "1m"),
        _limit("input_tokens", 0.085 * INPUT_TOKENS * asked, "1h"),
        _limit("requests", 0.014 * asked, "1h", 'models = ["o3*"]'),
        _limit("requests", 0.1 * qps * 60, "1m", 'mode = "audit"'),
    ]
    key = [
        _limit("requests", max(0.02 * qps, 2), "1s"),
        _limit("output_tokens", 0.007 * OUTPUT_TOKENS * qps * 60, "1m"),
        _limit("requests", 0.006 * asked, "1h"),
    ]
    text = f"[accounts.acme]\nlimits = [{', '.join(account)}]\n"
    text += "".join(f"[accounts.acme.teams.{name}]\nlimits = [{', '.join(team)}]\n" for name in TEAMS)
    for n in range(KEYS):
        text += f'[keys."sk-audit-{n}"]\nname = "key-{n}"\naccount = "acme"\nteam = "{TEAMS[n % len(TEAMS)]}"\n'
        text += f"limits = [{', '.join(key)}]\n"
    return text


def run(name: str, keys: str, options: argparse.Namespace) -> str:
    """Load nodes that have these keys, and return the audit's verdict. Raises CalledProcessError if the load fails."""
    results, file, log = (options.out / f"{name}{ending}" for ending in ("", ".toml", ".log"))
    write_private(str(file), keys, overwrite=True)
    with LimiterUnderTest(nodes=options.nodes, store=options.store, keys=file, log=log) as limiter:
        targets = [text for target in limiter.targets for text in ("--target", target)]
        _bench_client(
            *("run", *targets, "--keys", str(file), "--qps", str(options.qps), "--duration", str(options.seconds)),
            *("--models", MODELS, "--zipf", "0.7", "--seed", str(options.seed)),
            *("--input-tokens", f"uniform:10:{2 * INPUT_TOKENS - 10}"),
            *("--output-tokens", f"uniform:1:{2 * OUTPUT_TOKENS - 1}", "--out", str(results), "--force"),
        ).check_returncode()
    print()
    _bench_client("audit", str(results))
    told = json.loads((results / "audit.json").read_text("utf-8"))
    return str(told["verdict"])


def main() -> int:
    """Make both runs, and the page; return 0 if both are proved."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--qps", type=float, default=250, help="rate of requests (%(default)s)")
    parser.add_argument("--seconds", type=float, default=75, help="length of each run (%(default)s)")
    parser.add_argument("--nodes", type=int, default=4, help="nodes (%(default)s)")
    parser.add_argument("--store", choices=("single", "cluster"), default="cluster", help="store (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the load (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("results/tree-audit"), help="directory (%(default)s)")
    options = parser.parse_args()
    files = {"flat": flat_keys(options.qps), "tree": tree_keys(options.qps, options.seconds)}
    options.out.mkdir(parents=True, exist_ok=True)
    verdicts = {}
    for name in RUNS:
        print(f"\n{name}:", flush=True)
        verdicts[name] = run(name, files[name], options)
    page = options.out / "report.html"
    _bench_client("report", *(str(options.out / name) for name in RUNS), "--html", str(page)).check_returncode()
    print(f"\npage: {page}")
    for name, verdict in verdicts.items():
        print(f"{name}: {verdict}")
    return 0 if all(verdict.startswith("audit: PROVED ") for verdict in verdicts.values()) else 1


def _bench_client(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-m", "bench_client", *arguments], check=False)


def _limit(unit: str, amount: float, per: str, more: str = "") -> str:
    return f'{{ {unit} = {_amount(amount)}, per = "{per}"{", " if more else ""}{more} }}'


def _amount(amount: float) -> int:
    return max(round(amount), 1)


if __name__ == "__main__":
    sys.exit(main())
