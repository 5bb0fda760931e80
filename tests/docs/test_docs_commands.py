"""The commands in the documents: each parses; those that need only this project run, and show what is shown."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import click
import pytest
from documents import PAGES, ROOT, blocks_of, shell_lines, tables_of, text_of
from fleet import Fleet, running_fleet
from own_commands import output_of

import bench_client.cli
import limiter_node.cli

PROGRAMS = {"limiter-node": limiter_node.cli.cli, "bench-client": bench_client.cli.cli}
FOREIGN = {
    *("make", "vllm", "ollama", "docker", "kubectl", "systemctl", "export", "eval", "curl", "head", "sudo", "git"),
    *(
        "pip",
        "python",
        "python3",
        "install",
        "cp",
        "useradd",
        "chown",
        "chmod",
        "umask",
        "systemd-analyze",
        "journalctl",
    ),
}
"""What else may be shown: `make` and what parses for us is tested elsewhere, the others aren't ours."""
KEY = "sk-alice"
SHORTER = {"--qps": "50", "--duration": "2", "--from": "50", "--slo-p99-ms": "5000"}
"""A load that takes seconds, and a target that a busy machine holds, too."""


def own_command(words: list[str]) -> tuple[str, list[str]] | None:
    """The program and its arguments, if the line runs one of ours; also behind a pipe, or for a variable's value."""
    if "|" in words:
        words = words[words.index("|") + 1 :]
    if words and (substituted := re.fullmatch(r"[A-Z]+=\$\((.+)", words[0])):
        words = [substituted[1], *words[1:-1], words[-1].removesuffix(")")]
    while words and re.fullmatch(r"env|[A-Z_]+=\S*|\$\(grep .*\)", words[0]):
        words = words[1:]
    program = words[0].rpartition("/")[2]
    return (program, words[1:]) if program in PROGRAMS else None


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that examples name, and nothing in the environment."""
    monkeypatch.chdir(tmp_path)
    Path("keys.toml").write_text(f'[keys."{KEY}"]\n')
    Path("results").mkdir()
    return tmp_path


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.usefixtures("scratch")
def test_each_command_parses(page: str) -> None:
    is_store_exported = False
    for words in shell_lines(page):
        if (own := own_command(words)) is None:
            is_store_exported |= words[0] == "export" and any("LIMITER_STORE=" in word for word in words)
            assert words[0].rpartition("/")[2] in FOREIGN, f"{page}: {shlex.join(words)}: whose command is it?"
            continue
        program, arguments = own
        arguments = ["redis://127.0.0.1:6379" if word == "URL" else word for word in arguments]
        # From a file of the environment, behind `env`; or from the shell's.
        if "LIMITER_STORE=" in words[1] or (is_store_exported and "--store" not in arguments):
            arguments += ["--store", "redis://127.0.0.1:6379"]
        command: click.Command = PROGRAMS[program]
        while isinstance(command, click.Group):
            command = command.commands[arguments.pop(0)]
        with click.Context(PROGRAMS[program]) as parent:
            assert not command.make_context(command.name, arguments, parent=parent).args, shlex.join(words)


@pytest.mark.parametrize("page", PAGES)
def test_examples_of_toml_and_json_are_whole(page: str) -> None:
    for block in blocks_of(page):
        if block.language == "toml":
            tomllib.loads(block.text)
    for words in shell_lines(page):
        if words[0] == "curl" and "-d" in words:
            json.loads(words[words.index("-d") + 1])
        for option in ("-f", "-k"):
            if words[0] in ("docker", "kubectl") and option in words:
                assert (ROOT / words[words.index(option) + 1]).exists()


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Two nodes with the keys file that README shows, on an embedded store."""
    directory = tmp_path_factory.mktemp("documents")
    (keys,) = [block.text for block in blocks_of("README.md") if block.language == "toml"]
    (directory / "keys.toml").write_text(keys)
    with running_fleet(directory, "--store", "single", "--keys", str(directory / "keys.toml")) as running:
        yield running


def run(arguments: list[str], folder: Path | None = None) -> str:
    """What a command of ours writes to stdout; it has to end with exit code 0."""
    return output_of(*arguments, folder=folder)


def adapted(words: list[str], fleet: Fleet) -> list[str]:
    """An example's words with the store and the nodes that run here, and with a load that takes seconds."""
    own = own_command(words)
    assert own is not None
    adapted = [own[0]]
    for word in own[1]:
        if word == "URL" or word.startswith("redis://"):
            word = fleet.store
        elif re.fullmatch(r"http://127\.0\.0\.1:808\d", word):
            word = fleet.nodes[int(word[-1])]
        adapted.append(SHORTER.get(adapted[-1], word))
    return adapted


def curls(page: str) -> list[list[str]]:
    return [words for words in shell_lines(page) if words[0] == "curl"]


def asked(words: list[str], fleet: Fleet, api_key: str) -> tuple[int, dict[str, str], str]:
    """The status, headers and body that a page's curl line gets; curl itself isn't needed."""
    assert words[1] == "-i"
    node, path = urlsplit(fleet.nodes[0]), urlsplit(words[2]).path
    header = words[words.index("-H") + 1]
    assert header.startswith("Authorization: Bearer sk-")
    connection = http.client.HTTPConnection(node.hostname or "", node.port, timeout=20)
    try:
        connection.request("POST", path, words[words.index("-d") + 1], {"Authorization": f"Bearer {api_key}"})
        response = connection.getresponse()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read().decode()
    finally:
        connection.close()


def test_the_readme_shows_what_happens(fleet: Fleet) -> None:
    (curl,) = curls("README.md")
    status, headers, body = asked(curl, fleet, KEY)
    assert status == 200
    assert headers["x-ratelimit-limit-requests"] == "60"
    assert json.loads(body)["usage"]["completion_tokens"] <= 50


def typed(text: str, folder: Path) -> list[str]:
    """Type lines one after the other into a shell; what each has printed. Each has to end with exit code 0."""
    program = folder / "bin" / "limiter-node"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m limiter_node "$@"\n')
    program.chmod(0o755)
    lines = "".join(f"{line.partition('  # ')[0]}\necho '--- end'\n" for line in text.splitlines())
    done = subprocess.run(
        ["sh", "-euc", lines],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        env={"PATH": f"{program.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    return done.stdout.split("--- end\n")[:-1]


def test_the_readme_manages_an_organisation(fleet: Fleet, tmp_path: Path) -> None:
    (block,) = [each.text for each in blocks_of("README.md") if "accounts create" in each.text]
    (keys,) = [each.text for each in blocks_of("README.md") if each.language == "toml"]
    (tmp_path / "keys.toml").write_text(keys)
    lines = block[block.index("export ") :].replace("PATH=$PWD/.venv/bin:$PATH ", "")
    assert len(lines.splitlines()) <= 15
    said = typed(re.sub(r"redis://\S+", fleet.store, lines), tmp_path)
    expected = [
        "",
        "account globex created: .*\n",
        "team globex/research created: .*\n",
        "",
        r"sk-[\w-]{32}\n",
        r"NAME .*\nglobex/carol .*\nglobex/dave .*2030-01-01T00:00:00Z.*\n",
        "globex/carol .*globex/carol requests/1m would reject first.*output_tokens/1m for gpt-5.,o3.: 100,000 of .*",
        "key globex/carol changed: rpm 60 -> 120, input_tokens/1d none -> .*\n",
        ".*the file declares 2 keys and 1 account\n",
        "",
        "globex/carol\n.*CREDENTIAL .*",
        "key globex/carol disabled.*\n",
        "key globex/carol revoked.*\n",
        "key globex/dave deleted\n",
        "key globex/carol deleted\nteam globex/research deleted\naccount globex deleted\n",
    ]
    for line, pattern, text in zip(lines.splitlines(), expected, said, strict=True):
        assert re.fullmatch(pattern, text, re.DOTALL), f"{line}: {text}"


@pytest.mark.parametrize(
    ("page", "shown"),
    [
        ("README.md", r"\S+ CompletionUsage\(completion_tokens=\d+, prompt_tokens=8, .*\n"),
        (
            "docs/http-api.md",
            r"\S+CompletionUsage\(.*prompt_tokens=8.*\n\S.*\nUsage\(prompt_tokens=2, total_tokens=2\)\n",
        ),
    ],
)
def test_the_sdk_is_used_as_shown(fleet: Fleet, capsys: pytest.CaptureFixture[str], page: str, shown: str) -> None:
    (example,) = [block.text for block in blocks_of(page) if block.language == "python"]
    node = "http://127.0.0.1:8080"
    assert node in example
    exec(compile(example.replace(node, fleet.nodes[0]).replace("sk-demo-…", KEY), page, "exec"), {})
    assert re.search(shown, capsys.readouterr().out)


def shape(text: str) -> list[str]:
    """A command's output with its figures, digests and spaces made alike."""
    return [
        " ".join(
            re.sub(r"sha256:[0-9a-f]{32}", "DIGEST", re.sub(r"(?<![0-9a-f:])[\d.,]*\d(?![0-9a-f])", "N", line)).split()
        )
        for line in text.splitlines()
    ]


def test_commands_for_keys_do_what_their_page_shows(tmp_path: Path) -> None:
    page = "docs/keys-and-limits.md"
    lines = [words for words in shell_lines(page) if own_command(words)]
    (console,) = [block.text for block in blocks_of(page) if block.language == "console"]
    secret = digest = ""
    shown: list[str] = []
    with running_fleet(tmp_path, "--store", "single") as fleet:
        (tmp_path / "keys.toml").write_text(blocks_of(page)[0].text)
        for words in lines:
            typed = adapted(words, fleet)
            if "--credential" in typed:
                typed[typed.index("--credential") + 1] = digest[:8]
            said = run(typed, tmp_path)
            match typed[1:4]:
                case ["keys", "create", "acme/alice"]:
                    secret, digest = said.strip(), hashlib.sha256(said.strip().encode()).hexdigest()
                case ["keys", "set", "acme/alice"]:
                    assert asked(curls(page)[0], fleet, secret)[0] == 200
                case ["keys", "show", "acme/alice"]:
                    shown.append(said)
                case ["keys", "rotate", "acme/alice"]:
                    assert asked(curls(page)[0], fleet, secret)[0] == 200, "its grace"
                    secret = said.strip()
                case ["keys", "disable" | "delete", "acme/alice"]:
                    assert asked(curls(page)[0], fleet, secret)[0] == 401
                case ["keys", "revoke" | "move" | "enable" | "expire", _]:
                    assert asked(curls(page)[0], fleet, secret)[0] == 200
                case ["apply", "keys.toml", "--prune"]:
                    assert asked(curls(page)[0], fleet, KEY)[0] == 200
    expected = shape(console)[1:]
    assert [shape(each)[: len(expected)] for each in shown] == [expected] * 2


def test_the_runbooks_of_operations_do_what_they_say(fleet: Fleet, tmp_path: Path) -> None:
    """A secret is rotated, a leaked one revoked, a key moved to and fro."""
    blocks = [each.text for each in blocks_of("docs/operations.md") if "limiter-node keys" in each.text]
    rotate, leak, move = blocks
    (curl,) = curls("README.md")
    for command in ("teams create acme/research", "accounts create globex"):
        run(["limiter-node", *command.split(), "--store", fleet.store])
    first = run(["limiter-node", "keys", "create", "acme/alice", "--store", fleet.store]).strip()

    def said(block: str, *replaced: tuple[str, str]) -> list[str]:
        for shown, real in (("--store URL", f"--store {fleet.store}"), *replaced):
            assert shown in block
            block = block.replace(shown, real)
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        return typed(block, folder)

    second, shown, _ = said(rotate, ("6f1d0c2a", hashlib.sha256(first.encode()).hexdigest()[:8]))
    assert re.search(r"CREDENTIAL .*\n\w{12} +active +\d{4}-\S+\n\w{12} +active +never\n", shown)
    statuses = [asked(curl, fleet, each)[0] for each in (first, second.strip())]
    assert statuses == [401, 200]
    _, shown, third = said(leak, ("$LEAKED", second.strip()))
    assert shown.startswith("acme/alice\n")
    statuses = [asked(curl, fleet, each)[0] for each in (second.strip(), third.strip())]
    assert statuses == [401, 200]
    assert said(move)[1] == "key globex/alice moved: account globex -> acme, team none -> research\n"
    assert asked(curl, fleet, third.strip())[0] == 200


def test_the_page_on_reserves_reserves_what_it_says(fleet: Fleet, tmp_path: Path) -> None:
    page = "docs/keys-and-limits.md"
    keys = tmp_path / "keys.toml"
    keys.write_text(blocks_of(page)[-2].text)
    run(["limiter-node", "keys", "load", str(keys), "--store", fleet.store])
    said = re.findall(r"# reserves (\d+)", text_of(page))
    assert [asked(words, fleet, "sk-chatbot")[1]["x-limiter-reserved-output"] for words in curls(page)] == said


def test_the_client_runs_as_its_page_shows(fleet: Fleet, tmp_path: Path) -> None:
    page = "docs/bench-client.md"
    generate, _, *loads, compare, _, find_max = [words for words in shell_lines(page) if own_command(words)]
    run(adapted(generate, fleet), tmp_path)
    run(["limiter-node", "keys", "load", "keys.toml", "--store", fleet.store], tmp_path)
    said = [run(adapted(words, fleet), tmp_path) for words in loads]
    assert [words[1] for words in loads] == ["run", "audit", "report"]
    assert said[1].splitlines()[-1].startswith("audit: PROVED ")
    assert (tmp_path / "report.html").exists()
    (table,) = [table for table in tables_of(page) if table.head[0] == "file in `--out`"]
    assert {row[0].strip("`") for row in table.rows} == {path.name for path in (tmp_path / "results").iterdir()}
    *records, end = (tmp_path / "results" / "requests.jsonl").read_bytes().splitlines(keepends=True)
    assert hashlib.sha256(b"".join(records)).hexdigest() in end.decode()
    (console,) = [block.text for block in blocks_of(page) if block.language == "console"]
    curve = run([*adapted(find_max, fleet), "--trial", "1", "--to", "100", "--warmup", "0"], tmp_path)
    assert console.splitlines()[1].split() == curve.splitlines()[0].split()
    for text in (console, curve):
        ending = r"(at least )?[\d,]+ requests/s (hold|is the highest rate that holds) p99 ≤ \d+ ms[:;] .*"
        assert re.fullmatch(ending, text.splitlines()[-1])
    assert compare[1] == "compare"


def test_accounts_and_models_are_loaded_as_the_page_shows(fleet: Fleet, tmp_path: Path) -> None:
    (weighted,) = [words for words in shell_lines("docs/bench-client.md") if "--accounts" in words]
    (tmp_path / "keys.toml").write_text(
        "[accounts.acme-of-the-client.teams.research]\n"
        '[keys.sk-of-the-client-1]\naccount = "acme-of-the-client"\n'
        '[keys.sk-of-the-client-2]\naccount = "acme-of-the-client"\nteam = "research"\n'
    )
    run(["limiter-node", "keys", "load", "keys.toml", "--store", fleet.store], tmp_path)
    words = [word.replace("acme", "acme-of-the-client") for word in adapted(weighted, fleet)]
    table = [line.split()[0] for line in run(words, tmp_path).splitlines() if line.strip()]
    assert {"model", "gpt-4o", "o3"} < set(table)


def test_a_comparison_is_made_as_the_readme_shows(tmp_path: Path) -> None:
    (words,) = [words for words in shell_lines("README.md") if "compare" in words]
    own = own_command(words)
    assert own is not None
    command = [own[0]]
    for word in own[1]:
        command.append(SHORTER.get(command[-1], word))
    run(command, tmp_path)
    assert (tmp_path / "comparison" / "report.html").exists()
