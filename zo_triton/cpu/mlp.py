"""A small MLP and its cross-entropy for every direction in one compiled pass that never leaves the cache.

The folded form of a layer, Δz = (W+sεU)δ + sε·(U·a + v): the second product belongs to the base alone, so its
tables of signed sums serve a group of directions and both sides, and only the first is done per evaluation.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import float32, uintp
from numba.extending import register_jitable
from torch import Tensor

from zo_triton.cpu.activating import activate
from zo_triton.cpu.activation import NONE, RELU, base_terms
from zo_triton.cpu.addresses import addresses_of, matrix_at
from zo_triton.cpu.arrays import steps_of
from zo_triton.cpu.atomics import leave_place, take_place
from zo_triton.cpu.compiling import device, kernel, routine
from zo_triton.cpu.cross_entropy import labels_of, sample_losses
from zo_triton.cpu.field import key_of
from zo_triton.cpu.fixed_point import fixed_sign_product
from zo_triton.cpu.mlp_plan import (
    BASE_AT,
    BIAS_WORD_AT,
    GROUP,
    INNER,
    PADDED_ROW_AT,
    PADDED_ROWS,
    ROW_AT,
    ROWS,
    WIDTH_IN_WORDS,
    WORD_AT,
    draw_group,
    largest,
    plan,
)
from zo_triton.cpu.scalars import exp
from zo_triton.cpu.sharing import shared
from zo_triton.cpu.signs import TABLES, floats_for, lines, part, sign_product, to_line
from zo_triton.cpu.threads import thread_count, together
from zo_triton.cpu.vectors import LANES, WIDTH, add_signs, dense_pair, dense_rows, finish_run
from zo_triton.directions import Directions

NO_RESIDUAL, NO_LABELS = np.empty((0, 0), np.float32), np.empty(0, np.int64)
NO_FIXED = np.empty((0, 0, LANES), np.int16), np.empty((0, 0, LANES), np.float32)

SMALL_WORK = 1 << 19
"""Below this many multiply-adds a second thread costs more than it gives."""


def mlp_differences(
    out: Tensor,
    inputs: list[Tensor],
    outputs: list[Tensor],
    weights: list[Tensor],
    weight_ids: list[int],
    bias_ids: list[int],
    activations: list[str],
    target: Tensor,
    directions: Directions,
    signed_eps: Tensor,
    label_smoothing: float,
) -> None:
    """Same contract as the reference; full-rank signs only, computed in float32."""
    samples, steps = inputs[0].shape[0], steps_of(signed_eps)
    layout, ids, kinds, draws = plan(
        tuple(weight.shape for weight in weights), tuple(weight_ids), tuple(bias_ids), tuple(activations)
    )
    padded = -(-samples // LANES) * LANES
    ends = layout[-1].tolist()
    base = torch.empty(ends[BASE_AT], padded, dtype=torch.float32, device="cpu")
    terms = torch.empty(3, ends[ROW_AT], padded, dtype=torch.float32, device="cpu")
    matrices = torch.empty(LANES * ends[WORD_AT], dtype=torch.float32, device="cpu")
    probabilities = torch.empty(weights[-1].shape[0], samples, dtype=torch.float32, device="cpu")
    if target.is_floating_point():
        error = (outputs[-1].detach() - target).t().contiguous().numpy()
        labels = NO_LABELS
    else:
        error, labels = NO_RESIDUAL, labels_of(target, weights[-1].shape[0])
    given = _arrays(inputs), _arrays(outputs), _arrays(weights)
    _pack_kernel(
        *(addresses_of(arrays) for arrays in given), samples, layout, base.numpy(), terms.numpy(), matrices.numpy(),
        probabilities.numpy(),
    )  # fmt: skip
    for z, activation, row in zip(outputs, activations, layout[:-1, ROW_AT].tolist(), strict=True):
        if activation not in ("none", "relu"):
            for place, term in enumerate(base_terms(z, activation), 1):
                terms[place, row : row + z.shape[1], :samples] = term.t()
    arguments = (
        out.numpy(), base.numpy(), terms.numpy(), matrices.numpy(), *NO_FIXED, layout, ids, kinds, draws,
        probabilities.numpy(), error, labels, np.float32(label_smoothing), steps,
        steps.size // directions.num, key_of(directions), directions.first,
        *own_spaces(pass_floats(layout, draws)),
    )  # fmt: skip
    alone = out.numel() * sum(weight.numel() for weight in weights) < SMALL_WORK
    together(_mlp_kernel, arguments, directions.num, GROUP, alone)


def _arrays(tensors: list[Tensor]) -> tuple[np.ndarray, ...]:
    return tuple(tensor.detach().float().contiguous().numpy() for tensor in tensors)


def own_spaces(floats: int) -> tuple[np.ndarray, np.ndarray]:
    """Memory for each thread, float32 [threads, floats], and who has taken which."""
    threads = thread_count()
    return np.empty((threads, floats), np.float32), np.zeros(threads, np.int64)


@kernel
def _pack_kernel(inputs, outputs, weights, samples, layout, base, terms, matrices, probabilities):
    """The base as the passes read it: transposed, padded, one layer after the other; and softmax of the logits."""
    base[:, samples:] = float32(0.0)
    terms[0, :, samples:] = float32(0.0)
    matrices[:] = float32(0.0)
    for layer in range(weights.size):
        sizes = layout[layer]
        inner, rows = sizes[INNER], sizes[ROWS]
        a, z = matrix_at(inputs[layer], samples, inner), matrix_at(outputs[layer], samples, rows)
        weight = matrix_at(weights[layer], rows, inner)
        for n in range(samples):
            for column in range(sizes[INNER]):
                base[sizes[BASE_AT] + column, n] = a[n, column]
            for row in range(sizes[ROWS]):
                terms[0, sizes[ROW_AT] + row, n] = z[n, row]
        for row in range(sizes[ROWS]):
            at = LANES * (sizes[WORD_AT] + row * sizes[WIDTH_IN_WORDS])
            for column in range(sizes[INNER]):
                matrices[at + column] = weight[row, column]
    highest, total = np.empty(samples, np.float32), np.empty(samples, np.float32)
    base_softmax(probabilities, terms[0, layout[weights.size - 1, ROW_AT] :], 0, samples, highest, total)


@device
def base_softmax(probabilities, logits, first, count, highest, total):
    """Softmax over the classes for some samples: probabilities [C, N], logits [C, at least N], float32.

    Written too: each one's largest logit and Σ_c exp(logit - largest), float32 [count].
    """
    classes, at = probabilities.shape[0], uintp(first)
    source = logits[0]
    for n in range(count):
        highest[n], total[n] = source[at + uintp(n)], float32(0.0)
    for c in range(1, classes):
        source = logits[c]
        for n in range(count):
            highest[n] = max(highest[n], source[at + uintp(n)])
    for c in range(classes):
        source, target = logits[c], probabilities[c]
        for n in range(count):
            target[at + uintp(n)] = exp(source[at + uintp(n)] - highest[n])
            total[n] += target[at + uintp(n)]
    for c in range(classes):
        target = probabilities[c]
        for n in range(count):
            target[at + uintp(n)] /= total[n]


@shared
def _mlp_kernel(
    out, base, terms, matrices, short, scale, layout, ids, kinds, draws, probabilities, residual, target,
    smoothing, signed_eps, sides, key, first_direction, spaces, places, start, stop,
):  # fmt: skip
    """Directions start … stop - 1, at most :data:`GROUP`."""
    place = take_place(places)
    passes(
        out, base, terms, matrices, short, scale, layout, ids, kinds, draws, probabilities, residual, target,
        smoothing, signed_eps, sides, key, first_direction, spaces[place], start, stop,
    )  # fmt: skip
    leave_place(places, place)


@register_jitable
def _pass_parts(layout, draws):
    """What :func:`passes` cuts a thread's own memory into, in this order: float32 values of each part."""
    all_rows, all_words = layout[-1, PADDED_ROW_AT], layout[-1, WORD_AT]
    run = LANES * max(LANES * largest(layout, WIDTH_IN_WORDS), largest(layout, PADDED_ROWS))
    bias_words = 4 * layout[-1, BIAS_WORD_AT]
    return (
        TABLES, run, run, run, run, LANES * GROUP * all_rows, LANES * all_words, LANES * 5,
        GROUP * (all_rows + LANES), GROUP * (all_words + bias_words), draws.size,
    )  # fmt: skip


def pass_floats(layout: np.ndarray, draws: np.ndarray) -> int:
    """How much memory of its own a thread needs for :func:`passes`, float32 values."""
    return floats_for(_pass_parts(layout, draws))


@routine
def passes(
    out, base, terms, matrices, short, scale, layout, ids, kinds, draws, probabilities, residual, target,
    smoothing, signed_eps, sides, key, first_direction, space, start, stop,
):  # fmt: skip
    """Directions start … stop - 1, at most :data:`GROUP` for tables to serve them all: out [P, N].

    Float32, samples rounded up to a multiple of 32. base [Σ inner, padded N]: each layer's input; short and scale
    the same in fixed point, or empty. terms [3, Σ rows, padded N]: each output, and what its activation makes
    of it. matrices: the weights one after the other, their rows padded to 32 columns. probabilities [C, N]: softmax
    of the logits. ids [2, depth]: counter words of weights and biases, -1 if not trained. layout, ids, kinds,
    draws: see :func:`plan`. A residual [C, N] makes it the squared error. space: scratch, :func:`pass_floats`
    values.
    """
    depth, samples = kinds.shape[0], out.shape[1]
    parts = _pass_parts(layout, draws)
    tables, at = part(space, to_line(space), parts[0])
    here, at = lines(space, at, parts[1] // LANES)
    there, at = lines(space, at, parts[2] // LANES)
    product, at = lines(space, at, parts[3] // LANES)
    x, at = lines(space, at, parts[4] // LANES)
    sums, at = lines(space, at, parts[5] // LANES)
    moved, at = lines(space, at, parts[6] // LANES)
    work, at = lines(space, at, parts[7] // LANES)
    flat, at = part(space, at, parts[8])
    bias = flat.reshape(GROUP, parts[8] // GROUP)
    flat, at = part(space, at, parts[9])
    signs = flat.view(np.uint32)
    flat, at = part(space, at, parts[10])
    drawn = flat.view(np.uint32).reshape(draws.shape)
    work[4] = float32(0.0)
    logits = terms[0, layout[depth - 1, ROW_AT] :]
    for layer in range(depth):
        if ids[0, layer] < 0:  # nothing else writes there
            first_total = GROUP * layout[layer, PADDED_ROW_AT]
            sums[first_total : first_total + GROUP * layout[layer, PADDED_ROWS]] = float32(0.0)
    for first in range(start, stop, GROUP):
        count = min(GROUP, stop - first)
        draw_group(signs, bias, drawn, layout, ids, draws, first_direction + first, count, key, work[4])
        for sample in range(0, samples, LANES):
            valid, column = min(LANES, samples - sample), 0
            for layer in range(depth):
                sizes = layout[layer]
                columns = LANES * sizes[WIDTH_IN_WORDS]
                if ids[0, layer] >= 0:
                    totals, words = sums[GROUP * sizes[PADDED_ROW_AT] :], _words_of(signs, sizes, count)
                    if short.size > 0:
                        run = sample // LANES
                        fixed = short[run, column : column + columns]
                        fixed_sign_product(totals, words, fixed, scale[run, layer], tables)
                    else:
                        _base_product(totals, words, base, x, tables, sizes, sample)
                column += columns
            for k in range(count):
                for side in range(sides):
                    p = (first + k) * sides + side
                    step = signed_eps[p]
                    for layer in range(depth):
                        if layer > 0:
                            trained = ids[0, layer] >= 0
                            _carry(product, here, matrices, moved, signs, layout[layer], k, step, trained)
                        _finish(
                            there, product, sums, bias[k], terms, layout[layer], k, step, kinds[layer], layer > 0,
                            sample,
                        )  # fmt: skip
                        here, there = there, here
                    if residual.size > 0:
                        _squared_errors(out[p], here, residual, sample, valid)
                    else:
                        sample_losses(
                            out[p], here, logits, probabilities, target, sample, valid, smoothing, work
                        )


@device
def _squared_errors(result, moved, residual, first, count):
    """Σ_c Δ(2r+Δ) for the samples first … first + count - 1; moved: Δ [at least C, at least count]."""
    at = uintp(first)
    result[first : first + count] = float32(0.0)
    for c in range(residual.shape[0]):
        change, gap = moved[c], residual[c]
        for n in range(count):
            result[at + uintp(n)] += change[n] * (float32(2.0) * gap[at + uintp(n)] + change[n])


@device
def _base_product(totals, words, base, x, tables, sizes, sample):
    """U·a of one layer for a group of directions and 32 samples: totals [count · padded rows, 32]."""
    inner, width, at = sizes[INNER], sizes[WIDTH_IN_WORDS], uintp(sample)
    for row in range(inner):
        source, target = base[sizes[BASE_AT] + row], x[row]
        for j in range(LANES):
            target[j] = source[at + uintp(j)]
    x[inner : LANES * width] = float32(0.0)
    sign_product(totals.reshape(1, totals.shape[0], LANES), 0, words, x, tables, LANES)


@device
def _words_of(signs, sizes, count):
    """One layer's packed signs for the directions of a group, [count · padded rows, words]."""
    padded, width, first = sizes[PADDED_ROWS], sizes[WIDTH_IN_WORDS], GROUP * sizes[WORD_AT]
    return signs[first : first + count * padded * width].reshape(count * padded, width)


@device
def _carry(product, here, matrices, moved, signs, sizes, k, step, trained):
    """(W + step·U)·δ for one evaluation: product and here [features, 32]."""
    padded, width, first = sizes[PADDED_ROWS], sizes[WIDTH_IN_WORDS], uintp(4 * LANES * sizes[WORD_AT])
    weights_at = uintp(matrices.ctypes.data) + first
    if trained:
        plain_at, word = weights_at, GROUP * sizes[WORD_AT] + k * padded * width
        weights_at = uintp(moved.ctypes.data) + first
        for i in range(padded * width):
            at = uintp(4 * LANES * i)
            add_signs(weights_at + at, plain_at + at, signs[word + i], step)
    here_at, to, row_bytes = uintp(here.ctypes.data), uintp(product.ctypes.data), uintp(4 * LANES)
    for row in range(0, sizes[ROWS], 4):
        if sizes[ROWS] - row > 2:
            dense_rows(to, weights_at, LANES * width, here_at, LANES, sizes[INNER])
        else:
            dense_pair(to, weights_at, LANES * width, here_at, LANES, sizes[INNER])
        weights_at, to = weights_at + uintp(4 * width) * row_bytes, to + uintp(4) * row_bytes


@device
def _finish(there, product, sums, bias, terms, sizes, k, step, kind, carried, sample):
    """There = activation(product + step·(U·a + v)) for one layer of one evaluation."""
    rows, first_total = sizes[ROWS], GROUP * sizes[PADDED_ROW_AT] + k * sizes[PADDED_ROWS]
    vector, row_bytes = uintp(4 * WIDTH), uintp(4 * LANES)
    target_at, moved_at = uintp(there.ctypes.data), uintp(product.ctypes.data)
    total_at = uintp(sums.ctypes.data) + uintp(first_total) * row_bytes
    base_at = uintp(terms.ctypes.data) + uintp(4 * (sizes[ROW_AT] * terms.shape[2] + sample))
    for row in range(rows):
        shift = bias[sizes[PADDED_ROW_AT] + row]
        for _ in range(LANES // WIDTH):
            finish_run(
                target_at, moved_at, total_at, base_at, step, shift, carried, kind == RELU, False, False
            )
            target_at, moved_at, total_at = target_at + vector, moved_at + vector, total_at + vector
            base_at += vector
        base_at += uintp(4 * terms.shape[2]) - row_bytes
    if kind != NONE and kind != RELU:
        for row in range(rows):
            place = sizes[ROW_AT] + row
            a, first, second = terms[0, place], terms[1, place], terms[2, place]
            activate(there[row], a, first, second, uintp(sample), LANES, kind)
