"""The report's files: a page that needs nothing else and says what others wrote as text only; every wrong input."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from report_fakes import Simulation, write_comparison
from report_tree_fakes import TreeSimulation

from bench_client import cli
from bench_client.records.record_file import REQUESTS_NAME
from bench_client.report import report_of_comparison, write_report
from bench_client.report.svg import inline

FIGURES = ["throughput", "latency", "latency-over-time", "windows-1", "windows-2", "batches", "cpu"]
VOID = {"meta", "link", "br", "hr", "img", "input"}
HOSTILE = '<script>alert("1")</script>&amp;\x00\u202e]]>$x^2$'


def report(*arguments: object) -> int:
    """The command, in this process."""
    return cli._run_cli(["report", *map(str, arguments)])


class Page(HTMLParser):
    """Checks that what is opened is closed, and keeps what matters of the elements."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(attrs) == len(dict(attrs)), f"an attribute twice: {tag}"
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def attributes(self, name: str) -> list[str]:
        return [attributes[name] for _, attributes in self.elements if name in attributes]


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_comparison(tmp_path_factory.mktemp("report") / "both")


@pytest.fixture(scope="module")
def made(comparison: Path) -> tuple[str, Path]:
    """The page of a comparison, and its figures' directory."""
    html, figures = comparison / "report.html", comparison / "figures"
    assert report(comparison, "--html", html, "--figures", figures) == 0
    return html.read_text("utf-8"), figures


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a second, without a servers.json."""
    directory = tmp_path_factory.mktemp("small") / "small"
    Simulation(duration_s=1, keys=1).write(directory, servers=False)
    return directory


# ---- the page -------------------------------------------------------------------------------------------------------


def test_the_page_has_everything(made: tuple[str, Path]) -> None:
    html, figures = made
    page = Page(html)
    for said in ("true 60 s windows", "✓ PROVED", "windows over the limit", "p99", "poisson", "key-0", "store 7001"):
        assert said in page.text
    assert "bench-client compare --qps 20 --duration 75 --seed 1" in page.text
    assert "bench-client report both --html report.html" in page.text
    assert "secret-place" not in html, "paths are told by their last name"
    assert "keys.toml" in page.text
    assert [path.name for path in sorted(figures.iterdir())] == sorted(f"{name}.svg" for name in FIGURES)
    assert len(html) < 1_000_000
    headings = [attributes.get("scope") for tag, attributes in page.elements if tag == "th"]
    assert headings
    assert all(headings)
    assert ("html", {"lang": "en"}) in page.elements


def test_the_page_needs_nothing_else(made: tuple[str, Path]) -> None:
    html, _ = made
    page = Page(html)
    assert not {tag for tag, _ in page.elements} & {"script", "iframe", "object", "embed", "img", "image", "base"}
    assert set(page.attributes("src")) == set()
    assert all(target.startswith(("#", "data:,")) for target in page.attributes("href") + page.attributes("xlink:href"))
    assert not re.search(r"@import|url\((?!#)", html)
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    (policy,) = [value for value in page.attributes("content") if "default-src" in value]
    assert policy.startswith("default-src 'none'")


def test_every_figure_is_there_in_two_shapes_with_a_label_and_ids_of_its_own(made: tuple[str, Path]) -> None:
    page = Page(made[0])
    figures = [attributes for tag, attributes in page.elements if tag == "svg"]
    assert len(figures) == 2 * len(FIGURES)
    assert {attributes["role"] for attributes in figures} == {"img"}
    assert all(len(attributes["aria-label"]) > 40 for attributes in figures)
    identities = Counter(page.attributes("id"))
    assert identities.most_common(1)[0][1] == 1
    references = set(re.findall(r"url\(#([^)]+)\)", made[0])) | {
        target.removeprefix("#") for target in page.attributes("href") if target.startswith("#")
    }
    assert references == set(identities)
    assert not re.search("#0a0b[0-9a-f]{2}", made[0]), "a stand-in for a colour was left"


def test_the_labels_tell_the_figures_numbers(made: tuple[str, Path], comparison: Path) -> None:
    total = json.loads((comparison / "cluster" / "summary.json").read_bytes())["total"]
    labels = "".join(Page(made[0]).attributes("aria-label"))
    assert f"cluster: offered {total['requests']:,}; admitted {total['admitted']:,}" in labels
    assert f"rejected: input tokens {total['rejected']['input_tokens']:,}" in labels


def test_figures_stand_alone_on_white(made: tuple[str, Path]) -> None:
    for path in made[1].iterdir():
        source = path.read_text("utf-8")
        root = ElementTree.fromstring(source)
        assert root.tag.endswith("}svg")
        assert root[0].tag.endswith("}title")
        assert "var(" not in source
        assert "#0a0b" not in source
        assert 'fill="#ffffff"' in source
        assert len(source) < 200_000


def test_the_same_runs_make_the_same_bytes(small: Path, tmp_path: Path) -> None:
    """In another process, too, whatever the order of its sets, its language and somebody's taste in figures are."""
    write_report([small], html=tmp_path / "first.html")
    (tmp_path / "matplotlibrc").write_text("font.size: 30\naxes.facecolor: red\n")
    subprocess.run(
        [sys.executable, "-m", "bench_client", "report", str(small), "--html", str(tmp_path / "second.html")],
        check=True,
        capture_output=True,
        env={**os.environ, "PYTHONHASHSEED": "7", "MATPLOTLIBRC": str(tmp_path / "matplotlibrc"), "TZ": "Asia/Tokyo"},
    )
    assert (tmp_path / "first.html").read_bytes() == (tmp_path / "second.html").read_bytes()


def test_what_is_missing_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run that was cut off in the middle of a record, was never audited, and whose servers nobody watched."""
    Simulation(duration_s=3, keys=1).write(tmp_path / "run", audit=False, servers=False)
    path = tmp_path / "run" / REQUESTS_NAME
    path.write_bytes(path.read_bytes()[:-40])
    assert report(tmp_path / "run", "--html", tmp_path / "page.html") == 0
    assert capsys.readouterr().out.endswith("run: INCOMPLETE\n")
    page = Page((tmp_path / "page.html").read_text("utf-8"))
    assert "The audit of run is incomplete and proves nothing" in page.text
    assert "Records are missing or doubled" in page.text
    assert "? INCOMPLETE" in page.text
    assert "audit: INCOMPLETE" not in page.text
    assert "run: the nodes' metrics were not sampled" in page.text
    assert "run: CPU was not measured" in page.text
    assert sum(tag == "svg" for tag, _ in page.elements) == 2 * 4


def test_what_others_wrote_is_shown_as_text_only(tmp_path: Path) -> None:
    """Names of keys, accounts, models, nodes, targets, settings, directories, the machine: all are shown as text."""
    run = tmp_path / "<b>&run"
    load = TreeSimulation(duration_s=2, keys=2, tree_keys=1)
    settings = {**load.info([]).settings, "model": HOSTILE, "keys": f"/x/{HOSTILE}", "arrivals": HOSTILE}
    load.write(run, keys=[(key, HOSTILE) for key in load.key_ids], targets=[HOSTILE], settings=settings)
    for name in ("run.json", "servers.json"):
        document = json.loads((run / name).read_text())
        document |= {"machine": {"python": HOSTILE, "packages": {HOSTILE: HOSTILE}}} if name == "run.json" else {}
        for process in document["processes"] if name == "servers.json" else ():
            process |= {"name": HOSTILE, "kind": HOSTILE}
        (run / name).write_text(json.dumps(document))
    records = (run / REQUESTS_NAME).read_text().replace('"node-0"', json.dumps(HOSTILE))
    (run / REQUESTS_NAME).write_text(records)
    audit = json.loads((run / "audit.json").read_text())
    audit |= {"verdict": HOSTILE, "proved": False, "findings": {HOSTILE: 1}}
    for limit in audit["limits"]:
        limit |= {"subject": HOSTILE, "models": ["*", HOSTILE]}
    info = json.loads((run / "run.json").read_text())
    for limit in info["tree"]["limits"]:
        limit[0], limit[3] = HOSTILE, ["*", HOSTILE]
    (run / "run.json").write_text(json.dumps(info))
    (run / "audit.json").write_text(json.dumps(audit))
    assert report(run, "--html", tmp_path / "page.html", "--figures", tmp_path) == 0
    html = (tmp_path / "page.html").read_text("utf-8")
    page = Page(html)
    assert "script" not in {tag for tag, _ in page.elements}
    assert "b" not in {tag for tag, _ in page.elements}
    assert not {"\x00", "\u202e"} & set(html)
    assert page.text.count('<script>alert("1")</script>&amp;') > 8
    assert '<script>alert("1")' in page.text.split("cores")[0], "a key's name, in a figure"
    assert (tmp_path / "limits-1.svg").exists()
    for path in tmp_path.glob("*.svg"):
        ElementTree.fromstring(path.read_text("utf-8"))


def test_ids_of_one_figure_are_not_those_of_another() -> None:
    drawn = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="9pt" height="9pt">'
        '<metadata>x</metadata><g id="unused"><path id="p" d="M 0.123456 1 \nL 2 1 \nL 2 3 \nz\n"/></g>'
        '<use xlink:href="#p" style="fill: #0a0b10; clip-path: url(#c)"/><clipPath id="c"/><text> a </text></svg>'
    )
    assert inline(drawn, "one", "a <label>") == (
        '<svg role="img" aria-label="a &lt;label&gt;"><g><path d="M0.12 1 H2 V3 z" id="one-p" /></g>'
        '<use style="fill: var(--paper); clip-path: url(#one-c)" href="#one-p" /><clipPath id="one-c" />'
        "<text> a </text></svg>"
    )


# ---- wrong input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["{small}"], 2, "nothing to write; pass --html FILE, --figures DIR, or both"),
        (["--html", "{out}"], 2, "DIR"),
        (["{missing}", "--html", "{out}"], 1, "does not exist; pass the --out of a run"),
        (["{file}", "--html", "{out}"], 1, "is not a directory"),
        (["{empty}", "--html", "{out}"], 1, "has neither run.json nor compare.json"),
        (["{foreign}", "--html", "{out}"], 1, "has neither run.json nor compare.json"),
        (["{small}", "--html", "{empty}"], 2, "is a directory"),
        (["{small}", "--html", "{file}/page.html"], 1, "choose another place"),
        (["{small}", "--figures", "{file}"], 2, "is a file"),
    ],
)
def test_errors_are_one_line_that_says_what_to_do(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, small: Path, arguments: list[str], code: int, says: str
) -> None:
    names = {name: tmp_path / name for name in ("missing", "file", "empty", "foreign", "out")}
    names["small"] = small
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "notes.txt").write_text("x")
    assert report(*(argument.format(**names) for argument in arguments)) == code
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("error: ")
    assert output.err.count("\n") == 1
    assert says in output.err
    assert not (tmp_path / "out").exists()


def broken_run(directory: Path, name: str, **changes: object) -> None:
    path = directory / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("run.json", {"format": "other"}),
        ("run.json", {"planned_s": "long"}),
        ("run.json", {"sending_s": -1}),
        ("run.json", {"planned_s": 1e300}),
        ("run.json", {"warmup": 1.5}),
        ("run.json", {"settings": []}),
        ("run.json", {"machine": None}),
        ("run.json", {"targets": [1]}),
        ("run.json", {"keys": [["a", 1]]}),
        ("run.json", {"processes": [{"requests": "x"}]}),
        ("servers.json", {"targets": 1}),
    ],
)
def test_damaged_files_are_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str, changes: dict[str, object]
) -> None:
    Simulation(duration_s=1, keys=1).write(tmp_path / "run")
    broken_run(tmp_path / "run", name, **changes)
    assert report(tmp_path / "run", "--html", tmp_path / "page.html") == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert name in error
    assert "internal" not in error


@pytest.mark.parametrize("text", ["", "{", "[]", '{"stores": {}}', '{"stores": {"other": 1}, "nodes": 2}'])
def test_a_damaged_comparison_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str) -> None:
    (tmp_path / "compare.json").write_text(text)
    assert report(tmp_path, "--html", tmp_path / "page.html") == 1
    assert "compare.json is damaged or not of bench-client; make the comparison again" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("due_us", None),
        ("done_us", "1"),
        ("key", 5),
        ("key", None),
        ("node", {}),
        ("status", [200]),
        ("time_ms", 1.5),
        ("time_ms", 1 << 62),
        ("limit_requests", "10"),
        ("prompt_tokens", []),
        ("exceeded", 1),
    ],
)
def test_a_record_of_wrong_values_is_an_error_or_harmless(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, column: str, value: object
) -> None:
    monkeypatch.setattr("bench_client.report.write.draw_all", lambda runs: [])
    monkeypatch.setattr("bench_client.report.write.page", lambda runs, drawings: "")
    run = tmp_path / "run"
    Simulation(duration_s=1, keys=1).write(run)
    header, first, rest = (run / REQUESTS_NAME).read_text().split("\n", 2)
    row = json.loads(first)
    row[json.loads(header)["columns"].index(column)] = value
    (run / REQUESTS_NAME).write_text("\n".join([header, json.dumps(row), rest]))
    code = report(run, "--html", tmp_path / "page.html")
    error = capsys.readouterr().err
    assert code in (0, 1)
    if code:
        assert f"{REQUESTS_NAME} has a record with a value of the wrong type" in error


def test_a_run_without_an_answer_has_nothing_to_report(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    Simulation(duration_s=1, error_share=1.0).write(tmp_path / "run", audit=False)
    assert report(tmp_path / "run", "--html", tmp_path / "page.html") == 1
    error = capsys.readouterr().err
    assert re.search(r"no request was answered \(\d+ timeout\): nothing to report\n$", error)
    assert not (tmp_path / "page.html").exists()


def test_without_matplotlib_it_is_said_how_to_get_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "matplotlib.figure", raising=False)
    says = (
        "matplotlib is not installed; in the project's folder run `make setup-dev`, "
        "or `pip install '.[report]'` for an environment of your own"
    )
    assert report(small, "--html", tmp_path / "page.html") == 1
    assert capsys.readouterr().err == f"error: {says}\n"
    assert report_of_comparison(tmp_path) == f"no report.html: {says}"


def test_a_comparison_gets_its_page(comparison: Path, made: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = comparison / "report.html"
    path.unlink()
    monkeypatch.setattr("bench_client.report.write.draw_all", lambda runs: [])
    monkeypatch.setattr("bench_client.report.write.page", lambda runs, drawings: " ".join(run.label for run in runs))
    assert report_of_comparison(comparison) == f"report: {path}"
    assert path.read_text() == "cluster single"


def test_matplotlib_is_imported_by_one_module_and_only_to_draw() -> None:
    package = Path(cli.__file__).parent
    importers = [
        path.name
        for path in package.rglob("*.py")
        if re.search(r"^\s*(from|import) matplotlib", path.read_text(), re.M)
    ]
    assert importers == ["canvas.py"]
    code = "import sys, bench_client.cli; print('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
