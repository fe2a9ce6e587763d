"""The fused ZO-SGD under ``torch.set_float32_matmul_precision("medium")``: float32 with rounded factors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from benchmarks.contenders.contender import Method, Setting
from benchmarks.contenders.fused import FusedSGD


@contextmanager
def medium() -> Iterator[None]:
    """Lets torch round float32 factors of products to bfloat16."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


class RoundedSGD(FusedSGD):
    """:class:`FusedSGD` in float32, whose steps alone are taken under :func:`medium`.

    No subtraction follows its products. Who subtracts two losses loses ever more of the difference in the rounding
    as ε falls, so that no other contender is measured so.
    """

    def __init__(self, model: nn.Module, setting: Setting) -> None:
        super().__init__(model, setting, compute_dtype=torch.float32)

    def step(self, x: Tensor, y: Tensor) -> float:
        """One update; returns the base loss."""
        with medium():
            return super().step(x, y)


METHODS = (Method("zo-medium", "fused, one-sided, rounded factors", "fused", RoundedSGD, "float32, medium"),)
