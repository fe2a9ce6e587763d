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

from zo_triton.cpu.arrays import as_array
from zo_triton.cpu.compiling import device, routine, wide_vectors
from zo_triton.cpu.scalars import SHORT, exp, expm1, load, short_expm1, store
from zo_triton.cpu.sharing import shared
from zo_triton.cpu.threads import together

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
def activate_simply(steps, a, first, second, at, count, kind):
    """The same as :func:`activate` for all but GELU, whose code is as long as the others' together.

    steps: float32 [count or more]; a, first, second: float32, read from the unsigned offset ``at`` on.
    """
    one, zero = float32(1.0), float32(0.0)
    if kind == RELU:
        for j in range(count):
            x = a[at + uintp(j)]
            steps[j] = max(steps[j], -x) if x > zero else max(x + steps[j], zero)
    elif kind == TANH and _count_far(steps, count, float32(0.5) * SHORT) == 0:
        for j in range(count):
            e = short_expm1(abs(steps[j]) + abs(steps[j]))
            steps[j] = _moved_tanh(steps[j], e, first[at + uintp(j)], second[at + uintp(j)])
    elif kind == TANH and _count_far(steps, count, _FAR) == 0:
        for j in range(count):
            steps[j] = _short_tanh_step(steps[j], first[at + uintp(j)], second[at + uintp(j)])
    elif kind == TANH:
        for j in range(count):
            steps[j] = _tanh_step(steps[j], a[at + uintp(j)], first[at + uintp(j)], second[at + uintp(j)])
    elif kind in (SIGMOID, SILU) and _count_far(steps, count, _LONG_SIGMOID) > 0:
        _long_sigmoid_steps(steps, a, first, second, at, count, kind)
    elif kind in (SIGMOID, SILU) and _count_far(steps, count, SHORT) == 0:
        _short_sigmoid_steps(steps, a, first, second, at, count, kind)
    elif kind == SIGMOID:
        for j in range(count):
            steps[j] = _sigmoid_step(steps[j], first[at + uintp(j)], second[at + uintp(j)])
    elif kind == SILU:
        for j in range(count):
            change = _sigmoid_step(steps[j], first[at + uintp(j)], second[at + uintp(j)])
            steps[j] = steps[j] * (first[at + uintp(j)] + change) + a[at + uintp(j)] * change
    elif kind == GELU_TANH and _count_far_cubics(steps, a, at, count) == 0:
        for j in range(count):
            d, x, t = steps[j], a[at + uintp(j)], first[at + uintp(j)]
            change = _short_tanh_step(_cubic_step(d, x), t, second[at + uintp(j)])
            steps[j] = float32(0.5) * (d * (one + t) + (x + d) * change)
    elif kind == GELU_TANH:
        for j in range(count):
            d, x, t = steps[j], a[at + uintp(j)], first[at + uintp(j)]
            base = _SCALE * x * (one + _CUBIC * x * x)
            change = _tanh_step(_cubic_step(d, x), base, t, second[at + uintp(j)])
            steps[j] = float32(0.5) * (d * (one + t) + (x + d) * change)


@device
def activate(steps, a, first, second, at, count, kind):
    """Replaces pre-activation differences by the activation's.

    steps: float32 [count or more]; a, first, second: float32, read from the unsigned offset ``at`` on.
    """
    if kind == GELU:
        long = 0
        for j in range(count):
            long += 1 if abs(steps[j]) > _LONG_STEP else 0
        # Two loops: with erf, a call, in it none would be vectorised.
        if long == 0:
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
    else:
        activate_simply(steps, a, first, second, at, count, kind)


@shared
def _activation_kernel(out, difference, a, first, second, kind, start, stop):
    """Evaluations start … stop - 1 of out, difference [P, M]; a, first, second float32 [M]."""
    wide_vectors()
    n = a.shape[0]
    steps = np.empty(n, np.float32)
    for p in range(start, stop):
        source, target = difference[p], out[p]
        for j in range(n):
            steps[j] = load(source[j])
        activate(steps, a, first, second, uintp(0), n, kind)
        for j in range(n):
            store(target, j, steps[j])


def activation_difference(out: Tensor, base: Tensor, difference: Tensor, activation: str) -> None:
    """``out[p] = f(base + difference[p]) - f(base)``; same contract as the reference."""
    evaluations = difference.shape[0]
    base = base.float()
    first, second = base_terms(base, activation)
    source = difference
    if base.dim() == 2 and source.stride(1) == 1 and source.stride(2) == base.shape[0]:  # [P, F, N] in memory
        source, base, first, second = (t.transpose(-2, -1) for t in (source, base, first, second))
    terms = [term.contiguous().view(-1).numpy() for term in (base, first, second)]
    moved = as_array(source.contiguous().view(evaluations, base.numel()))
    result = torch.empty(source.shape, dtype=out.dtype, device="cpu")
    target, kind = as_array(result.view(evaluations, -1)), NAMES.index(activation)
    together(_activation_kernel, (target, moved, *terms, kind), evaluations)
    out.copy_(result if source is difference else result.transpose(-2, -1))


@routine
def activate_rows(out, first, a, first_term, second_term, kind):
    """Pre-activation differences [n, rows] become the activation's; the base's terms begin at row ``first``."""
    samples, rows = out.shape
    steps = np.empty(rows, np.float32)
    for j in range(samples):
        line = out[j]
        for row in range(rows):
            steps[row] = load(line[row])
        activate(steps, a[first + j], first_term[first + j], second_term[first + j], np.uintp(0), rows, kind)
        for row in range(rows):
            store(line, row, steps[row])
