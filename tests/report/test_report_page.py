"""The report's page in headless Chromium: it shows its plots, without errors, a network or a wider page than screen."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import debian
import pytest
from report_logs import a_log, a_run_directory

from dev import browser as module
from dev.browser import Page, browser
from dev.support.benchmark_run import SETTINGS
from llama31.report import command

pytestmark = pytest.mark.slow

DRAWN = """[...document.querySelectorAll('.plot')].map(place => {
    const svg = place.querySelector('.main-svg'), box = place.getBoundingClientRect();
    const legend = place.querySelector('.legend').getBoundingClientRect();
    const title = place.querySelector('.xtitle').getBoundingClientRect();
    return {label: place.getAttribute('aria-label'), left: box.left, right: box.right,
            width: svg ? svg.getBoundingClientRect().width : 0, height: svg ? svg.getBoundingClientRect().height : 0,
            covered: legend.top < title.bottom && title.top < legend.bottom,
            inside: place.querySelector('.plot .bglayer, .cartesianlayer .plot').getBoundingClientRect().width,
            marks: place.querySelectorAll('path.point, path.js-line, .bars path, .points path').length};
})"""
WIDTH = "document.documentElement.scrollWidth"
FITS = f"""new Promise(done => {{
    const look = frames => {WIDTH} <= innerWidth || frames > 300 ? done({WIDTH})
        : requestAnimationFrame(() => look(frames + 1));
    look(0);
}})"""
CONTRAST = """(() => {
    const light = text => {
        const [r, g, b] = text.match(/[\\d.]+/g).map(Number).map(
            c => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const paper = light(getComputedStyle(document.body).backgroundColor);
    const ratio = colour => { const one = light(colour);
        return (Math.max(one, paper) + 0.05) / (Math.min(one, paper) + 0.05); };
    const texts = [...document.querySelectorAll('p, td, th, h1, h2, small, summary')];
    const marks = [...document.querySelectorAll('path.js-line, .legendlines path')];
    return {paper: paper,
            text: Math.min(...texts.map(place => ratio(getComputedStyle(place).color))),
            axes: Math.min(...[...document.querySelectorAll('.plot text')].map(p => ratio(getComputedStyle(p).fill))),
            lines: Math.min(...marks.map(place => ratio(getComputedStyle(place).stroke)))};
})()"""


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    debian.need(module.PROGRAM, module.PROGRAM, "fonts-dejavu-core")
    with browser() as page:
        yield page


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One run with every kind of record; and logs of two systems with long names, one of them damaged."""
    directory = tmp_path_factory.mktemp("reports")
    command.report([a_run_directory(directory / "run & more")], directory / "one.html", None, "")
    logs = [a_log(directory / f"result_{number}.txt", number) for number in range(4)]
    other = replace(SETTINGS, gbs=64, submission_org="An organisation with a long name </script>", max_lr=1e-3)
    logs += [a_log(directory / f"a rather long name of a log, number {number}.log", number, other) for number in (7, 8)]
    with logs[0].open("a") as file:
        file.write(":::MLLOG {damaged\n")
    command.report(logs, directory / "six.html", None, "")
    return {name: directory / f"{name}.html" for name in ("one", "six")}


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1400, 400])
@pytest.mark.parametrize("name", ["one", "six"])
def test_the_page_shows_its_plots(page: Page, reports: dict[str, Path], name: str, width: int, dark: bool) -> None:
    page.errors.clear()
    page.requests.clear()
    page.open(reports[name], width=width, height=900, dark=dark)
    drawn = page.evaluate(DRAWN)
    assert len(drawn) == {"one": 6, "six": 5}[name], [plot["label"] for plot in drawn]
    for plot in drawn:
        assert plot["marks"] > 0, f"{plot['label']}: nothing is drawn"
        assert 0.7 * min(width, 600) < plot["width"] <= width and plot["height"] > 150, plot
        assert plot["inside"] > 0.35 * plot["width"], f"{plot['label']}: names take too much space"
        assert not plot["covered"], f"{plot['label']}: the legend covers the axis title"
        assert plot["left"] >= 0 and plot["right"] <= width, plot
    assert page.evaluate(WIDTH) <= width, "the page is wider than the screen"
    assert page.errors == []
    assert [url for url in page.requests if not url.startswith(("file:", "data:", "blob:"))] == []

    contrast = page.evaluate(CONTRAST)
    assert (contrast["paper"] < 0.05) is dark, "the page follows the screen's colours"
    assert contrast["text"] >= 4.5 and contrast["axes"] >= 4.5, f"WCAG AA for text: {contrast}"
    assert contrast["lines"] >= 3, f"WCAG AA for graphics: {contrast}"


def test_a_change_of_colours_or_width_redraws(page: Page, reports: dict[str, Path]) -> None:
    ink = "getComputedStyle(document.querySelector('.plot .xtitle')).fill"
    page.open(reports["one"], width=1400, height=900)
    light = page.evaluate(ink)
    page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert page.evaluate(ink) != light
    for width in (1000, 730, 710, 320):
        page.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        assert page.evaluate(FITS) <= width, "the page is wider than the screen"


def test_paper_gets_plots_of_its_colours_and_width(page: Page, reports: dict[str, Path]) -> None:
    page.open(reports["six"], width=1400, height=900, dark=True)
    page.evaluate(f"addEventListener('beforeprint', () => window.printed = [{CONTRAST}, {DRAWN}])")
    page.call("Page.printToPDF")
    contrast, drawn = page.evaluate("window.printed")
    assert contrast["paper"] > 0.95 and min(contrast["text"], contrast["axes"]) > 4.5, contrast
    for plot in drawn:
        assert plot["marks"] > 0 and plot["right"] - plot["left"] <= 680, plot
        assert plot["width"] <= 680, f"{plot['label']}: is cut off at the edge of the paper"
    assert page.evaluate(CONTRAST)["paper"] < 0.05, "the screen is dark again"
    assert max(plot["width"] for plot in page.evaluate(DRAWN)) > 1000, "and as wide"
