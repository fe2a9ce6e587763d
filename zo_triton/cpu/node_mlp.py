"""A small ReLU network's whole step with orthogonal signs on its layers' outputs, in two compiled calls.

Measured are each sample's losses along all directions, and of them the gradient of the loss by each layer's output;
the update makes the weights' gradients of that, a tile at a time, and moves them.

The first layer's outputs take one of two values, ReLU of z + εs or of z - εs, by the sign e of the direction's
entry: c + e·d with half their sum and half their difference. What the second layer makes of them is linear in the
entries, W·c + Σ_j e_j·W_j·d_j, and its own noise too: one fast Walsh–Hadamard transform over the columns gives it
for all directions together, where a product for each would take K times as long as W·d. From the third layer on
there is a product for each direction. 32 samples go through side by side, and stay in a core's cache from the base
to their gradient.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numba import float32, uint32, uintp
from numba.extending import register_jitable

from zo_triton.cpu.addresses import addresses_of, matrix_at
from zo_triton.cpu.atomics import leave_place, take_place
from zo_triton.cpu.compiling import device, routine
from zo_triton.cpu.cross_entropy import sample_losses
from zo_triton.cpu.mlp import NO_LABELS, NO_RESIDUAL, SMALL_WORK, own_spaces
from zo_triton.cpu.node_gradient import copy_signed, walsh_hadamard
from zo_triton.cpu.node_mlp_base import (
    FIRST,
    INNER,
    INPUT_AT,
    ROW_AT,
    ROWS,
    WORD,
    add_bias,
    as_rows,
    base_losses,
    node_layout,
    product,
    turn_samples,
)
from zo_triton.cpu.node_mlp_vectors import add_scaled, combine, split_steps
from zo_triton.cpu.node_signs import add_noise, draw_words, negative, rows_and_key
from zo_triton.cpu.sharing import shared
from zo_triton.cpu.signs import floats_for, lines, part, to_line
from zo_triton.cpu.threads import together
from zo_triton.cpu.turning import turn_signs
from zo_triton.cpu.vectors import LANES
from zo_triton.directions import Directions
from zo_triton.hadamard import SHARED_DIRECTION

LARGEST_SLOPE = 2.0**60
"""A sample whose loss is steeper, or no number, is left out: a step along that is far from float32's range."""


class NodeMeasure(NamedTuple):
    """What a step has measured.

    Attributes:
        loss: The mean base loss; NaN or infinite if a sample's is.
        left_out: Samples whose differences are not all finite, or too steep: they count nothing.
        gradients: Float32 [rows of all layers, samples rounded up to 32]: of the loss by each layer's output.
        inputs: Of the layers after the first, float32: rows of samples.
    """

    loss: float
    left_out: int
    gradients: np.ndarray
    inputs: np.ndarray


def node_mlp_measure(
    tensors: list[np.ndarray],
    x: np.ndarray,
    target: np.ndarray,
    directions: Directions,
    eps: float,
    sides: int,
) -> NodeMeasure:
    """The mean loss and each layer's gradient by its outputs; the arguments are those of the op."""
    samples, squared = x.shape[0], target.ndim == 2
    shapes = tuple([tensor.shape for tensor in tensors[::2]])
    layout, padded = node_layout(shapes, samples), -(-samples // LANES) * LANES
    rows, key = rows_and_key(directions)
    assert directions.order is not None
    used = np.zeros(directions.order, np.uint8)
    used[rows] = 1
    labels, goals = NO_LABELS, NO_RESIDUAL
    if squared:
        goals = np.zeros((target.shape[1], padded), np.float32)
        goals[:, :samples] = target.T
    else:
        labels = np.zeros(padded, np.int64)
        labels[:samples] = target
    gradients = np.empty((int(layout[-1, ROW_AT]), padded), np.float32)
    inputs = np.empty(int(layout[-1, INPUT_AT]) + LANES, np.float32)
    found = np.zeros((padded // LANES, 2))
    share = 1.0 / (samples * (target.shape[1] if squared else 1))
    arguments = (
        gradients, inputs, found, x, addresses_of(tensors), layout, used, goals, labels, np.float32(eps), sides,
        np.float32(share / (directions.num * sides * eps)), np.float32(LARGEST_SLOPE * sides * eps), key,
        *own_spaces(_floats(shapes, samples, directions.order)),
    )  # fmt: skip
    alone = samples * sum(tensor.size for tensor in tensors) * 8 < SMALL_WORK
    together(_measure_kernel, arguments, len(found), alone=alone)
    loss, left_out = found.sum(0)
    return NodeMeasure(float(loss * share), int(left_out), gradients, inputs)


@lru_cache(maxsize=64)
def _floats(shapes: tuple[tuple[int, int], ...], samples: int, order: int) -> int:
    return floats_for(tuple(int(LANES * count) for count in _parts(node_layout(shapes, samples), order)))


@register_jitable
def _parts(layout, order):
    """What a thread's own memory is cut into, in this order: runs of 32 values of each part."""
    depth = layout.shape[0] - 1
    widest, classes, second = 0, layout[depth - 1, ROWS], layout[min(1, depth - 1), ROWS]
    for layer in range(depth):
        widest = max(widest, layout[layer, ROWS])
    widest = (widest + 31) // 32 * 32
    inner = (layout[0, INNER] + 15) // 16 * 16
    padding = 4 * ((max(widest, layout[0, INNER]) + 31) // 32)
    return (
        inner, layout[depth, ROW_AT], widest, widest, widest, second * order, widest, widest, order,
        widest, classes, 8, (layout[depth, FIRST] + 31) // 32 + 1, 32 + 2 * ((widest + 31) // 32), padding,
    )  # fmt: skip


@shared
def _measure_kernel(
    gradients, inputs, found, x, tensors, layout, used, goals, labels, eps, sides, scale, limit, key, spaces,
    places, start, stop,
):  # fmt: skip
    """Runs start … stop - 1 of 32 samples; written: gradients, inputs, and found [runs, 2], losses and left out."""
    place = take_place(places)
    space, order, depth = spaces[place], used.size, layout.shape[0] - 1
    counts = _parts(layout, order)
    turned, at = lines(space, to_line(space), counts[0])
    outputs, at = lines(space, at, counts[1])
    here, at = lines(space, at, counts[2])
    middle, at = lines(space, at, counts[3])
    half, at = lines(space, at, counts[4])
    flat, at = lines(space, at, counts[5])
    spectrum = flat.reshape(counts[5] // order, order, LANES)
    there, at = lines(space, at, counts[6])
    carried, at = lines(space, at, counts[7])
    slopes, at = lines(space, at, counts[8])
    steady, at = lines(space, at, counts[9])
    probabilities, at = lines(space, at, counts[10])
    work, at = lines(space, at, counts[11])
    flat, at = part(space, at, LANES * counts[12])
    signs = flat.view(np.uint32)
    flat, at = part(space, at, LANES * counts[13])
    drawn = flat.view(np.uint32)
    padding, at = part(space, at, LANES * counts[14])
    for run in range(start, stop):
        first = LANES * run
        count = min(LANES, x.shape[0] - first)
        turn_samples(turned, x, first, count)
        for layer in range(depth):
            sizes, weight = layout[layer], _weight(tensors, layout, layer)
            z = outputs[sizes[ROW_AT] : sizes[ROW_AT] + (sizes[ROWS] + 3) // 4 * 4]
            if layer == 0:
                product(z, weight, turned, padding)
            else:
                product(z, weight, here, padding)
            bias = matrix_at(tensors[2 * layer + 1], 1, sizes[ROWS])
            add_bias(z, here, bias, layer + 1 < depth)
            if layer + 1 < depth:
                as_rows(inputs, layout[layer + 1], here, first)
        logits = outputs[layout[depth - 1, ROW_AT] :]
        found[run, 0] = base_losses(probabilities, logits, goals, labels, work, first, count)
        _draw_signs(signs, drawn, layout, run, key)
        if depth == 1:
            steady[:] = float32(0.0)
            spectrum[:] = float32(0.0)
        else:
            for j in range(layout[0, ROWS]):
                row = outputs[j].ctypes.data
                split_steps(middle[j].ctypes.data, half[j].ctypes.data, row, signs[j], eps)
            weight = _weight(tensors, layout, min(1, depth - 1))
            product(steady, weight, middle, padding)
            _spectra(spectrum, weight, half, layout[0, FIRST])
        _transform(spectrum, layout[min(1, depth - 1)], signs, eps)
        for row in range(order):
            if not used[row]:
                slopes[row] = float32(0.0)
                continue
            for side in range(sides):
                sign = float32(1.0) if side == 0 else float32(-1.0)
                current, other = here, there
                _second_layer(current, steady, spectrum, row, sign, outputs, layout)
                for layer in range(2, depth):
                    product(carried, _weight(tensors, layout, layer), current, padding)
                    _finish(other, carried, outputs, layout[layer], signs, row, sign * eps, layer + 1 < depth)
                    current, other = other, current
                if goals.size > 0:
                    _squared_errors(work[4], current, probabilities)
                else:
                    sample_losses(
                        work[4], current, logits, probabilities, labels[first:], 0, LANES, float32(0.0), work
                    )
                _add_slopes(slopes[row], work[4], side)
        found[run, 1] = _leave_out(slopes, used, work[5], count, scale, limit)
        walsh_hadamard(slopes)
        for layer in range(depth):
            sizes = layout[layer]
            _gradients_of(gradients, slopes, signs, sizes, first)
    leave_place(places, place)


@device
def _weight(tensors, layout, layer):
    return matrix_at(tensors[2 * layer], layout[layer, ROWS], layout[layer, INNER])


@routine
def _draw_signs(signs, drawn, layout, run, key):
    """Of each node of each layer the signs of 32 samples, a bit each: uint32 [nodes]; drawn: scratch."""
    for layer in range(layout.shape[0] - 1):
        rows, first = layout[layer, ROWS], layout[layer, FIRST]
        width = (rows + LANES - 1) // LANES
        words = drawn[: LANES * width].reshape(LANES, width)
        draw_words(words, run * LANES // 4, layout[layer, WORD], SHARED_DIRECTION, key)
        turn_signs(signs[first : first + rows].reshape(rows, 1), 0, words)


@device
def _spectra(spectrum, weight, half, first):
    """What of the second layer changes with the entries: for each output a row of [M, 32], not yet transformed."""
    order = spectrum.shape[1]
    rows, inner = weight.shape
    for row in range(rows):
        sums = spectrum[row]
        sums[:] = float32(0.0)
        at = uintp(sums.ctypes.data)
        for j in range(inner):
            place = uintp(4 * LANES * ((first + j) & (order - 1)))
            add_scaled(at + place, half[j].ctypes.data, weight[row, j])


@device
def _transform(spectrum, sizes, signs, eps):
    """Adds this layer's own noise, and transforms."""
    order = spectrum.shape[1]
    for row in range(spectrum.shape[0]):
        at = spectrum[row, (sizes[FIRST] + row) & (order - 1)].ctypes.data
        add_noise(at, at, at, signs[sizes[FIRST] + row], eps, False, False, False)
        walsh_hadamard(spectrum[row])


@device
def _second_layer(out, steady, spectrum, row, sign, outputs, layout):
    """What goes on from the second layer (from the first, if it is the only one) in one evaluation."""
    depth = layout.shape[0] - 1
    layer = min(1, depth - 1)
    at = layout[layer, ROW_AT]
    for i in range(layout[layer, ROWS]):
        combine(
            out[i].ctypes.data, steady[i].ctypes.data, spectrum[i, row].ctypes.data, sign,
            outputs[at + i].ctypes.data, layer + 1 < depth,
        )  # fmt: skip


@device
def _finish(out, product, outputs, sizes, signs, row, step, hidden):
    """A later layer's product becomes its difference: the noise, and ReLU."""
    for i in range(sizes[ROWS]):
        column = sizes[FIRST] + i
        word = uint32(signs[column] ^ negative(uint32(row), uint32(column)))
        base = outputs[sizes[ROW_AT] + i].ctypes.data
        add_noise(out[i].ctypes.data, product[i].ctypes.data, base, word, step, hidden, False, False)


@device
def _squared_errors(result, moved, residual):
    """Σ_c Δ(2r+Δ) of 32 samples; residual: r [C, 32], moved: Δ [at least C, 32]."""
    result[:] = float32(0.0)
    for c in range(residual.shape[0]):
        change, gap = moved[c], residual[c]
        for n in range(LANES):
            result[n] += change[n] * (float32(2.0) * gap[n] + change[n])


@device
def _add_slopes(slopes, difference, side):
    """The difference of the losses of one direction, of its sides if it has two; float32 [32]."""
    if side == 0:
        for n in range(LANES):
            slopes[n] = difference[n]
    else:
        for n in range(LANES):
            slopes[n] -= difference[n]


@device
def _leave_out(slopes, used, usable, count, scale, limit):
    """Scales the differences [M, 32]; how many samples have one that is no number, or too large: zeros then."""
    for n in range(LANES):
        usable[n] = float32(1.0) if n < count else float32(0.0)
    for row in range(used.size):
        line = slopes[row]
        for n in range(LANES):
            usable[n] = usable[n] if abs(line[n]) < limit else float32(0.0)
    left_out = 0
    for n in range(count):
        left_out += 1 if usable[n] == float32(0.0) else 0
    for row in range(used.size):
        line = slopes[row]
        for n in range(LANES):
            line[n] = scale * line[n] if usable[n] > float32(0.0) else float32(0.0)
    return left_out


@device
def _gradients_of(gradients, sums, signs, sizes, first):
    """One layer's rows of ``gradients`` for the samples first … first + 31, zeros in rows that only fill up."""
    order = sums.shape[0]
    for i in range(sizes[ROWS]):
        column = sizes[FIRST] + i
        source = sums[column & (order - 1)].ctypes.data
        to = uintp(gradients[sizes[ROW_AT] + i].ctypes.data) + uintp(4 * first)
        copy_signed(to, source, signs[column])
    for i in range(sizes[ROWS], (sizes[ROWS] + 3) // 4 * 4):
        gradients[sizes[ROW_AT] + i, first : first + LANES] = float32(0.0)
