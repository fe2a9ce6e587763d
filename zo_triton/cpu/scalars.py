"""Elementary functions in float32 that LLVM can vectorise: no calls, no branches.

Polynomial coefficients are those of the Cephes library (Moshier) for float32; the comments give the range.
None of them uses fast-math (a fused multiply-add stands where it is written), so a value does not depend on the
loop it is computed in.
"""

from __future__ import annotations

import numpy as np
from numba import float32, int32, uint32
from numba.extending import overload

from zo_triton.cpu.compiling import device
from zo_triton.cpu.vectors import bits_from_float, float_from_bits, fma

LN2_HIGH, LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
LOG2_E = np.float32(1.44269504)
ROUNDER = np.float32(12582912.0)  # 1.5·2²³: adding it leaves an integer in the low mantissa bits
_SQRT_HALF = np.float32(0.70710678)
_TWO_PI = np.float32(6.2831853)
_EXP_LOWEST, _ZERO, _INFINITY = np.float32(-86.5), np.float32(0.0), np.float32(np.inf)

EXP_HIGHEST = np.float32(88.72283)
"""Beyond it e^x is no float32."""

EXPM1 = tuple(
    np.float32(c)
    for c in (
        1.9875691500e-4,
        1.3981999507e-3,
        8.3334519073e-3,
        4.1665795894e-2,
        1.6666665459e-1,
        5.0000001201e-1,
    )
)
"""Of (e^x - 1 - x)/x² where |x| is at most ln(2)/2, highest power first."""


SHORT = np.float32(0.34)
"""Exponents of which ``expm1`` takes off no multiple of ln 2."""


@device
def short_expm1(x):
    """What ``expm1`` makes of exponents up to :data:`SHORT`, bit for bit unless subnormal, in half the steps."""
    p = EXPM1[0]
    for i in range(1, len(EXPM1)):
        p = fma(p, x, EXPM1[i])
    return fma(p * x, x, x)


@device
def expm1(x):
    """e^x - 1, relative error below 2e-7 for tiny arguments too; saturates outside [-87, 88]."""
    x = min(max(x, float32(-87.0)), float32(88.0))
    n = fma(x, LOG2_E, ROUNDER) - ROUNDER
    r = fma(n, -LN2_LOW, fma(n, -LN2_HIGH, x))
    p = EXPM1[0]
    for i in range(1, len(EXPM1)):
        p = fma(p, r, EXPM1[i])
    small = fma(p * r, r, r)
    # 2^127 is the largest power there is: scale in two steps so that e^88 does not overflow on the way.
    half = float_from_bits(uint32(int32(n) - int32(1) + int32(127)) << uint32(23))
    return fma(half, small, half - float32(0.5)) * float32(2.0)


@device
def exp(x):
    """e^x, relative error below 2e-7; zero where it would be smaller than normal numbers are."""
    inside = min(max(x, _EXP_LOWEST), EXP_HIGHEST)
    n = fma(inside, LOG2_E, ROUNDER) - ROUNDER
    r = fma(n, -LN2_LOW, fma(n, -LN2_HIGH, inside))
    p = EXPM1[0]
    for i in range(1, len(EXPM1)):
        p = fma(p, r, EXPM1[i])
    half = float_from_bits(uint32(int32(n) + int32(126)) << uint32(23))
    y = fma(half, fma(p * r, r, r), half) * float32(2.0)
    y = y if x >= _EXP_LOWEST else _ZERO
    y = y if x <= EXP_HIGHEST else _INFINITY
    return y if x == x else x


@device
def log(x):
    """Ln x for positive normal x; relative error below 2e-7, also where x is near 1."""
    bits = bits_from_float(x)
    exponent = int32(bits >> uint32(23)) - int32(126)
    m = float_from_bits((bits & uint32(0x007FFFFF)) | uint32(0x3F000000))
    low = m < _SQRT_HALF
    e = float32(exponent - int32(1)) if low else float32(exponent)
    m = (m + m - float32(1.0)) if low else (m - float32(1.0))
    p = float32(7.0376836292e-2)
    p = fma(p, m, float32(-1.1514610310e-1))
    p = fma(p, m, float32(1.1676998740e-1))
    p = fma(p, m, float32(-1.2420140846e-1))
    p = fma(p, m, float32(1.4249322787e-1))
    p = fma(p, m, float32(-1.6668057665e-1))
    p = fma(p, m, float32(2.0000714765e-1))
    p = fma(p, m, float32(-2.4999993993e-1))
    p = fma(p, m, float32(3.3333331174e-1))
    square = m * m
    y = fma(p * m, square, fma(e, LN2_LOW, float32(-0.5) * square))
    return fma(e, LN2_HIGH, m + y)


@device
def log1p(x):
    """ln(1 + x) for x > -1: the rounding of 1 + x is put back to first order."""
    u = float32(1.0) + x
    lost = x - (u - float32(1.0))
    return log(u) + lost / u


@device
def sincos_turns(k):
    """Sin and cos of 2π·k·2⁻²⁴ for a 24-bit integer k: the quadrant is taken off in exact arithmetic."""
    quadrant = (k + int32(1 << 21)) >> int32(22)
    x = float32(k - (quadrant << int32(22))) * float32(2.0**-24) * _TWO_PI
    square = x * x
    s = float32(-1.9515295891e-4)
    s = s * square + float32(8.3321608736e-3)
    s = s * square - float32(1.6666654611e-1)
    sine = s * square * x + x
    c = float32(2.443315711809948e-5)
    c = c * square - float32(1.388731625493765e-3)
    c = c * square + float32(4.166664568298827e-2)
    cosine = (c * square * square - float32(0.5) * square) + float32(1.0)
    swap = (quadrant & int32(1)) != int32(0)
    first = cosine if swap else sine
    second = sine if swap else cosine
    first = -first if (quadrant & int32(2)) != int32(0) else first
    second = -second if ((quadrant + int32(1)) & int32(2)) != int32(0) else second
    return first, second


@device
def round_bfloat16(x):
    """The nearest bfloat16 (ties to even), as its 16 bits in a uint32."""
    bits = bits_from_float(x)
    rounded = (bits + uint32(0x7FFF) + ((bits >> uint32(16)) & uint32(1))) >> uint32(16)
    # GPUs' own NaN has all bits set, and the sum would carry it over to -0.
    return rounded if x == x else uint32(0x7FC0)


def load(value):
    """An array element as float32: float32 as it is, uint16 read as bfloat16."""
    raise NotImplementedError("only inside a kernel")


@overload(load, inline="always")
def _load(value):
    if value.bitwidth == 16:
        return lambda value: float_from_bits(uint32(value) << uint32(16))
    return lambda value: value


def store(array, index, value):
    """``array[index] = value`` in the array's dtype: float32, or uint16 holding bfloat16."""
    raise NotImplementedError("only inside a kernel")


@overload(store, inline="always")
def _store(array, index, value):
    if array.dtype.bitwidth == 16:

        def store_bfloat16(array, index, value):
            array[index] = np.uint16(round_bfloat16(value))

        return store_bfloat16

    def store_float32(array, index, value):
        array[index] = value

    return store_float32
