"""A log as it is read: what it says, how far it is intact, and its records."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from zo_triton.runlog.format import DamagedError, End, Record, read_header, read_records


@dataclass(frozen=True)
class Contents:
    """A log that has been read to its end once.

    Attributes:
        path: The file.
        header: What it says of the run: see :func:`zo_triton.runlog.recipe.describe`.
        settings: Those of the last step.
        end: Where the readable records end, and why.
        checksum: The header's, with which the records' begin.
        header_bytes: How many bytes stand before the first record.
        size: Of the whole file in bytes.
    """

    path: Path
    header: dict[str, Any]
    settings: dict[str, Any]
    end: End
    checksum: int
    header_bytes: int
    size: int

    @property
    def first_step(self) -> int:
        """The number of the first step."""
        return int(self.header["first_step"])

    @property
    def steps(self) -> int:
        """How many steps can be replayed."""
        return self.end.step - self.first_step

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The trained parameters' shapes by name, in the order of their ids."""
        return {entry["name"]: tuple(entry["shape"]) for entry in self.header["parameters"]}

    def records(self) -> Iterator[tuple[Record, dict[str, Any]]]:
        """Every intact record with the settings of its step, read anew."""
        settings = self.header["settings"]
        with _opened(self.path) as (file, _, checksum):
            for record in read_records(file, checksum, self.first_step):
                if isinstance(record, End) or record.step >= self.end.step:
                    return
                settings = {**settings, **record.changes}
                yield record, settings


def read(path: str | os.PathLike[str], intact_prefix: bool = False) -> Contents:
    """Reads a log and checks every record.

    A record that is cut short at the end is what a crash leaves: the log ends before it.

    Args:
        path: The file.
        intact_prefix: Take the records before the first damaged one instead of refusing the log.

    Returns:
        Its contents.

    Raises:
        OSError: It can't be read.
        ValueError: It is no log, its header is damaged, or a record is.
    """
    path = Path(path)
    with _opened(path) as (file, header, checksum):
        settings, begin = header["settings"], file.tell()
        end = End(header["first_step"], begin)
        for record in read_records(file, checksum, header["first_step"]):
            if isinstance(record, End):
                end = record
            else:
                settings = {**settings, **record.changes}
        size = os.fstat(file.fileno()).st_size
    if end.damage and not intact_prefix:
        raise DamagedError(
            f"the log {path} is damaged at step {end.step}, byte {end.byte}: {end.damage}. The "
            f"{end.step - header['first_step']} steps before it are intact; ask for the intact prefix to take them."
        )
    return Contents(path, header, settings, end, checksum, begin, size)


_EXPECTED: dict[str, type] = {
    "optimizer": str, "parameters": list, "group_sizes": list, "first_step": int, "weights": str, "settings": dict,
}  # fmt: skip
_SETTINGS: dict[str, type] = {
    "seed": int, "directions": int, "compute_dtype": str, "groups": list,
}  # fmt: skip
_PARAMETER: dict[str, type] = {"name": str, "shape": list, "dtype": str}


def _check_header(header: Any) -> None:
    """Refuses a header that was written whole, but by something else than a log's writer.

    Raises:
        DamagedError: An entry is missing, or is not what it should be.
    """
    _check_entries("its header", header, _EXPECTED)
    _check_entries("the header's settings", header["settings"], _SETTINGS)
    for number, parameter in enumerate(header["parameters"]):
        _check_entries(f"the header's parameter {number}", parameter, _PARAMETER)


def _check_entries(what: str, found: Any, expected: dict[str, type]) -> None:
    if not isinstance(found, dict):
        raise DamagedError(f"{what} is {found!r:.60}, no object of named entries.")
    for name, kind in expected.items():
        if name not in found:
            raise DamagedError(f"{what} lacks the entry {name!r}.")
        if not isinstance(found[name], kind):
            raise DamagedError(f"{what} has the entry {name!r} as {found[name]!r:.60}, which is none.")


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, dict[str, Any], int]]:
    with open(path, "rb") as file:
        try:
            header, checksum = read_header(file)
            _check_header(header)
        except DamagedError as error:
            raise DamagedError(f"{path} can't be read as a log: {error}") from None
        yield file, header, checksum
