"""The command line ``bench-client``: its commands; every failure becomes one line on stderr and an exit code.

Exit codes: 0 done, 1 failed, 2 wrong usage. The commands themselves are in ``commands``, ``audit`` and ``report``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NoReturn

import click
import cloup

from bench_client.audit import audit_directory
from bench_client.command_line.environment import PREFIX, EnvCommand
from bench_client.command_line.failures import CommandFailed, exit_code_of
from bench_client.command_line.help import CONTEXT_SETTINGS, EXAMPLES
from bench_client.command_line.options import (
    FORCE,
    LOADED,
    OUTPUT,
    RATE,
    SENDING,
    SHAPE,
    option,
    positive,
    sending_settings,
    warmup,
    workload_settings,
)
from bench_client.commands.compare import CompareSettings, compare, comparison_text
from bench_client.commands.find_max import FindMaxSettings, find_max
from bench_client.commands.run import run
from bench_client.errors import BenchError
from bench_client.report import report_of_comparison, write_report
from bench_client.results.histograms import check_available
from bench_client.results.tables import summary_text
from bench_client.results.unserved import failure_message
from bench_client.settings import RunSettings

NAME = "bench-client"


MEASURE = cloup.Section("Send load")
JUDGE = cloup.Section("Judge the results")


@cloup.group(
    context_settings={**CONTEXT_SETTINGS, "auto_envvar_prefix": PREFIX},
    sections=[MEASURE, JUDGE],
    epilog=EXAMPLES[""],
)
@click.version_option(package_name="llm-rate-limiter", prog_name=NAME)
def cli() -> None:
    """Open-loop benchmark client for OpenAI-compatible services behind the rate limiter.

    A seeded schedule says when each request is sent, whatever became of the requests before: the client never slows
    down and never retries. Latency counts from the time a request was due.

    Every option can also come from the environment, as BENCH_<COMMAND>_<OPTION> or BENCH_<OPTION>: --qps of run from
    BENCH_RUN_QPS or BENCH_QPS.

    Exit codes: 0 done, 1 failed, 2 wrong usage.
    """


@cli.command(
    "run",
    cls=EnvCommand,
    section=MEASURE,
    short_help="Send a workload; record and show the results.",
    epilog=EXAMPLES["run"],
)
@LOADED
@RATE
@SHAPE
@SENDING
@OUTPUT
def run_command(**options: Any) -> None:
    """Send a workload, show its figures, and record the outcome of each request in DIR.

    The rate is divided over --processes, which start at the same instant; the workload doesn't depend on their number.
    If the client itself was the bottleneck, the table says so. Exit code 1 if no request was served or rejected.
    """
    check_available()
    settings = RunSettings(workload=workload_settings(options), sending=sending_settings(options), **options)
    result = run(settings, _say)
    click.echo(summary_text(result.summary))
    if (failure := failure_message(result.summary.total)) is not None:
        raise BenchError(failure)


@cli.command(
    "find-max",
    cls=EnvCommand,
    section=MEASURE,
    short_help="Find the highest rate that holds a p99 target.",
    epilog=EXAMPLES["find-max"],
)
@LOADED
@cloup.option_group(
    "Search",
    option(
        "--slo-p99-ms",
        metavar="MS",
        type=positive(),
        required=True,
        help="Highest p99 that counts as held, from the due time.",
    ),
    option("--from", "lowest", metavar="RATE", type=positive(maximum=1e6), default=100.0, help="First rate to try."),
    option("--to", "highest", metavar="RATE", type=positive(maximum=1e6), default=1e6, help="Highest rate to try."),
    option(
        "--trial", "trial_s", metavar="SECONDS", type=positive(maximum=3600), default=5.0, help="Length of each trial."
    ),
    warmup(1.0),
    option(
        "--precision",
        metavar="PERCENT",
        type=positive(0.1, maximum=100),
        default=5.0,
        help="Largest gap between the found rate and one that misses.",
    ),
    option(
        "--max-trials",
        metavar="N",
        type=click.IntRange(2, 1000),
        default=30,
        help="Trials after which the search ends.",
    ),
)
@SHAPE
@SENDING
@cloup.option_group(
    "Output",
    option(
        "--out", type=click.Path(file_okay=False, path_type=Path), metavar="DIR", help="Write find-max.json to DIR."
    ),
    FORCE,
)
def find_max_command(**options: Any) -> None:
    """Find the highest rate that holds a p99 target.

    In short trials, the rate doubles until it misses, then the gap is halved, then the result is confirmed. A rate
    holds when 99 of 100 requests are answered within the target: 429s are answers, errors and timeouts are not. The
    output shows the curve and the limit: the server, or this client, in which case the result is a lower bound. Exit
    code 1 if not even the lowest rate holds.
    """
    check_available()
    workload = workload_settings(
        options, qps=options["lowest"], duration_s=options.pop("trial_s"), trace=None, speed=1.0
    )
    options["precision"] /= 100
    result = find_max(FindMaxSettings(workload=workload, sending=sending_settings(options), **options), _say)
    click.echo(result.text())
    if result.failure:
        raise BenchError(f"the search ended early: {result.failure}")
    if not result.found:
        raise CommandFailed


@cli.command(
    "audit",
    cls=EnvCommand,
    section=JUDGE,
    short_help="Prove or refute a run's decisions.",
    epilog=EXAMPLES["audit"],
)
@cloup.argument("directory", metavar="DIR", type=click.Path(path_type=Path), help="The --out of a run.")
@option("--window-ms", type=click.IntRange(100), default=60_000, hidden=True, help="The limiter's own --window-ms.")
def audit_command(directory: Path, window_ms: int) -> None:
    """Prove or refute, from a run's records, that no limit was exceeded and every rejection justified.

    The last line says PROVED, REFUTED or INCOMPLETE. INCOMPLETE means that records are missing, cut off or doubled, or
    that keys have limits that this audit doesn't know, so that nothing is proved. Exit code 1 unless PROVED.
    """
    report = audit_directory(directory, window_ms, warn=_say)
    click.echo(report.text())
    click.echo(report.verdict)
    if not report.proved:
        raise CommandFailed


@cli.command(
    "report",
    cls=EnvCommand,
    section=JUDGE,
    short_help="Show runs and comparisons as one HTML page.",
    epilog=EXAMPLES["report"],
)
@cloup.argument(
    "directories",
    metavar="DIR...",
    nargs=-1,
    required=True,
    type=click.Path(path_type=Path),
    help="The --out of a run or a comparison; several are shown side by side.",
)
@cloup.option_group(
    "Output",
    option("--html", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Write the page to FILE."),
    option(
        "--figures",
        type=click.Path(file_okay=False, path_type=Path),
        metavar="DIR",
        help="Write the figures to DIR, as SVG files on white.",
    ),
)
def report_command(directories: tuple[Path, ...], html: Path | None, figures: Path | None) -> None:
    """Show runs and comparisons as one HTML page, or as figures for documents.

    The page is one file and loads nothing. It shows verdicts, throughput, latency, windows against their limits,
    batches and CPU, all figures and the set-up. A run without an audit is audited first. Needs matplotlib; in the
    project's folder:

    \b
      make setup-dev             # the pinned version, into .venv
      pip install '.[report]'    # anywhere else
    """
    check_available()
    click.echo(write_report(directories, html=html, figures=figures).text())


@cli.command(
    "compare",
    cls=EnvCommand,
    section=MEASURE,
    short_help="Compare a cluster and a single store.",
    epilog=EXAMPLES["compare"],
)
@cloup.option_group(
    "What to start",
    option("--nodes", type=click.IntRange(1, 64), metavar="N", default=2, help="Limiter nodes to start."),
    option(
        "--keys-count",
        type=click.IntRange(1, 1_000_000),
        metavar="N",
        default=500,
        help="API keys to spread the load over.",
    ),
    option("--rpm", type=click.IntRange(1), metavar="N", default=600, help="Each key's requests per minute."),
    option(
        "--input-tpm", type=click.IntRange(1), metavar="N", default=100_000, help="Each key's input tokens per minute."
    ),
    option(
        "--output-tpm", type=click.IntRange(1), metavar="N", default=50_000, help="Each key's output tokens per minute."
    ),
    option(
        "--account-keys",
        type=click.IntRange(0, 1_000_000),
        metavar="N",
        show_default="a tenth of the keys",
        help="Keys in an account with two teams, whose limits reject a part of their load; 0 for none.",
    ),
)
@RATE
@SHAPE
@SENDING
@OUTPUT
def compare_command(**options: Any) -> None:
    """Run the same workload on an embedded cluster and on a single store, audit both, show them side by side.

    Most keys have limits of their own only; some share those of an account and its teams, too. Also writes
    DIR/report.html, a page with figures.
    """
    check_available()
    workload, sending = workload_settings(options), sending_settings(options)
    settings = CompareSettings(workload=workload, sending=sending, **options)
    measured = compare(settings, _say)
    click.echo(comparison_text(measured))
    _say(report_of_comparison(settings.out))
    if not all(each.audit.proved for each in measured):
        raise CommandFailed


def main() -> NoReturn:
    """Run the command line and exit with its code."""
    sys.exit(_run_cli(sys.argv[1:]))


def _run_cli(arguments: list[str]) -> int:
    """Run one command and return its exit code."""
    return exit_code_of(cli, arguments, NAME)


def _say(line: str) -> None:
    click.echo(line, err=True)
