"""Elementwise functions: f(a+δ) − f(a) by a formula that doesn't subtract two nearly equal values.

Formulas run in float32 (or the base's dtype if that is wider) by type promotion with the base; the mode
rounds the result to the compute dtype.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zo_triton.difference.errors import UncoveredError
from zo_triton.difference.registry import rule

if TYPE_CHECKING:
    from zo_triton.difference.mode import DifferenceMode


def operand(mode: DifferenceMode, base: Tensor, value: Any) -> Tensor | None:
    """An operand's difference, its axes aligned with a result that it broadcasts to; in float32 or wider."""
    delta = mode.difference(value)
    if delta is None:
        return None
    return mode.align(delta if delta.dtype != torch.bfloat16 else delta.float(), base.dim())


def needed(mode: DifferenceMode, base: Tensor, value: Any) -> Tensor:
    """The same of the operand that a rule is about; see ``DifferenceMode.needed``."""
    delta = operand(mode, base, value)
    if delta is None:
        raise UncoveredError
    return delta


def _unary(formula: Callable[[Any, Any], Any], *names: str) -> None:
    """Registers a function of one tensor; ``formula(a, δ)`` is its difference."""

    @rule(*names, chain=True)
    def _(mode: DifferenceMode, base: Tensor, input: Tensor) -> Tensor:
        return formula(wide(input), needed(mode, base, input))


LONG = 20.0
"""Of an exponent's step: what was there before is no part of the result any more, and the factor may overflow."""


def wide(a: Tensor) -> Tensor:
    """The tensor in float32, or in its own dtype if that is float64."""
    return a if a.dtype in (torch.float32, torch.float64) else a.float()


def root_difference(a: Any, d: Any) -> Any:
    """δ/(√a + √(a+δ)); zero from zero to zero."""
    return d / ((a + d).sqrt() + a.sqrt()).clamp_min(torch.finfo(a.dtype).tiny)


def _reciprocal(a: Any, d: Any) -> Any:
    return -d / a / (a + d)  # one after the other: the product may leave float32's range


def _rsqrt(a: Any, d: Any) -> Any:
    root, moved = a.sqrt(), (a + d).sqrt()
    return -d / (root * moved) / (root + moved)


def _log(a: Any, d: Any) -> Any:
    return torch.where(a < 0, a.log(), _log_ratio(a, d))


def _log_ratio(a: Any, d: Any) -> Any:
    """ln((a+δ)/a) = log1p(δ/a); of the quotient itself where so little of a is left that its sum is exact."""
    quotient = (a + d) / a
    return torch.where(quotient < 0.5, quotient.log(), torch.log1p(d / a))


def _exp(a: Any, d: Any) -> Any:
    return grown(a.exp(), d, (a + d).exp())


def grown(value: Any, growth: Any, moved: Any) -> Any:
    """v·expm1(g), the difference of what grows by the factor eᵍ; v' − v where that factor may overflow."""
    return torch.where(growth > LONG, moved - value, value * torch.expm1(growth))


def _are_of_one_sign(a: Any, b: Any) -> Any:
    """Whether both are positive or both negative; their product may vanish."""
    return ((a > 0) & (b > 0)) | ((a < 0) & (b < 0))


def _square(a: Any, d: Any) -> Any:
    return d * (2 * a + d)


def absolute_difference(a: Any, d: Any) -> Any:
    """δ with a's sign, unless a + δ changes sign."""
    along = torch.where(a < 0, -d, d)
    return torch.maximum(along, -2 * a.abs() - along)


def softplus_difference(a: Any, d: Any) -> Any:
    """Δ log(1 + eᵃ) = log1p(σ(a)·expm1(δ)), or δ plus its mirror image's; subtracted where both are large."""
    up, down = _odds(a, d), _odds(-a, -d)
    direct = F.softplus(a + d) - F.softplus(a)
    mirrored = torch.where(_is_moderate(down), d + torch.log1p(down), direct)
    return torch.where(_is_moderate(up), torch.log1p(up), mirrored)


def _odds(a: Any, d: Any) -> Any:
    return torch.where(d > 20, (F.logsigmoid(a) + d).exp(), torch.sigmoid(a) * torch.expm1(d))


def _is_moderate(odds: Any) -> Any:
    return (odds > -0.5) & (odds < 1)


_unary(lambda a, d: -d, "neg", "negative")
_unary(lambda a, d: d * (math.pi / 180), "deg2rad")
_unary(lambda a, d: d * (180 / math.pi), "rad2deg")
_unary(_exp, "exp", "expm1")
_unary(lambda a, d: grown(a.exp2(), d * math.log(2.0), (a + d).exp2()), "exp2")
_unary(_log, "log")
_unary(lambda a, d: _log(a, d) / math.log(2.0), "log2")
_unary(lambda a, d: _log(a, d) / math.log(10.0), "log10")
_unary(root_difference, "sqrt")
_unary(_rsqrt, "rsqrt")
_unary(_reciprocal, "reciprocal")
_unary(_square, "square")
_unary(absolute_difference, "abs", "absolute", "__abs__")
_unary(lambda a, d: 2 * torch.sin(d / 2) * torch.cos(a + d / 2), "sin")
_unary(lambda a, d: -2 * torch.sin(d / 2) * torch.sin(a + d / 2), "cos")
_unary(lambda a, d: 2 * torch.cosh(a + d / 2) * torch.sinh(d / 2), "sinh")
_unary(lambda a, d: 2 * torch.sinh(a + d / 2) * torch.sinh(d / 2), "cosh")
_unary(lambda a, d: -softplus_difference(-a, -d), "logsigmoid")


@rule("add", "__add__", "__radd__", chain=True)
def add(mode: DifferenceMode, base: Tensor, input: Any, other: Any, *, alpha: Any = 1) -> Any:
    """Δ(a + αb) = Δa + αΔb."""
    da, db = operand(mode, base, input), operand(mode, base, other)
    if db is not None and alpha != 1:
        db = db * alpha
    result = db if da is None else da if db is None else da + db
    if result is None:
        return NotImplemented
    return (
        result if result.dim() > base.dim() and result.shape[1:] == base.shape else spread(mode, base, result)
    )


@rule("sub", "subtract", "__sub__", chain=True)
def sub(mode: DifferenceMode, base: Tensor, input: Any, other: Any, *, alpha: Any = 1) -> Any:
    """Δ(a − αb) = Δa − αΔb."""
    return add(mode, base, input, other, alpha=-alpha)


@rule("__rsub__", "rsub", chain=True)
def rsub(mode: DifferenceMode, base: Tensor, input: Any, other: Any, *, alpha: Any = 1) -> Any:
    """Δ(b − αa)."""
    return add(mode, base, other, input, alpha=-alpha)


@rule("mul", "multiply", "__mul__", "__rmul__", chain=True)
def mul(mode: DifferenceMode, base: Tensor, input: Any, other: Any) -> Tensor:
    """Δ(ab) = Δa·b + (a + Δa)·Δb."""
    da, db = operand(mode, base, input), operand(mode, base, other)
    if db is None:
        return spread(mode, base, needed(mode, base, input) * other)
    if da is None:
        return spread(mode, base, db * input)
    return spread(mode, base, da * other + (input + da) * db)


@rule("div", "divide", "true_divide", "__truediv__", "__div__", chain=True)
def div(
    mode: DifferenceMode, base: Tensor, input: Any, other: Any, *, rounding_mode: str | None = None
) -> Any:
    """Δ(a/b) = (Δa − (a/b)·Δb)/(b + Δb)."""
    if rounding_mode is not None:
        return NotImplemented
    da, db = operand(mode, base, input), operand(mode, base, other)
    if db is None:
        return spread(mode, base, needed(mode, base, input) / other)
    above = -db * base if da is None else da - db * base
    return spread(mode, base, above / (other + db))


@rule("__rtruediv__", "__rdiv__", chain=True)
def rdiv(mode: DifferenceMode, base: Tensor, input: Any, other: Any) -> Any:
    """Δ(b/a)."""
    return div(mode, base, other, input)


@rule("pow", "__pow__", chain=True)
def power(mode: DifferenceMode, base: Tensor, input: Any, exponent: Any) -> Any:
    """A sum of products for small whole n; aⁿ·expm1(n·ln((a+δ)/a)) where a and a + δ are of one sign."""
    delta = operand(mode, base, input)
    if isinstance(exponent, Tensor):
        return _moved_exponent(mode, base, input, delta, exponent)
    if delta is None:
        return NotImplemented
    a = wide(input)
    whole = float(exponent).is_integer() and 1 <= exponent <= 8
    if whole:
        return _whole_power(a, delta, int(exponent))
    if exponent == 0.5:
        return root_difference(a, delta)
    if exponent == -0.5:
        return _rsqrt(a, delta)
    if exponent == -1:
        return _reciprocal(a, delta)
    moved = a + delta
    now, then = a**exponent, moved**exponent
    exact = grown(now, exponent * _log_ratio(a, delta), then)
    return torch.where(_are_of_one_sign(a, moved), exact, then - now)


def _whole_power(a: Tensor, delta: Tensor, exponent: int) -> Tensor:
    """(a+δ)ⁿ − aⁿ = δ·Σ_i (a+δ)^i·a^(n−1−i), by Horner's rule."""
    moved, total, factor = a + delta, torch.ones_like(delta), torch.ones_like(a)
    for _ in range(exponent - 1):
        factor = factor * a
        total = total * moved + factor
    return delta * total


def _moved_exponent(
    mode: DifferenceMode, base: Tensor, input: Any, delta: Tensor | None, exponent: Tensor
) -> Any:
    """Δ(aᵉ) = aᵉ·expm1(e·ln((a+δ)/a) + Δe·ln(a+δ)) where both are positive, else subtracted.

    Or both negative and the exponent stays: moved, it makes NaN of all but whole numbers.
    """
    if not isinstance(input, Tensor):
        if input <= 0:
            return NotImplemented
        n, step = wide(exponent), needed(mode, base, exponent)
        return grown(input**n, step * math.log(input), input ** (n + step))
    zero = torch.zeros((), dtype=torch.float32, device=base.device)
    change = operand(mode, base, exponent)
    a, n = wide(input), wide(exponent)
    moved, growth = (a, zero) if delta is None else (a + delta, n * _log_ratio(a, delta))
    now, smooth = a**n, _are_of_one_sign(a, moved)
    if change is not None:
        smooth, growth, n = smooth & (moved > 0), growth + change * moved.log(), n + change
    then = moved**n
    return spread(mode, base, torch.where(smooth, grown(now, growth, then), then - now))


@rule("__rpow__", chain=True)
def rpower(mode: DifferenceMode, base: Tensor, input: Any, other: Any) -> Any:
    """Δ(bᵃ)."""
    return power(mode, base, other, input)


@rule("softplus", chain=True)
def softplus(
    mode: DifferenceMode, base: Tensor, input: Tensor, beta: float = 1.0, threshold: float = 20.0
) -> Any:
    """log1p(σ(βa)·expm1(βδ))/β; δ past the threshold, and a subtraction across it, where the function jumps."""
    a, delta = beta * wide(input), beta * needed(mode, base, input)
    below, stays_below = a <= threshold, a + delta <= threshold
    jump = torch.where(stays_below, F.softplus(a + delta, 1.0, threshold) - a, a + delta - F.softplus(a))
    same = torch.where(below, softplus_difference(a, delta), delta)
    return torch.where(below == stays_below, same, jump) / beta


@rule("where", owner=torch, chain=True)
def where(mode: DifferenceMode, base: Any, condition: Tensor, input: Any = None, other: Any = None) -> Any:
    """The chosen one's difference; the condition is the base's own."""
    if isinstance(base, (list, tuple)):  # where(condition) alone: positions
        return None
    da, db = operand(mode, base, input), operand(mode, base, other)
    zero = torch.zeros((), dtype=torch.float32, device=base.device)
    return spread(mode, base, torch.where(condition, zero if da is None else da, zero if db is None else db))


@rule("where", owner=Tensor, chain=True)
def where_method(mode: DifferenceMode, base: Tensor, input: Any, condition: Tensor, other: Any) -> Any:
    """``input.where(condition, other)``."""
    return where(mode, base, condition, input, other)


@rule("masked_fill", chain=True)
def masked_fill(mode: DifferenceMode, base: Tensor, input: Tensor, mask: Tensor, value: Any) -> Any:
    """The filling's difference where the mask is set."""
    return where(mode, base, mask, value, input)


@rule("lerp", chain=True)
def lerp(mode: DifferenceMode, base: Tensor, input: Tensor, end: Tensor, weight: Any) -> Any:
    """(1 − w)·Δa + w·Δb + Δw·(b' − a')."""
    zero = torch.zeros((), dtype=torch.float32, device=base.device)
    da, db, dw = (operand(mode, base, each) for each in (input, end, weight))
    da, db = zero if da is None else da, zero if db is None else db
    result = da * (1 - weight) + db * weight
    if dw is not None:
        result = result + dw * ((end - input) + (db - da))
    return spread(mode, base, result)


def of_two(
    mode: DifferenceMode, base: Tensor, input: Tensor, other: Tensor, pair: Callable[..., Tensor]
) -> Tensor:
    """``pair(a, Δa, b, Δb)`` of two operands, of which one may carry nothing."""
    zero = torch.zeros((1,) * (base.dim() + 1), dtype=torch.float32, device=base.device)
    da, db = (operand(mode, base, each) for each in (input, other))
    da, db = zero if da is None else da, zero if db is None else db
    return spread(mode, base, pair(wide(input), da, wide(other), db))


def spread(mode: DifferenceMode, base: Tensor, difference: Tensor) -> Tensor:
    """Repeats a difference along the axes in which its operand was broadcast."""
    if difference.shape[1:] == base.shape and difference.shape[0] == mode.evaluations:
        return difference
    return mode.align(difference, base.dim()).expand(mode.evaluations, *base.shape)
