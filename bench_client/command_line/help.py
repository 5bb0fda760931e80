"""How the commands' help reads: its width, the examples below it, and options' defaults and ranges in words."""

from __future__ import annotations

import re
import textwrap
from typing import Any

import click
import cloup

_HEADING = cloup.Style(bold=True)
CONTEXT_SETTINGS = cloup.Context.settings(
    help_option_names=["-h", "--help"],
    formatter_settings=cloup.HelpFormatter.settings(
        max_width=100, col1_max_width=24, theme=cloup.HelpTheme(heading=_HEADING)
    ),
)
"""Settings of the group, which its commands inherit. Lines of more than 100 columns would be hard to follow."""
EXAMPLE_WIDTH = 76
"""A longer command is broken with a backslash, as it can be typed, so that a terminal of 80 columns shows it whole."""
_SPACE_WITHIN_AN_OPTION = re.compile(" (?!--)")


def examples(*commands: tuple[str, str]) -> str:
    """Return the examples below a command's options, from pairs of a purpose and the command for it."""
    lines = [_HEADING("Examples:"), ""]
    for what, command in commands:
        whole = _SPACE_WITHIN_AN_OPTION.sub("\N{NO-BREAK SPACE}", command)
        broken = textwrap.wrap(
            whole, EXAMPLE_WIDTH - 4, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
        )
        typed = " \\\n".join(broken).replace("\N{NO-BREAK SPACE}", " ")
        lines += ["\b", textwrap.indent(f"# {what}\n{typed}", "  "), ""]
    return "\n".join(lines)


def in_words(bounds: click.FloatRange | click.IntRange) -> str:
    """Return a range as ``1 to 256``, ``above 0, at most 1,000,000`` or ``at least 1``."""
    low, high = (None if bound is None else f"{bound:,.10g}" for bound in (bounds.min, bounds.max))
    if low is not None and high is not None and not (bounds.min_open or bounds.max_open):
        return f"{low} to {high}"
    lower = low and f"{'above' if bounds.min_open else 'at least'} {low}"
    upper = high and f"{'below' if bounds.max_open else 'at most'} {high}"
    return ", ".join(part for part in (lower, upper) if part)


def as_typed(default: Any) -> str:
    """Return a default as it would be typed: ``1000000``, not ``1000000.0``."""
    return f"{default:.10g}" if isinstance(default, float) else str(default)


_ONE = "--target http://127.0.0.1:8080 --keys keys.toml"

EXAMPLES = {
    "": examples(
        ("5,000 requests a second for 30 s", f"bench-client run {_ONE} --qps 5000 --duration 30 --out results"),
        ("check every decision of that run", "bench-client audit results"),
        ("the highest rate that a node carries", f"bench-client find-max {_ONE} --slo-p99-ms 50"),
        ("a cluster and a single store", "bench-client compare --qps 2000 --duration 30 --out comparison"),
        ("the comparison as a page", "bench-client report comparison --html report.html"),
    ),
    "run": examples(
        (
            "5,000 requests a second for 30 s, over two nodes",
            "bench-client run --target http://127.0.0.1:8080 --target http://127.0.0.1:8081 "
            "--keys keys.toml --qps 5000 --duration 30 --out results",
        ),
        (
            "a few keys get most of the load, prompts differ, answers are long",
            f"bench-client run {_ONE} --qps 500 --zipf 1.1 "
            "--input-tokens lognormal:400:1 --output-tokens uniform:200:2000 --out results",
        ),
        (
            "two accounts, one with three times the other's load, and two models",
            f"bench-client run {_ONE} --qps 500 --accounts acme:3,globex:1 --models gpt-4o:3,o3:1 --out results",
        ),
        (
            "the recorded load of another service, ten times as fast",
            f"bench-client run {_ONE} --trace trace.csv --speed 10 --out results",
        ),
    ),
    "find-max": examples(
        (
            "the highest rate with 99 of 100 answers within 50 ms",
            f"bench-client find-max {_ONE} --slo-p99-ms 50",
        ),
        (
            "with more precision, from a rate that surely holds, and keep the curve",
            f"bench-client find-max {_ONE} --slo-p99-ms 50 --from 2000 --precision 2 --trial 10 --out curve",
        ),
    ),
    "compare": examples(
        (
            "2,000 requests a second for 30 s on each store",
            "bench-client compare --qps 2000 --duration 30 --out comparison",
        ),
        (
            "four nodes, and limits that reject most requests",
            "bench-client compare --nodes 4 --keys-count 50 --rpm 60 --qps 1000 --out comparison",
        ),
    ),
    "report": examples(
        ("a page of one run", "bench-client report results --html report.html"),
        ("two runs side by side", "bench-client report before after --html report.html"),
        (
            "a comparison's page, and its figures for a document",
            "bench-client report comparison --html report.html --figures figures",
        ),
    ),
    "audit": examples(("use the exit code", "bench-client audit results && echo proved")),
}
"""By command; the empty name is the group's."""
