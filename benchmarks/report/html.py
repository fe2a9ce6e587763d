"""A report as one page that needs no other file: the same text, its figures inside, for any screen."""

from __future__ import annotations

import base64
import html
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.report import html_tables
from benchmarks.report.anchors import Anchors
from benchmarks.report.literal import ESCAPED, spoken

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

TYPES = {".svg": "image/svg+xml", ".png": "image/png"}

LINKS = ("#", "https://", "http://")
"""Where links may lead; scripts in a record from elsewhere are not obeyed."""

HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6")

FOLDED = "h4"
"""What stands below a heading of this level is a detail, which the page shows when it is asked for."""

STYLE = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")


def page(text: str, folder: Path) -> str:
    """The page of a report's Markdown.

    Args:
        text: As :func:`benchmarks.report.markdown.render` makes it. HTML in it is shown, not obeyed: records may
            come from elsewhere.
        folder: Where the figures lie.

    Returns:
        HTML with the figures as data.

    Raises:
        ModuleNotFoundError: Python-Markdown is not installed.
        FileNotFoundError: A figure is not there.
    """
    import markdown
    from markdown.treeprocessors import Treeprocessor

    class Arrangement(Treeprocessor):
        """After the text has become elements, links and emphasis included."""

        def run(self, root: Element) -> None:
            _arrange(root, folder)

    converter = markdown.Markdown(extensions=["tables"])
    converter.preprocessors.deregister("html_block")
    for pattern in ("html", "entity", "autolink", "automail"):
        converter.inlinePatterns.deregister(pattern)
    converter.ESCAPED_CHARS = list({*converter.ESCAPED_CHARS, *ESCAPED})
    converter.treeprocessors.register(Arrangement(converter), "arrangement", -1)
    body = converter.convert(text)
    first = next((spoken(line.lstrip("# ")) for line in text.splitlines() if line.startswith("# ")), "Report")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(first)}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _arrange(root: Element, folder: Path) -> None:
    """Gives headings their addresses, tables their boxes, figures captions and data; folds details."""
    for image in root.iter("img"):
        _embed(image, folder)
    for link in root.iter("a"):
        if not link.get("href", "").startswith(LINKS):
            link.attrib.pop("href", None)
    anchors = Anchors()
    for place, element in enumerate(list(root)):
        if element.tag in HEADINGS:
            element.set("id", anchors.of("".join(element.itertext())))
        elif element.tag == "table":
            html_tables.arrange(element)
            root[place] = _wrapped("div", "table", element)
        elif [child.tag for child in element] == ["img"] and not (element.text or "").strip():
            root[place] = _figure(element[0])
    _put_beside(root)
    _put_together(root)
    _fold(root)


def _embed(image: Element, folder: Path) -> None:
    """Puts a figure's data in the place of its name; what lies elsewhere is not loaded."""
    source = folder / image.attrib.pop("src", "")
    if source.parent == folder and source.suffix in TYPES:
        content = base64.b64encode(source.read_bytes()).decode()
        image.set("src", f"data:{TYPES[source.suffix]};base64,{content}")


def _figure(image: Element) -> Element:
    """An image with its caption."""
    figure = _wrapped("figure", "", image)
    caption = figure.makeelement("figcaption", {})
    caption.text = image.get("alt")
    figure.append(caption)
    return figure


def _wrapped(tag: str, kind: str, *elements: Element) -> Element:
    box = elements[0].makeelement(tag, {"class": kind} if kind else {})
    for element in elements:
        element.tail = None
        box.append(element)
    if kind == "table":
        # A box that scrolls must be reachable without a mouse.
        box.set("tabindex", "0")
    return box


def _fold(root: Element) -> None:
    """Each detail, up to the next heading, into a box that opens under its heading's words."""
    box: Element | None = None
    for element in list(root):
        if element.tag == FOLDED:
            box = element.makeelement("details", {"id": element.get("id", "")})
            summary = element.makeelement("summary", {})
            summary.text = "".join(element.itertext())
            box.append(summary)
            root[list(root).index(element)] = box
        elif element.tag in HEADINGS:
            box = None
        elif box is not None:
            root.remove(element)
            box.append(element)


def _put_together(root: Element) -> None:
    """Figures that follow each other into one box, beside each other where the page is wide enough."""
    box: Element | None = None
    for element in list(root):
        if element.tag != "figure":
            box = None
        elif box is None:
            box = _wrapped("div", "figures", element)
            root[list(root).index(element)] = box
        else:
            root.remove(element)
            box.append(element)


def _put_beside(root: Element) -> None:
    """The first screen's table and its figure into one box, where the page is wide enough for both."""
    opening = list(root)[: next((at for at, each in enumerate(root) if each.tag == "h2"), 0)]
    table = next((each for each in opening if each.get("class") == "table"), None)
    figure = next((each for each in opening if each.tag == "figure"), None)
    if table is None or figure is None:
        return
    at = list(root).index(table)
    notes = opening[opening.index(table) + 1 : opening.index(figure)]
    for element in (table, *notes, figure):
        root.remove(element)
    left = _wrapped("div", "facts", table, *notes)
    root.insert(at, _wrapped("div", "beside", left, figure))
