"""Arrays handed to kernels by address: a list of any length is one argument type, and one kernel serves them all.

As a tuple, each number of layers would be a type of its own, and compiled for.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import carray, types
from numba.core import cgutils
from numba.extending import intrinsic

from zo_triton.cpu.compiling import device


def addresses_of(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Where they lie, uint64 [arrays]; whoever calls a kernel with it keeps them alive.

    Raises:
        ValueError: One is not float32, or not contiguous.
    """
    for array in arrays:
        if array.dtype != np.float32 or not array.flags.c_contiguous:
            raise ValueError(
                f"a compiled step takes contiguous float32, got {array.dtype} with strides {array.strides}; "
                "make the tensor, or the optimizer's memory of it, contiguous() and float()."
            )
    return np.array([array.__array_interface__["data"][0] for array in arrays], np.uint64)


@intrinsic
def pointer(context, address):
    """An address as a pointer."""

    def codegen(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.uintp), codegen


@device
def matrix_at(address, rows, cols):
    """The float32 matrix that lies there."""
    return carray(pointer(address), (rows, cols), np.float32)
