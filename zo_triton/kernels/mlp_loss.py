"""The loss at the end of the one-launch network: its differences from those of the logits, in registers.

Cross-entropy as in :mod:`zo_triton.kernels.cross_entropy`, or the squared error Σ_c (z_c - t_c)², whose difference
Σ_c Δ_c(2r_c + Δ_c) with r = z - t takes no two losses from each other.
"""

from __future__ import annotations

import triton
import triton.language as tl

from zo_triton.kernels.cross_entropy import add_classes, loss_change, no_classes


@triton.jit
def sample_losses(
        change, logits_ptr, target_ptr, rows, mask_n, smoothing,
        SQUARED: tl.constexpr, CLASSES: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """[BLOCK_N] loss differences from the logits', [BLOCK_N, BLOCK_C], which are 0 beyond the last output.

    Contiguous: base logits [samples, CLASSES] float32; target [samples, CLASSES] float32 where SQUARED, else
    [samples] int64.
    """
    classes = tl.arange(0, BLOCK_C)
    there = (classes < CLASSES)[None, :]
    mask = mask_n[:, None] & there
    offsets = (rows * CLASSES)[:, None] + classes[None, :]
    logits = tl.load(logits_ptr + offsets, mask=mask, other=0.0)
    if SQUARED:
        residual = logits - tl.load(target_ptr + offsets, mask=mask, other=0.0)
        return tl.sum(change * (2.0 * residual + change), axis=1)
    else:
        target = tl.load(target_ptr + rows, mask=mask_n, other=0)
        logits -= tl.max(tl.where(there, logits, -3.0e38), axis=1)[:, None]
        total = tl.log(tl.sum(tl.where(there, tl.exp(tl.minimum(logits, 0.0)), 0.0), axis=1))
        log_p = tl.where(mask, logits - total[:, None], -1.0e4)
        own = tl.sum(tl.where(classes[None, :] == target[:, None], change, 0.0), axis=1)
        relative = tl.where(mask, change - own[:, None], 0.0)
        return loss_change(add_classes(no_classes(BLOCK_N), log_p, relative, mask), smoothing, CLASSES)


@triton.jit
def _first_rows(tile, COUNT: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr):
    """The upper half of a tile, or the upper half of that, …: the smallest that holds COUNT rows, and 16."""
    if ROWS >= 32 and 2 * COUNT <= ROWS:
        upper, _ = tl.split(tl.permute(tl.reshape(tile, (2, ROWS // 2, COLS)), (1, 2, 0)))
        return _first_rows(upper, COUNT, ROWS // 2, COLS)
    else:
        return tile


@triton.jit
def losses_of_columns(
        change, logits_ptr, target_ptr, rows, mask_n, smoothing,
        SQUARED: tl.constexpr, CLASSES: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """:func:`sample_losses` of differences [BLOCK_C, BLOCK_N], without the most of their rows of padding."""
    change = tl.trans(_first_rows(change, CLASSES, BLOCK_C, BLOCK_N))
    return sample_losses(
        change, logits_ptr, target_ptr, rows, mask_n, smoothing, SQUARED, CLASSES, BLOCK_N, change.shape[1]
    )
