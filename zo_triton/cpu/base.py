"""The base of a linear layer on the engine's own threads: torch's would spin on into the differences."""

from __future__ import annotations

import torch
from torch import Tensor

from zo_triton.cpu.threads import parallel

SMALL_WORK = 1 << 22
"""Multiply-adds below which a second thread costs more than it gives."""

SHARE_ROWS = 32
"""Samples are shared out in multiples of that, which GEMM kernels like."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor | None:
    """``x Wᵀ + v`` for [N, in] float32, the samples shared out; None where that is not possible or not worth it."""
    tensors = (x, weight) if bias is None else (x, weight, bias)
    if x.dim() != 2 or x.shape[0] * weight.numel() < SMALL_WORK or torch.is_autocast_enabled("cpu"):
        return None
    if any(tensor.dtype != torch.float32 or tensor.is_sparse for tensor in tensors):
        return None
    x, turned = x.detach(), weight.detach().t()
    out = torch.empty(x.shape[0], weight.shape[0], dtype=torch.float32, device="cpu")

    def run(start: int, stop: int) -> None:
        these = slice(SHARE_ROWS * start, SHARE_ROWS * stop)
        if bias is None:
            torch.mm(x[these], turned, out=out[these])
        else:
            torch.addmm(bias.detach(), x[these], turned, out=out[these])

    parallel(run, -(-x.shape[0] // SHARE_ROWS))
    return out
