"""A log's bytes: a header, then one record a step, each with checksums of its own.

All integers are little-endian and unsigned, all text is JSON in UTF-8, all checksums are CRC-32.

    header   8 bytes  magic
             4        version of the format
             4        length of the JSON
             …        JSON
             4        checksum of all of the above
    record   4 bytes  length of the body
             4        step
             4        length of the JSON within the body
             4        checksum of these 12 bytes, begun with the header's checksum
             …        body: JSON of the settings that changed (nothing if none did), then K float32 coefficients
             4        checksum of the body, begun with the checksum before it

A crash while a record is written leaves a part of it at the end, a *torn* record: its lengths tell that bytes are
missing. Because the lengths have their own checksum, a flipped bit in them is not taken for that.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO
from zlib import crc32

import numpy as np

MAGIC = b"\x89ZOLOG\r\n"
"""No text; a transfer that changes line ends changes it."""

VERSION = 1
OVERHEAD = 20
"""Bytes of a record beside its 4·K of coefficients, when no setting has changed."""

_HEAD = struct.Struct("<8sII")
_FRAME = struct.Struct("<III")
_CRC = struct.Struct("<I")
_MOST_JSON = 1 << 28


class DamagedError(ValueError):
    """A file's bytes are not those that were written."""


@dataclass(frozen=True)
class Record:
    """One step.

    Attributes:
        step: Its number.
        changes: Settings that differ from those of the step before.
        coefficients: a_k, [K] float32.
        start: Its first byte in the file.
        end: The byte after its last.
    """

    step: int
    changes: dict[str, Any]
    coefficients: np.ndarray
    start: int
    end: int


def encode_header(header: dict[str, Any]) -> bytes:
    """The header's bytes; the last four are the checksum with which the records' begin."""
    text = _encode(header)
    start = _HEAD.pack(MAGIC, VERSION, len(text)) + text
    return start + _CRC.pack(crc32(start))


def read_header(file: BinaryIO) -> tuple[dict[str, Any], int]:
    """Reads from the start of a file.

    Returns:
        The header, and its checksum.

    Raises:
        DamagedError: The file is no log, is one of a version that this program does not know, or its header is
            damaged or incomplete.
    """
    head = file.read(_HEAD.size)
    if len(head) < _HEAD.size:
        raise DamagedError(f"it is {len(head)} bytes long, shorter than any header.")
    magic, version, length = _HEAD.unpack(head)
    if magic != MAGIC:
        raise DamagedError(f"it begins with {magic!r}, a log with {MAGIC!r}.")
    if version != VERSION:
        raise DamagedError(f"its format has version {version}, this program reads {VERSION}.")
    rest = file.read(min(length, _MOST_JSON) + _CRC.size)
    if len(rest) != length + _CRC.size:
        raise DamagedError(
            f"its header should be {_HEAD.size + length + _CRC.size} bytes long and is cut short."
        )
    checksum = crc32(head + rest[:-4])
    if _CRC.unpack(rest[-4:])[0] != checksum:
        raise DamagedError("its header does not match its checksum.")
    return _decode(rest[:-4]), checksum


def encode_record(checksum: int, step: int, changes: dict[str, Any], coefficients: np.ndarray) -> bytes:
    """A record's bytes.

    Args:
        checksum: The header's.
        step: Its number.
        changes: Settings that differ from those of the step before.
        coefficients: [K] float32.
    """
    text = _encode(changes) if changes else b""
    body = text + coefficients.astype("<f4").tobytes()
    frame = _FRAME.pack(len(body), step, len(text))
    framed = crc32(frame, checksum)
    return b"".join((frame, _CRC.pack(framed), body, _CRC.pack(crc32(body, framed))))


@dataclass(frozen=True)
class End:
    """Where the readable records end.

    Attributes:
        step: The number that the next step would have.
        byte: Where its record would begin.
        torn: Bytes of an incomplete last record, as a crash leaves it.
        damage: What is wrong with the bytes from there on; empty if nothing is.
    """

    step: int
    byte: int
    torn: int = 0
    damage: str = ""


def read_records(file: BinaryIO, checksum: int, first_step: int) -> Iterator[Record | End]:
    """Reads from the end of the header on.

    Yields:
        The records in order, up to the first that is torn or damaged; then, last, one :class:`End`.
    """
    step, at = first_step, file.tell()
    while True:
        record = _read_record(file, checksum, step, at)
        yield record
        if isinstance(record, End):
            return
        step, at = step + 1, record.end


def _read_record(file: BinaryIO, checksum: int, step: int, at: int) -> Record | End:
    head = file.read(_FRAME.size + _CRC.size)
    if len(head) < _FRAME.size + _CRC.size:
        return End(step, at, torn=len(head))
    size, found, text = _FRAME.unpack_from(head)
    framed = crc32(head[: _FRAME.size], checksum)
    if _CRC.unpack_from(head, _FRAME.size)[0] != framed:
        return End(step, at, damage="the start of the record does not match its checksum")
    rest = file.read(size + _CRC.size)
    if len(rest) < size + _CRC.size:
        return End(step, at, torn=len(head) + len(rest))
    body = rest[:size]
    if _CRC.unpack_from(rest, size)[0] != crc32(body, framed):
        return End(step, at, damage="the record does not match its checksum")
    if found != step:
        return End(step, at, damage=f"the record is that of step {found}")
    changes = _decode(body[:text]) if text else {}
    coefficients = np.frombuffer(body, "<f4", offset=text)
    return Record(step, changes, coefficients.astype(np.float32), at, at + len(head) + len(rest))


def _encode(value: dict[str, Any]) -> bytes:
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()


def _decode(text: bytes) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"what should be JSON can't be read as such: {error}.") from None
    return value
