"""The report as one page: nothing outside it is needed, and nothing inside it is obeyed."""

import re
import sys
from copy import deepcopy
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


def test_a_published_page_needs_no_other_file(whole_report):
    text = (whole_report / "report.html").read_text()
    elements = Elements(text)
    pictures = elements.all("img")
    assert len(pictures) == len(list(whole_report.glob("*.svg"))) > 0
    assert all(picture["src"].startswith("data:image/svg+xml;base64,") for picture in pictures)
    assert all(picture["alt"] for picture in pictures)
    assert not {"script", "link", "iframe"} & {tag for tag, _ in elements.found}
    assert not re.search(r"""(src|href)=["']http""", text)
    assert len(elements.all("table")) == (whole_report / "report.md").read_text().count(
        "|--"
    ) // 2 or elements.all("table")


def test_a_page_has_what_the_text_has(whole_report):
    words = re.sub(
        r"<style>.*?</style>|<[^>]+>", " ", (whole_report / "report.html").read_text(), flags=re.DOTALL
    )
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


def test_without_markdown_there_is_no_page_and_all_else(short_record, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "markdown", None)
    folder = publish(short_record, tmp_path / "report").parent
    assert not (folder / "report.html").exists()
    assert (folder / "report.md").is_file()


class Boxes(HTMLParser):
    """The kind of box that each table lies in."""

    def __init__(self, text):
        super().__init__()
        self.open, self.found = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if tag == "table":
            self.found.append(dict(self.open[-1][1]).get("class"))
        if tag != "meta":
            self.open.append((tag, attributes))

    def handle_startendtag(self, tag, attributes):
        """An image holds nothing."""

    def handle_endtag(self, tag):
        self.open.pop()


def test_every_link_within_a_page_leads_to_one_heading(record, tmp_path):
    again = record["sections"]["race_again"] = deepcopy(record["sections"]["race"])
    again["task"] = record["sections"]["race"]["task"]
    folder = publish(record, tmp_path / "report").parent
    elements = Elements((folder / "report.html").read_text())
    ids = [attributes["id"] for _, attributes in elements.found if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [link["href"] for link in elements.all("a")]
    headings = [
        line[3:] for line in (folder / "report.md").read_text().splitlines() if line.startswith("## ")
    ]
    assert len(links) == len(headings) - 1, "all but the contents themselves"
    assert [link for link in links if not link.startswith("#")] == []
    assert {link[1:] for link in links} <= set(ids)
    assert {"#the-race-digits", "#the-race-digits-1", "#where-a-steps-time-goes"} <= set(links)


def test_tables_scroll_in_boxes_of_their_own(whole_report):
    text = (whole_report / "report.html").read_text()
    boxes = Boxes(text).found
    assert len(boxes) > 10
    assert set(boxes) == {"table"}


def test_columns_of_numbers_stand_to_the_right(tmp_path):
    text = page(
        "| name | ms | ratio |\n|---|---|---|\n| 2 a | 1.5 | – |\n| b | – | 3.1× |\n| c | 2 | – |\n", tmp_path
    )
    assert re.findall(r'<(th|td)( class="number")?>([^<]*)<', text)[:3] == [
        ("th", "", "name"), ("th", ' class="number"', "ms"), ("th", ' class="number"', "ratio"),
    ]  # fmt: skip


def test_the_first_screens_table_and_figure_share_a_box(whole_report):
    text = (whole_report / "report.html").read_text()
    box = text[text.index('<div class="beside">') : text.index('<h2 id="contents">')]
    assert box.index('<div class="facts">') < box.index("seconds to 95 % on digits") < box.index("<figure>")
    assert "<figcaption>Seconds to the hardest target, and their quartiles</figcaption>" in box
    assert text.count('class="beside"') == 1


def test_figures_from_elsewhere_are_not_loaded(tmp_path):
    text = page("![a](http://example.org/a.svg)\n\n![b](../b.svg)\n", tmp_path)
    assert [picture.get("src") for picture in Elements(text).all("img")] == [None, None]


@pytest.mark.parametrize("dark", ["prefers-color-scheme: dark", "color-scheme: light dark"])
def test_a_page_knows_dark_screens(dark, tmp_path):
    assert dark in page("# Report\n", tmp_path)


def test_links_lead_nowhere_but_to_pages(tmp_path):
    text = "# T\n\n[x](javascript:alert(1)) [y][r] [z](https://a.b) [w](#t)\n\n[r]: JavaScript:alert(2)\n"
    assert re.findall(r'href="([^"]*)"', page(text, tmp_path)) == ["https://a.b", "#t"]


def test_details_are_folded_under_their_headings_words(tmp_path):
    text = page(
        "## A\n\nfirst\n\n#### More *of* it\n\n| a | b |\n|---|---|\n| c | 1 |\n\n## B\n\nlast\n", tmp_path
    )
    box = text[text.index("<details") : text.index("</details>")]
    assert box.startswith('<details id="more-of-it"><summary>More of it</summary>')
    assert "<table>" in box
    assert "first" not in box
    assert "last" not in box
    assert "<h4" not in text


def test_a_wide_tables_rows_can_become_cards(tmp_path):
    text = page("| name | ms | s | K |\n|---|---|---|---|\n| a | 1 |  | 2 |\n", tmp_path)
    assert Elements(text).all("table") == [{"class": "wide"}]
    assert [cell.get("data-label") for cell in Elements(text).all("td")] == ["name", "ms", None, "K"]
    assert "table>" in page("| name | ms |\n|---|---|\n| a | 1 |\n", tmp_path)


def test_figures_that_follow_each_other_share_a_box(whole_report):
    text = (whole_report / "report.html").read_text()
    box = text[text.index('<div class="figures">') :]
    assert box.index("training time") < box.index("forward evaluations") < box.index("</div>")
