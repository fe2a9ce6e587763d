"""Signs of nodes as packed words, and what adds them to differences: no sign is ever written out as a number.

An application's signs are those of a matrix [N, Q], a row a sample, 32 columns a word. With ``hadamard`` they are
drawn once for all directions; a direction is told from another by which of them it turns over, the same in every
sample: where the entry of its row of the Hadamard matrix is -1.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import float32, types, uint32, uint64, uintp
from numba.core import cgutils
from numba.extending import intrinsic

from zo_triton.cpu.activating import activate
from zo_triton.cpu.activation import NONE, RELU
from zo_triton.cpu.compiling import device, kernel, routine
from zo_triton.cpu.field import key_of, philox_words, sign_words
from zo_triton.cpu.orthogonal import GENERATOR, pattern_of, row_of
from zo_triton.cpu.scalars import load, store
from zo_triton.cpu.sharing import shared
from zo_triton.cpu.vectors import (
    LANES,
    WIDTH,
    broadcast,
    load_bfloat16,
    load_vector,
    population_count,
    store_bfloat16,
    store_vector,
)
from zo_triton.directions import PART_NODES, Directions, tensor_word
from zo_triton.hadamard import SHARED_DIRECTION

ACTIVATED = 2048
"""Columns that go through an activation at a time, a multiple of 32: all it reads and writes stays near."""


class NodeNoise(NamedTuple):
    """What the kernels need to know of an application's signs, in the order of their arguments.

    Attributes:
        words: Signs that all directions share, uint32 [at least N, words a row], bit 1 for +1; without rows if
            each direction has its own.
        rows: Each direction's row of the Hadamard matrix, uint32 [K]; zeros if each has signs of its own.
        first: Column index of the first node.
        word: The application's counter word.
        direction: Index of the first direction.
        key: Of the generator.
    """

    words: np.ndarray
    rows: np.ndarray
    first: int
    word: int
    direction: int
    key: np.ndarray


def node_noise(
    directions: Directions, application: int, first: int, samples: int, positions: int
) -> NodeNoise:
    """An application's signs, [N, Q]: drawn here if the directions share them."""
    rows, key = rows_and_key(directions)
    width = -(-positions // LANES)
    words = np.empty((0 if directions.order is None else -(-samples // 4) * 4, width), np.uint32)
    word = tensor_word(application, PART_NODES)
    if words.size:
        _draw_kernel(words, word, SHARED_DIRECTION, key)
    return NodeNoise(words, rows, first & 0xFFFFFFFF, word, directions.first, key)


@lru_cache(maxsize=8)
def rows_and_key(directions: Directions) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the Hadamard matrix, uint32 [K], and the generator's key; a step's layers share them."""
    rows, key = np.zeros(directions.num, np.uint32), key_of(directions)
    if directions.order is not None:
        _rows_kernel(rows, directions.first, key[0])
        key = key[0, :GENERATOR]
    return rows, key


@kernel
def _rows_kernel(rows, first, key):
    """The rows of the directions from ``first`` on, uint32 [K]."""
    for k in range(rows.size):
        rows[k] = row_of(first + k, key)


@kernel
def _draw_kernel(words, word, direction, key):
    draw_words(words, 0, word, direction, key)


@routine
def draw_words(words, row_block, word, direction, key):
    """Packed signs from block ``row_block`` of four rows on: uint32 [a multiple of 4 rows, words a row]."""
    rows, width = words.shape
    count = rows // 4 * width
    drawn = np.empty((4, count), np.uint32)
    start, own = uint32(row_block * width), uint32(direction)
    philox_words(drawn, count, (start, uint32(1)), (own, uint32(0)), uint32(word), key)
    for row in range(rows):
        target, source, at = words[row], drawn[row % 4], uintp(row // 4 * width)
        for column in range(width):
            target[column] = source[at + uintp(column)]


@device
def negative(row, column):
    """All bits set where the row's entry at a node's column is -1, none where it is 1; these are not folded."""
    return uint32(uint32(0) - (population_count(uint32(row & column)) & uint32(1)))


@device
def write_entries(entries, row, first):
    """Packed entries of one row from column ``first`` on, bit 1 for -1: uint32 [words]."""
    pattern = pattern_of(row)
    inside = uint32(first) & uint32(31)
    block = uint32(uint32(first) - inside)
    low = uint32(pattern ^ negative(row, block))
    for i in range(entries.size):
        block = uint32(block + uint32(LANES))
        high = uint32(pattern ^ negative(row, block))
        entries[i] = uint32((uint64(high) << uint64(32) | uint64(low)) >> uint64(inside))
        low = high


@shared
def finish_nodes(
    out, source, source_p, source_n, words, rows, first, word, direction, key, signed_eps, sides, a, first_term,
    second_term, kind, run, start, stop,
):  # fmt: skip
    """``out`` = the activation's difference of ``source`` + sε·ξ.

    An item is an evaluation of ``run`` samples, a multiple of 4; all evaluations of the first come first. out
    [P, N, Q], float32 or bfloat16 bits; source alike, from evaluation ``source_p`` and sample ``source_n`` on, or
    ``out`` itself. signed_eps [P]. a, first_term, second_term: float32 [N·Q], what the activation reads, or empty.
    """
    evaluations, samples, nodes = out.shape
    width = (nodes + LANES - 1) // LANES
    own = np.empty((1, run if words.shape[0] == 0 else 0, width), np.uint32)
    entries = np.zeros(width, np.uint32)
    signs = np.empty((run * nodes + LANES - 1) // LANES, np.uint32)
    steps, drawn = np.empty(ACTIVATED, np.float32), -1
    for item in range(start, stop):
        p, here = item % evaluations, item // evaluations * run
        k, count = p // sides, min(run, samples - here)
        if words.shape[0] > 0:
            write_entries(entries, rows[k], first)
            _pack(signs, words[here:], entries, count, nodes)
        elif drawn != item // evaluations * signed_eps.size + k:
            drawn = item // evaluations * signed_eps.size + k
            sign_words(own[:, : (count + 3) // 4 * 4], here // 4, word, direction + k, key)
            _pack(signs, own[0], entries, count, nodes)
        target, given = out[p].reshape(samples * nodes), source[p - source_p]
        _finish(
            target[here * nodes : (here + count) * nodes],
            given.reshape(given.size)[(here - source_n) * nodes :],
            signs, signed_eps[p], a, first_term, second_term, uintp(here * nodes), kind, steps,
        )  # fmt: skip


@routine
def _pack(signs, words, entries, samples, nodes):
    """Signs [samples, nodes] one after the other, without gaps between the rows: uint32 [all words]."""
    width, rest = entries.size, nodes % LANES
    if rest == 0:
        for n in range(samples):
            source, target = words[n], signs[n * width : (n + 1) * width]
            for i in range(width):
                target[i] = source[i] ^ entries[i]
        return
    held, filled, at, last = uint64(0), uint64(0), uintp(0), uint32((1 << rest) - 1)
    for n in range(samples):
        for i in range(width):
            word, bits = words[n, i] ^ entries[i], uint64(LANES)
            if i == width - 1:
                word, bits = word & last, uint64(rest)
            held |= uint64(word) << filled
            filled += bits
            if filled >= uint64(LANES):
                signs[at] = uint32(held)
                at += uintp(1)
                held, filled = held >> uint64(LANES), filled - uint64(LANES)
    if filled > uint64(0):
        signs[at] = uint32(held)


@routine
def _finish(out, source, signs, step, a, first_term, second_term, at, kind, steps):
    """Nodes of one evaluation: out, source [any], packed signs; what the activation reads lies from ``at`` on."""
    size, narrow, relu = out.size, out.itemsize == 2, kind == RELU
    itemsize, steps_at = uintp(out.itemsize), uintp(steps.ctypes.data)
    to, from_at = uintp(out.ctypes.data), uintp(source.ctypes.data)
    base_at = uintp(a.ctypes.data) + uintp(4) * at
    if kind == NONE or relu:
        for i in range(size // LANES):
            j = uintp(LANES * i)
            add_noise(
                to + j * itemsize, from_at + j * itemsize, base_at + uintp(4) * j, signs[i], step, relu, narrow,
                narrow,
            )  # fmt: skip
        begin = size // LANES * LANES
        for j in range(begin, size):
            steps[LANES + j - begin] = a[at + uintp(j)] if relu else float32(0.0)
            steps[j - begin] = load(source[j])
        if begin < size:
            word, beneath = signs[begin // LANES], steps_at + uintp(4 * LANES)
            add_noise(steps_at, steps_at, beneath, word, step, relu, False, False)
        for j in range(begin, size):
            store(out, j, steps[j - begin])
        return
    for begin in range(0, size, ACTIVATED):
        count = min(ACTIVATED, size - begin)
        for i in range(count // LANES):
            there = from_at + uintp(begin + LANES * i) * itemsize
            word = signs[begin // LANES + i]
            add_noise(steps_at + uintp(4 * LANES * i), there, there, word, step, False, narrow, False)
        for j in range(count // LANES * LANES, count):
            bit = (signs[(begin + j) // LANES] >> uint32(j % LANES)) & uint32(1)
            steps[j] = load(source[begin + j]) + (step if bit else -step)
        activate(steps, a, first_term, second_term, at + uintp(begin), count, kind)
        for j in range(count):
            store(out, begin + j, steps[j])


@intrinsic
def add_noise(context, out, source, base, word, step, relu, narrow_source, narrow):
    """``out[j] = source[j] ± step``, by bit j of the word, then ReLU's exact difference if ``relu``; 32 lanes.

    All by address: base float32; source and out bfloat16 where said, else float32.
    """

    def codegen(context, builder, signature, arguments):
        out, source, base, word, step, relu, narrow_source, narrow = arguments
        wide = ir.IntType(64)
        positive, negative = broadcast(builder, step), broadcast(builder, builder.fneg(step))

        def moved(address, half, itemsize):
            return builder.add(address, wide(half * WIDTH * itemsize))

        for half in range(LANES // WIDTH):
            place = cgutils.alloca_once(builder, positive.type)
            with builder.if_else(narrow_source) as (short, full):
                for branch, read, itemsize in ((short, load_bfloat16, 2), (full, load_vector, 4)):
                    with branch:
                        builder.store(read(builder, moved(source, half, itemsize)), place)
            signed = builder.select(mask(builder, word, half), positive, negative)
            builder.store(builder.fadd(builder.load(place), signed), place)
            with builder.if_then(relu):
                z, a = builder.load(place), load_vector(builder, moved(base, half, 4))
                zero = z.type(None)
                down, up = builder.fneg(a), builder.fadd(a, z)
                kept = builder.select(builder.fcmp_ordered(">", down, z), down, z)
                opened = builder.select(builder.fcmp_ordered("<", up, zero), zero, up)
                builder.store(builder.select(builder.fcmp_ordered(">", a, zero), kept, opened), place)
            with builder.if_else(narrow) as (short, full):
                for branch, write, itemsize in ((short, store_bfloat16, 2), (full, store_vector, 4)):
                    with branch:
                        write(builder, builder.load(place), moved(out, half, itemsize))
        return context.get_dummy_value()

    address, flag = types.uintp, types.boolean
    numbers = types.uint32, types.float32
    return types.void(address, address, address, *numbers, flag, flag, flag), codegen


def mask(builder, word, half):
    """Emits the 16 bits of one half of a uint32 as a mask."""
    bits = builder.trunc(builder.lshr(word, ir.IntType(32)(half * WIDTH)), ir.IntType(WIDTH))
    return builder.bitcast(bits, ir.VectorType(ir.IntType(1), WIDTH))
