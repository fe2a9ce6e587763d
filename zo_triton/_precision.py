"""Whether float32 factors of a product on the CPU are rounded to bfloat16: torch's own switch for its own products.

Differences may be multiplied so, because nothing is subtracted after them: a relative error of 2⁻⁹ in a factor
stays one of that order. bfloat16 has float32's exponents, so no difference is too small for it.

torch itself rounds in some products and not in others, as their sizes are. Here it is a rule: where it is allowed,
factors are rounded before torch sees them, and a product of rounded factors is the same whether torch rounds them
again or not.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

_BACKEND: Any = torch.backends.mkldnn
"""Whose switches torch's type hints do not know."""

_switch: Any = torch._C._get_fp32_precision_getter
"""What its switches read; each product asks, and the way through their own classes takes ten times as long."""


def rounds_factors() -> bool:
    """Whether ``torch.set_float32_matmul_precision("medium")`` holds, on a processor where torch heeds it.

    ``torch.backends.mkldnn.matmul.fp32_precision = "bf16"`` says the same.
    """
    return _switch("mkldnn", "matmul") == "bf16" and _is_heeded()


def _is_heeded() -> bool:
    """oneDNN does the rounding for torch, and can be switched off."""
    return _BACKEND.enabled and _can_round()


@cache
def _can_round() -> bool:
    return bool(torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def factor(tensor: Tensor) -> Tensor:
    """A factor as a matrix product takes it: float32 on the CPU rounded if :func:`rounds_factors`."""
    return _rounded(tensor) if _is_float32(tensor) and rounds_factors() else tensor


def convolution_factor(tensor: Tensor) -> Tensor:
    """The same for a convolution, whose switch is ``torch.backends.mkldnn.conv.fp32_precision``."""
    rounds = _is_float32(tensor) and _switch("mkldnn", "conv") == "bf16" and _is_heeded()
    return _rounded(tensor) if rounds else tensor


def _is_float32(tensor: Tensor) -> bool:
    return tensor.dtype == torch.float32 and tensor.is_cpu


def _rounded(tensor: Tensor) -> Tensor:
    return tensor.to(torch.bfloat16).to(torch.float32)
