"""The committed reports are what their records say: rendered again they have the same tables, and work as pages."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from benchmarks.report import compiled, history, html, read
from benchmarks.report.json_files import load
from benchmarks.report.markdown import render
from zo_triton.compilation.table import NAMES, RECORD_NAME

REPORTS = Path(__file__).resolve().parents[3] / "reports"
FOLDERS = sorted(file.parent for file in REPORTS.rglob("results.json"))


def rendered(folder):
    """The report's text, of its record and of the files that are carried from report to report."""
    appendix = []
    if (folder / RECORD_NAME).is_file():
        appendix += compiled.section(compiled.read(folder / RECORD_NAME))
    if (folder / history.NAME).is_file():
        appendix += history.render(load(folder / history.NAME, "delete it"))
    return render(
        read(folder / "results.json"), [file.name for file in sorted(folder.glob("*.svg"))], appendix
    )


def tables(text):
    """Every table of a text, as one string."""
    found = []
    for block in text.split("\n\n"):
        lines = [line for line in block.splitlines() if line.startswith("|")]
        if lines:
            found.append("\n".join(lines))
    return found


@pytest.mark.parametrize("folder", FOLDERS, ids=[str(each.relative_to(REPORTS)) for each in FOLDERS])
def test_a_committed_report_has_the_same_tables_when_rendered_again(folder):
    before, again = (folder / "report.md").read_text(encoding="utf-8"), tables(rendered(folder))
    assert len(again) > 1
    missing = [table for table in tables(before) if table not in again]
    assert missing == [], "`python -m benchmarks render FOLDER` lays a report out as the code now does"


class Places(HTMLParser):
    """Where a page's links lead, and what they can lead to."""

    def __init__(self, text):
        super().__init__()
        self.links, self.ids = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.links += [found[key] for key in ("href", "src") if key in found]
        self.ids += [found["id"]] if "id" in found else []


@pytest.mark.parametrize("folder", FOLDERS, ids=[str(each.relative_to(REPORTS)) for each in FOLDERS])
def test_every_link_of_a_report_leads_somewhere(folder):
    text = rendered(folder)
    page = Places(html.page(text, folder))
    assert len(page.ids) == len(set(page.ids))
    within = {link for link in page.links if link.startswith("#")}
    assert {link[1:] for link in within} <= set(page.ids)
    others = [link for link in page.links if link not in within]
    assert [link for link in others if not link.startswith("data:image/")] == []
    written = re.findall(r"\]\(([^)]+)\)", text)
    assert {link for link in written if link.startswith("#")} == within
    assert [link for link in written if not link.startswith("#") and not (folder / link).is_file()] == []
    shown = [file for file in folder.glob("*.svg") if file.name not in NAMES]
    assert len(others) == len(shown), "the figure of compiled kernels is shown on its own page"
