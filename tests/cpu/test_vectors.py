"""What LLVM is told of the registers that there are."""

import numba
import numpy as np

from zo_triton.cpu.compiling import wide_vectors


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
