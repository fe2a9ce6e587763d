"""A record's words as Markdown that says these words and nothing else: records may come from elsewhere.

Links, pictures, HTML, formulas, headings and tables can't be made by a field; a section's note may emphasise words
and quote code.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

ESCAPED = r"\[]<>|~$*`_#+-=.)"
"""What stands behind a backslash in a report; the page's converter must know them all."""

_STARTS = r"^(?:[#>]|[-+=](?=\s|$|[-+=])|\d+[.)](?=\s|$))"
_LINKS = r"[\\\[\]|$]|<(?=[\w/!?])|~(?=~)|(?<=~)~"
_STYLE = r"[*`]|(?<![^\W_])_|_(?![^\W_])"
_ENTITY = r"&(?=#|\w+;)"
_PROSE = re.compile(f"{_STARTS}|{_LINKS}")
_WORDS = re.compile(f"{_PROSE.pattern}|{_STYLE}")

Tree = TypeVar("Tree")
Change = Callable[[str], str]


def literal(text: str) -> str:
    """The text in one line, which no reader of Markdown takes for anything but itself."""
    return _escaped(_WORDS, text)


def prose(text: str) -> str:
    """The same, but for emphasis and code."""
    return _escaped(_PROSE, text)


def _escaped(marks: re.Pattern[str], text: str) -> str:
    line = re.sub(_ENTITY, "&amp;", " ".join(text.split()))
    return marks.sub(
        lambda found: f"{found[0][:-1]}\\{found[0][-1]}", line
    )  # behind a number: its last letter


def quoted(tree: Tree) -> Tree:
    """A copy of a record or of any part of one whose texts, keys among them, are literal, and notes prose."""
    return _mapped(tree, literal, {"note": prose})


def drawable(tree: Tree) -> Tree:
    """A copy in which matplotlib takes no text for a formula."""
    return _mapped(tree, lambda text: text.replace("$", r"\$"), {})


def _mapped(tree: Any, change: Change, otherwise: dict[str, Change]) -> Any:
    """A copy whose texts are changed, those under some keys otherwise."""
    if isinstance(tree, str):
        return change(tree)
    if isinstance(tree, dict):
        return {
            change(key) if isinstance(key, str) else key: _mapped(each, otherwise.get(key, change), otherwise)
            for key, each in tree.items()
        }
    if isinstance(tree, list):
        return [_mapped(each, change, otherwise) for each in tree]
    return tree


def spoken(words: str) -> str:
    """Literal text as it was, but for its white space."""
    return re.sub(r"&amp;(?=#|\w+;)", "&", re.sub(rf"\\([{re.escape(ESCAPED)}])", r"\1", words))


def code(words: str) -> str:
    """Literal text as code, in which a backslash would be seen."""
    return f"`{spoken(words).replace('`', chr(39))}`"
