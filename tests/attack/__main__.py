"""``python -m tests.attack``: each attack on a node of its own, what it cost others, and whether that is within bounds;
ends with 1 if an attack was above one. Writes results/attack.md and attack.json. Linux only; loopback only; bounded."""

from __future__ import annotations

import argparse
import resource
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

from attack.attacks import ATTACKS, Attack  # noqa: E402
from attack.bounds import failures  # noqa: E402
from attack.scene import Seen, scene  # noqa: E402
from attack.table import cells, write  # noqa: E402

SPARE_FILES = 500
"""Of a process's open files, what isn't for an attack's connections."""


def main() -> int:
    """Attack."""
    parser = argparse.ArgumentParser(prog="python -m tests.attack", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="of each attack, each after its twin (%(default)s)")
    parser.add_argument("--seconds", type=float, help="of a phase, in place of the attack's own")
    parser.add_argument(
        "--only", default="", metavar="WORDS", help="attacks whose row or name has these words; / between"
    )
    parser.add_argument("--connections", type=int, default=10_000, help="at most so many at once (%(default)s)")
    parser.add_argument("--out", type=Path, default=ROOT / "results", help="where the tables are written")
    parser.add_argument("--list", action="store_true", help="list the attacks and end")
    parser.add_argument("options", nargs="*", help="further options of the node, behind --")
    chosen = parser.parse_args()
    words = [word for word in chosen.only.split("/") if word]
    attacks = [attack for attack in ATTACKS if not words or any(word in attack.title for word in words)]
    if chosen.list:
        print("\n".join(attack.title for attack in attacks))
        return 0
    most = min(chosen.connections, _open_files() - SPARE_FILES)
    print(f"at most {most:,} connections at once")
    rows: list[tuple[Attack, Seen]] = []
    for attack in attacks:
        with scene(attack, *chosen.options) as on:
            seconds = chosen.seconds or attack.seconds
            rows.append((attack, on.play(attack, chosen.rounds, min(attack.connections, most), seconds)))
        print("  ".join(cells(*rows[-1])), flush=True)
        write(rows, chosen.out)
    above = sum(any(failures(*row)) for row in rows)
    print(f"{len(rows)} attacks, {above} above a bound")
    return 1 if above else 0


def _open_files() -> int:
    """How many files a process of this machine may have open; nodes and attackers inherit it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return min(hard, 1_000_000) if hard != resource.RLIM_INFINITY else 1_000_000


if __name__ == "__main__":
    sys.exit(main())
