"""What MkDocs does not do by itself: generated parts, files from outside docs/, and a look for the network."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

from generated import PARTS
from mkdocs.structure.files import File, Files
from notebooks import pages

ROOT = Path(__file__).resolve().parents[2]
OUTSIDE = ("reports/**/*.md", "reports/**/*.svg", "reports/**/*.png", "CONTRIBUTING.md", "CHANGELOG.md")
"""Files that pages link to as ``../NAME``, which is right in the repository; the site gets a copy of each."""
NOTEBOOKS = "examples/*.ipynb"
"""The site gets a page of each."""

PLACEHOLDER = re.compile(r"^<!-- generated: (.*?) -->$", re.MULTILINE)
OUTWARD_LINK = re.compile(r"(\]\()\.\./(reports/|examples/|CONTRIBUTING|CHANGELOG)")
INWARD_LINK = re.compile(r"(\]\(\.\./)docs/")
NOTEBOOK_LINK = re.compile(r"(\]\((?!https?:)[^)#]*)\.ipynb\b")
FETCHED = re.compile(r"<(?:script|img|iframe)\b[^>]*\bsrc=[\"']?(?:https?:)?//|"
                     r"<link\b[^>]*\brel=[\"']?stylesheet[\"']?[^>]*\bhref=[\"']?(?:https?:)?//")  # fmt: skip
"""What a browser would load from somewhere else when it shows a page."""

_log = logging.getLogger("mkdocs.hooks.zo_triton")


def on_files(files: Files, config: Any) -> Files:
    """Adds the files from outside docs/, and the notebooks' pages."""
    for pattern in OUTSIDE:
        for path in sorted(ROOT.glob(pattern)):
            files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    for path in sorted(ROOT.glob(NOTEBOOKS)):
        for uri, content in pages(path, path.relative_to(ROOT).as_posix()):
            files.append(File.generated(config, uri, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **kwargs: Any) -> str:
    """Fills the placeholders in, and points links to outside at the copies, and theirs back."""
    markdown = PLACEHOLDER.sub(lambda match: PARTS[match[1]](), markdown)
    if "/" not in page.file.src_uri:
        markdown = OUTWARD_LINK.sub(r"\1\2", markdown)
    elif page.file.src_uri.startswith("examples/"):
        markdown = INWARD_LINK.sub(r"\1", markdown)
    return NOTEBOOK_LINK.sub(r"\1.md", markdown)


def on_post_page(output: str, page: Any, **kwargs: Any) -> str:
    """Warns, and so fails a strict build, if a page would load anything from the network."""
    found = FETCHED.search(output)
    if found:
        _log.warning("%s loads from the network: %s", page.file.src_uri, found[0])
    return output
