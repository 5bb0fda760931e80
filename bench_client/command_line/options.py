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
from bench_client.load.weights import Weights, parse_weights
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


class Weighted(click.ParamType[Weights]):
    """Parse names with weights."""

    name = "weights"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Weights:
        if isinstance(value, tuple):
            return value
        try:
            return parse_weights(str(value))
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
        "--accounts",
        type=Weighted(),
        metavar="NAME:W,...",
        show_default="all keys, each account by the number of its keys",
        help="Accounts and teams (acme/research) whose keys to use, with weights; the deepest name above a key counts.",
    ),
    option(
        "--admin-target",
        "admin_targets",
        multiple=True,
        metavar="URL",
        help="Base URL of a node's /readyz and /metrics, if it has a separate port for them; repeatable.",
    ),
    option("--ca-file", type=_FILE, help="PEM file of certificates to trust for https targets, beside the system's."),
)


def warmup(default_s: float) -> Callable[[F], F]:
    return option(
        "--warmup",
        "warmup_s",
        metavar="SECONDS",
        type=click.FloatRange(0, 3600),
        default=default_s,
        help="Before the run, send the first SECONDS of its schedule as warm-up; these requests are audited but "
        "not in the figures.",
    )


RATE = cloup.option_group(
    "Rate",
    option(
        "--qps",
        metavar="RATE",
        type=positive(maximum=1e6),
        help="Requests per second on average. Required without --trace.",
    ),
    option(
        "--duration",
        "duration_s",
        metavar="SECONDS",
        type=positive(maximum=1e6),
        show_default="30, or the whole trace",
        help="Seconds to send load.",
    ),
    option("--trace", type=_FILE, help="CSV file whose arrivals and sizes to replay (format of the Azure LLM traces)."),
    option("--speed", metavar="X", type=positive(maximum=1e6), default=1.0, help="Replay the trace X times as fast."),
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
    option(
        "--seed",
        metavar="N",
        type=int,
        default=1,
        help="Seed of the workload: the same seed and settings make the same requests.",
    ),
    option(
        "--zipf",
        type=click.FloatRange(0, 10),
        default=0.0,
        metavar="S",
        help="Skew over the keys of an account: weights 1/rank^S in the order of the file; 0 is uniform.",
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
        help="Output sizes, in the same forms; sent as max_tokens.",
    ),
    option("--no-cap", is_flag=True, help="Leave max_tokens out of the requests."),
    option("--model", metavar="NAME", show_default="the first one served", help="Model to ask for."),
    option(
        "--models",
        type=Weighted(),
        metavar="NAME:W,...",
        help="Several models to ask for, with weights, as gpt-4o:3,o3:1; instead of --model.",
    ),
)

SENDING = cloup.option_group(
    "Sending",
    option(
        "--processes",
        metavar="N",
        type=click.IntRange(1, 256),
        default=1,
        help="Processes that send, each every N-th request. One process sends about 40,000 requests/s.",
    ),
    option(
        "--connections",
        metavar="N",
        type=click.IntRange(1, 60_000),
        show_default="by the rate, 64 to 4096 in a process",
        help="Largest number of connections per target, over all processes; opened as needed.",
    ),
    option(
        "--timeout",
        "timeout_s",
        metavar="SECONDS",
        type=positive(maximum=3600),
        default=10.0,
        help="Time from a request's due time until the client gives it up.",
    ),
    option(
        "--wait-ready",
        "wait_ready_s",
        metavar="SECONDS",
        type=click.FloatRange(0, 3600),
        default=10.0,
        help="Time to wait until all targets are ready before sending; 0 checks once.",
    ),
)

FORCE = option("--force", is_flag=True, help="Replace results that DIR already holds.")

OUTPUT = cloup.option_group(
    "Output", option("--out", type=_DIRECTORY, required=True, metavar="DIR", help="Write the results to DIR."), FORCE
)


def workload_settings(options: dict[str, Any], **rate: Any) -> WorkloadSettings:
    """Pop the options of ``SHAPE`` (without models), ``RATE`` (unless ``rate`` replaces them) and the accounts.

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
        accounts=options.pop("accounts", None) or (),
    )


def sending_settings(options: dict[str, Any]) -> SendingSettings:
    """Pop the options of ``SENDING``, the models, and those of ``LOADED`` except targets, keys and accounts.

    Raises BenchUsageError when they contradict one another.
    """
    model, models = options.pop("model"), options.pop("models")
    if model is not None and models:
        raise BenchUsageError("--model and --models exclude each other; name all of them with --models")
    return SendingSettings(
        connections=options.pop("connections"),
        timeout_s=options.pop("timeout_s"),
        models=models or () if model is None else ((model, 1),),
        processes=options.pop("processes"),
        wait_ready_s=options.pop("wait_ready_s"),
        admin_targets=options.pop("admin_targets", ()),
        ca_file=options.pop("ca_file", None),
    )
