"""Arrays handed to kernels by address: a list of any length is one argument type, and one kernel serves them all.

As a tuple, each number of layers would be a type of its own, and compiled for.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from weakref import ref

import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.core import cgutils
from numba.extending import intrinsic

from zo_triton._interrupts import unbroken
from zo_triton.cpu.compiling import device


def addresses_of(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Where they lie, uint64 [arrays]; whoever calls a kernel with it keeps them alive.

    Raises:
        ValueError: One is not float32, or not contiguous.
    """
    return np.array([_address(array) for array in arrays], np.uint64)


_known: dict[int, tuple[ref[np.ndarray], int]] = {}


def _address(array: np.ndarray) -> int:
    """Looked up: asking NumPy takes longer than all else here, and a trainer has the same arrays at each step."""
    key = id(array)
    known = _known.get(key)
    if known is None or known[0]() is not array:
        if array.dtype != np.float32 or not array.flags.c_contiguous:
            raise ValueError(
                f"a compiled step takes contiguous float32, got {array.dtype} with strides {array.strides}; "
                "make the tensor, or the optimizer's memory of it, contiguous() and float()."
            )
        forget = partial(_forget, key)
        known = _known[key] = ref(array, forget), array.__array_interface__["data"][0]
    return known[1]


@unbroken
def _forget(key: int, gone: ref[np.ndarray]) -> None:
    _known.pop(key, None)


@intrinsic
def pointer(context, address):
    """An address as a pointer."""

    def codegen(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.uintp), codegen


@intrinsic
def fetch_line(context, address):
    """Has a cache line come to the level-2 cache, while the processor goes on."""

    def codegen(context, builder, signature, arguments):
        emit_fetch(builder, arguments[0], locality=2)
        return context.get_dummy_value()

    return types.void(types.uintp), codegen


def emit_fetch(builder, address, locality):
    """Emits the wish to read from there soon: locality 3 for all caches, 2 for those from the second level on."""
    number = ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, number, number, number])
    fetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
    read, data = number(0), number(1)
    builder.call(fetch, [builder.inttoptr(address, cgutils.voidptr_t), read, number(locality), data])


@intrinsic
def keep(context, array):
    """Does nothing, but later than all before it: Numba frees an array after the last line that names it.

    An address is no name, and whose memory is free may be another's already.
    """

    def codegen(context, builder, signature, arguments):
        return context.get_dummy_value()

    return types.void(array), codegen


@device
def matrix_at(address, rows, cols):
    """The float32 matrix that lies there."""
    return carray(pointer(address), (rows, cols), np.float32)


@device
def matrix_like(address, rows, cols, like):
    """The matrix that lies there, of the dtype that another array has."""
    return carray(pointer(address), (rows, cols), like.dtype)
