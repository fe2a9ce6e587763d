"""The geometry of a convolution as its kernel takes it, once the shapes are known to belong together."""

from __future__ import annotations

from math import gcd

import torch
import triton.language as tl
from torch import Tensor

from zo_triton.kernels.arguments import strides
from zo_triton.kernels.layer import Layer


def check_window(
    out: Tensor,
    base: Tensor,
    weight: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> None:
    """Refuses shapes that don't belong together: a kernel would read where nothing is.

    Raises:
        ValueError: The channels don't fall into such groups, or ``out`` is not what the window leaves of ``base``.
    """
    out_channels, group_inputs, *kernel = weight.shape
    if groups < 1 or base.shape[1] != groups * group_inputs or out_channels % groups:
        raise ValueError(
            f"{groups} groups of a weight with shape {tuple(weight.shape)} need {groups * group_inputs} input "
            f"channels and a multiple of {groups} output channels, got base with shape {tuple(base.shape)}."
        )
    area = [
        (size + 2 * pad - spread * (width - 1) - 1) // step + 1
        for size, pad, spread, width, step in zip(
            base.shape[2:], padding, dilation, kernel, stride, strict=True
        )
    ]
    if list(out.shape[1:]) != [base.shape[0], out_channels, *area] or min(area) < 0:
        raise ValueError(
            f"a window of {tuple(kernel)} with stride {stride}, padding {padding} and dilation {dilation} leaves "
            f"{area} of base with shape {tuple(base.shape)}, but out has shape {tuple(out.shape)}."
        )


def window_arguments(
    out: Tensor,
    base: Tensor,
    layer: Layer,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    by_taps: bool,
) -> dict[str, object]:
    """Weight, sizes, strides and the window: what doesn't depend on groups and tiles."""
    return {
        "weight_ptr": matrix_of(layer.weight, by_taps),
        **window_of(out[0], base, layer.weight, stride, padding, dilation),
        **strides("o", "pncyx", out),
        **strides("a", "ncyx", base),
        **strides("d", "pncyx", layer.moved),
        **strides("z", "ncyx", layer.before),
    }


def window_of(
    out: Tensor, base: Tensor, weight: Tensor, stride: list[int], padding: list[int], dilation: list[int]
) -> dict[str, object]:
    """Sizes of images and channels, and the window: out [·, O, H', W'], base [·, C, H, W]."""
    steps = {"step": stride, "padding": padding, "dilation": dilation}
    return {
        "out_height": out.shape[2],
        "out_width": out.shape[3],
        "height": base.shape[2],
        "width": base.shape[3],
        "out_channels": weight.shape[0],
        "group_inputs": weight.shape[1],
        **{
            f"{name}_{axis}": step
            for name, pair in steps.items()
            for axis, step in zip("yx", pair, strict=True)
        },
        "KERNEL_HEIGHT": weight.shape[2],
        "KERNEL_WIDTH": weight.shape[3],
        "PADDED": max(padding) > 0,
    }


def offset_dtype(*tensors: Tensor) -> tl.dtype:
    """The narrowest integer that holds every offset inside one evaluation; those between them are 64-bit."""
    reach = max(
        sum(abs(stride) * size for stride, size in zip(tensor.stride(), tensor.shape, strict=True))
        for tensor in tensors
    )
    return tl.int32 if 2 * reach < 2**31 else tl.int64


def channels_last(images: Tensor) -> Tensor:
    """[…, C, H, W] with a pixel's channels side by side in memory, copied only if they are not."""
    return images if images.stride(-3) == 1 else images.movedim(-3, -1).contiguous().movedim(-1, -3)


def pixel_by_pixel(images: Tensor, copied: bool = False) -> Tensor:
    """[…, C, H, W] whose pixels follow one another without a gap: the tensor itself, a copy or memory for one."""
    pixels = images.movedim(-3, -1)
    if pixels.is_contiguous():
        return images
    contiguous = (
        pixels.contiguous() if copied else torch.empty_like(pixels, memory_format=torch.contiguous_format)
    )
    return contiguous.movedim(-1, -3)


def matrix_of(weight: Tensor, by_taps: bool) -> Tensor:
    """[O, terms] in the order of the sum: the field's, or a tap's channels side by side."""
    return (weight.movedim(1, -1) if by_taps else weight).flatten(1).contiguous()


def divisor_of(channels: int, *images: Tensor) -> int:
    """The power of two up to 16 at whose multiples channels begin: as many are a vector, if memory has it so.

    Args:
        channels: In of a group.
        images: [..., C, H, W], a pixel's channels side by side.
    """
    strides = (
        stride
        for each in images
        for axis, (size, stride) in enumerate(zip(each.shape, each.stride(), strict=True))
        if size > 1 and axis != each.ndim - 3
    )
    return gcd(16, channels, *strides)
