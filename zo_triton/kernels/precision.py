"""How float32 operands are multiplied, unless the caller says: torch's own switch decides, where there is a choice.

* ``"bf16x6"``: on tensor cores, each operand taken apart into three bfloat16 numbers (see
  :mod:`zo_triton.kernels.exact_products`), with float32's 24 digits.
* ``"tf32"``: on tensor cores, operands cut to 11 digits.
* ``"ieee"``: as the chip multiplies float32 numbers.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from zo_triton.kernels.launch import chip_of

PRECISIONS = ("bf16x6", "tf32", "ieee")

WITHOUT_PARTS = ("sm_100",) if tuple(map(int, triton.__version__.split(".")[:2])) < (3, 9) else ()
"""Chips that have no room for products in parts: in Triton 3.6 and 3.7 each of the six has tensor memory of its own
there, more than there is in most layers' tiles. In 3.9 they share it; 3.8 is taken for 3.7."""


def precision_for(out: Tensor, asked: str | None) -> str:
    """What is asked for, or what suits the output's device and dtype.

    NVIDIA's tensor cores do not multiply float32 numbers, AMD's matrix units do. After
    ``torch.set_float32_matmul_precision("high")`` or ``"medium"`` torch takes its own products in TF32 on a GPU,
    and so do the kernels.

    Args:
        out: Its dtype is the compute dtype: bfloat16 operands have one product only, ``"ieee"``.
        asked: One of :data:`PRECISIONS`, or None.

    Raises:
        ValueError: The name is unknown.
    """
    if asked is not None and asked not in PRECISIONS:
        raise ValueError(f"unknown precision {asked!r}; choose one of {PRECISIONS}, or None for the chip's.")
    if out.dtype != torch.float32:
        return "ieee"
    if asked is not None:
        return asked
    chip = chip_of(out)
    if not chip.startswith("sm_"):
        return "ieee"
    if torch.backends.cuda.matmul.fp32_precision == "tf32":
        return "tf32"
    return "ieee" if chip in WITHOUT_PARTS else "bf16x6"
