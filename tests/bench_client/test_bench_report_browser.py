"""The report in a real browser, where there is one: on a screen and on a telephone, in the light and in the dark."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from report_tree_fakes import TreeSimulation

from bench_client.report import write_report
from benchmarks.lib.screenshot import browser, browser_paths, show, take

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

MIN_TEXT_PX = 8
MIN_CONTRAST = 4.5
WINDOWS = [(1280, 900), (800, 700), (390, 844)]

MEASURE = """
const visible = (element) => element.getClientRects().length > 0;
const ownText = (element) => [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
const rgb = (colour) => colour.match(/[\\d.]+/g).map(Number);
const luminance = ([r, g, b]) => [r, g, b].map((v) => v / 255)
  .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const background = (element) => {
  for (let at = element; at; at = at.parentElement) {
    const colour = rgb(getComputedStyle(at).backgroundColor);
    if (colour.length < 4 || colour[3] > 0) return colour;
  }
  return [255, 255, 255];
};
const contrast = (element) => {
  const style = getComputedStyle(element);
  const text = luminance(rgb(element instanceof SVGElement ? style.fill : style.color));
  const behind = luminance(background(element));
  return (Math.max(text, behind) + 0.05) / (Math.min(text, behind) + 0.05);
};
document.querySelectorAll('details').forEach((details) => { details.open = true; });
const root = document.documentElement;
const said = (element) => `${element.tagName} ${element.textContent.trim().slice(0, 40)}`;
const texts = [...document.body.querySelectorAll('*')].filter((element) => visible(element) && ownText(element));
const figureTexts = texts.filter((element) => element instanceof SVGElement);
const cutOff = texts.filter((element) => {
  if (element instanceof SVGElement) {
    const [inner, outer] = [element, element.ownerSVGElement].map((each) => each.getBoundingClientRect());
    return inner.left < outer.left - 0.5 || inner.right > outer.right + 0.5
      || inner.top < outer.top - 0.5 || inner.bottom > outer.bottom + 0.5;
  }
  return element.scrollWidth > element.clientWidth + 1 && getComputedStyle(element).display !== 'inline';
});
const overlapping = [];
for (const figure of document.querySelectorAll('svg')) {
  const shown = [...figure.querySelectorAll('text')].filter(visible);
  const boxes = shown.map((text) => [text, text.getBoundingClientRect()]);
  boxes.forEach(([text, box], i) => boxes.slice(0, i).forEach(([other, its]) => {
    const wide = Math.min(box.right, its.right) - Math.max(box.left, its.left);
    const high = Math.min(box.bottom, its.bottom) - Math.max(box.top, its.top);
    if (wide > 1 && high > 3) overlapping.push(`${said(text)} / ${said(other)}`);
  }));
}
return {
  overflow: root.scrollWidth - root.clientWidth,
  figures: [...document.querySelectorAll('svg')].filter(visible).map((figure) => {
    const box = figure.getBoundingClientRect();
    return [box.width, box.height, box.left, root.clientWidth - box.right];
  }),
  cutOff: cutOff.map(said),
  overlapping,
  smallest: Math.min(...figureTexts.map((text) => {
    const matrix = text.ownerSVGElement.getScreenCTM();
    return parseFloat(getComputedStyle(text).fontSize) * Math.hypot(matrix.a, matrix.b);
  })),
  pale: texts.map((element) => [contrast(element), said(element)]).sort((a, b) => a[0] - b[0])[0],
};
"""


@pytest.fixture(scope="module")
def driver() -> Iterator[Chrome]:
    if browser_paths() is None:
        pytest.skip("chromium and chromedriver are not installed")
    with browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of two runs in which every kind of outcome, limit, remark and long name occurs."""
    directory = tmp_path_factory.mktemp("report")
    load = TreeSimulation(duration_s=70, error_share=0.02, warmup_s=2, zipf=0.5, account="an-account-" + 53 * "x")
    load.write(directory / "run")
    other = directory / "a run whose name is longer than any legend has room for"
    name = "a key whose name is longer than any figure has room for"
    load.write(other, keys=[(key_id, name) for key_id in load.key_ids], interrupted=True, finished=False)
    write_report([directory / "run", other], html=directory / "report.html")
    return directory / "report.html"


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize(("width", "height"), WINDOWS, ids=["screen", "tablet", "telephone"])
def test_the_page_can_be_read(driver: Chrome, page: Path, tmp_path: Path, width: int, height: int, dark: bool) -> None:
    driver.get_log("browser")  # type: ignore[no-untyped-call]
    show(driver, page, width=width, height=height, dark=dark)
    found: dict[str, Any] = driver.execute_script(MEASURE)  # type: ignore[no-untyped-call]
    assert found["overflow"] <= 0
    assert len(found["figures"]) == 9, "each figure in one shape"
    for wide, high, left, right in found["figures"]:
        assert min(wide, high) > 100
        assert min(left, right) >= 0
    assert found["cutOff"] == []
    assert found["overlapping"] == []
    assert found["smallest"] >= MIN_TEXT_PX
    ratio, text = found["pale"]
    assert ratio >= MIN_CONTRAST, text
    assert driver.get_log("browser") == []  # type: ignore[no-untyped-call]
    take(driver, tmp_path / "page.png")
    assert (tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")
