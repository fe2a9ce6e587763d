"""A report as one page that needs no other file: the same text, its figures inside."""

from __future__ import annotations

import base64
import html
import re
from pathlib import Path

TYPES = {".svg": "image/svg+xml", ".png": "image/png"}

_PICTURE = re.compile(r'(<img\b[^>]*\bsrc=")([^":/]+)(")')

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 72rem; margin: 2rem auto;
  padding: 0 1rem; }
table { border-collapse: collapse; display: block; overflow-x: auto; margin: 1rem 0; font-size: 0.875rem; }
th, td { border-bottom: 1px solid #ddd; padding: 0.25rem 0.75rem; text-align: left; white-space: nowrap; }
th { border-bottom: 2px solid #888; }
img { max-width: 100%; }
blockquote { border-left: 4px solid #d55e00; margin: 1rem 0; padding: 0.25rem 1rem; }
"""


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

    converter = markdown.Markdown(extensions=["tables"])
    converter.preprocessors.deregister("html_block")
    converter.inlinePatterns.deregister("html")
    body = _PICTURE.sub(
        lambda found: found[1] + _data(folder / html.unescape(found[2])) + found[3], converter.convert(text)
    )
    first = next((line.lstrip("# ") for line in text.splitlines() if line.startswith("# ")), "Report")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(first)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _data(file: Path) -> str:
    return f"data:{TYPES[file.suffix]};base64,{base64.b64encode(file.read_bytes()).decode()}"
