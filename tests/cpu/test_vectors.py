"""What LLVM is told of the registers that there are, and how their values are rounded."""

import numba
import numpy as np
import torch
from numba import types
from numba.extending import intrinsic

from zo_triton.cpu.compiling import wide_vectors
from zo_triton.cpu.scalars import round_bfloat16
from zo_triton.cpu.vectors import WIDTH, load_vector, store_bfloat16


@numba.njit
def doubled(out, x):
    wide_vectors()
    for i in range(out.size):
        out[i] = 2 * x[i]


def test_wide_vectors_reach_llvm_and_change_no_value():
    x = np.arange(37, dtype=np.float32)
    out = np.full_like(x, np.nan)
    doubled(out, x)
    assert np.array_equal(out, 2 * x)
    (code,) = doubled.inspect_llvm().values()
    assert '"prefer-vector-width"="512"' in code


@intrinsic
def store_sixteen(context, target, source):
    def codegen(context, builder, signature, arguments):
        store_bfloat16(builder, load_vector(builder, arguments[1]), arguments[0])
        return context.get_dummy_value()

    return types.void(types.uintp, types.uintp), codegen


@numba.njit
def rounded(one, many, values):
    for i in range(values.size):
        one[i] = round_bfloat16(values[i])
    for i in range(0, values.size, WIDTH):
        store_sixteen(types.uintp(many[i:].ctypes.data), types.uintp(values[i:].ctypes.data))


def test_bfloat16_is_the_nearest_or_not_a_number():
    # Of each sign and exponent: a number, its neighbours, ties to both sides, and the last one, which for the
    # largest exponent is the NaN that GPUs make.
    mantissas = [0, 1, 0x7FFF, 0x8000, 0x8001, 0x17FFF, 0x18000, 0x7FFFFF]
    bits = np.array([[top << 23 | low for low in mantissas] for top in range(512)], np.uint32).ravel()
    values = bits.view(np.float32)
    one, many = np.zeros(values.size, np.uint16), np.zeros(values.size, np.uint16)
    rounded(one, many, values)
    assert np.array_equal(one, many)
    found = torch.from_numpy(one.view(np.int16)).view(torch.bfloat16)
    torch.testing.assert_close(found, torch.from_numpy(values).bfloat16(), rtol=0, atol=0, equal_nan=True)
