"""The set-up of the runs, and the commands that make them and the page again.

Of paths only the last name is shown, so that the page reveals nothing about a machine's folders. All values come from
the runs' files; old files may lack some.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench_client.report.gather import ReportedRun
from bench_client.report.rows import Row
from bench_client.report.sources import Source

LAST_DATE_MS = 253_402_300_799_000
"""The end of the year 9999: what a date can be made of."""


def setup_rows(runs: Sequence[ReportedRun]) -> list[Row]:
    """Return rows with a cell per run, without rows in which no run has anything."""
    facts: list[tuple[str, Callable[[ReportedRun], str]]] = [
        ("started", lambda run: _when(run.source.info.started_unix_ms)),
        ("nodes started", lambda run: _said(run.source.comparison.get("nodes"))),
        ("targets", lambda run: ", ".join(run.source.info.targets)),
        ("keys", _keys),
        ("keys in an account", lambda run: _said(run.source.comparison.get("account_keys"))),
        ("limits of each key, per minute", lambda run: _limits(run.source.comparison)),
        ("rate", lambda run: _suffixed(run.source.info.settings.get("qps"), "/s")),
        ("duration", lambda run: _suffixed(run.source.info.settings.get("duration_s"), " s")),
        ("trace", lambda run: _name(run.source.info.settings.get("trace"))),
        ("trace sped up", _speed),
        ("arrivals", lambda run: _setting(run, "arrivals")),
        ("seed", lambda run: _setting(run, "seed")),
        ("accounts", lambda run: _weights(run.source.info.settings.get("accounts"))),
        ("skew over the keys (Zipf)", lambda run: _setting(run, "zipf")),
        ("input tokens", lambda run: _setting(run, "input_tokens")),
        ("output tokens", lambda run: _setting(run, "output_tokens")),
        ("requests say max_tokens", lambda run: _setting(run, "cap_output")),
        ("warm-up", lambda run: _suffixed(run.source.info.settings.get("warmup_s") or None, " s")),
        ("model", lambda run: _setting(run, "model") or _weights(run.source.info.settings.get("models"))),
        ("sending processes", lambda run: _setting(run, "processes")),
        ("timeout", lambda run: _suffixed(run.source.info.settings.get("timeout_s"), " s")),
        ("machine", _machine),
        ("Python", lambda run: _said(run.source.machine.get("python"))),
        ("packages", _packages),
    ]
    rows = [Row(name, [fact(run) for run in runs]) for name, fact in facts]
    return [Row(row.name, [cell or "–" for cell in row.cells]) for row in rows if any(row.cells)]


def commands(runs: Sequence[ReportedRun]) -> list[list[str]]:
    """Return the commands that made the runs, and then the page, in parts that stay together on a line."""
    made: dict[str, list[str]] = {}
    for run in runs:
        source = run.source
        name = source.asked.resolve().name
        made.setdefault(name, _compare_command(source, name) if source.comparison else _run_command(source, name))
    return [*made.values(), ["bench-client report", *map(shlex.quote, made), "--html report.html"]]


def _compare_command(source: Source, out: str) -> list[str]:
    options = [("--" + name.replace("_", "-"), value) for name, value in source.comparison.items()]
    return ["bench-client compare", *_typed([*_load_options(source), *options, ("--out", out)])]


def _run_command(source: Source, out: str) -> list[str]:
    targets = [("--target", target) for target in source.info.targets]
    admin_targets = source.info.settings.get("admin_targets")
    if isinstance(admin_targets, list):
        targets += [("--admin-target", str(target)) for target in admin_targets]
    keys = _name(source.info.settings.get("keys")) or "keys.toml"
    return ["bench-client run", *_typed([*targets, ("--keys", keys), *_load_options(source), ("--out", out)])]


def _typed(options: Sequence[tuple[str, Any]]) -> list[str]:
    return [f"{name} {shlex.quote(_said(value))}" if value is not None else name for name, value in options]


_OPTIONS = (
    ("qps", "--qps", None),
    ("duration_s", "--duration", None),
    ("speed", "--speed", 1),
    ("arrivals", "--arrivals", "poisson"),
    ("seed", "--seed", None),
    ("zipf", "--zipf", 0),
    ("input_tokens", "--input-tokens", None),
    ("output_tokens", "--output-tokens", None),
    ("warmup_s", "--warmup", 0),
    ("connections", "--connections", None),
    ("timeout_s", "--timeout", 10),
    ("ca_file", "--ca-file", None),
    ("processes", "--processes", 1),
)
"""A setting, its option, and the value at which it needn't be said."""


def _load_options(source: Source) -> list[tuple[str, Any]]:
    settings = source.info.settings
    options: list[tuple[str, Any]] = [("--trace", _name(settings["trace"]))] if settings.get("trace") else []
    for name, option, usual in _OPTIONS:
        value = settings.get(name)
        if value is not None and value != usual:
            options.append((option, value))
    if accounts := _weights(settings.get("accounts")):
        options.append(("--accounts", accounts))
    if settings.get("model") is None and (models := _weights(settings.get("models"))):
        options.append(("--models", models))
    return [*options, ("--no-cap", None)] if settings.get("cap_output") is False else options


def _said(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def _weights(weights: Any) -> str:
    """Return names with weights as an option takes them."""
    return ",".join(f"{name}:{_said(weight)}" for name, weight in weights.items()) if isinstance(weights, dict) else ""


def _setting(run: ReportedRun, name: str) -> str:
    return _said(run.source.info.settings.get(name))


def _suffixed(value: Any, unit: str) -> str:
    return _said(value) + unit if value is not None else ""


def _name(path: Any) -> str:
    return Path(str(path)).name if path else ""


def _speed(run: ReportedRun) -> str:
    settings = run.source.info.settings
    return f"{_said(settings.get('speed'))} times" if settings.get("trace") else ""


def _keys(run: ReportedRun) -> str:
    known, used = len(run.source.info.keys), len(run.records.keys)
    file = _name(run.source.info.settings.get("keys"))
    return f"{used:,} used of {known:,}" + (f" in {file}" if file else "")


def _limits(comparison: dict[str, int]) -> str:
    names = {"rpm": "requests", "input_tpm": "input tokens", "output_tpm": "output tokens"}
    return ", ".join(f"{comparison[name]:,} {said}" for name, said in names.items() if name in comparison)


def _when(unix_ms: int) -> str:
    if not 0 < unix_ms <= LAST_DATE_MS:
        return ""
    return datetime.fromtimestamp(unix_ms // 1_000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _machine(run: ReportedRun) -> str:
    cpus, system = run.source.machine.get("cpus"), _said(run.source.machine.get("system"))
    return ", ".join(part for part in (f"{_said(cpus)} cores" if cpus else "", system) if part)


def _packages(run: ReportedRun) -> str:
    packages = run.source.machine.get("packages")
    return ", ".join(f"{name} {version}" for name, version in packages.items()) if isinstance(packages, dict) else ""
