"""The report as one page: nothing outside it is needed, and nothing inside it is obeyed."""

import re
import sys
from html.parser import HTMLParser

import pytest

from benchmarks.report import publish
from benchmarks.report.html import page


class Elements(HTMLParser):
    """Every start tag with its attributes."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def all(self, name):
        return [attributes for tag, attributes in self.found if tag == name]


def test_a_published_page_needs_no_other_file(record, tmp_path):
    folder = publish(record, tmp_path / "report").parent
    text = (folder / "report.html").read_text()
    elements = Elements(text)
    pictures = elements.all("img")
    assert len(pictures) == len(list(folder.glob("*.svg"))) > 0
    assert all(picture["src"].startswith("data:image/svg+xml;base64,") for picture in pictures)
    assert all(picture["alt"] for picture in pictures)
    assert not {"script", "link", "iframe"} & {tag for tag, _ in elements.found}
    assert not re.search(r"""(src|href)=["']http""", text)
    assert len(elements.all("table")) == (folder / "report.md").read_text().count("|--") // 2 or elements.all(
        "table"
    )


def test_a_page_has_what_the_text_has(record, tmp_path):
    folder = publish(record, tmp_path / "report").parent
    words = re.sub(r"<style>.*?</style>|<[^>]+>", " ", (folder / "report.html").read_text(), flags=re.DOTALL)
    for part in ("fused ZO + Adam", "MeZO loop, K = 1", "not reached", "The race: digits", "0123456789ab"):
        assert part in words


def test_html_in_a_record_is_shown_and_not_obeyed(tmp_path):
    text = page(
        "# A <b>title</b>\n\n<script>alert(1)</script>\n\nsome <img src=x onerror=alert(1)> text\n", tmp_path
    )
    assert Elements(text).all("script") == []
    assert Elements(text).all("img") == []
    assert "&lt;script&gt;" in text
    assert "<title>A &lt;b&gt;title&lt;/b&gt;</title>" in text


def test_a_figure_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"race_time\.svg"):
        page("![Curves](race_time.svg)\n", tmp_path)


def test_without_markdown_there_is_no_page_and_all_else(record, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "markdown", None)
    folder = publish(record, tmp_path / "report").parent
    assert not (folder / "report.html").exists()
    assert (folder / "report.md").is_file()
