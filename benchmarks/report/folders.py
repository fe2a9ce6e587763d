"""Folders that change places in one step, under a lock that other processes wait for."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_EXCHANGE = 2
"""Linux's RENAME_EXCHANGE."""

_HERE = -100
"""Linux's AT_FDCWD: relative paths start from the working directory."""


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
