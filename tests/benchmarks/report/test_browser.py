"""The committed pages in a real browser: nothing is cut off on a telephone or a desk, and nothing leads nowhere."""

import shutil
from pathlib import Path

import pytest

playwright = pytest.importorskip(
    "playwright.sync_api", reason="it drives the browser: pip install playwright"
)

REPORTS = Path(__file__).resolve().parents[3] / "reports"
PAGES = sorted(REPORTS.rglob("report.html"))
BROWSERS = ("chromium", "chromium-browser", "google-chrome")

TOO_WIDE = """() => {
    document.querySelectorAll("details").forEach((box) => (box.open = true));
    const wide = [document.documentElement, ...document.querySelectorAll(".table, details, figure, p, li")];
    return wide.filter((each) => each.scrollWidth > each.clientWidth + 1 && each.clientWidth > 0)
        .map((each) => `${each.tagName} ${each.scrollWidth} > ${each.clientWidth}: ${each.innerText.slice(0, 60)}`);
}"""
BROKEN = """() => [
    ...[...document.images].filter((image) => !(image.complete && image.naturalWidth)).map((image) => image.alt),
    ...[...document.querySelectorAll('a[href^="#"]')].map((link) => link.getAttribute("href").slice(1))
        .filter((name) => !document.getElementById(decodeURIComponent(name))),
]"""
TORN = """() => [...document.querySelectorAll("td:first-child")].filter((cell) => {
    const range = document.createRange();
    range.selectNodeContents(cell);
    const tops = [...range.getClientRects()].map((each) => each.top).sort((one, other) => one - other);
    const lines = tops.filter((top, place) => place === 0 || top - tops[place - 1] > 8).length;
    return lines > cell.innerText.split(/[^\\w.,()]+/).length;
}).map((cell) => cell.innerText)"""
"""What stands first in a table's rows and goes on in a new line within a word."""
BRIGHTNESS = """() => getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3)
    .reduce((sum, each) => sum + Number(each), 0)"""


@pytest.fixture(scope="module")
def browser():
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"there is no browser: none of {', '.join(BROWSERS)}")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.mark.parametrize("path", PAGES, ids=[str(each.parent.relative_to(REPORTS)) for each in PAGES])
def test_a_page_fits_and_all_its_links_and_figures_work(browser, path):
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    errors = []
    page.on("requestfailed", lambda request: errors.append(request.url))
    page.goto(path.as_uri())
    assert page.evaluate(BROKEN) == []
    for width in (1400, 390):
        page.set_viewport_size({"width": width, "height": 900})
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            assert page.evaluate(TOO_WIDE) == [], f"{width} px, {scheme}"
            assert page.evaluate(TORN) == [], f"{width} px"
            assert (page.evaluate(BRIGHTNESS) > 384) == (scheme == "light")
    assert errors == []
    page.close()
