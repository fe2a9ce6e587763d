"""Files and folders that are replaced whole or not at all."""

from __future__ import annotations

import io
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # not on Windows, where what a killed process leaves behind stays
    fcntl = None  # type: ignore[assignment]


def slug(name: str) -> str:
    """A name in the letters of a file's, lower-case words joined by hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def cache_folder() -> Path:
    """Where what can be made anew is kept: ``$ZO_TRITON_CACHE``, else ``zo_triton`` in the user's cache folder.

    For a user without a home it is a place where nothing can be written, as in a home that is read-only.
    """
    home = os.path.expanduser("~")
    if not os.path.isabs(home):  # a user whom the system doesn't know: a folder named ~ would appear
        home = os.devnull
    above = os.environ.get("XDG_CACHE_HOME") or os.path.join(home, ".cache")
    return Path(os.environ.get("ZO_TRITON_CACHE") or os.path.join(above, "zo_triton"))


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A new file that takes the path's place, by one rename, when the block ends without an error.

    What processes that were killed in such a block have left beside the path is removed.

    Args:
        path: Replaced if it is there; its folder must exist.

    Yields:
        The new file, a sibling of the path, open for writing bytes.

    Raises:
        OSError: The file cannot be written; what was there before stays.
    """
    target = Path(path)
    _remove_stale(target)
    handle, name, hold = _new_sibling(target)
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
    finally:
        hold.close()


def _new_sibling(target: Path) -> tuple[int, str, BinaryIO]:
    """A new file's handle and name, and what shows others, until it is closed, that its writer lives."""
    while True:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
        if fcntl is None:
            return handle, name, io.BytesIO()
        hold = os.fdopen(os.dup(handle), "wb")
        with suppress(OSError):  # a file system without locks: nobody can tell, and nobody removes anything
            fcntl.flock(hold, fcntl.LOCK_EX)
        if os.path.exists(name):
            return handle, name, hold
        # Before it was locked another process took it for a dead one's.
        os.close(handle)
        hold.close()


def _remove_stale(target: Path) -> None:
    """Removes siblings that no writer holds."""
    if fcntl is None:
        return
    for left in target.parent.glob(f".{escape(target.name)}.*.tmp"):
        with suppress(OSError), left.open("rb") as file:  # held, gone already, or another user's
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left.unlink()


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Replaces a file's content atomically: a temporary sibling, then one rename."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as file:
        file.write(text.encode())
