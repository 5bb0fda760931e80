"""Options, defaults, variables, fields, metrics and error codes in the documents are those of the programs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import click
import pytest
from documents import PAGES, ROOT, Table, blocks_of, code_of, tables_of, text_of
from in_process import serving
from prometheus_client.parser import text_string_to_metric_families

import bench_client.cli
import limiter_node.cli
from limiter_node.http.responses import errors
from limiter_node.limits import KeyLimits
from limiter_node.upstreamsfile import KEY_VARIABLE, read_upstreams

UNITS = {"": 1, "s": 1, "ms": 1, "%": 1, "MiB": 2**20}
OF_OTHERS = {
    "--build",
    "--wait",
    "--now",
    "--appendonly",
    "--require-hashes",
    "--only-binary",
    "--no-deps",
    "--no-build-isolation",
    "--strict",
    "--data-binary",
    "--cluster",
}
"""Options of docker, systemctl, pip, mypy, curl and redis-cli in the commands that are shown."""


def commands(command: click.Command) -> Iterator[click.Command]:
    yield command
    for each in command.commands.values() if isinstance(command, click.Group) else ():
        yield from commands(each)


@cache
def options() -> dict[str, list[click.Option]]:
    """Each option's flag and what declares it, in any command of both programs."""
    found: dict[str, list[click.Option]] = {"--help": [], "--version": []}
    for program in (limiter_node.cli.cli, bench_client.cli.cli):
        for command in commands(program):
            for parameter in command.params:
                if isinstance(parameter, click.Option):
                    for flag in parameter.opts:
                        found.setdefault(flag, []).append(parameter)
    return found


@cache
def options_of_tools() -> set[str]:
    """The options of benchmarks, the judge and the attacks."""
    sources = [*ROOT.glob("benchmarks/*.py"), *ROOT.glob("tests/*/__main__.py")]
    return {flag for path in sources for flag in re.findall(r'"(--[a-z][\w-]*)"', path.read_text())}


def number(shown: str) -> float | str:
    """``20 MiB`` as its bytes, ``10,000`` and ``10 s`` as their numbers; any other text as it is."""
    match = re.fullmatch(r"([\d,]+(?:\.\d+)?)\s?(s|ms|%|MiB|)", shown)
    return float(match[1].replace(",", "")) * UNITS[match[2]] if match else shown


def defaults(flag: str) -> set[float | str]:
    """What an option has in each command that has it: empty where it has nothing, or takes no value."""
    values = (None if option.is_flag else option.to_info_dict()["default"] for option in options()[flag])
    return {number("" if value is None else str(value)) for value in values}


def rows(head: str, page: str) -> list[tuple[str, ...]]:
    """The rows of the only table of a page whose first column has this heading."""
    (table,) = [table for table in tables_of(page) if table.head[0] == head]
    return list(table.rows)


@pytest.mark.parametrize("page", PAGES)
def test_options_that_are_named_exist(page: str) -> None:
    shown = [*code_of(page), *(block.text for block in blocks_of(page) if block.language in ("sh", "console"))]
    for flag in re.findall(r"(?<![\w-])--[a-z][\w-]*", "\n".join(shown)):
        assert flag in options() or flag in options_of_tools() | OF_OTHERS, f"{page}: {flag}"


def tables_of_options() -> list[tuple[str, Table]]:
    return [(page, table) for page in PAGES for table in tables_of(page) if table.head[:2] == ("option", "default")]


def test_there_are_tables_of_options() -> None:
    assert {page for page, _ in tables_of_options()} >= {
        "docs/gateway.md", "docs/http-api.md", "docs/operations.md", "docs/bench-client.md",
    }  # fmt: skip


@pytest.mark.parametrize(("page", "table"), tables_of_options())
def test_defaults_in_tables_are_those_of_the_help(page: str, table: Table) -> None:
    for names, default, *_ in table.rows:
        flags = re.findall(r"`(--[\w-]+)`", names)
        shown = [part.strip() for part in default.split(", ")] * (1 if ", " in default else len(flags))
        for flag, value in zip(flags, shown, strict=True):
            known = defaults(flag)
            assert number(value) in known, f"{page}: {flag} has {known}, not {value}"


def defaults_in_sentences() -> list[tuple[str, str, str]]:
    """Each ``--option`` (default) of the pages."""
    value = r"`(--[\w-]+)`\**\s\(([\d,.]+(?:\s(?:s|ms|%|MiB))?)[);]"
    return [(page, *found) for page in PAGES for found in re.findall(value, text_of(page))]


def test_there_are_defaults_in_sentences() -> None:
    assert len(defaults_in_sentences()) >= 10


@pytest.mark.parametrize(("page", "flag", "value"), defaults_in_sentences())
def test_defaults_in_sentences_are_those_of_the_help(page: str, flag: str, value: str) -> None:
    assert number(value) in defaults(flag)


def test_the_policies_are_those_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    names = [row[0] for row in rows("`--on-store-failure`", "docs/failures.md")]
    (marked,) = [name for name in names if "(default)" in name]
    assert defaults("--on-store-failure") == {marked.split("`")[1]}
    assert limiter_node.cli.run(["serve", "--store", "redis://h", "--on-store-failure", "none"]) == 2
    assert f"must be one of {', '.join(name.split('`')[1] for name in names)}\n" in capsys.readouterr().err


@pytest.mark.parametrize("page", PAGES)
def test_environment_variables_are_those_of_options(page: str) -> None:
    known = {str(option.envvar) for each in options().values() for option in each if option.envvar}
    known |= {"BENCH_" + flag.removeprefix("--").replace("-", "_").upper() for flag in options()}
    # These are read by the shells' completion, and as the key of a service.
    known |= {"LIMITER_NODE_COMPLETE", "BENCH_CLIENT_COMPLETE", KEY_VARIABLE}
    for name in re.findall(r"\b_?((?:LIMITER|BENCH)_[A-Z_]+)\b", text_of(page)):
        assert name in known, f"{page}: {name}"


def test_the_keys_file_shows_the_built_in_defaults() -> None:
    shown = re.search(r"\[defaults\](.*?)\n\n", text_of("docs/keys-and-limits.md"), re.DOTALL)
    assert shown
    values = {name: int(value) for name, value in re.findall(r"^(\w+) = ([\d_]+)", shown[1], re.MULTILINE)}
    limits = KeyLimits()
    assert values == {
        "rpm": limits.rpm,
        "input_tpm": limits.input_tpm,
        "output_tpm": limits.output_tpm,
        "output_reserve": limits.output_reserve,
    }


def test_fields_of_a_service_have_the_documented_defaults(tmp_path: Any) -> None:
    documented = {row[0].strip("`"): row[1] for row in rows("field of a service", "docs/gateway.md")}
    file = tmp_path / "upstreams.toml"
    file.write_text(
        '[[upstreams]]\nurl = "https://api.openai.com/v1"\nmodels = ["gpt-*"]\n'
        '[[upstreams]]\nurl = "https://example.com/v1"\n'
    )
    openai, other = read_upstreams(str(file), {})
    assert documented == {
        "enforce_cap": str(other.enforces_cap).lower(),
        "forward_key": str(other.forwards_key).lower(),
        "ask_usage": str(other.asks_usage).lower(),
        "cap_field": f"`{openai.cap_field}` for OpenAI and Azure, `{other.cap_field}` for others",
        "extra_fields": "none" if not other.extra_fields else "",
    }


async def test_the_table_of_metrics_is_what_nodes_show(embedded_single: str) -> None:
    documented: dict[str, set[str]] = {}
    for names, *_ in rows("metric", "docs/operations.md"):
        for name, labels in re.findall(r"`([\w*]+)(?:\{([^}]*)\})?`", names):
            documented[name] = {label.strip() for label in labels.split(",") if label.strip()}
    async with serving(embedded_single) as node, node.session.get(f"{node.url}/metrics") as response:
        shown: dict[str, set[str]] = {}
        for family in text_string_to_metric_families(await response.text()):
            if family.name.startswith(("process_", "python_")):
                assert f"{family.name.partition('_')[0]}_*" in documented
                continue
            name = f"{family.name}_total" if family.type == "counter" else family.name
            labels = {label for sample in family.samples for label in sample.labels} - {"le"}
            shown[name] = labels or documented.get(name, set())  # a family without samples yet shows no labels
    assert {name: labels for name, labels in documented.items() if not name.endswith("*")} == shown


def test_the_table_of_errors_has_the_statuses_and_codes_that_nodes_send() -> None:
    documented = set()
    for statuses, codes, _ in rows("status", "docs/http-api.md"):
        found, numbers = re.findall(r"`(\w+)`", codes), re.findall(r"\d+", statuses)
        pairs = (
            zip(numbers, found, strict=True)
            if len(numbers) == len(found) > 1
            else ((n, c) for n in numbers for c in found)
        )
        documented |= {(int(number), code) for number, code in pairs}
    sent = {
        (reply.status, code)
        for reply in [*vars(errors).values(), errors.too_large(1), errors.not_found("GET", "/"),
                      errors.method_not_allowed("GET", "/"), errors.model_not_found("m"), errors.ambiguous_key("a")]
        if isinstance(reply, type(errors.INTERNAL)) and (code := json.loads(reply.body)["error"]["code"])
    }  # fmt: skip
    nobody_reads = {(errors.CLIENT_GONE.status, "client_gone")}
    assert sent - nobody_reads <= documented
    assert documented - sent == {(429, "rate_limit_exceeded"), (502, "upstream_error"), (503, "not_ready")}


def test_the_table_of_401s_has_the_messages_that_nodes_send() -> None:
    shown = [row[0].removesuffix(" …") for row in rows("message", "docs/http-api.md")]
    sent = [errors.MISSING_API_KEY, *errors.UNAUTHORIZED.values()]
    messages = [json.loads(each.body)["error"]["message"] for each in sent]
    assert len(messages) == len(shown)
    assert all(message.startswith(each) for message, each in zip(messages, shown, strict=True))


def test_numbers_of_alerts_and_attacks_are_right() -> None:
    alerts = len(re.findall(r"^\s*- alert:", (ROOT / "deploy/alerts.yml").read_text(), re.MULTILINE))
    for page in ("deploy/README.md", "docs/operations.md"):
        assert re.findall(r"(\d+)\s+alerts", text_of(page)) == [str(alerts)]
