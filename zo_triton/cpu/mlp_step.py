"""A small ReLU network's whole step in two compiled calls: base and differences, update.

For networks so small that Python between the layers would cost as much as the work.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numba import float32, uintp
from numba.extending import register_jitable

from zo_triton.cpu.activation import RELU
from zo_triton.cpu.addresses import addresses_of, matrix_at
from zo_triton.cpu.atomics import atomic_load, atomic_next, leave_place, relax, take_place
from zo_triton.cpu.compiling import device
from zo_triton.cpu.field import key_of, sign_words
from zo_triton.cpu.fixed_point import to_fixed_point
from zo_triton.cpu.mlp import (
    NO_LABELS,
    NO_RESIDUAL,
    SMALL_WORK,
    base_softmax,
    own_spaces,
    pass_floats,
    passes,
)
from zo_triton.cpu.mlp_plan import (
    BASE_AT,
    GROUP,
    INNER,
    ROW_AT,
    ROWS,
    WIDTH_IN_WORDS,
    WORD_AT,
    added_up,
    largest,
    plan,
)
from zo_triton.cpu.sharing import shared
from zo_triton.cpu.signs import floats_for, lines, part, sums_of_signs, to_line
from zo_triton.cpu.threads import together
from zo_triton.cpu.vectors import LANES, dense_rows, sum_of_doubles
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
    samples, evaluations, squared = x.shape[0], signed_eps.size, target.ndim == 2
    shapes = tuple([tensor.shape for tensor in tensors])
    network = _network(shapes)
    labels = NO_LABELS if squared else target
    residual = np.negative(target.T, order="C") if squared else NO_RESIDUAL
    found = np.empty(1 + evaluations, np.float32)
    space = np.empty(_floats(shapes, samples, evaluations, fixed), np.float32)
    arguments = (
        found, x, addresses_of(tensors), space, fixed, network.layout, network.ids, network.kinds, network.draws,
        residual, labels, signed_eps, evaluations // directions.num, key_of(directions), directions.first,
        np.zeros(2, np.int64), *own_spaces(network.own_floats),
    )  # fmt: skip
    alone = evaluations * samples * network.weights < SMALL_WORK
    together(_measure_kernel, arguments, directions.num, GROUP, alone)
    return float(found[0]), found[1:]


class _Network(NamedTuple):
    """What stays the same from step to step: a plan, and for the update tensors' counter words and sizes."""

    layout: np.ndarray
    ids: np.ndarray
    kinds: np.ndarray
    draws: np.ndarray
    tensor_words: np.ndarray  # int64 [tensors]
    shapes: np.ndarray  # int64 [tensors, 2]
    weights: int
    parameters: int
    row_blocks: int  # of four rows, in all tensors
    own_floats: int  # of memory, each thread's own


@lru_cache(maxsize=64)
def _network(shapes: tuple[tuple[int, ...], ...]) -> _Network:
    depth = len(shapes) // 2
    numbers, activations = tuple(range(2 * depth)), ("relu",) * (depth - 1) + ("none",)
    matrices = tuple((rows, columns) for rows, columns in shapes[::2])
    layout, ids, kinds, draws = plan(matrices, numbers[::2], numbers[1::2], activations)
    return _Network(
        layout,
        ids,
        kinds,
        draws,
        np.array([tensor_word(i) for i in numbers], np.int64),
        np.array(shapes, np.int64),
        sum(rows * columns for rows, columns in matrices),
        sum(rows * columns for rows, columns in shapes),
        sum(-(-rows // 4) for rows, _ in shapes),
        pass_floats(layout, draws),
    )


@lru_cache(maxsize=64)
def _floats(shapes: tuple[tuple[int, ...], ...], samples: int, evaluations: int, fixed: bool) -> int:
    """Float32 values of the memory that all threads share in the first half."""
    return floats_for(_measure_parts(_network(shapes).layout, samples, evaluations, fixed))


@register_jitable
def _measure_parts(layout, samples, evaluations, fixed):
    """What :func:`_measure_kernel` cuts that memory into, in this order: float32 values of each part."""
    depth = layout.shape[0] - 1
    padded, ends = (samples + LANES - 1) // LANES * LANES, layout[depth]
    words, scales = (added_up(layout, WIDTH_IN_WORDS), depth) if fixed else (0, 0)
    return (
        ends[BASE_AT] * padded, 3 * ends[ROW_AT] * padded, LANES * ends[WORD_AT], layout[depth - 1, ROWS] * padded,
        padded, words * LANES // 2 * padded, scales * padded, evaluations * samples,
    )  # fmt: skip


@shared
def _measure_kernel(
    found, x, tensors, space, fixed, layout, ids, kinds, draws, residual, target, signed_eps, sides, key,
    first_direction, progress, spaces, places, start, stop,
):  # fmt: skip
    """The mean loss and the mean differences of the directions start … stop - 1: found [1 + P].

    Before the differences the base, whoever comes first, 32 samples at a time; progress: int64 [2], how many such
    runs are begun, and are over. space: what all threads write to; spaces: what each has to itself.
    """
    depth, samples = kinds.shape[0], x.shape[0]
    runs, ends, sizes = (samples + LANES - 1) // LANES, layout[depth], layout[depth - 1]
    padded, evaluations = LANES * runs, signed_eps.size
    parts = _measure_parts(layout, samples, evaluations, fixed)
    flat, at = part(space, to_line(space), parts[0])
    inputs = flat.reshape(ends[BASE_AT], padded)
    flat, at = part(space, at, parts[1])
    terms = flat.reshape(3, ends[ROW_AT], padded)
    matrices, at = part(space, at, parts[2])
    flat, at = part(space, at, parts[3])
    probabilities = flat.reshape(sizes[ROWS], padded)
    losses, at = part(space, at, parts[4])
    flat, at = part(space, at, parts[5])
    words, scales = (added_up(layout, WIDTH_IN_WORDS), depth) if fixed else (0, 0)
    short = flat.view(np.int16).reshape(runs, LANES * words, LANES)
    flat, at = part(space, at, parts[6])
    scale = flat.reshape(runs, scales, LANES)
    flat, at = part(space, at, parts[7])
    out = flat.reshape(evaluations, samples)
    place = take_place(places)
    own = spaces[place]
    scratch, _ = lines(own, to_line(own), LANES * largest(layout, WIDTH_IN_WORDS) + 1)
    begun_at, over_at = progress.ctypes.data, progress[1:].ctypes.data
    while True:
        run = atomic_next(begun_at)
        if run > runs:
            break
        if run == runs:
            _fill_matrices(matrices, tensors, layout)
        else:
            at = LANES * run
            count = min(LANES, samples - at)
            _base_of_run(inputs, terms[0], x, at, count, tensors, layout, kinds, scratch)
            logits = terms[0, sizes[ROW_AT] :]
            if residual.size > 0:
                _squared_losses(losses, residual, logits, at, count)
            else:
                highest, sums = scratch[0], scratch[1]
                base_softmax(probabilities, logits, at, count, highest, sums)
                for n in range(count):
                    losses[at + n] = np.log(sums[n]) + highest[n] - logits[target[at + n], at + n]
            if short.size > 0:
                _fix_run(short[run], scale[run], inputs, at, scratch, layout)
        atomic_next(over_at)
    while atomic_load(over_at) <= runs:
        relax()
    passes(
        out, inputs, terms, matrices, short, scale, layout, ids, kinds, draws, probabilities, residual, target,
        float32(0.0), signed_eps, sides, key, first_direction, own, start, stop,
    )  # fmt: skip
    leave_place(places, place)
    terms_a_sample = max(1, residual.shape[0])
    share = 1.0 / (samples * terms_a_sample)
    for p in range(start * sides, stop * sides):
        found[1 + p] = float32(share) * float32(_sum(out[p]))
    if start == 0:
        found[0] = _sum(losses[:samples]) * share


@device
def _fill_matrices(matrices, tensors, layout):
    """The weights, their rows padded to 32 columns, and to a multiple of 4; tensors: addresses."""
    matrices[:] = float32(0.0)
    for layer in range(layout.shape[0] - 1):
        sizes = layout[layer]
        weight = matrix_at(tensors[2 * layer], sizes[ROWS], sizes[INNER])
        for row in range(sizes[ROWS]):
            at = LANES * (sizes[WORD_AT] + row * sizes[WIDTH_IN_WORDS])
            for column in range(sizes[INNER]):
                matrices[at + column] = weight[row, column]


@device
def _base_of_run(inputs, outputs, x, first, count, tensors, layout, kinds, sums):
    """The base of the samples first … first + count - 1, zeros up to 32.

    x [N, in]; written: inputs [Σ inner, padded N] and outputs [Σ rows, padded N] of the layers. sums: scratch,
    float32 [at least 4, 32].
    """
    at, row_bytes = uintp(first), uintp(4 * inputs.shape[1])
    for column in range(x.shape[1]):
        target = inputs[column]
        for n in range(count):
            target[at + uintp(n)] = x[first + n, column]
        for n in range(count, LANES):
            target[at + uintp(n)] = float32(0.0)
    for layer in range(kinds.shape[0]):
        sizes = layout[layer]
        inner, rows = sizes[INNER], sizes[ROWS]
        weight, bias = matrix_at(tensors[2 * layer], rows, inner), matrix_at(tensors[2 * layer + 1], 1, rows)
        here_at = uintp(inputs.ctypes.data) + uintp(sizes[BASE_AT]) * row_bytes + uintp(4) * at
        for block in range(0, rows, 4):
            # The last rows are done again with those before them where they are no whole block.
            start = max(0, min(block, rows - 4))
            if rows >= 4:
                weights_at = uintp(weight[start:].ctypes.data)
                dense_rows(uintp(sums.ctypes.data), weights_at, inner, here_at, inputs.shape[1], inner)
            else:
                sums[:4] = float32(0.0)
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
def _sum(values):
    """The sum of float32 values in float64."""
    whole = values.size // 8 * 8
    total = sum_of_doubles(values.ctypes.data, whole // 8)
    for n in range(whole, values.size):
        total += values[n]
    return total


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

    short: int16 [Σ 32·width, 32]. scale: float32 [depth, 32]. wide: scratch, float32
    [more than 32·width, 32].
    """
    place, at = 0, uintp(first)
    for layer in range(scale.shape[0]):
        sizes = layout[layer]
        columns, inner = LANES * sizes[WIDTH_IN_WORDS], sizes[INNER]
        for column in range(inner):
            target, source = wide[column], inputs[sizes[BASE_AT] + column]
            for n in range(LANES):
                target[n] = source[at + uintp(n)]
        wide[inner:columns] = float32(0.0)
        to_fixed_point(short[place : place + columns], scale[layer], wide[:columns], wide[columns])
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
    network = _network(tuple([tensor.shape for tensor in tensors]))
    numbers = tuple([np.float32(value) for value in rule])
    arguments = (
        *(addresses_of(arrays) for arrays in (tensors, first, second)), network.shapes, numbers, coefficients,
        network.tensor_words, directions.first, key_of(directions),
    )  # fmt: skip
    alone = network.parameters * directions.num < SMALL_UPDATE
    together(_update_kernel, arguments, network.row_blocks, alone=alone)


@shared
def _update_kernel(
    tensors,
    first_moments,
    second_moments,
    shapes,
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
    gradient = np.empty((4, LANES), np.float32)
    passed = 0
    for i in range(tensors.size):
        rows, cols = shapes[i, 0], shapes[i, 1]
        weights = matrix_at(tensors[i], rows, cols)
        first_moment, second_moment = (
            matrix_at(first_moments[i], rows, cols),
            matrix_at(second_moments[i], rows, cols),
        )
        width, blocks = (cols + LANES - 1) // LANES, (rows + 3) // 4
        first, last = max(0, start - passed), min(blocks, stop - passed)
        passed += blocks
        if first >= last:
            continue
        words = np.empty((count, 4, width), np.uint32)
        for block in range(first, last):
            sign_words(words, block, tensor_words[i], first_direction, key)
            for column in range(width):
                sums_of_signs(gradient, words, column, coefficients)
                here = slice(LANES * column, min(LANES * column + LANES, cols))
                for lane in range(min(4, rows - 4 * block)):
                    row = 4 * block + lane
                    _move(
                        weights[row, here],
                        first_moment[row, here],
                        second_moment[row, here],
                        gradient[lane],
                        rule,
                    )


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
