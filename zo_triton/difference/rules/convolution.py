"""Convolutions and transposed convolutions: Δ = δ∗W + (a+δ)∗U, plus the bias's own difference.

The first term runs all evaluations as one batch. In the second every evaluation has its own kernels U: without
a δ they are so many more output channels of one convolution of a; with one, the evaluations go one by one,
each through torch's ordinary convolution while its input is in the cache. A two-dimensional convolution with a
trained weight needs no U at all: the fused op draws it where it multiplies, when the activation behind it is known.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zo_triton._memory import check_rest
from zo_triton.difference.entries import Entry
from zo_triton.difference.errors import UncoveredError
from zo_triton.difference.memories import kept
from zo_triton.difference.pending_layers import PendingConvolution
from zo_triton.difference.registry import rule

if TYPE_CHECKING:
    from zo_triton.difference.mode import DifferenceMode


def perturbed_convolution(
    function: Callable[..., Tensor],
    input: Tensor,
    delta: Tensor | None,
    weight: Tensor,
    change: Tensor | None,
    options: dict[str, Any],
    transposed: bool,
) -> Tensor:
    """The difference of a convolution without its bias; ``delta`` or ``change`` is given.

    Args:
        function: ``F.conv2d`` or one of its kind.
        input: a, [N, C, *spatial].
        delta: δ, [P, N, C, *spatial], or None.
        weight: W as ``function`` takes it.
        change: U, [P, *weight.shape], or None.
        options: stride, padding, dilation, groups …, by name.
        transposed: Whether ``function`` is a transposed convolution, whose weight has [in, out/groups, …].

    Returns:
        [P, N, out, *spatial].
    """
    if change is None:
        if delta is None:
            raise UncoveredError
        return function(delta.flatten(0, 1), weight, **options).unflatten(0, delta.shape[:2])
    if delta is None:
        return _one_wide_convolution(function, input, change, options, transposed)
    total = function(delta.flatten(0, 1), weight, **options).unflatten(0, delta.shape[:2])
    for evaluation in range(delta.shape[0]):
        total[evaluation] += function(input + delta[evaluation], change[evaluation], **options)
    return total


def _defer(
    mode: DifferenceMode,
    base: Tensor,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    options: dict[str, Any],
) -> bool:
    """Enters a ``conv2d`` as pending, to be computed by the fused op; False where the op does not apply."""
    weight_id, bias_id = mode.trained(weight), -1 if bias is None else mode.trained(bias)
    made_elsewhere = bias is not None and bias_id < 0 and mode.entry_of(bias) is not None
    if weight_id < 0 or made_elsewhere or id(input) in mode.ids or input.dim() != 4 or base.numel() == 0:
        return False
    stride, dilation, padding = _pair(options["stride"]), _pair(options["dilation"]), options["padding"]
    if isinstance(padding, str):
        spread = [step * (size - 1) for step, size in zip(dilation, weight.shape[2:], strict=True)]
        if padding == "same" and any(each % 2 for each in spread):
            return False
        padding = [each // 2 for each in spread] if padding == "same" else 0
    source = mode.entry_of(input)
    if source is not None:
        mode.resolve(source)
    still, kernel, padding = kept(input).float(), weight.detach().float(), _pair(padding)
    node = None
    if mode.nodes is not None:
        arguments = (stride, padding, dilation, False, (0, 0), options["groups"])
        node = mode.nodes.enter(
            weight_id, bias_id, still, kernel, base.shape, input.shape[0], convolution=arguments
        )
        if node is not None:
            weight_id = bias_id = -1
    pending = PendingConvolution(
        mode.layers, still, source, kernel, weight_id, bias_id, base.shape, node,
        options={"stride": stride, "padding": padding, "dilation": dilation, "groups": options["groups"]},
    )  # fmt: skip
    mode.layers += 1
    mode.put(base, Entry(None, pending))
    return True


def _pair(value: Any) -> tuple[int, int]:
    first, second = (value, value) if isinstance(value, int) else tuple(value) * (2 if len(value) == 1 else 1)
    return int(first), int(second)


def _one_wide_convolution(
    function: Callable[..., Tensor], input: Tensor, change: Tensor, options: dict[str, Any], transposed: bool
) -> Tensor:
    """a∗U: the evaluations' kernels side by side, P times as many output channels in each group."""
    evaluations, groups = change.shape[0], options["groups"]
    if transposed:
        wide = change.movedim(0, 1).flatten(1, 2)
    else:
        wide = change.unflatten(1, (groups, -1)).movedim(0, 1).flatten(0, 2)
    result = function(input, wide, **options)
    result = result.unflatten(1, (groups, evaluations, -1)).permute(2, 0, 1, *range(3, input.dim() + 2))
    return result.flatten(2, 3).contiguous()


def _difference(
    mode: DifferenceMode,
    base: Tensor,
    function: Callable[..., Tensor],
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    options: dict[str, Any],
    transposed: bool,
) -> Any:
    """Brings the arguments to one layout and dtype, and adds the bias's difference."""
    check_rest(base.device)
    if function is torch.nn.functional.conv2d and _defer(mode, base, input, weight, bias, options):
        return None
    dtype = torch.promote_types(base.dtype, torch.float32)
    delta, change, shift = mode.difference(input), mode.difference(weight), mode.difference(bias)
    batched = input.dim() == weight.dim()
    channels = base.dim() - (weight.dim() - 2) - 1
    result = None
    if base.numel() == 0:
        return torch.zeros(mode.evaluations, *base.shape, dtype=torch.float32, device=base.device)
    mode.reserve(base.numel())
    if delta is not None or change is not None:
        a = (input if batched else input.unsqueeze(0)).to(dtype)
        if delta is not None:
            delta = (delta if batched else delta.unsqueeze(1)).to(dtype)
        change = None if change is None else change.to(dtype)
        result = perturbed_convolution(function, a, delta, weight.to(dtype), change, options, transposed)
        result = result if batched else result.squeeze(1)
    if shift is not None:
        shift = shift.view(-1, *[1] * channels, base.shape[channels], *[1] * (weight.dim() - 2))
        result = shift.expand(-1, *base.shape) if result is None else result.add_(shift)
    return NotImplemented if result is None else result


def _register(spatial: int) -> None:
    function: Callable[..., Tensor] = getattr(torch.nn.functional, f"conv{spatial}d")
    opposite: Callable[..., Tensor] = getattr(torch.nn.functional, f"conv_transpose{spatial}d")

    @rule(f"conv{spatial}d")
    def _(
        mode: DifferenceMode,
        base: Tensor,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Any:
        options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        return _difference(mode, base, function, input, weight, bias, options, False)

    @rule(f"conv_transpose{spatial}d")
    def _(
        mode: DifferenceMode,
        base: Tensor,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        dilation: Any = 1,
    ) -> Any:
        options = {"stride": stride, "padding": padding, "output_padding": output_padding,
                   "groups": groups, "dilation": dilation}  # fmt: skip
        return _difference(mode, base, opposite, input, weight, bias, options, True)


for _spatial in (1, 2, 3):
    _register(_spatial)
