"""Difference of the cross-entropy, without the cancellation of two losses.

With D_i = Δ_i - Δ_y and p = softmax(base): log1p(Σ_i p_i·expm1(D_i)) - α·mean_i D_i, where α is the label
smoothing. Where some D_i is huge or the sum comes near -1, log Σ_i exp(log p_i + D_i), with its maximum taken
out, replaces the log1p: the difference is then of order one, nothing cancels, and nothing overflows.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from zo_triton.kernels.launch import TRITON_DTYPES, blocks, launch, power_of_two
from zo_triton.kernels.numeric import bound, expm1, log1p, narrow

CONFIG = {"BLOCK_N": 8, "num_warps": 4}
MAX_BLOCK_C = 256

LARGEST = tl.constexpr(60.0)
"""The largest D_i whose exponential still fits a float32 sum over any number of classes."""


@triton.jit
def no_classes(BLOCK_N: tl.constexpr):
    """What :func:`add_classes` starts from: sums and maxima over no class at all."""
    zero, lowest = tl.zeros((BLOCK_N,), tl.float32), tl.full((BLOCK_N,), -3.0e38, tl.float32)
    return zero, zero, zero, lowest, zero


@triton.jit
def add_classes(state, log_p, relative, mask):
    """Takes a tile of classes into account: log p and D [BLOCK_N, BLOCK_C]; D is 0 outside the mask."""
    small, mean, widest, largest, shifted = state
    small += tl.sum(tl.exp(log_p) * expm1(tl.minimum(relative, LARGEST)), axis=1)
    mean += tl.sum(relative, axis=1)
    widest = tl.maximum(widest, tl.max(relative, axis=1))
    exponent = tl.where(mask, log_p + relative, -3.0e38)
    top = tl.maximum(largest, tl.max(exponent, axis=1))
    shifted = shifted * tl.exp(largest - top) + tl.sum(tl.exp(exponent - top[:, None]), axis=1)
    return small, mean, widest, top, shifted


@triton.jit
def loss_change(state, smoothing, classes):
    """The difference of each sample's cross-entropy once all classes are in."""
    small, mean, widest, largest, shifted = state
    near = (widest <= LARGEST) & (small >= -0.5)
    change = tl.where(near, log1p(tl.where(near, small, 0.0)), largest + tl.log(shifted))
    return change - smoothing * mean / classes


@triton.jit
def _cross_entropy_kernel(
    out_ptr,
    log_p_ptr,
    difference_ptr,
    target_ptr,
    samples,
    classes,
    sample_tiles,
    stride_op,
    stride_on,
    stride_dp,
    stride_dn,
    stride_dc,
    smoothing,
    OUT_DTYPE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Writes out [P, N]; log_p [N, C] float32 = log_softmax(base), difference [P, N, C], target [N] int64."""
    pid = tl.program_id(0)
    p = (pid // sample_tiles).to(tl.int64)
    offs_n = ((pid % sample_tiles) * BLOCK_N + tl.arange(0, BLOCK_N)).to(tl.int64)
    mask_n = offs_n < samples
    target = tl.load(target_ptr + offs_n, mask=mask_n, other=0)
    rows = difference_ptr + p * stride_dp + offs_n * stride_dn
    own = tl.load(rows + target * stride_dc, mask=mask_n, other=0.0).to(tl.float32)

    state = no_classes(BLOCK_N)
    for c in range(0, bound(classes), BLOCK_C):
        offs_c = (c + tl.arange(0, BLOCK_C)).to(tl.int64)
        mask = mask_n[:, None] & (offs_c < classes)[None, :]
        log_p = tl.load(log_p_ptr + offs_n[:, None] * classes + offs_c[None, :], mask=mask, other=-1.0e4)
        change = tl.load(rows[:, None] + offs_c[None, :] * stride_dc, mask=mask, other=0.0).to(tl.float32)
        relative = tl.where(mask, change - own[:, None], 0.0)
        state = add_classes(state, log_p, relative, mask)
    change = loss_change(state, smoothing, classes)
    tl.store(out_ptr + p * stride_op + offs_n * stride_on, narrow(change, OUT_DTYPE), mask=mask_n)


def cross_entropy_difference(
    out: Tensor, logits: Tensor, difference: Tensor, target: Tensor, label_smoothing: float
) -> None:
    """Difference of each sample's cross-entropy.

    Args:
        out: [P, N], float32.
        logits: [N, C] base logits.
        difference: [P, N, C].
        target: [N] int64 class indices in [0, C).
        label_smoothing: Share of the uniform distribution mixed into the target, in [0, 1].

    Raises:
        ValueError: The label smoothing is no share.
    """
    if not 0.0 <= label_smoothing <= 1.0:
        raise ValueError(f"label_smoothing must be in [0, 1], got {label_smoothing}.")
    evaluations, samples, classes = difference.shape
    sample_tiles = blocks(samples, CONFIG["BLOCK_N"])
    launch(
        _cross_entropy_kernel,
        evaluations * sample_tiles,
        out,
        out_ptr=out,
        log_p_ptr=logits.float().log_softmax(dim=1).contiguous(),
        difference_ptr=difference,
        target_ptr=target.contiguous(),
        samples=samples,
        classes=classes,
        sample_tiles=sample_tiles,
        stride_op=out.stride(0),
        stride_on=out.stride(1),
        stride_dp=difference.stride(0),
        stride_dn=difference.stride(1),
        stride_dc=difference.stride(2),
        smoothing=label_smoothing,
        OUT_DTYPE=TRITON_DTYPES[out.dtype],
        BLOCK_C=min(MAX_BLOCK_C, power_of_two(classes)),
        **CONFIG,
    )
