"""Files and folders that are replaced whole or not at all."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_EXCHANGE = 2
"""Linux's RENAME_EXCHANGE."""

_HERE = -100
"""Linux's AT_FDCWD: relative paths start from the working directory."""


def slug(name: str) -> str:
    """A name in the letters of a file's, lower-case words joined by hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


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


def exchange(first: Path, second: Path) -> bool:
    """Swaps two files or folders in one step, between which nobody can look.

    Returns:
        False, and nothing has changed, where the system or the file system can't.

    Raises:
        OSError: They can't be renamed.
    """
    rename = (
        getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
    )
    if rename is None:
        return False
    if rename(_HERE, os.fsencode(first), _HERE, os.fsencode(second), _EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(first), None, str(second))


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Keeps other processes that ask for the same folder waiting until the block ends, however it ends.

    Yields:
        Whether the lock is held; some network file systems have none.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            held = True
        except OSError:
            held = False
        yield held
    finally:
        os.close(handle)
