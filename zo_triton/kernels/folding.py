"""ε = 2^e·fraction, split so that bfloat16 arithmetic forms the operand ε(a+δ) with a single rounding.

The power of two multiplies (a+δ), which loses nothing; the fraction divides W beforehand and multiplies the sums
afterwards. Then the base may lie in bfloat16 and two operands are formed an instruction.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from zo_triton.directions import Directions
from zo_triton.kernels.numeric import multiply_add, narrow


@triton.jit
def moved(base, difference, scale, DTYPE: tl.constexpr):
    """The operand scale·(a+δ)."""
    return narrow(scale * (base.to(tl.float32) + difference.to(tl.float32)), DTYPE)


@triton.jit
def operand(base, difference, scale, FOLDED: tl.constexpr, DTYPE: tl.constexpr):
    """scale·(a+δ); where FOLDED the scale is a power of two, and bfloat16 arithmetic rounds the sum alone."""
    if FOLDED:
        scale = narrow(scale, tl.bfloat16)
        return multiply_add(difference, scale, multiply_add(base, scale, tl.zeros_like(base)))
    else:
        return moved(base, difference, scale, DTYPE)


@triton.jit
def fraction_of(signed_eps_ptr, FOLDED: tl.constexpr):
    """|ε| of the first evaluation by a power of two, in [½, 1); 1 where nothing is folded."""
    if FOLDED:
        bits = tl.load(signed_eps_ptr).to(tl.float32).to(tl.int32, bitcast=True)
        return ((bits & 0x007FFFFF) | 0x3F000000).to(tl.float32, bitcast=True)
    else:
        return 1.0


def fold(
    out: Tensor,
    base: Tensor,
    difference: Tensor | None,
    weight: Tensor,
    directions: Directions,
    weight_id: int,
    signed_eps: Tensor,
) -> tuple[Tensor, Tensor, bool]:
    """Base and weight as the kernel wants them, and whether they are folded: full-rank bfloat16 layers are.

    Args:
        out: Its dtype is the compute dtype; with the rest as in :func:`zo_triton.reference.perturbed_linear`.
        base: Input of the base.
        difference: Of the input, or None: nothing to fold then, but the base is the operand itself.
        weight: Of the layer.
        directions: Those of the sphere have scales that differ, and each would want a weight of its own.
        weight_id: -1 if the weight is not perturbed.
        signed_eps: [P], equal in size.
    """
    if out.dtype != torch.bfloat16 or weight_id < 0 or directions.is_low_rank(weight.shape):
        return base, weight, False
    if difference is None:
        return base.to(out.dtype), weight, False
    if directions.distribution == "sphere":
        return base, weight, False
    return base.to(out.dtype), weight / _fraction(signed_eps[:1]), True


def _fraction(number: Tensor) -> Tensor:
    """:func:`fraction_of` a float32 tensor, where it lies."""
    return ((number.view(torch.int32) & 0x007FFFFF) | 0x3F000000).view(torch.float32)
