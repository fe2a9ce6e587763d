"""Files and folders that are replaced whole or not at all."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def slug(name: str) -> str:
    """A name in the letters of a file's, lower-case words joined by hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def cache_folder() -> Path:
    """Where what can be made anew is kept: ``$ZO_TRITON_CACHE``, else ``zo_triton`` in the user's cache folder."""
    above = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(os.environ.get("ZO_TRITON_CACHE") or os.path.join(above, "zo_triton"))


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A new file that takes the path's place, by one rename, when the block ends without an error.

    Args:
        path: Replaced if it is there; its folder must exist.

    Yields:
        The new file, a sibling of the path, open for writing bytes.

    Raises:
        OSError: The file cannot be written; what was there before stays.
    """
    target = Path(path)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files that only their owner can read.
        os.chmod(name, 0o644)
        os.replace(name, target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Replaces a file's content atomically: a temporary sibling, then one rename."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as file:
        file.write(text.encode())
