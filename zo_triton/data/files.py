"""Where the data sets lie, and whole files read with errors that name them. Nothing is ever downloaded."""

from __future__ import annotations

import gzip
import os
import zlib
from pathlib import Path

ROOT_VARIABLE = "ZO_TRITON_DATA"
"""Environment variable that names the folder of the data sets."""

GZIP_MAGIC = b"\x1f\x8b"
CHUNK_BYTES = 1 << 20


def root() -> Path:
    """The folder that the loaders look in: ``$ZO_TRITON_DATA`` if it is set and not empty, else ``./data``."""
    return Path(os.environ.get(ROOT_VARIABLE) or "data")


def resolve(given: str | os.PathLike[str] | None) -> Path:
    """The absolute path of the folder given, or of :func:`root` if none is: messages must name it in full."""
    return (root() if given is None else Path(given)).absolute()


def absent(name: str, given: str | os.PathLike[str] | None = None) -> str:
    """Where a data set was looked for in vain, and how to name another place: the beginning of a sentence."""
    return f"{name} is not in {resolve(given)} (set {ROOT_VARIABLE} to name another folder)"


def missing(title: str, folder: Path, expected: str, published: str) -> FileNotFoundError:
    """The error for a data set that is not there.

    Args:
        title: The data set's name.
        folder: The absolute path looked in.
        expected: The files that should be there.
        published: Where to get them.
    """
    return FileNotFoundError(
        f"{title} is not in {folder}. Expected there: {expected}. It is published at {published}. Put the "
        f"files there, or name another folder by root= or the environment variable {ROOT_VARIABLE}."
    )


def is_file(path: Path) -> bool:
    """Whether there is one.

    Raises:
        ValueError: A folder, a pipe or a link to nowhere has its name.
    """
    if not path.is_file() and os.path.lexists(path):
        raise ValueError(
            f"{path} is no file but a folder, a pipe or a link that leads to none; put the file in its place."
        )
    return path.is_file()


def read_whole(path: Path, most: int, unpack: bool = True) -> bytes:
    """Reads a file, decompressing it if its first bytes (never its name) say that it is gzip.

    Args:
        path: The file.
        most: The largest plausible length in bytes, so that a small archive cannot fill the memory.
        unpack: False for what is never gzip: its bytes as they are.

    Returns:
        The content, at most ``most`` bytes.

    Raises:
        ValueError: The gzip stream is truncated, damaged or followed by something else, the content is longer than
            ``most``, or a folder, a pipe or a link to nowhere has the file's name.
    """
    is_file(path)
    chunks: list[bytes] = []
    length = 0
    with path.open("rb") as file:
        packed = unpack and file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
        file.seek(0)
        stream = gzip.GzipFile(fileobj=file) if packed else file
        try:
            while chunk := stream.read(CHUNK_BYTES):
                chunks.append(chunk)
                length += len(chunk)
                if length > most:
                    raise ValueError(f"{path} holds more than {most} bytes: not the file its name promises.")
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(
                f"{path} is a truncated or damaged gzip file ({error}); fetch it again."
            ) from error
    return b"".join(chunks)
