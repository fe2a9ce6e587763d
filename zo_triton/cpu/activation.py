"""Exact differences of activations, f(a+δ) - f(a) without the subtraction.

Each takes from the base what it needs as arrays prepared once a layer, see :func:`base_terms`:

* ReLU: a > 0 → max(δ, -a), else max(a+δ, 0).
* tanh, with t = tanh a, u = tanh δ: u(1-t²)/(1+tu).
* sigmoid, with s = σ(a), u = expm1(δ): s(1-s)u/(1+su); σ(a+δ) where a long step begins beyond float32's smallest s.
* SiLU: δσ(a+δ) + aΔσ.
* GELU: δΦ(a+δ) + aΔΦ; ΔΦ is Gauss-Legendre quadrature of the density, in float64 erf where δ is long.
* GELU's tanh form: the exact difference of its cubic, then tanh's rule.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numba import float32, float64, uintp
from torch import Tensor

from zo_triton.cpu.compiling import device, routine
from zo_triton.cpu.scalars import SHORT, exp, expm1, short_expm1

NAMES = ("none", "relu", "tanh", "sigmoid", "silu", "gelu", "gelu_tanh")
NONE, RELU, TANH, SIGMOID, SILU, GELU, GELU_TANH = range(len(NAMES))

_CUBIC, _SCALE = np.float32(0.044715), np.float32(math.sqrt(2.0 / math.pi))
_DENSITY = np.float32(1.0 / math.sqrt(2.0 * math.pi))
_LONG_STEP, _FAR, _LONG_SIGMOID = np.float32(1.0), np.float32(8.0), np.float32(40.0)
_nodes, _weights = np.polynomial.legendre.leggauss(5)
_X0, _X1, _X2, _X3, _X4 = (np.float32(0.5 + 0.5 * x) for x in _nodes)
_G0, _G1, _G2, _G3, _G4 = (np.float32(0.5 * w) for w in _weights)


def base_terms(a: Tensor, activation: str) -> tuple[Tensor, Tensor]:
    """Two tensors of a's shape that the rule of ``activation`` reads beside a itself."""
    if activation == "tanh":
        decay = torch.exp(-2.0 * a.abs())
        return torch.tanh(a), 2.0 * decay / (1.0 + decay)
    if activation in ("sigmoid", "silu"):
        return torch.sigmoid(a), torch.sigmoid(-a)
    if activation == "gelu":
        return 0.5 * torch.erfc(-a * math.sqrt(0.5)), a
    if activation == "gelu_tanh":
        inner = float(_SCALE) * (a + float(_CUBIC) * a**3)
        decay = torch.exp(-2.0 * inner.abs())
        return torch.tanh(inner), 2.0 * decay / (1.0 + decay)
    return a, a


@device
def _tanh(x):
    e = expm1(min(abs(x) + abs(x), float32(60.0)))
    value = e / (e + float32(2.0))
    return value if x >= float32(0.0) else -value


@device
def _short_tanh_step(step, t, rest):
    return _moved_tanh(step, expm1(min(abs(step) + abs(step), float32(60.0))), t, rest)


@device
def _moved_tanh(step, e, t, rest):
    """u(1-t²)/(1+tu) with u = e/(e+2), e = exp(2|step|) - 1 and 1-|t| = ``rest``, above and below times e+2.

    Where t and u have opposite signs, 1+tu is the sum of their distances from ±1.
    """
    size, two = abs(t), float32(2.0)
    together = (e + two) + size * e
    apart = rest * (e + two) + (size + size)
    change = rest * (two - rest) * e / (together if t * step >= float32(0.0) else apart)
    return change if step >= float32(0.0) else -change


@device
def _tanh_step(step, x, t, rest):
    """From one saturated end to the other, both distances underflow; nothing cancels there."""
    return _tanh(x + step) - t if abs(step) > _FAR else _short_tanh_step(step, t, rest)


@device
def _count_far(steps, count, far):
    """How many steps are longer than ``far``; where none is, the loop needs no second function value."""
    found = 0
    for j in range(count):
        found += 1 if abs(steps[j]) > far else 0
    return found


@device
def _cubic_step(d, x):
    """The difference of what GELU's tanh form takes the tanh of."""
    return _SCALE * d * (float32(1.0) + _CUBIC * (float32(3.0) * x * (x + d) + d * d))


@device
def _count_far_cubics(steps, a, at, count):
    """The same as :func:`_count_far` of these differences."""
    found = 0
    for j in range(count):
        found += 1 if abs(_cubic_step(steps[j], a[at + uintp(j)])) > _FAR else 0
    return found


@device
def _sigmoid_step(step, s, complement):
    """s(1-s)u/(1+su) for a step up; a step down is the mirrored function's step up, so nothing cancels."""
    return _moved_sigmoid(step, expm1(min(abs(step), float32(80.0))), s, complement)


@device
def _moved_sigmoid(step, u, s, complement):
    """The same with u = exp(|step|) - 1 known."""
    up = step >= float32(0.0)
    change = s * complement * u / (float32(1.0) + (s if up else complement) * u)
    return change if up else -change


@routine
def _long_sigmoid_steps(steps, a, first, second, at, count, kind):
    """The same where steps may be so long that s has underflowed where they begin, and not where they end."""
    for j in range(count):
        step, s = steps[j], first[at + uintp(j)]
        change = _sigmoid_step(step, s, second[at + uintp(j)])
        start = a[at + uintp(j)] if step >= float32(0.0) else -a[at + uintp(j)]
        if abs(step) > _LONG_SIGMOID and start < -_LONG_SIGMOID:
            size = float32(1.0) / (float32(1.0) + exp(-(start + abs(step))))
            change = size if step >= float32(0.0) else -size
        steps[j] = change if kind == SIGMOID else step * (s + change) + a[at + uintp(j)] * change


@routine
def _short_sigmoid_steps(steps, a, first, second, at, count, kind):
    """Sigmoid and SiLU where no step is longer than ``SHORT``."""
    if kind == SIGMOID:
        for j in range(count):
            u = short_expm1(abs(steps[j]))
            steps[j] = _moved_sigmoid(steps[j], u, first[at + uintp(j)], second[at + uintp(j)])
    else:
        for j in range(count):
            s, u = first[at + uintp(j)], short_expm1(abs(steps[j]))
            change = _moved_sigmoid(steps[j], u, s, second[at + uintp(j)])
            steps[j] = steps[j] * (s + change) + a[at + uintp(j)] * change


@device
def _density(x):
    return _DENSITY * (float32(1.0) + expm1(float32(-0.5) * x * x))


@device
def _normal_step(a, step):
    near = _G0 * _density(a + step * _X0) + _G1 * _density(a + step * _X1) + _G2 * _density(a + step * _X2)
    return step * (near + _G3 * _density(a + step * _X3) + _G4 * _density(a + step * _X4))


@device
def _long_normal_step(a, step):
    root = math.sqrt(0.5)
    return float32(0.5 * (math.erf((float64(a) + float64(step)) * root) - math.erf(float64(a) * root)))


@device
def relu_steps(steps, a, at, count):
    """:func:`activate_simply` for ReLU."""
    zero = float32(0.0)
    for j in range(count):
        x = a[at + uintp(j)]
        steps[j] = max(steps[j], -x) if x > zero else max(x + steps[j], zero)


@device
def tanh_steps(steps, a, first, second, at, count):
    """:func:`activate_simply` for tanh: the longer the longest step, the more operations each takes."""
    if _count_far(steps, count, float32(0.5) * SHORT) == 0:
        for j in range(count):
            e = short_expm1(abs(steps[j]) + abs(steps[j]))
            steps[j] = _moved_tanh(steps[j], e, first[at + uintp(j)], second[at + uintp(j)])
    elif _count_far(steps, count, _FAR) == 0:
        for j in range(count):
            steps[j] = _short_tanh_step(steps[j], first[at + uintp(j)], second[at + uintp(j)])
    else:
        for j in range(count):
            steps[j] = _tanh_step(steps[j], a[at + uintp(j)], first[at + uintp(j)], second[at + uintp(j)])


@device
def sigmoid_steps(steps, a, first, second, at, count, kind):
    """:func:`activate_simply` for sigmoid and SiLU."""
    if _count_far(steps, count, _LONG_SIGMOID) > 0:
        _long_sigmoid_steps(steps, a, first, second, at, count, kind)
    elif _count_far(steps, count, SHORT) == 0:
        _short_sigmoid_steps(steps, a, first, second, at, count, kind)
    elif kind == SIGMOID:
        for j in range(count):
            steps[j] = _sigmoid_step(steps[j], first[at + uintp(j)], second[at + uintp(j)])
    else:
        for j in range(count):
            change = _sigmoid_step(steps[j], first[at + uintp(j)], second[at + uintp(j)])
            steps[j] = steps[j] * (first[at + uintp(j)] + change) + a[at + uintp(j)] * change


@device
def gelu_steps(steps, a, first, at, count):
    """The same for GELU, whose code is as long as that of all others together."""
    # Two loops: with erf, a call, in it none would be vectorised.
    if _count_far(steps, count, _LONG_STEP) == 0:
        for j in range(count):
            x = a[at + uintp(j)]
            change = _normal_step(x, steps[j])
            steps[j] = steps[j] * (first[at + uintp(j)] + change) + x * change
    else:
        for j in range(count):
            x = a[at + uintp(j)]
            change = _normal_step(x, steps[j])
            if abs(steps[j]) > _LONG_STEP:
                change = _long_normal_step(x, steps[j])
            steps[j] = steps[j] * (first[at + uintp(j)] + change) + x * change


@device
def gelu_tanh_steps(steps, a, first, second, at, count):
    """:func:`activate_simply` for GELU's tanh form."""
    one = float32(1.0)
    if _count_far_cubics(steps, a, at, count) == 0:
        for j in range(count):
            d, x, t = steps[j], a[at + uintp(j)], first[at + uintp(j)]
            change = _short_tanh_step(_cubic_step(d, x), t, second[at + uintp(j)])
            steps[j] = float32(0.5) * (d * (one + t) + (x + d) * change)
    else:
        for j in range(count):
            d, x, t = steps[j], a[at + uintp(j)], first[at + uintp(j)]
            base = _SCALE * x * (one + _CUBIC * x * x)
            change = _tanh_step(_cubic_step(d, x), base, t, second[at + uintp(j)])
            steps[j] = float32(0.5) * (d * (one + t) + (x + d) * change)


@device
def activate_simply(steps, a, first, second, at, count, kind):
    """Replaces pre-activation differences by the activation's, for all but GELU.

    steps: float32 [count or more]; a, first, second: float32, read from the unsigned offset ``at`` on. kind: the
    place of its name in :data:`NAMES`.
    """
    if kind == RELU:
        relu_steps(steps, a, at, count)
    elif kind == TANH:
        tanh_steps(steps, a, first, second, at, count)
    elif kind in (SIGMOID, SILU):
        sigmoid_steps(steps, a, first, second, at, count, kind)
    elif kind == GELU_TANH:
        gelu_tanh_steps(steps, a, first, second, at, count)
