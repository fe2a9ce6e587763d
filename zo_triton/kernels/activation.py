"""Exact differences f(a + δ) - f(a) of the activations, never by subtracting two function values.

With b = a + δ:

* relu: max(δ, -a) where a > 0, else max(b, 0).
* tanh: u(1-t²)/(1+tu) with t = tanh a, u = tanh δ, in the equivalent form sinh δ/(cosh a·cosh b), whose
  exponentials never overflow and whose denominator never cancels.
* sigmoid: half of tanh's difference at half the arguments.
* silu: δ·σ(b) + a·Δσ.
* gelu: δ·Φ(b) + a·(Φ(b) - Φ(a)); for |δ| <= ½ Φ's difference is the density's series about the middle (its first
  term left out is below 4e-9 of δ), else that of two values.
* gelu_tanh: (δ·(1 + tanh h(b)) + a·Δtanh)/2, with the inner cubic's difference in closed form.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from zo_triton.kernels.launch import TRITON_DTYPES, blocks, launch
from zo_triton.kernels.numeric import divided, expm1, narrow, power_of_two

ACTIVATIONS = ("none", "relu", "tanh", "sigmoid", "gelu", "gelu_tanh", "silu")

CONFIG = {"BLOCK": 1024, "num_warps": 4}

_DENSITY = tl.constexpr(0.3989422804014327)
_HALF_LOG2_E = tl.constexpr(0.7213475204444817)
_CUBIC = tl.constexpr(0.044715)
_SQRT_2_OVER_PI = tl.constexpr(0.7978845608028654)


@triton.jit
def _sigmoid(x):
    small = tl.exp(-tl.abs(x))
    return tl.where(x >= 0, 1.0, small) / (1.0 + small)


@triton.jit
def _tanh_change(a, d, b):
    """The difference tanh b - tanh a where b = a + d.

    |sinh d|/(cosh a·cosh b) = 2(1 - e^-2|d|)·e^(|d|-|a|-|b|)/((1 + e^-2|a|)(1 + e^-2|b|)), and the exponent
    |d| - |a| - |b| is -2·min(|a|, |b|) where a and b have one sign, else 0.
    """
    decay_a, decay_b = tl.exp(-2.0 * tl.abs(a)), tl.exp(-2.0 * tl.abs(b))
    reach = tl.where((a > 0) == (b > 0), tl.maximum(decay_a, decay_b), 1.0)
    size = -2.0 * expm1(-2.0 * tl.abs(d)) * reach / ((1.0 + decay_a) * (1.0 + decay_b))
    return tl.where(d < 0, -size, size)


@triton.jit
def _normal(x):
    """Φ(x): Φ(-|x|) is 2 to the power of minus a polynomial, whose error is below 2.1e-8 times min(1, 1/|x|)."""
    t = tl.abs(x)
    power = tl.fma(t, 2.27585429e-6, -3.29677860e-5)
    power = tl.fma(power, t, 1.57277595e-4)
    power = tl.fma(power, t, 2.02482115e-4)
    power = tl.fma(power, t, -7.14278640e-3)
    power = tl.fma(power, t, 5.25464416e-2)
    power = tl.fma(power, t, 0.459193051)
    power = tl.fma(power, t, 1.15110695)
    power = tl.fma(power, t, 0.99999994)
    tail = power_of_two(-power)
    return tl.where(x > 0, 1.0 - tail, tail)


@triton.jit
def _normal_change(a, d):
    """Φ(a + d) - Φ(a) for |d| <= ½: d·φ(m)·Σ He₂ₖ(m)·(d/2)²ᵏ/(2k + 1)!, m = a + d/2, up to k = 3."""
    half = 0.5 * d
    middle = a + half
    # The density of m² = 200 is 0, and higher powers must not be infinite beside it.
    x, y = tl.minimum(middle * middle, 200.0), half * half
    term1 = tl.fma(x, 1.0 / 6.0, -1.0 / 6.0)
    term2 = tl.fma(tl.fma(x, 1.0 / 120.0, -0.05), x, 0.025)
    term3 = tl.fma(tl.fma(tl.fma(x, 1.0 / 5040.0, -1.0 / 336.0), x, 1.0 / 112.0), x, -1.0 / 336.0)
    series = tl.fma(tl.fma(tl.fma(term3, y, term2), y, term1), y, 1.0)
    return d * (_DENSITY * power_of_two(x * -_HALF_LOG2_E)) * series


@triton.jit
def _gelu_change(a, d, b):
    """bΦ(b) - aΦ(a) where b = a + d."""
    after = _normal(b)
    change = tl.where(tl.abs(d) <= 0.5, _normal_change(a, d), after - _normal(a))
    return tl.fma(a, change, d * after)


@triton.jit
def activation_change(a, d, ACTIVATION: tl.constexpr):
    """f(a + d) - f(a), float32."""
    if ACTIVATION == "none":
        return d
    b = a + d
    if ACTIVATION == "relu":
        return tl.where(a > 0, tl.maximum(d, -a), tl.maximum(b, 0.0))
    elif ACTIVATION == "tanh":
        return _tanh_change(a, d, b)
    elif ACTIVATION == "sigmoid":
        return 0.5 * _tanh_change(0.5 * a, 0.5 * d, 0.5 * b)
    elif ACTIVATION == "silu":
        return d * _sigmoid(b) + a * 0.5 * _tanh_change(0.5 * a, 0.5 * d, 0.5 * b)
    elif ACTIVATION == "gelu":
        return _gelu_change(a, d, b)
    else:
        tl.static_assert(ACTIVATION == "gelu_tanh", "unknown activation")
        # Tensors first: Triton 3.7's interpreter takes a constant times a tensor for a constant.
        inner_a = a * _SQRT_2_OVER_PI * tl.fma(a * _CUBIC, a, 1.0)
        inner_b = b * _SQRT_2_OVER_PI * tl.fma(b * _CUBIC, b, 1.0)
        inner_d = d * _SQRT_2_OVER_PI * tl.fma(3.0 * a * b + d * d, _CUBIC, 1.0)
        return d * _sigmoid(2.0 * inner_b) + 0.5 * a * _tanh_change(inner_a, inner_d, inner_b)


@triton.jit
def _activation_kernel(
    out_ptr,
    base_ptr,
    difference_ptr,
    rows,
    cols,
    tiles,
    stride_op,
    stride_or,
    stride_oc,
    stride_br,
    stride_bc,
    stride_dp,
    stride_dr,
    stride_dc,
    ACTIVATION: tl.constexpr,
    OUT_DTYPE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """out[p] = f(base + difference[p]) - f(base); base [rows, cols], program = evaluation·tiles + tile."""
    pid = tl.program_id(0)
    p = (pid // tiles).to(tl.int64)
    row, col = divided((pid % tiles).to(tl.int64) * BLOCK, tl.arange(0, BLOCK), cols)
    mask = row < rows
    a = tl.load(base_ptr + row * stride_br + col * stride_bc, mask=mask, other=0.0).to(tl.float32)
    offsets = p * stride_dp + row * stride_dr + col * stride_dc
    d = tl.load(difference_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
    change = narrow(activation_change(a, d, ACTIVATION), OUT_DTYPE)
    tl.store(out_ptr + p * stride_op + row * stride_or + col * stride_oc, change, mask=mask)


def check_activation(activation: str) -> None:
    """Refuses a name without a rule.

    Raises:
        ValueError: The activation is unknown.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"unknown activation {activation!r}; choose one of {ACTIVATIONS}.")


def activation_difference(out: Tensor, base: Tensor, difference: Tensor, activation: str) -> None:
    """``out[p] = f(base + difference[p]) - f(base)``, computed in float32.

    Args:
        out: [P, *base.shape], float16, bfloat16, float32 or float64; it may be ``difference`` itself.
        base: Any shape.
        difference: [P, *base.shape].
        activation: One of :data:`ACTIVATIONS`.

    Raises:
        ValueError: The activation is unknown.
    """
    check_activation(activation)
    cols = base.shape[-1] if base.ndim else 1
    base_matrix = base.reshape(-1, cols) if base.numel() else base.new_empty(0, 1)
    rows = base_matrix.shape[0]
    stacked = _stack(difference, rows, cols)
    result = _stack(out, rows, cols)
    tiles = blocks(rows * cols, CONFIG["BLOCK"])
    launch(
        _activation_kernel,
        tiles * out.shape[0],
        out,
        out_ptr=result,
        base_ptr=base_matrix,
        difference_ptr=stacked,
        rows=rows,
        cols=cols,
        tiles=tiles,
        stride_op=result.stride(0),
        stride_or=result.stride(1),
        stride_oc=result.stride(2),
        stride_br=base_matrix.stride(0),
        stride_bc=base_matrix.stride(1),
        stride_dp=stacked.stride(0),
        stride_dr=stacked.stride(1),
        stride_dc=stacked.stride(2),
        ACTIVATION=activation,
        OUT_DTYPE=TRITON_DTYPES[out.dtype],
        **CONFIG,
    )
    if result.data_ptr() != out.data_ptr():
        out.copy_(result.view(out.shape))


def _stack(tensor: Tensor, rows: int, cols: int) -> Tensor:
    """[P, *shape] → [P, rows, cols]: a view where the strides allow, else a copy."""
    return tensor.reshape(tensor.shape[0], rows, cols)


__all__ = ["ACTIVATIONS", "activation_change", "activation_difference", "check_activation"]
