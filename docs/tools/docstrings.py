"""Turns the package's docstrings into Markdown: its roles become links, its examples a section.

The sources write ``:func:`~zo_triton.nzk.expected```, which every editor shows, and ``Example:``, of which the
Google parser knows only the plural.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:py:)?(?:func|class|meth|attr|data|mod|exc|obj):`(~?)([\w.]+)`")
EXAMPLE = re.compile(r"^(\s*)Example:$", re.MULTILINE)


class PlainDocstrings(griffe.Extension):
    """Rewrites every docstring of the package before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrites the docstring of one module, class, function or attribute."""
        if obj.docstring is not None:
            obj.docstring.value = markdown_of(obj.docstring.value, obj)


def markdown_of(docstring: str, owner: griffe.Object) -> str:
    """The docstring with links for roles; one to an undocumented name is shown as plain code.

    Args:
        docstring: As in the source.
        owner: Whose it is; names are looked up where it stands.
    """

    def link(match: re.Match[str]) -> str:
        short, name = match.groups()
        shown = name.rpartition(".")[2] if short else name
        return f'<autoref identifier="{_path_of(name, owner)}" optional><code>{shown}</code></autoref>'

    return EXAMPLE.sub(r"\1Examples:", ROLE.sub(link, docstring))


def _path_of(name: str, owner: griffe.Object) -> str:
    try:
        return owner.resolve(name)
    except griffe.NameResolutionError:
        return name
