"""The picture of ``limiter-node top`` in docs/operations.md, drawn from made-up figures.

Made by ``python -m benchmarks.top_figure``. A seed fixes the figures, so the same picture comes out each time: two
nodes, three shards of which one has just been cut off, and accounts, teams and keys that are near their limits.
"""

from __future__ import annotations

import io
import random
import re
from math import sin
from pathlib import Path

from rich.console import Console, Group
from rich.terminal_theme import MONOKAI

from limiter_node.chart import BLOCKS
from limiter_node.limits import Amounts
from limiter_node.store.admin.heat import hottest
from limiter_node.store.admin.hottest import Walk
from limiter_node.store.admin.limit_heat import HashPlace, LimitHeat
from limiter_node.store.admin.plain_heat import KeyHeat
from limiter_node.store.admin.watch import ShardReading
from limiter_node.top.frame import Frame, NodeRow, ShardRow, Totals
from limiter_node.top.rates import Quantile
from limiter_node.top.screen import screen_lines

FIGURE = Path(__file__).parent / "figures" / "top.svg"
WIDTH, HEIGHT = 120, 36
SEED = 7


def demo_frame() -> Frame:
    """Return the picture's content: a fleet under load."""
    dice = random.Random(SEED)
    names = ("alice", "batch-embeddings", "support-bot", "search", "evals", "ci", "", "playground", "summaries", "bob")
    keys: list[KeyHeat | LimitHeat] = []
    for rank, name in enumerate(names):
        limits = Amounts(dice.choice((60, 600, 3_000)), dice.choice((100_000, 400_000)), dice.choice((20_000, 50_000)))
        share = 1.0 - 0.08 * rank
        shares = [share * (1 if rank % 3 == dimension else dice.uniform(0.2, 0.9)) for dimension in range(3)]
        used = Amounts(*(int(part * limit) for part, limit in zip(shares, limits, strict=True)))
        keys.append(KeyHeat(f"{dice.getrandbits(128):032x}", name, limits, used, True))
    tightest = [
        LimitHeat(HashPlace("@acme", kid), name, limit, used, amount, True)
        for name, limit, used, amount, kid in (
            ("acme/research", "requests/1d", 49_212, 50_000, ""),
            ("acme", "output_tokens/1m for o3*, gpt-5*", 81_440, 100_000, ""),
            ("globex/support/chat", "tokens/1m", 1_204_000, 2_000_000, ""),
            ("acme/alice", "input_tokens/1d", 871_000, 1_000_000, "0" * 32),
        )
    ]
    keys.append(tightest[-1])
    history = tuple(5_300 + 1_900 * sin(step / 11) + dice.gauss(0, 300) for step in range(120))
    nodes = (
        NodeRow("10.0.1.11:8080", "", 3_214, 3_071, Quantile(0.00041), Quantile(0.0021), 3.1, 41, 2, 0.58, 96e6, 0),
        NodeRow("10.0.1.12:8080", "", 3_187, 3_048, Quantile(0.00043), Quantile(0.0023), 3.2, 38, 0, 0.57, 97e6, 0),
        NodeRow("10.0.1.13:8080", "connection refused"),
    )
    shards = (
        ShardRow(ShardReading("10.0.2.21:7000", 0, "", 1, 9_412, 14_600_000, 4_113, 0), 0.14, Quantile(0.0008)),
        ShardRow(ShardReading("10.0.2.22:7000", 0, "", 1, 9_875, 14_900_000, 4_201, 0), 0.15, Quantile(0.0009)),
        ShardRow(ShardReading("10.0.2.23:7000", 0, "", 1, 9_120, 14_400_000, 4_087, 0), 0.14, Quantile(0.0008)),
    )
    totals = Totals(
        6_401,
        {"admitted": 4_984, "rejected": 1_102, "never_fits": 3, "unknown_key": 30},
        {"requests": 731, "input_tokens": 262, "output_tokens": 112},
        {"admitted": 0, "rejected": 0, "refused": 0},
        {"input": 1_640_000, "reserved": 1_276_000, "output": 402_000},
        0,
        Quantile(0.00042),
        Quantile(0.0022),
    )
    return Frame(
        1_790_000_000,
        nodes,
        totals,
        shards,
        live_nodes=2,
        hottest=tuple(hottest(keys, len(keys))),
        tightest=tuple(tightest[:-1]),
        walk=Walk(4_012, 1.0, True, 118),
        history=history,
    )


def main() -> None:
    """Write the picture into benchmarks/figures."""
    console = Console(
        record=True, width=WIDTH, height=HEIGHT, file=io.StringIO(), force_terminal=True, color_system="standard"
    )
    console.print(Group(*screen_lines(demo_frame(), WIDTH, HEIGHT, BLOCKS)))
    FIGURE.parent.mkdir(exist_ok=True)
    picture = console.export_svg(title="limiter-node top", theme=MONOKAI, unique_id="top")
    # No font from elsewhere: pages that show pictures don't load it, and the reader's own does.
    FIGURE.write_text(re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL), "utf-8")
    print(f"wrote {FIGURE}")


if __name__ == "__main__":
    main()
