"""Where the pixels of a convolution's result lie in memory."""

from __future__ import annotations

import torch
from torch import Tensor

from zo_triton._memory import empty
from zo_triton.ops.engines import engine_for


def image_memory(shape: tuple[int, ...], dtype: torch.dtype, base: Tensor, weight: Tensor) -> Tensor:
    """Memory for a convolution's result, [..., O, H', W'].

    Triton's kernels read and write a pixel's channels in vectors, and follow torch's own rule: the channels are
    last in memory where those of ``base`` [N, C, H, W] or of the weight are.
    """
    last = any(
        each.is_contiguous(memory_format=torch.channels_last) and not each.is_contiguous()
        for each in (base, weight)
    )
    if last and engine_for(base.device) == "triton":
        *several, channels, height, width = shape
        return empty((*several, height, width, channels), dtype, base.device).movedim(-1, -3)
    return empty(shape, dtype, base.device)
