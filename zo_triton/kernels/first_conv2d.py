"""The first layer's convolution as a perturbed linear layer on patches, which all directions share.

Without a difference only the base meets the directions, and it is one and the same for all of them: its patches are
laid out once, [positions, channels · window], in the field's order of columns. What remains is the first linear
layer of :mod:`zo_triton.kernels.perturbed_linear`, whose results are pixels with their channels last.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

from zo_triton.directions import Directions
from zo_triton.kernels.convolution_tiles import NARROW, NARROW_TAPS
from zo_triton.kernels.numeric import INTERPRETED
from zo_triton.kernels.perturbed_linear import launch_perturbed_linear
from zo_triton.kernels.window_arguments import pixel_by_pixel


def is_worth_patches(
    out: Tensor, difference: Tensor | None, weight: Tensor, weight_id: int, groups: int
) -> bool:
    """Whether there is no difference, and the patches take no more memory than the result."""
    evaluations, _, out_channels, _, _ = out.shape
    shared = difference is None and weight_id >= 0 and groups == 1
    return shared and weight[0].numel() <= evaluations * out_channels


def _narrow_tiles(out: Tensor, signs: bool) -> Mapping[str, int] | None:
    """Where the linear layer's own tiles would be half empty; None where they are good."""
    if out.shape[2] > NARROW:
        return None
    # Without a difference both sides share one sum, as one side has.
    return NARROW_TAPS.get((1, out.dtype, "signs" if signs else "real"))


def launch_on_patches(
    out: Tensor,
    base: Tensor,
    weight: Tensor,
    base_output: Tensor | None,
    directions: Directions,
    weight_id: int,
    bias_id: int,
    signed_eps: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    activation: str,
    *,
    bits: str,
    precision: str,
) -> None:
    """As :func:`zo_triton.kernels.conv2d.launch_perturbed_conv2d`, without a difference and with one group."""
    low_rank = directions.is_low_rank(weight.shape)
    kernel, window = weight.shape[2:], (tuple(dilation), tuple(padding), tuple(stride))
    patches = F.unfold(base.to(out.dtype), kernel, *window).mT.flatten(0, 1)
    matrix = weight.flatten(1)
    if directions.signs:
        # Whole words of 32 columns are the same field, and patches of as many are loaded in vectors.
        filled = (0, -matrix.shape[1] % 32)
        patches, matrix = F.pad(patches, filled), F.pad(matrix, filled)
    result = pixel_by_pixel(out)
    before = None if base_output is None else base_output.movedim(1, -1).flatten(0, -2)
    launch_perturbed_linear(
        result.movedim(2, -1).flatten(1, -2), patches.contiguous(), None, matrix, before, directions, weight_id,
        bias_id, signed_eps, activation, bits=bits, precision=precision,
        config=None if low_rank or INTERPRETED else _narrow_tiles(out, directions.signs),
    )  # fmt: skip
    if result is not out:
        out.copy_(result)
