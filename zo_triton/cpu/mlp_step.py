"""A small ReLU network's whole step in three compiled calls: base, differences, update.

For networks so small that Python between the layers would cost as much as the work.
"""

from __future__ import annotations

import numpy as np
from numba import float32, uintp

from zo_triton.cpu.activation import RELU
from zo_triton.cpu.compiling import device, kernel
from zo_triton.cpu.field import key_of, sign_words
from zo_triton.cpu.mlp import (
    BASE_AT,
    INNER,
    NO_LABELS,
    NO_RESIDUAL,
    ROW_AT,
    ROWS,
    WIDTH_IN_WORDS,
    WORD_AT,
    Base,
    base_softmax,
    plan,
    run_passes,
)
from zo_triton.cpu.vectors import LANES, signed_coefficient_sum
from zo_triton.directions import Directions, tensor_word


def mlp_measure(
    tensors: list[np.ndarray],
    x: np.ndarray,
    target: np.ndarray,
    directions: Directions,
    signed_eps: np.ndarray,
    fixed: bool = False,
) -> tuple[float, np.ndarray]:
    """Mean loss of a ReLU network and its difference for every evaluation.

    Args:
        tensors: Weight [rows, inner] and bias [1, rows] of each layer in turn, float32, ids 0, 1, 2 …
        x: [N, inputs] float32.
        target: Classes, [N] int64 in [0, C), for cross-entropy; [N, C] float32 for the squared error, which is
            averaged over samples and outputs.
        directions: K full-rank sign directions.
        signed_eps: [P] float32.
        fixed: Takes U·a in 16-bit fixed point.

    Returns:
        The loss and its differences, float32 [P].
    """
    depth, samples = len(tensors) // 2, x.shape[0]
    ids = tuple(range(2 * depth))
    layout, words, kinds = plan(
        tuple(weight.shape for weight in tensors[::2]),
        ids[::2],
        ids[1::2],
        ("relu",) * (depth - 1) + ("none",),
    )
    last = layout[-1].tolist()
    padded = -(-samples // LANES) * LANES
    base = Base(
        np.empty((last[BASE_AT] + last[INNER], padded), np.float32),
        np.empty((3, last[ROW_AT] + last[ROWS], padded), np.float32),
        np.zeros(LANES * (last[WORD_AT] + -(-last[ROWS] // 4) * 4 * last[WIDTH_IN_WORDS]), np.float32),
        np.empty((last[ROWS], samples), np.float32),
    )
    squared = target.ndim == 2
    labels = NO_LABELS if squared else target
    residual = np.negative(target.T, order="C") if squared else NO_RESIDUAL
    losses = np.empty(samples, np.float32)
    _base_kernel(losses, x, labels, residual, tuple(tensors), layout, kinds, *base)
    out = np.empty((signed_eps.size, samples), np.float32)
    run_passes(out, base, layout, words, kinds, labels, 0.0, signed_eps, directions, residual, fixed)
    with np.errstate(all="ignore"):  # the caller looks at what is not finite
        return float(losses.sum()) / target.size, out.sum(1) / np.float32(target.size)


@kernel
def _base_kernel(losses, x, labels, residual, tensors, layout, kinds, inputs, terms, matrices, probabilities):
    """The network's base, in the passes' layout, and each sample's loss.

    Residual [C, N]: minus the targets, to which the outputs are added; empty for cross-entropy.
    """
    samples, depth = x.shape[0], kinds.shape[0]
    for n in range(samples):
        for column in range(x.shape[1]):
            inputs[column, n] = x[n, column]
    inputs[: x.shape[1], samples:] = float32(0.0)
    for layer in range(depth):
        weight, bias, sizes = tensors[2 * layer], tensors[2 * layer + 1], layout[layer]
        for row in range(sizes[ROWS]):
            z, shift = terms[0, sizes[ROW_AT] + row], bias[0, row]
            for n in range(z.size):
                z[n] = shift
            at = LANES * (sizes[WORD_AT] + row * sizes[WIDTH_IN_WORDS])
            for column in range(sizes[INNER]):
                value, source = weight[row, column], inputs[sizes[BASE_AT] + column]
                matrices[at + column] = value
                for n in range(z.size):
                    z[n] += value * source[n]
            if kinds[layer] == RELU:
                result = inputs[layout[layer + 1, BASE_AT] + row]
                for n in range(z.size):
                    result[n] = max(z[n], float32(0.0))
    logits = terms[0, layout[depth - 1, ROW_AT] :]
    if residual.size > 0:
        losses[:] = float32(0.0)
        for c in range(residual.shape[0]):
            for n in range(samples):
                residual[c, n] += logits[c, n]
                losses[n] += residual[c, n] * residual[c, n]
        return
    highest, total = base_softmax(probabilities, logits)
    for n in range(samples):
        losses[n] = np.log(total[n]) + highest[n] - logits[labels[n], n]


def mlp_update(
    tensors: list[np.ndarray],
    first: list[np.ndarray],
    second: list[np.ndarray],
    rule: tuple[float, ...],
    coefficients: np.ndarray,
    directions: Directions,
) -> None:
    """Adam or SGD along ĝ = Σ a_k z_k, ĝ itself staying in the cache; the arguments are those of the op."""
    words = np.array([tensor_word(i) for i in range(len(tensors))], np.int64)
    numbers = tuple(np.float32(value) for value in rule)
    _update_kernel(
        tuple(tensors), tuple(first), tuple(second), numbers, coefficients, words,
        directions.first, key_of(directions),
    )  # fmt: skip


@kernel
def _update_kernel(
    tensors, first_moments, second_moments, rule, coefficients, tensor_words, first_direction, key
):
    """Tensors [rows, cols]; the generator gives the signs of all K directions for four rows at a time."""
    count = coefficients.shape[0]
    for i in range(len(tensors)):
        rows, cols = tensors[i].shape
        width = (cols + LANES - 1) // LANES
        words = np.empty((count, 4, width), np.uint32)
        gradient = np.empty(LANES, np.float32)
        for block in range((rows + 3) // 4):
            sign_words(words, block, tensor_words[i], first_direction, key)
            for lane in range(min(4, rows - 4 * block)):
                row = 4 * block + lane
                for column in range(width):
                    signed_coefficient_sum(
                        gradient.ctypes.data,
                        words[0, lane, column:].ctypes.data,
                        4 * width,
                        coefficients.ctypes.data,
                        count,
                    )
                    here = slice(LANES * column, min(LANES * column + LANES, cols))
                    _move(
                        tensors[i][row, here], first_moments[i][row, here], second_moments[i][row, here],
                        gradient, rule,
                    )  # fmt: skip


@device
def _move(weights, first, second, gradient, rule):
    """One row's update: Kingma and Ba, arXiv 1412.6980, in the form of torch.optim.Adam; or heavy-ball SGD."""
    lr, decay, second_decay, correction, eps, weight_decay = rule
    for j in range(weights.size):
        at = uintp(j)
        g = gradient[at] + weight_decay * weights[at]
        if second_decay >= float32(0.0):
            first[at] += (float32(1.0) - decay) * (g - first[at])
            second[at] = second_decay * second[at] + (float32(1.0) - second_decay) * g * g
            weights[at] -= lr * first[at] / (np.sqrt(second[at]) / correction + eps)
        else:
            first[at] = decay * first[at] + g
            weights[at] -= lr * first[at]
