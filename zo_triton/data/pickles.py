"""Reads the arrays, bytes, lists and dicts of a pickle without running any code it names.

Python's own reader calls whatever a pickle asks for. Here each name that NumPy's arrays need stands for an inert
note of its arguments, every other name is refused, and the bytes become an array only after their lengths are
checked. No NumPy code reads the pickle either, so that files of NumPy 1 and 2 do alike.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np

MEMO_WRITES = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
MOST_TUPLES = 1000
BYTE_TYPES = frozenset({"u1", "|u1", "uint8"})


class StoredType:
    """What a pickle says about an array's type: its code, such as u1."""

    code: Any = None

    def __init__(self, code: Any = None, *_: Any) -> None:
        self.code = code.decode("latin1") if isinstance(code, bytes) else code

    def __setstate__(self, state: Any) -> None:
        """Byte order and flags mean nothing for bytes, which are all that is read."""


class StoredArray:
    """What a pickle says about an array: shape, type, order and raw bytes, none of them believed yet."""

    # Defaults on the class, since a pickle can make an instance without calling __init__.
    shape: Any = ()
    type: Any = None
    fortran: Any = False
    raw: Any = None

    def __init__(self, *_: Any) -> None:
        """NumPy's call names a class and an empty shape; what counts comes with the state."""

    def __setstate__(self, state: Any) -> None:
        _, self.shape, self.type, self.fortran, self.raw = state


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        names: dict[tuple[str, str], Any] = {
            ("numpy.core.multiarray", "_reconstruct"): StoredArray,
            ("numpy.core.numeric", "_frombuffer"): self._from_buffer,
            # Only ever passed on as an argument, so a name does.
            ("numpy", "ndarray"): "numpy.ndarray",
            ("numpy", "dtype"): StoredType,
            ("_codecs", "encode"): self._encode,
            # How Python 3 writes empty bytes into the old protocols.
            ("__builtin__", "bytes"): self._empty,
        }
        stand_in = names.get((module.replace("numpy._core", "numpy.core"), name))
        if stand_in is None:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which a data set does not need")
        return stand_in

    def _encode(self, text: Any, encoding: Any) -> bytes:
        """Python 3 writes bytes into the old protocols as text to be encoded."""
        if encoding != "latin1" or not isinstance(text, str):
            raise pickle.UnpicklingError("it encodes something else than bytes")
        return text.encode("latin1")

    def _empty(self) -> bytes:
        return b""

    def _from_buffer(self, raw: Any, stored_type: Any, shape: Any, order: Any) -> StoredArray:
        """Protocol 5 stores an array by one call."""
        array = StoredArray()
        array.__setstate__((1, shape, stored_type, order == "F", raw))
        return array


def read_pickle(content: bytes, path: Path) -> Any:
    """The object in a pickle of any protocol; Python 2's strings come as bytes, arrays as StoredArray.

    Args:
        content: The pickle.
        path: Where it comes from, for the message.

    Raises:
        ValueError: It is truncated, is no pickle, goes on after its end, or names anything but arrays.
    """
    try:
        _check_opcodes(content)
        return _Reader(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # Damaged pickles raise almost any exception, as Python's documentation warns.
        raise ValueError(f"{path} is no pickle of plain arrays, bytes, lists and dicts: {error}.") from error


def _check_opcodes(content: bytes) -> None:
    """Refuses what would bring Python's reader down before any name is looked up.

    It allocates memory up to the largest memo index, and a long chain of nested tuples overflows the stack.
    """
    end = tuples = 0
    for opcode, argument, position in pickletools.genops(content):
        if opcode.name in MEMO_WRITES and not 0 <= (argument or 0) < len(content):
            raise pickle.UnpicklingError(f"it stores under the impossible number {argument}")
        tuples += opcode.name.startswith("TUPLE")
        end = (position or 0) + 1
    if tuples > MOST_TUPLES:
        raise pickle.UnpicklingError(f"it makes {tuples} tuples, where arrays take a few")
    if end != len(content):
        raise pickle.UnpicklingError(f"it ends at byte {end} of {len(content)}")


def byte_matrix(stored: Any, columns: int) -> np.ndarray:
    """Turns a stored array into a [n, columns] uint8 array.

    Raises:
        ValueError: It is no array of bytes, or its shape or length differ from that.
    """
    if not isinstance(stored, StoredArray) or not isinstance(stored.raw, (bytes, bytearray)):
        raise ValueError(f"needs an array of bytes, got {type(stored).__name__}")
    code = stored.type.code if isinstance(stored.type, StoredType) else None
    if code not in BYTE_TYPES:
        raise ValueError(f"needs unsigned bytes, got an array of {code!r}")
    rows, rest = divmod(len(stored.raw), columns)
    if rest or rows == 0 or stored.shape != (rows, columns):
        raise ValueError(
            f"has the shape {stored.shape!r} and {len(stored.raw)} bytes, not n×{columns}, n > 0"
        )
    return np.frombuffer(stored.raw, np.uint8).reshape((rows, columns), order="F" if stored.fortran else "C")
