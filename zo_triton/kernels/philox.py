"""Philox4x32-R and the value that each distribution makes of its words.

Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011. The formulas are those of
``zo_triton/reference/field.py``. Everything up to the first logarithm, sine or cosine is exact; those are
short polynomials on exactly reduced arguments, so that no slow path and no fast-math error enters:

* the angle is k·2⁻²⁴ turns, reduced to the nearest quarter turn in integers;
* -ln u is the hardware's logarithm, except for 1 - u < 2⁻⁵, where that would lose the digits: there it is the
  series in n = 1 - u, which is exact too.
"""

from __future__ import annotations

import triton
import triton.language as tl

from zo_triton.directions import PHILOX_MULTIPLIERS, PHILOX_WEYL
from zo_triton.kernels.numeric import NVIDIA, log2

_MULTIPLIER0 = tl.constexpr(PHILOX_MULTIPLIERS[0])
_MULTIPLIER1 = tl.constexpr(PHILOX_MULTIPLIERS[1])
_WEYL0 = tl.constexpr(PHILOX_WEYL[0])
_WEYL1 = tl.constexpr(PHILOX_WEYL[1])

_UNIT = tl.constexpr(2.0**-24)
_SERIES_BELOW = tl.constexpr(2.0**-5)
_PI = tl.constexpr(3.141592653589793)
_LN2 = tl.constexpr(0.6931471805599453)
_SQRT3 = tl.constexpr(1.7320508075688772)
_SQRT_HALF = tl.constexpr(0.7071067811865476)

# sin(πt/4)/t and cos(πt/4) on |t| <= 1 in powers of t²: minimax, errors 1.2e-9 and 2.8e-8.
_SIN0 = tl.constexpr(0.7853981609834035)
_SIN1 = tl.constexpr(-0.08074543483021385)
_SIN2 = tl.constexpr(0.002490007127098231)
_SIN3 = tl.constexpr(-3.595450778458074e-05)
_COS0 = tl.constexpr(0.9999999724233225)
_COS1 = tl.constexpr(-0.3084242535619729)
_COS2 = tl.constexpr(0.01584991525694878)
_COS3 = tl.constexpr(-0.0003188805084262118)


@triton.jit
def _wide(a, b):
    """All 64 bits of a product of 32-bit words, which is one instruction where its halves would be two."""
    return tl.mul(a.to(tl.uint64), tl.cast(b, tl.uint64), sanitize_overflow=False)


@triton.jit
def philox(block, word, direction, step, key0, key1, ROUNDS: tl.constexpr):
    """Four uint32 words. The counter's parts broadcast; scalars among them stay so as long as possible."""
    c0, c1, c2, c3 = block, word, direction, step
    for _ in tl.static_range(ROUNDS):
        product0, product1 = _wide(c0, _MULTIPLIER0), _wide(c2, _MULTIPLIER1)
        high0, high1 = (product0 >> 32).to(tl.uint32), (product1 >> 32).to(tl.uint32)
        low0, low1 = product0.to(tl.uint32), product1.to(tl.uint32)
        c0, c1, c2, c3 = high1 ^ c1 ^ key0, low1, high0 ^ c3 ^ key1, low0
        key0 = tl.add(key0, _WEYL0, sanitize_overflow=False)
        key1 = tl.add(key1, _WEYL1, sanitize_overflow=False)
    return c0, c1, c2, c3


@triton.jit
def _negative_log(k, FACTOR: tl.constexpr):
    """-FACTOR·ln(k·2⁻²⁴) in float32 for integers k in [1, 2²⁴]."""
    u = k.to(tl.float32) * _UNIT
    rest = 1.0 - u
    series = tl.fma(rest, 0.2 * FACTOR, 0.25 * FACTOR)
    series = tl.fma(series, rest, FACTOR / 3.0)
    series = tl.fma(series, rest, 0.5 * FACTOR)
    series = tl.fma(series, rest, FACTOR) * rest
    return tl.where(rest < _SERIES_BELOW, series, (-_LN2 * FACTOR) * log2(u))


@triton.jit
def _centred(word):
    """2k + 1 - 2²⁴ with k = word >> 8: an odd int32 in (-2²⁴, 2²⁴)."""
    return 2 * (word >> 8).to(tl.int32) + (1 - 16777216)


@triton.jit
def uniform(word):
    """√3·m."""
    return _centred(word).to(tl.float32) * (_SQRT3 * _UNIT)


@triton.jit
def laplace(word):
    """-sign(m)·ln(1 - |m|)/√2."""
    m = _centred(word)
    size = _negative_log(16777216 - tl.abs(m), _SQRT_HALF)
    return tl.where(m < 0, -size, size)


@triton.jit
def _sine(x):
    return tl.inline_asm_elementwise("sin.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, True, 1)


@triton.jit
def _cosine(x):
    return tl.inline_asm_elementwise("cos.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, True, 1)


@triton.jit
def _square_root(x):
    return tl.inline_asm_elementwise("sqrt.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, True, 1)


@triton.jit
def rough_gaussian_pair(radius_word, angle_word):
    """:func:`gaussian_pair` to 4e-6, for values that are rounded to bfloat16: NVIDIA's own sine, cosine and root.

    The angle lies in [-π, π), where the hardware's sine is off by 5e-7 at most; the radius is below 5.8.
    """
    if NVIDIA:
        u = ((radius_word >> 8).to(tl.int32) + 1).to(tl.float32) * _UNIT
        rest = 1.0 - u
        series = tl.fma(tl.fma(rest, 2.0 / 3.0, 1.0), rest, 2.0) * rest
        radius = _square_root(tl.where(rest < _SERIES_BELOW, series, (-2.0 * _LN2) * log2(u)))
        # As a signed number the word gives the same angle, less a whole turn where that is shorter.
        angle = (angle_word.to(tl.int32, bitcast=True) >> 8).to(tl.float32) * (_PI * 2.0 * _UNIT)
        return _cosine(angle) * radius, _sine(angle) * radius
    else:
        return gaussian_pair(radius_word, angle_word)


@triton.jit
def gaussian_pair(radius_word, angle_word):
    """Box-Muller: the cosine's and the sine's value."""
    radius = tl.sqrt(_negative_log((radius_word >> 8).to(tl.int32) + 1, 2.0))
    turn = (angle_word >> 8).to(tl.int32)
    quarter = (turn + 2097152) >> 22
    t = (turn - (quarter << 22)).to(tl.float32) * (1.0 / 2097152.0)
    square = t * t
    sine = tl.fma(tl.fma(tl.fma(square, _SIN3, _SIN2), square, _SIN1), square, _SIN0) * t
    cosine = tl.fma(tl.fma(tl.fma(square, _COS3, _COS2), square, _COS1), square, _COS0)
    odd = (quarter & 1) == 1
    first = tl.where(odd, sine, cosine) * radius
    second = tl.where(odd, cosine, sine) * radius
    first = tl.where(((quarter + 1) & 2) == 0, first, -first)
    second = tl.where((quarter & 2) == 0, second, -second)
    return first, second
