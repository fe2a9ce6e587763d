"""Each node's share of what was measured, Σ_k c[k, s]·ξ_k, without a sign of any direction written out.

With ``hadamard`` the coefficients go to the rows of the matrix that the directions took, and a fast Walsh–Hadamard
transform gives the sums for all its columns at once; a node takes the one of its column, with its own sign. 32
samples go through the transform side by side. Otherwise the packed signs of four samples and all directions are
drawn together and summed.
"""

from __future__ import annotations

import numpy as np
import torch
from llvmlite import ir
from numba import float32, types, uint32, uint64, uintp
from numba.extending import intrinsic
from torch import Tensor

from zo_triton.cpu.compiling import device, routine
from zo_triton.cpu.field import sign_words
from zo_triton.cpu.node_signs import mask, node_noise
from zo_triton.cpu.sharing import shared
from zo_triton.cpu.signs import line_of_floats
from zo_triton.cpu.threads import together
from zo_triton.cpu.vectors import LANES, WIDTH, load_vector, signed_coefficient_sums, store_vector
from zo_triton.directions import Directions

SMALL_RESULT = 1 << 14
"""Values of the result below which a second thread costs more than it gives."""


def node_gradient(
    out: Tensor, coefficients: Tensor, directions: Directions, application: int, first: int, samples: int
) -> None:
    """Same contract as the reference."""
    if out.numel() == 0:
        return
    fits = out.is_contiguous() and out.dtype == torch.float32
    result = out if fits else torch.empty(out.shape, dtype=torch.float32, device="cpu")
    noise = node_noise(directions, application, first, samples, out.numel() // samples)
    given, alone = coefficients.detach().float(), out.numel() < SMALL_RESULT
    if directions.order is None:
        values = given.T.contiguous().numpy()
        sums = result.numpy(), values, samples, noise.word, noise.direction, noise.key
        together(_sums_kernel, sums, -(-samples // 4), alone=alone)
    else:
        arguments = (
            result.numpy(), given.contiguous().numpy(), samples, directions.order, noise.rows, noise.first,
            noise.words,
        )  # fmt: skip
        together(_transform_kernel, arguments, -(-out.shape[0] // LANES), alone=alone)
    if result is not out:
        out.copy_(result)


@shared
def _transform_kernel(out, coefficients, samples, order, rows, first, words, start, stop):
    """Runs start … stop - 1 of 32 rows: out [S, N·Q / S], coefficients [K, S], words [at least N, words a row]."""
    sums = line_of_floats(order * LANES).reshape(order, LANES)
    # The columns of one sample side by side, and once more as many as a word has beyond the last.
    line = np.empty(order + LANES, np.float32)
    last, each, parts = out.shape[0], out.shape[1], out.shape[0] // samples
    for run in range(start, stop):
        at = LANES * run
        count = min(LANES, last - at)
        place_coefficients(sums, coefficients, rows, at, count)
        walsh_hadamard(sums)
        for lane in range(count):
            s = at + lane
            take_column(line, sums, lane)
            begin = s % parts * each
            sign_row(out[s], line, words[s // parts], begin, uint32(first) + uint32(begin), uint32(order - 1))


@device
def place_coefficients(sums, coefficients, rows, first, count):
    """The coefficients of 32 samples at the rows that the directions took: sums [M, 32], coefficients [K, S]."""
    sums[:] = float32(0.0)
    at = uintp(first)
    for k in range(rows.size):
        target, source = sums[rows[k]], coefficients[k]
        for j in range(count):
            target[j] = source[at + uintp(j)]


@routine
def walsh_hadamard(sums):
    """``sums[j] = Σ_i (-1)^popcount(i & j)·sums[i]`` in place: float32 [M, 32], M a power of two."""
    order, row_bytes, at = sums.shape[0], uintp(4 * LANES), uintp(sums.ctypes.data)
    half = 1
    if order & 0x55555555 == 0:  # an odd number of halvings: the first by itself, the others by twos
        for i in range(0, order, 2):
            low = at + uintp(i) * row_bytes
            butterfly(low, low + row_bytes)
        half = 2
    while half < order:
        gap = uintp(half) * row_bytes
        for block in range(0, order, 4 * half):
            low = at + uintp(block) * row_bytes
            for _ in range(half):
                double_butterfly(low, gap)
                low += row_bytes
        half *= 4


@device
def take_column(line, sums, lane):
    """One sample's sums: line float32 [M + 32], its last 32 the first over again."""
    order = sums.shape[0]
    for j in range(order):
        line[j] = sums[j, lane]
    for j in range(order, order + LANES):
        line[j] = line[j - order]


@device
def sign_row(out, line, words, begin, column, order_mask):
    """``out[i]`` = the sum of column ``column + i``, with the sign of node ``begin + i``: out float32 [any].

    line: see :func:`take_column`. words: one sample's packed signs.
    """
    size, last = out.size, words.size - 1
    at, source = uintp(out.ctypes.data), uintp(line.ctypes.data)
    for i in range(0, size, LANES):
        place = begin + i
        low, high = words[place // LANES], words[min(place // LANES + 1, last)]
        word = uint32((uint64(high) << uint64(32) | uint64(low)) >> uint64(place % LANES))
        j = (column + uint32(i)) & order_mask
        if size - i >= LANES:
            copy_signed(at + uintp(4 * i), source + uintp(4) * uintp(j), word)
        else:
            for b in range(size - i):
                value = line[uintp(j) + uintp(b)]
                out[i + b] = value if (word >> uint32(b)) & uint32(1) else -value


@shared
def _sums_kernel(out, coefficients, samples, word, direction, key, start, stop):
    """Blocks start … stop - 1 of four samples: out [S, N·Q / S], coefficients [S, K]."""
    count, each, parts = coefficients.shape[1], out.shape[1], out.shape[0] // samples
    nodes = each * parts
    width = (nodes + LANES - 1) // LANES
    words = np.empty((count, 4, width), np.uint32)
    padded = np.zeros((count, 4, width + 4), np.uint32)
    sums = np.empty((4, LANES), np.float32)
    for block in range(start, stop):
        sign_words(words, block, word, direction, key)
        padded[:, :, :width] = words
        for lane in range(min(4, samples - 4 * block)):
            for part in range(parts):
                s = (4 * block + lane) * parts + part
                target, begin = out[s], part * each
                for column in range(begin // LANES, (begin + each + LANES - 1) // LANES, 4):
                    # Four words of one row take the place of four rows.
                    signed_coefficient_sums(
                        sums.ctypes.data, padded[0, lane, column:].ctypes.data, 1, 4 * (width + 4),
                        coefficients[s].ctypes.data, count,
                    )  # fmt: skip
                    here = LANES * column
                    for place in range(max(begin, here), min(begin + each, here + 4 * LANES)):
                        target[place - begin] = sums[(place - here) // LANES, (place - here) % LANES]


@intrinsic
def butterfly(context, low, high):
    """``low, high = low + high, low - high``: addresses of float32 [32]."""

    def codegen(context, builder, signature, arguments):
        for half in range(LANES // WIDTH):
            places = [builder.add(each, ir.IntType(64)(4 * WIDTH * half)) for each in arguments]
            a, b = (load_vector(builder, place) for place in places)
            store_vector(builder, builder.fadd(a, b), places[0])
            store_vector(builder, builder.fsub(a, b), places[1])
        return context.get_dummy_value()

    return types.void(types.uintp, types.uintp), codegen


@intrinsic
def double_butterfly(context, first, gap):
    """Two halvings at once of four rows of float32 [32], ``gap`` bytes apart."""

    def codegen(context, builder, signature, arguments):
        first, gap = arguments
        rows = [first]
        for _ in range(3):
            rows.append(builder.add(rows[-1], gap))
        for half in range(LANES // WIDTH):
            places = [builder.add(row, ir.IntType(64)(4 * WIDTH * half)) for row in rows]
            a, b, c, d = (load_vector(builder, place) for place in places)
            near = builder.fadd(a, b), builder.fsub(a, b)
            far = builder.fadd(c, d), builder.fsub(c, d)
            for i in range(2):
                store_vector(builder, builder.fadd(near[i], far[i]), places[i])
                store_vector(builder, builder.fsub(near[i], far[i]), places[2 + i])
        return context.get_dummy_value()

    return types.void(types.uintp, types.uintp), codegen


@intrinsic
def copy_signed(context, out, values, word):
    """``out[j] = ±values[j]`` for 32 lanes, by bit j of the word; addresses of float32."""

    def codegen(context, builder, signature, arguments):
        out, values, word = arguments
        for half in range(LANES // WIDTH):
            shift = ir.IntType(64)(4 * WIDTH * half)
            value = load_vector(builder, builder.add(values, shift))
            signed = builder.select(mask(builder, word, half), value, builder.fneg(value))
            store_vector(builder, signed, builder.add(out, shift))
        return context.get_dummy_value()

    return types.void(types.uintp, types.uintp, types.uint32), codegen
