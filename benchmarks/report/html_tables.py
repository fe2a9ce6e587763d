"""Tables of a page: numbers to the right, and on a narrow screen a card a row, so that nothing is cut off."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from zo_triton._tables import NOT_REACHED

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_NUMBER = re.compile(r"[(≤≥]? ?[-+±]?\d")
"""How a cell with a number begins."""

NARROW = 3
"""Columns that a telephone has room for; of more each row becomes a card."""


def arrange(table: Element) -> None:
    """Marks columns of numbers, and gives the cells of a wide table the names of their columns."""
    rows = list(table.iter("tr"))
    for column in zip(*map(list, rows), strict=False):
        texts = ["".join(cell.itertext()) for cell in column[1:]]
        cells = [text for text in texts if text not in ("", "–", NOT_REACHED)]
        if 2 * sum(_NUMBER.match(cell) is not None for cell in cells) > len(cells):
            for cell in column:
                cell.set("class", "number")
    titles = ["".join(cell.itertext()) for cell in rows[0]]
    if len(titles) > NARROW:
        table.set("class", "wide")
        for row in rows[1:]:
            for title, cell in zip(titles, row, strict=False):
                if "".join(cell.itertext()):
                    cell.set("data-label", title)
