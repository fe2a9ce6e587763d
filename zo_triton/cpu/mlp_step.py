"""A small ReLU network's whole step in two compiled calls: base and differences, update.

For networks so small that Python between the layers would cost as much as the work.
"""

from __future__ import annotations

import numpy as np
from numba import float32, uintp

from zo_triton.cpu.activation import RELU
from zo_triton.cpu.atomics import atomic_load, atomic_next, relax
from zo_triton.cpu.compiling import device
from zo_triton.cpu.field import key_of, sign_words
from zo_triton.cpu.fixed_point import to_fixed_point
from zo_triton.cpu.mlp import (
    BASE_AT,
    GROUP,
    INNER,
    NO_FIXED,
    NO_LABELS,
    NO_RESIDUAL,
    PADDED_ROWS,
    ROW_AT,
    ROWS,
    WIDTH_IN_WORDS,
    WORD_AT,
    base_softmax,
    is_small,
    passes,
    plan,
)
from zo_triton.cpu.sharing import shared
from zo_triton.cpu.threads import together
from zo_triton.cpu.vectors import LANES, dense_rows, signed_coefficient_sum
from zo_triton.directions import Directions, tensor_word

SMALL_UPDATE = 1 << 16
"""Sums of signed coefficients below which a second thread costs more than it gives."""


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
    inputs = np.empty((last[BASE_AT] + last[INNER], padded), np.float32)
    terms = np.empty((3, last[ROW_AT] + last[ROWS], padded), np.float32)
    matrices = np.zeros(LANES * (last[WORD_AT] + last[PADDED_ROWS] * last[WIDTH_IN_WORDS]), np.float32)
    probabilities = np.empty((last[ROWS], samples), np.float32)
    squared = target.ndim == 2
    labels = NO_LABELS if squared else target
    residual = np.negative(target.T, order="C") if squared else NO_RESIDUAL
    losses, differences = np.empty(samples, np.float32), np.empty(signed_eps.size, np.float32)
    out = np.empty((signed_eps.size, samples), np.float32)
    runs, words_in_all = padded // LANES, int(layout[:, WIDTH_IN_WORDS].sum())
    short, scale = NO_FIXED
    if fixed:
        short = np.empty((runs, LANES * words_in_all, LANES), np.int16)
        scale = np.empty((runs, depth, LANES), np.float32)
    arguments = (
        losses, differences, out, x, tuple(tensors), inputs, terms, matrices, short, scale, layout, words, kinds,
        probabilities, residual, labels, signed_eps, signed_eps.size // directions.num, key_of(directions),
        directions.first, np.float32(1 / target.size), np.zeros(2, np.int64),
    )  # fmt: skip
    together(_measure_kernel, arguments, directions.num, GROUP, alone=is_small(out.size, layout))
    with np.errstate(all="ignore"):  # the caller looks at what is not finite
        return float(losses.sum()) / target.size, differences


@shared
def _measure_kernel(
    losses, differences, out, x, tensors, inputs, terms, matrices, short, scale, layout, ids, kinds, probabilities,
    residual, target, signed_eps, sides, key, first_direction, share, progress, start, stop,
):  # fmt: skip
    """Mean loss differences of the directions start … stop - 1, and before them the base, whoever comes first.

    The base is done 32 samples at a time; progress: int64 [2], how many such runs are begun, and are over.
    """
    runs, depth = inputs.shape[1] // LANES, kinds.shape[0]
    wide = np.empty((LANES * layout[:, WIDTH_IN_WORDS].max(), LANES), np.float32)
    begun_at, over_at = progress.ctypes.data, progress[1:].ctypes.data
    while True:
        run = atomic_next(begun_at)
        if run > runs:
            break
        if run == runs:
            _fill_matrices(matrices, tensors, layout)
        else:
            at = LANES * run
            count = min(LANES, x.shape[0] - at)
            _base_of_run(inputs, terms[0], x, at, count, tensors, layout, kinds)
            logits = terms[0, layout[depth - 1, ROW_AT] :]
            if residual.size > 0:
                _squared_losses(losses, residual, logits, at, count)
            else:
                highest, total = base_softmax(probabilities, logits, at, count)
                for n in range(count):
                    losses[at + n] = np.log(total[n]) + highest[n] - logits[target[at + n], at + n]
            if short.size > 0:
                _fix_run(short[run], scale[run], inputs, at, wide, layout)
        atomic_next(over_at)
    while atomic_load(over_at) <= runs:
        relax()
    passes(
        out, inputs, terms, matrices, short, scale, layout, ids, kinds, probabilities, residual, target,
        float32(0.0), signed_eps, sides, key, first_direction, start, stop,
    )  # fmt: skip
    for p in range(start * sides, stop * sides):
        total_difference = 0.0
        for n in range(out.shape[1]):
            total_difference += out[p, n]
        differences[p] = share * float32(total_difference)


@device
def _fill_matrices(matrices, tensors, layout):
    """The weights, their rows padded to 32 columns."""
    for layer in range(layout.shape[0]):
        weight, sizes = tensors[2 * layer], layout[layer]
        for row in range(sizes[ROWS]):
            at = LANES * (sizes[WORD_AT] + row * sizes[WIDTH_IN_WORDS])
            for column in range(sizes[INNER]):
                matrices[at + column] = weight[row, column]


@device
def _base_of_run(inputs, outputs, x, first, count, tensors, layout, kinds):
    """The base of the samples first … first + count - 1, zeros up to 32.

    x [N, in]; written: inputs [Σ inner, padded N] and outputs [Σ rows, padded N] of the layers.
    """
    at, row_bytes = uintp(first), uintp(4 * inputs.shape[1])
    sums = np.empty((4, LANES), np.float32)
    for column in range(x.shape[1]):
        target = inputs[column]
        for n in range(count):
            target[at + uintp(n)] = x[first + n, column]
        for n in range(count, LANES):
            target[at + uintp(n)] = float32(0.0)
    for layer in range(layout.shape[0]):
        weight, bias, sizes = tensors[2 * layer], tensors[2 * layer + 1], layout[layer]
        inner, rows = sizes[INNER], sizes[ROWS]
        here_at = uintp(inputs.ctypes.data) + uintp(sizes[BASE_AT]) * row_bytes + uintp(4) * at
        for block in range(0, rows, 4):
            # The last rows are done again with those before them where they are no whole block.
            start = max(0, min(block, rows - 4))
            if rows >= 4:
                weights_at = uintp(weight[start:].ctypes.data)
                dense_rows(uintp(sums.ctypes.data), weights_at, inner, here_at, inputs.shape[1], inner)
            else:
                sums[:] = float32(0.0)
                for row in range(rows):
                    for column in range(inner):
                        source = inputs[sizes[BASE_AT] + column]
                        for n in range(LANES):
                            sums[row, n] += weight[row, column] * source[at + uintp(n)]
            for row in range(start, min(start + 4, rows)):
                z, total, shift = outputs[sizes[ROW_AT] + row], sums[row - start], bias[0, row]
                for n in range(LANES):
                    z[at + uintp(n)] = total[n] + shift
                if kinds[layer] == RELU:
                    result = inputs[layout[layer + 1, BASE_AT] + row]
                    for n in range(LANES):
                        result[at + uintp(n)] = max(total[n] + shift, float32(0.0))


@device
def _squared_losses(losses, residual, outputs, first, count):
    """Residual [C, N], minus the targets so far, gets the outputs added; losses [N] its squares."""
    losses[first : first + count] = float32(0.0)
    for c in range(residual.shape[0]):
        for n in range(first, first + count):
            residual[c, n] += outputs[c, n]
            losses[n] += residual[c, n] * residual[c, n]


@device
def _fix_run(short, scale, inputs, first, wide, layout):
    """Each layer's inputs [Σ inner, padded N] in fixed point for 32 samples.

    short: int16 [Σ 32·width, 32]. scale: float32 [depth, 32]. wide: scratch, float32 [at least 32·width, 32].
    """
    place, at = 0, uintp(first)
    for layer in range(layout.shape[0]):
        sizes = layout[layer]
        columns, inner = LANES * sizes[WIDTH_IN_WORDS], sizes[INNER]
        for column in range(inner):
            target, source = wide[column], inputs[sizes[BASE_AT] + column]
            for n in range(LANES):
                target[n] = source[at + uintp(n)]
        wide[inner:columns] = float32(0.0)
        to_fixed_point(short[place : place + columns], scale[layer], wide[:columns])
        place += columns


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
    blocks = sum(-(-tensor.shape[0] // 4) for tensor in tensors)
    together(
        _update_kernel,
        (
            tuple(tensors), tuple(first), tuple(second), numbers, coefficients, words,
            directions.first, key_of(directions),
        ),
        blocks,
        alone=sum(tensor.size for tensor in tensors) * directions.num < SMALL_UPDATE,
    )  # fmt: skip


@shared
def _update_kernel(
    tensors,
    first_moments,
    second_moments,
    rule,
    coefficients,
    tensor_words,
    first_direction,
    key,
    start,
    stop,
):
    """Blocks start … stop - 1 of four rows, counted through all tensors [rows, cols].

    The generator gives the signs of all K directions for four rows at a time.
    """
    count = coefficients.shape[0]
    gradient = np.empty(LANES, np.float32)
    passed = 0
    for i in range(len(tensors)):
        rows, cols = tensors[i].shape
        width, blocks = (cols + LANES - 1) // LANES, (rows + 3) // 4
        first, last = max(0, start - passed), min(blocks, stop - passed)
        passed += blocks
        if first >= last:
            continue
        words = np.empty((count, 4, width), np.uint32)
        for block in range(first, last):
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
