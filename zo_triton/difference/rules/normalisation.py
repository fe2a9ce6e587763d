"""Normalisations: the exact difference of (x − μ)/√(v + c) when mean and variance move with x.

With c = x − μ and d = δ − mean(δ), the variance changes by mean(d(2c + d)), and of two inverse roots
r = 1/√(v+c) and r' the difference is −Δv·(r·r')²/(r + r'): nothing is subtracted that nearly cancels. A trained
scale and shift follow as a product and a sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zo_triton.difference import fallback
from zo_triton.difference.memories import address_of
from zo_triton.difference.registry import handler_of, register, rule
from zo_triton.difference.rules.elementwise import wide
from zo_triton.difference.writes import make_ready

if TYPE_CHECKING:
    from collections.abc import Callable

    from zo_triton.difference.mode import DifferenceMode


def normalised(
    x: Tensor, delta: Tensor | None, axes: tuple[int, ...], stabiliser: float, centre: bool = True
) -> tuple[Tensor, Tensor | None]:
    """x normalised over ``axes`` (negative), and its difference.

    Args:
        x: Base input.
        delta: [P, *x.shape], or None.
        axes: The axes whose elements share statistics.
        stabiliser: Added to the variance.
        centre: Whether the mean is taken off; if not, the mean square stands for the variance (RMS norm).
    """
    centred = x - x.mean(axes, keepdim=True) if centre else x
    inverse = torch.rsqrt(centred.square().mean(axes, keepdim=True) + stabiliser)
    y = centred * inverse
    if delta is None:
        return y, None
    change = delta - delta.mean(axes, keepdim=True) if centre else delta
    spread = ((2 * centred + change) * change).mean(axes, keepdim=True)
    moved = torch.rsqrt(1 / inverse.square() + spread)
    slope = -spread * (inverse * moved).square() / (inverse + moved)
    return y, (change * moved).add_(centred * slope)


def scaled(
    mode: DifferenceMode, base: Tensor, y: Tensor, change: Tensor | None, weight: Any, bias: Any, axes: int
) -> Any:
    """Difference of ``y·weight + bias``, which stand ``axes`` axes before the last."""

    def placed(tensor: Tensor) -> Tensor:
        tensor = tensor.reshape(*tensor.shape, *[1] * axes)
        return tensor

    grown, shift = mode.difference(weight), mode.difference(bias)
    result = change
    if change is not None and weight is not None:
        result = change * placed(weight)
    if grown is not None:
        moved = y if change is None else y + change
        product = moved * mode.align(placed(grown), y.dim())
        result = product if result is None else result.add_(product)
    if shift is not None:
        shift = mode.align(placed(shift), y.dim())
        result = shift if result is None else result + shift
    return NotImplemented if result is None else result.expand(mode.evaluations, *base.shape)


def _delta(mode: DifferenceMode, input: Tensor) -> Tensor | None:
    delta = mode.difference(input)
    return None if delta is None else delta.to(torch.promote_types(input.dtype, torch.float32))


@rule("layer_norm", chain=True)
def layer_norm(
    mode: DifferenceMode,
    base: Tensor,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Any:
    """Statistics over the last axes of each sample."""
    axes = range(-len(normalized_shape), 0)
    y, change = normalised(wide(input), _delta(mode, input), tuple(axes), eps)
    return scaled(mode, base, y, change, weight, bias, 0)


@rule("rms_norm", chain=True)
def rms_norm(
    mode: DifferenceMode,
    base: Tensor,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Any:
    """The mean square in place of the variance; without ``eps``, the base dtype's own."""
    axes = range(-len(normalized_shape), 0)
    eps = torch.finfo(input.dtype).eps if eps is None else eps
    y, change = normalised(wide(input), _delta(mode, input), tuple(axes), eps, centre=False)
    return scaled(mode, base, y, change, weight, None, 0)


@rule("group_norm")
def group_norm(
    mode: DifferenceMode,
    base: Tensor,
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Any:
    """Statistics over a group of channels of each sample."""
    if base.numel() == 0:
        mode.ignore(input, weight, bias)
        return torch.zeros(mode.evaluations, *base.shape, dtype=torch.float32, device=base.device)
    delta = _delta(mode, input)
    rows = (input.shape[0], num_groups, -1)
    delta = None if delta is None else delta.reshape(mode.evaluations, *rows)
    y, change = normalised(wide(input).reshape(rows), delta, (-1,), eps)
    change = None if change is None else change.reshape(mode.evaluations, *input.shape)
    return scaled(mode, base, y.reshape(input.shape), change, weight, bias, input.dim() - 2)


def instance_norm(
    mode: DifferenceMode,
    base: Tensor,
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    """Statistics of each channel of each sample, or the running ones."""
    axes = tuple(range(2 - input.dim(), 0)) if use_input_stats else None
    return _by_channel(mode, base, input, axes, (running_mean, running_var), weight, bias, eps)


def batch_norm(
    mode: DifferenceMode,
    base: Tensor,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    """Statistics of each channel over the batch, each evaluation's own, or the running ones."""
    axes = (-input.dim(), *range(2 - input.dim(), 0)) if training else None
    return _by_channel(mode, base, input, axes, (running_mean, running_var), weight, bias, eps)


def _by_channel(
    mode: DifferenceMode,
    base: Tensor,
    input: Tensor,
    axes: tuple[int, ...] | None,
    running: tuple[Tensor | None, Tensor | None],
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
) -> Any:
    """Statistics over the axes, counted from the end; where they are None the running ones: affine in x."""
    delta, trailing = _delta(mode, input), input.dim() - 2
    if axes is not None:
        y, change = normalised(wide(input), delta, axes, eps)
        return scaled(mode, base, y, change, weight, bias, trailing)
    mean, variance = running
    if mean is None or variance is None or mode.carries(running):
        return NotImplemented
    mean, inverse = (each.reshape(-1, *[1] * trailing) for each in (mean, (variance + eps).rsqrt()))
    y = (wide(input) - mean) * inverse
    return scaled(mode, base, y, None if delta is None else delta * inverse, weight, bias, trailing)


_AS_THE_BASE = (
    "a norm in evaluation reads running statistics that the same closure has updated in training: they are the "
    "base's for all directions and count as constant. If the loss shall depend on the update, wrap the closure in "
    "zo.BlackBox to evaluate it direction by direction."
)


def _remembering(function: Callable, compute: Callable, input_statistics: str, default: bool) -> None:
    """Registers a rule that lets the mode remember the running statistics before the base updates them."""
    measure_and_apply = handler_of(compute)

    def handle(mode: DifferenceMode, function: Callable, args: tuple, kwargs: dict) -> Any:
        places = ((1, "running_mean"), (2, "running_var"))
        running = [kwargs.get(name, args[place] if len(args) > place else None) for place, name in places]
        addresses = {address_of(each) for each in running if each is not None}
        if kwargs.get(input_statistics, args[5] if len(args) > 5 else default):
            make_ready(mode, running)
            if mode.carries((args[0] if args else kwargs["input"],)):
                mode.updated |= addresses
        elif mode.updated & addresses:
            fallback.warn_once(handle, _AS_THE_BASE)
        return measure_and_apply(mode, function, args, kwargs)

    register([function], handle)


_remembering(F.batch_norm, batch_norm, "training", False)
_remembering(F.instance_norm, instance_norm, "use_input_stats", True)
