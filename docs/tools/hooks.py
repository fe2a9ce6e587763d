"""What MkDocs does not do by itself: generated parts, files from outside docs/, and a look for the network."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

from generated import PARTS
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
OUTSIDE = ("reports/**/*.md", "reports/**/*.svg", "reports/**/*.png", "CONTRIBUTING.md", "CHANGELOG.md")
"""Files that pages link to as ``../NAME``, which is right in the repository; the site gets a copy of each."""

PLACEHOLDER = re.compile(r"^<!-- generated: (.*?) -->$", re.MULTILINE)
OUTWARD_LINK = re.compile(r"(\]\()\.\./(reports/|CONTRIBUTING|CHANGELOG)")
FETCHED = re.compile(r"<(?:script|img|iframe)\b[^>]*\bsrc=[\"']?(?:https?:)?//|"
                     r"<link\b[^>]*\brel=[\"']?stylesheet[\"']?[^>]*\bhref=[\"']?(?:https?:)?//")  # fmt: skip
"""What a browser would load from somewhere else when it shows a page."""

_log = logging.getLogger("mkdocs.hooks.zo_triton")


def on_files(files: Files, config: Any) -> Files:
    """Adds the files from outside docs/."""
    for pattern in OUTSIDE:
        for path in sorted(ROOT.glob(pattern)):
            files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **kwargs: Any) -> str:
    """Fills the placeholders in, and points links to outside at the copies."""
    markdown = PLACEHOLDER.sub(lambda match: PARTS[match[1]](), markdown)
    if "/" not in page.file.src_uri:
        markdown = OUTWARD_LINK.sub(r"\1\2", markdown)
    return markdown


def on_post_page(output: str, page: Any, **kwargs: Any) -> str:
    """Warns, and so fails a strict build, if a page would load anything from the network."""
    found = FETCHED.search(output)
    if found:
        _log.warning("%s loads from the network: %s", page.file.src_uri, found[0])
    return output
