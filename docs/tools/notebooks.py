"""Notebooks as pages of the site: text, code and kept outputs as Markdown, rendered like any other page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def pages(path: Path, uri: str) -> Iterator[tuple[str, str | bytes]]:
    """The page of a notebook and the pictures in its outputs; nothing is executed.

    Args:
        path: The notebook.
        uri: Where it is in the repository. Its page is there in the site, with the ending ``.md``, and the
            pictures are in a folder beside it.

    Yields:
        Where a file is in the site, and what it holds; the page first.
    """
    from nbconvert import MarkdownExporter

    markdown, resources = MarkdownExporter().from_filename(
        str(path), resources={"output_files_dir": f"{path.stem}_files", "unique_key": path.stem}
    )
    yield uri.removesuffix(".ipynb") + ".md", markdown
    for name, picture in resources["outputs"].items():
        yield f"{Path(uri).parent.as_posix()}/{name}", picture
