"""The command line's options, each declared once, in the groups that ``--help`` shows; commands pick from them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import cloup

from bench_client.command_line.environment import EnvOption
from bench_client.errors import BenchUsageError
from bench_client.load.sizes import SizeDistribution
from bench_client.load.workload import ARRIVALS
from bench_client.settings import SendingSettings, WorkloadSettings

F = TypeVar("F", bound=Callable[..., Any])


class Size(click.ParamType[SizeDistribution]):
    """Parse a distribution of token sizes."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> SizeDistribution:
        if isinstance(value, SizeDistribution):
            return value
        try:
            return SizeDistribution.parse(str(value))
        except BenchUsageError as error:
            self.fail(str(error), param, ctx)


def option(*names: str, **attributes: Any) -> Callable[[F], F]:
    """Declare an option that reads both environment variables and shows its default."""
    return cloup.option(*names, cls=EnvOption, show_default=attributes.pop("show_default", True), **attributes)


def positive(minimum: float = 0, *, maximum: float | None = None) -> click.FloatRange:
    return click.FloatRange(minimum, maximum, min_open=minimum == 0)


_FILE = click.Path(dir_okay=False, path_type=Path)
_DIRECTORY = click.Path(file_okay=False, path_type=Path)

DURATION_DEFAULT_S = 30.0

LOADED = cloup.option_group(
    "What to load",
    option("--target", "targets", multiple=True, required=True, metavar="URL", help="Server to load; repeatable."),
    option("--keys", type=_FILE, required=True, help="The keys file that the limiter has loaded (keys.toml)."),
    option(
        "--admin-target",
        "admin_targets",
        multiple=True,
        metavar="URL",
        help="Where a node answers /readyz and /metrics, if it has a port of its own for them; repeatable.",
    ),
    option("--ca-file", type=_FILE, help="Trust these certificates (PEM), beside the system's, of https targets."),
)


def warmup(default_s: float) -> Callable[[F], F]:
    return option(
        "--warmup",
        "warmup_s",
        metavar="SECONDS",
        type=click.FloatRange(0, 3600),
        default=default_s,
        help="Send the schedule's first seconds once before it: recorded and audited, left out of the figures.",
    )


RATE = cloup.option_group(
    "Rate",
    option("--qps", metavar="RATE", type=positive(maximum=1e6), help="Mean rate of requests. Needed without --trace."),
    option(
        "--duration",
        "duration_s",
        metavar="SECONDS",
        type=positive(maximum=1e6),
        show_default="30, or the whole trace",
        help="Seconds to offer load.",
    ),
    option("--trace", type=_FILE, help="Replay this trace's arrivals and sizes (the Azure LLM traces' CSV)."),
    option(
        "--speed", metavar="X", type=positive(maximum=1e6), default=1.0, help="Replay the trace so many times as fast."
    ),
    warmup(0.0),
)

SHAPE = cloup.option_group(
    "Shape of the workload",
    option(
        "--arrivals",
        type=click.Choice(ARRIVALS),
        metavar="KIND",
        default="poisson",
        help=f"How requests arrive: {' or '.join(ARRIVALS)}.",
    ),
    option("--seed", metavar="N", type=int, default=1, help="The same seed and settings make the same workload."),
    option(
        "--zipf",
        type=click.FloatRange(0, 10),
        default=0.0,
        metavar="S",
        help="Skew over the keys: weights 1/rank^S in the file's order, 0 = uniform.",
    ),
    option(
        "--input-tokens",
        type=Size(),
        metavar="SIZE",
        default="fixed:25",
        help="Prompt sizes: fixed:N, uniform:A:B or lognormal:MEDIAN:SIGMA.",
    ),
    option(
        "--output-tokens",
        type=Size(),
        metavar="SIZE",
        default="lognormal:128:0.7",
        help="Output sizes, in the same forms: each is its request's max_tokens.",
    ),
    option("--no-cap", is_flag=True, help="Leave max_tokens out of the requests."),
    option("--model", metavar="NAME", show_default="the first one served", help="The model to ask for."),
)

SENDING = cloup.option_group(
    "Sending",
    option(
        "--processes",
        metavar="N",
        type=click.IntRange(1, 256),
        default=1,
        help="Processes that send, each every N-th request; one sends some 40,000 a second.",
    ),
    option(
        "--connections",
        metavar="N",
        type=click.IntRange(1, 60_000),
        show_default="by the rate, 64 to 4096 in a process",
        help="Most connections per target, of all processes together; opened as needed.",
    ),
    option(
        "--timeout",
        "timeout_s",
        metavar="SECONDS",
        type=positive(maximum=3600),
        default=10.0,
        help="Give a request up so long after it was due.",
    ),
    option(
        "--wait-ready",
        "wait_ready_s",
        metavar="SECONDS",
        type=click.FloatRange(0, 3600),
        default=10.0,
        help="Wait so long for the targets to be ready before anything is sent; 0 asks them once.",
    ),
)

FORCE = option("--force", is_flag=True, help="Replace results that DIR already holds.")

OUTPUT = cloup.option_group(
    "Output", option("--out", type=_DIRECTORY, required=True, metavar="DIR", help="Where the results go."), FORCE
)


def workload_settings(options: dict[str, Any], **rate: Any) -> WorkloadSettings:
    """Take a command's options of ``SHAPE`` but for the model, and of ``RATE`` where ``rate`` doesn't give its values.

    Raises BenchUsageError when they contradict one another.
    """
    if not rate:
        rate = {name: options.pop(name) for name in ("qps", "duration_s", "trace", "speed")}
        if rate["duration_s"] is None and rate["trace"] is None:
            rate["duration_s"] = DURATION_DEFAULT_S
    return WorkloadSettings(
        **rate,
        seed=options.pop("seed"),
        arrivals=options.pop("arrivals"),
        zipf=options.pop("zipf"),
        input_tokens=options.pop("input_tokens"),
        output_tokens=options.pop("output_tokens"),
        cap_output=not options.pop("no_cap"),
        warmup_s=options.pop("warmup_s"),
    )


def sending_settings(options: dict[str, Any]) -> SendingSettings:
    """Take a command's options of ``SENDING``, the model, and of ``LOADED``, where it has them, those beside targets.

    Raises BenchUsageError when they contradict one another.
    """
    return SendingSettings(
        connections=options.pop("connections"),
        timeout_s=options.pop("timeout_s"),
        model=options.pop("model"),
        processes=options.pop("processes"),
        wait_ready_s=options.pop("wait_ready_s"),
        admin_targets=options.pop("admin_targets", ()),
        ca_file=options.pop("ca_file", None),
    )
