"""The table of attacks: on the terminal line by line, as Markdown and as JSON."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.lib.measuring import machine

from .attacks import Attack
from .bounds import failures, p99_bound_ms
from .scene import Seen

HEADINGS = (
    "#",
    "attack",
    "others' p50, ms",
    "others' p99: normal → attacked (bound), ms",
    "memory: before → peak → after, MB",
    "requests",
    "CPU each, ms",
    "answers",
    "verdict",
)


def cells(attack: Attack, seen: Seen) -> tuple[str, ...]:
    """One attack's row."""
    answers = ", ".join(f"{count:,} × {what}" for what, count in seen.answers.most_common(5))
    return (
        attack.row,
        attack.name,
        f"{sorted(seen.p50_ms)[len(seen.p50_ms) // 2]:.1f}",
        f"{seen.normal_ms:.1f} → {seen.attacked_ms:.1f} ({p99_bound_ms(attack, seen):.1f})",
        f"{seen.before_mb:.0f} → {seen.peak_mb:.0f} → {seen.after_mb:.0f}",
        f"{seen.shots:,}",
        f"{seen.cpu_s * 1000 / seen.shots:.2f}" if seen.shots else "–",
        answers,
        "; ".join(failures(attack, seen)) or "held",
    )


def markdown(rows: list[tuple[Attack, Seen]]) -> str:
    lines = ["| " + " | ".join(HEADINGS) + " |", "|" + "---|" * len(HEADINGS)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells(*row)) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def write(rows: list[tuple[Attack, Seen]], directory: Path) -> None:
    """Write ``attack.json`` and ``attack.md``."""
    directory.mkdir(parents=True, exist_ok=True)
    written = [
        {
            "row": attack.row,
            "attack": attack.name,
            **vars(seen),
            "p99_bound_ms": p99_bound_ms(attack, seen),
            "peak_bound_mb": attack.peak_mb,
            "after_bound_mb": attack.after_mb,
            "failures": list(failures(attack, seen)),
        }
        for attack, seen in rows
    ]
    (directory / "attack.json").write_text(json.dumps({"machine": machine(), "attacks": written}, indent=1) + "\n")
    (directory / "attack.md").write_text(markdown(rows))
