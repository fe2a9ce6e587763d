"""Markdown on a terminal: tables as wide as it is, in lines of its width."""

from __future__ import annotations

import sys


def show(text: str) -> None:
    """Prints Markdown, laid out for a terminal where there is one and rich to do it; as it is elsewhere."""
    if sys.stdout.isatty():
        try:
            from rich.console import Console
            from rich.markdown import Markdown
        except ModuleNotFoundError:
            pass
        else:
            Console().print(Markdown(text))
            return
    print(text)
