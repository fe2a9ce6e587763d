"""Arithmetic that every kernel shares: rounding to bfloat16, dots, and functions that keep tiny arguments.

Triton's interpreter truncates where hardware rounds to bfloat16, takes its subnormal numbers for zeros, and
multiplies bfloat16 tiles as if their bits were integers. :func:`narrow`, :func:`widen` and :func:`dot` hide that: a
kernel's interpreted result is the hardware's.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton import knobs

INTERPRETED = tl.constexpr(bool(knobs.runtime.interpret))
"""Whether the kernels of this process run in Triton's interpreter; fixed when they are decorated."""

NVIDIA = tl.constexpr(not knobs.runtime.interpret and torch.version.hip is None)
"""Whether kernels may hold NVIDIA's own instructions."""


@triton.jit
def narrow(x, DTYPE: tl.constexpr):
    """float32 → DTYPE, rounded to nearest, ties to even."""
    if INTERPRETED and DTYPE.name == "bf16":
        bits = x.to(tl.float32).to(tl.uint32, bitcast=True)
        tie = (bits >> 16) & 1
        rounded = ((bits.to(tl.uint64) + 0x7FFF + tie) >> 16).to(tl.uint16)
        return tl.where(x == x, rounded, 0x7FC0).to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:
        return x.to(DTYPE)


@triton.jit
def widen(x):
    """bfloat16 → float32, subnormal numbers too."""
    if INTERPRETED and x.dtype == tl.bfloat16:
        return (x.to(tl.uint16, bitcast=True).to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    else:
        return x.to(tl.float32)


@triton.jit
def bound(number):
    """A runtime number as the bound of a loop.

    Triton 3.6's interpreter holds it in an array of one element, which NumPy no longer takes for an integer.
    """
    if INTERPRETED and isinstance(number, tl.tensor):
        return number.handle.data.item()
    else:
        return number


@triton.jit
def complement(words):
    """All bits of uint32 words inverted; ``~`` has no room for its mask of -1 in Triton 3.6's interpreter."""
    return words ^ 0xFFFFFFFF


@triton.jit
def divided(start, offsets, size):
    """Quotient and remainder of start + offsets by a size, int64: one wide division a program, narrow ones a tile.

    start is an int64 number, offsets an int32 tile below 2³¹.
    """
    quotient = start // size
    rest = start - quotient * size
    if (tl.zeros((), tl.int32) + size).dtype.primitive_bitwidth == 64:
        place = rest + offsets
        return quotient + place // size, place % size
    else:
        place, narrow_size = rest.to(tl.uint32) + offsets.to(tl.uint32), tl.cast(size, tl.uint32)
        return quotient + (place // narrow_size).to(tl.int64), (place % narrow_size).to(tl.int64)


@triton.jit
def multiply_add(a, b, c):
    """a·b + c of bfloat16 tiles or numbers, rounded once; two elements an instruction on NVIDIA."""
    if NVIDIA:
        return tl.inline_asm_elementwise(
            "fma.rn.bf16x2 $0, $1, $2, $3;", "=r,r,r,r", [a, b, c], tl.bfloat16, True, 2
        )
    else:
        return narrow(a.to(tl.float32) * b.to(tl.float32) + c.to(tl.float32), tl.bfloat16)


@triton.jit
def dot(a, b, accumulator, PRECISION: tl.constexpr):
    """Adds a·b to the accumulator in float32; a and b are float32 or bfloat16."""
    if INTERPRETED and a.dtype == tl.bfloat16:
        return tl.dot(widen(a), widen(b), accumulator)
    else:
        return tl.dot(a, b, accumulator, input_precision=PRECISION)


@triton.jit
def settled(accumulator):
    """The accumulator once its products are done, for loops whose left factors lie in Hopper's registers.

    Those factors must not be written while a product reads them, and Triton 3.6 lets the next iteration do it. An
    empty instruction that takes the sums has it wait; it costs nothing else.
    """
    if NVIDIA:
        return tl.inline_asm_elementwise("", "=f,0", [accumulator], tl.float32, True, 1)
    else:
        return accumulator


@triton.jit
def log2(x):
    """log₂x for normal x > 0: on NVIDIA one instruction (relative error 2⁻²², absolute inside [0.5, 2])."""
    if NVIDIA:
        return tl.inline_asm_elementwise("lg2.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, True, 1)
    else:
        return tl.log2(x)


@triton.jit
def power_of_two(x):
    """2ˣ: on NVIDIA one instruction, with 0 for what is no normal number (relative error 2⁻²²)."""
    if NVIDIA:
        return tl.inline_asm_elementwise("ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, True, 1)
    else:
        return tl.exp2(x)


@triton.jit
def expm1(x):
    """eˣ - 1, accurate relative to itself: the series to x⁸ inside [-½, ½], the plain difference outside."""
    series = tl.fma(x, 2.48015873e-5, 1.98412698e-4)
    series = tl.fma(series, x, 1.38888889e-3)
    series = tl.fma(series, x, 8.33333333e-3)
    series = tl.fma(series, x, 4.16666667e-2)
    series = tl.fma(series, x, 1.66666667e-1)
    series = tl.fma(series, x, 0.5)
    series = tl.fma(series * x, x, x)
    return tl.where(tl.abs(x) <= 0.5, series, tl.exp(x) - 1.0)


@triton.jit
def log1p(x):
    """ln(1 + x), accurate relative to itself: 2·artanh(x/(2+x)) as a series inside [-½, 1], ln outside."""
    inside = (x >= -0.5) & (x <= 1.0)
    ratio = tl.where(inside, x, 0.0)
    ratio = ratio / (2.0 + ratio)
    square = ratio * ratio
    series = tl.fma(square, 1.0 / 15.0, 1.0 / 13.0)
    series = tl.fma(series, square, 1.0 / 11.0)
    series = tl.fma(series, square, 1.0 / 9.0)
    series = tl.fma(series, square, 1.0 / 7.0)
    series = tl.fma(series, square, 0.2)
    series = tl.fma(series, square, 1.0 / 3.0)
    series = 2.0 * tl.fma(series * square, ratio, ratio)
    return tl.where(inside, series, tl.log(tl.where(inside, 1.0, 1.0 + x)))
