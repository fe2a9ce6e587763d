"""Functions with kinks or jumps: exact on either side and across, whichever piece a + δ falls on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zo_triton.difference.registry import rule
from zo_triton.difference.rules.elementwise import (
    LONG,
    needed,
    of_two,
    operand,
    softplus_difference,
    spread,
    wide,
)

if TYPE_CHECKING:
    from zo_triton.difference.mode import DifferenceMode


@rule("clamp", "clip", chain=True)
def clamp(mode: DifferenceMode, base: Tensor, input: Tensor, min: Any = None, max: Any = None) -> Any:
    """Measured from the clamped value c, it is δ + (a − c) clamped to [min − c, max − c]; bounds may move."""
    delta = operand(mode, base, input)
    delta = (input - base) if delta is None else delta + (input - base)
    for bound, tighter in ((min, torch.maximum), (max, torch.minimum)):
        if bound is not None:
            moved = operand(mode, base, bound)
            limit = (bound + -base).expand_as(base)  # a sum: torch subtracts from no bool
            delta = tighter(delta, limit if moved is None else limit + moved)
    return spread(mode, base, delta)


@rule("clamp_min", chain=True)
def clamp_min(mode: DifferenceMode, base: Tensor, input: Tensor, min: Any) -> Any:
    """One-sided clamp."""
    return clamp(mode, base, input, min=min)


@rule("clamp_max", chain=True)
def clamp_max(mode: DifferenceMode, base: Tensor, input: Tensor, max: Any) -> Any:
    """One-sided clamp."""
    return clamp(mode, base, input, max=max)


@rule("hardtanh", chain=True)
def hardtanh(
    mode: DifferenceMode,
    base: Tensor,
    input: Tensor,
    min_val: float = -1.0,
    max_val: float = 1.0,
    inplace: bool = False,
) -> Any:
    """A clamp by another name."""
    return clamp(mode, base, input, min_val, max_val)


@rule("relu6", chain=True)
def relu6(mode: DifferenceMode, base: Tensor, input: Tensor, inplace: bool = False) -> Any:
    """A clamp by another name."""
    return clamp(mode, base, input, 0.0, 6.0)


def halves(mode: DifferenceMode, base: Tensor, input: Tensor) -> tuple[Tensor, Tensor]:
    """Differences of max(a, 0) and of min(a, 0); they add up to δ."""
    delta = needed(mode, base, input)
    a = wide(input)
    above = torch.where(a > 0, torch.maximum(delta, -a), (a + delta).clamp(min=0))
    return above, delta - above


@rule("leaky_relu", chain=True)
def leaky_relu(
    mode: DifferenceMode, base: Tensor, input: Tensor, negative_slope: float = 0.01, inplace: bool = False
) -> Tensor:
    """A slope of its own below zero."""
    above, below = halves(mode, base, input)
    return above + negative_slope * below


@rule("prelu", chain=True)
def prelu(mode: DifferenceMode, base: Tensor, input: Tensor, weight: Tensor) -> Any:
    """A trained slope below zero, one for all or one a channel: Δmax(a,0) + w·Δmin(a,0) + Δw·min(a+δ,0)."""
    channels = (-1, *[1] * (input.dim() - 2)) if weight.numel() > 1 else (1,) * min(1, input.dim())
    above: Tensor | None = None
    below = torch.zeros((), dtype=torch.float32, device=base.device)
    if mode.carries((input,)):
        above, below = halves(mode, base, input)
        above = above + weight.reshape(channels) * below
    change = operand(mode, base, weight)
    if change is not None:
        change = mode.align(change.reshape(mode.evaluations, *channels), base.dim())
        grown = change * (wide(input).clamp(max=0) + below)
        above = grown if above is None else above + grown
    return NotImplemented if above is None else above


def _exponential_below(name: str, scale: float = 1.0, scaled_input: bool = False) -> None:
    """x above zero and α·expm1(x) below, or α·expm1(x/α): Δmax(a,0) + α·e^min(a,0)·expm1(Δmin(a,0)).

    A long step ends where the exponential is something, however little it was before.
    """

    @rule(name, chain=True)
    def _(
        mode: DifferenceMode, base: Tensor, input: Tensor, *args: Any, inplace: bool = False, **kwargs: Any
    ) -> Tensor:
        alpha = 1.6732632423543772 if name == "selu" else kwargs.get("alpha", args[0] if args else 1.0)
        width = alpha if scaled_input else 1.0
        above, below = halves(mode, base, input)
        floor, step = wide(input).clamp(max=0) / width, below / width
        grown = torch.where(step > LONG, (floor + step).exp(), floor.exp() * torch.expm1(step))
        return scale * (above + alpha * grown)


_exponential_below("elu")
_exponential_below("celu", scaled_input=True)
_exponential_below("selu", scale=1.0507009873554805)


@rule("threshold", chain=True)
def threshold(
    mode: DifferenceMode, base: Tensor, input: Tensor, threshold: float, value: float, inplace: bool = False
) -> Tensor:
    """x above the threshold, else a constant."""
    return _two_pieces(mode, base, input, lambda x: x > threshold, +value)  # of a bool a number


@rule("hardshrink", chain=True)
def hardshrink(mode: DifferenceMode, base: Tensor, input: Tensor, lambd: float = 0.5) -> Tensor:
    """x where it is far from zero, else zero."""
    return _two_pieces(mode, base, input, lambda x: x.abs() > lambd, 0.0)


def _two_pieces(mode: DifferenceMode, base: Tensor, input: Tensor, kept: Any, value: float) -> Tensor:
    """δ where x is kept on both sides, 0 where on neither, the jump where it changes."""
    delta = needed(mode, base, input)
    a = wide(input)
    moved = a + delta
    now = kept(moved)
    return torch.where(kept(a), torch.where(now, delta, value - a), torch.where(now, moved - value, 0.0))


@rule("softshrink", chain=True)
def softshrink(mode: DifferenceMode, base: Tensor, input: Tensor, lambd: float = 0.5) -> Tensor:
    """x − clamp(x, −λ, λ)."""
    delta = needed(mode, base, input)
    return delta - _clamped(input, delta, -lambd, lambd)


@rule("hardsigmoid", chain=True)
def hardsigmoid(mode: DifferenceMode, base: Tensor, input: Tensor, inplace: bool = False) -> Tensor:
    """clamp(x, −3, 3)/6 + 1/2."""
    return _clamped(input, operand(mode, base, input), -3.0, 3.0) / 6


@rule("hardswish", chain=True)
def hardswish(mode: DifferenceMode, base: Tensor, input: Tensor, inplace: bool = False) -> Tensor:
    """The product of x and its hard sigmoid."""
    delta = needed(mode, base, input)
    a = wide(input)
    return delta * torch.nn.functional.hardsigmoid(a) + (a + delta) * _clamped(input, delta, -3.0, 3.0) / 6


def _clamped(input: Tensor, delta: Any, least: float, most: float) -> Tensor:
    value = wide(input).clamp(least, most)
    return torch.minimum(torch.maximum(delta + (input - value), least - value), most - value)


@rule("softsign", chain=True)
def softsign(mode: DifferenceMode, base: Tensor, input: Tensor) -> Tensor:
    """x/(1 + |x|): where the sign stays, δ/((1+|a|)(1+|a+δ|))."""
    delta = needed(mode, base, input)
    a = wide(input)
    moved = a + delta
    before, after = 1 + a.abs(), 1 + moved.abs()
    return torch.where(a * moved >= 0, delta / before / after, moved / after - a / before)


@rule("mish", chain=True)
def mish(mode: DifferenceMode, base: Tensor, input: Tensor, inplace: bool = False) -> Tensor:
    """x·tanh(softplus(x)): a product, of which the second factor moves by u(1−t²)/(1+tu)."""
    delta = needed(mode, base, input)
    a = wide(input)
    t = torch.tanh(torch.nn.functional.softplus(a))
    u = torch.tanh(softplus_difference(a, delta))
    moved = torch.tanh(torch.nn.functional.softplus(a + delta))
    change = torch.where(t * u > -0.5, u * (1 - t * t) / (1 + t * u), moved - t)
    return delta * t + (a + delta) * change


@rule("nan_to_num")
def nan_to_num(mode: DifferenceMode, base: Tensor, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """δ; a number that ceases to be finite is replaced too, and what was replaced before does not move."""
    delta = needed(mode, base, input)
    moved = wide(input) + delta
    replaced = torch.nan_to_num(moved.to(base.dtype), *args, **kwargs) - wide(base)
    return torch.where(input.isfinite(), torch.where(moved.isfinite(), delta, replaced), 0.0)


@rule("frac")
def frac(mode: DifferenceMode, base: Tensor, input: Tensor) -> Tensor:
    """δ less the whole numbers that it passes."""
    delta, a = needed(mode, base, input), input.double()
    return delta - ((a + delta).trunc() - a.trunc())


def _remainders(rounded: Any, *names: str) -> None:
    """a − b·q, q = a/b rounded: δ − b·Δq; subtracted for an infinite b, a moving one is left to the fallback."""
    function = getattr(torch, names[0])

    @rule(*names)
    def _(mode: DifferenceMode, base: Tensor, input: Any, other: Any) -> Any:
        delta = operand(mode, base, input)
        if delta is None or mode.carries((other,)):
            return NotImplemented
        a = input.double()
        b = other.double() if isinstance(other, Tensor) else torch.full_like(a, other)
        moved = a + delta
        passed = rounded(moved / b) - rounded(a / b)
        change = torch.where(b.isinf(), function(moved, b) - function(a, b), delta - b * passed)
        return spread(mode, base, change)


_remainders(torch.floor, "remainder", "__mod__")
_remainders(torch.trunc, "fmod")


def _whole_numbers(*names: str) -> None:
    """Functions with whole values: their differences are whole, so subtracting is exact."""
    for name in names:
        function = getattr(torch, name)

        @rule(name, chain=True)
        def _(
            mode: DifferenceMode, base: Tensor, input: Tensor, *args: Any, _f: Any = function, **kwargs: Any
        ) -> Any:
            if args or kwargs:
                return NotImplemented
            delta = needed(mode, base, input)
            return _f(wide(input) + delta) - base


_whole_numbers("floor", "ceil", "round", "trunc", "fix", "sign")


def larger(a: Tensor, da: Tensor, b: Tensor, db: Tensor) -> Tensor:
    """The larger one's difference, unless the other overtakes it: max(Δa, Δb − (a − b)) where a ≥ b."""
    gap = a - b
    return torch.where(gap >= 0, torch.maximum(da, db - gap), torch.maximum(db, da + gap))


def smaller(a: Tensor, da: Tensor, b: Tensor, db: Tensor) -> Tensor:
    """The smaller one's difference, unless the other falls below it."""
    return -larger(-a, -da, -b, -db)


@rule("maximum", "fmax", chain=True)
def maximum(mode: DifferenceMode, base: Tensor, input: Tensor, other: Tensor) -> Tensor:
    """The larger one's difference, unless the other overtakes it."""
    return of_two(mode, base, input, other, larger)


@rule("minimum", "fmin", chain=True)
def minimum(mode: DifferenceMode, base: Tensor, input: Tensor, other: Tensor) -> Tensor:
    """The smaller one's difference, unless the other falls below it."""
    return of_two(mode, base, input, other, smaller)
