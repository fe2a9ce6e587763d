"""The perturbation field: Philox words in SIMD, and what each distribution makes of them.

Everything here is one routine for forward pass, update, Gram matrix and sampling. Arguments that travel
together: ``key`` is uint32 [4], the two halves of the seed, the step and the number of rounds, and one long row for
orthogonal signs (:mod:`zo_triton.cpu.orthogonal`): of another type, so that a kernel is compiled for those it draws
alone; ``word`` is the tensor's counter word; ``index`` the direction's absolute index.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numba import float32, int32, types, uint32, uint64, uintp
from numba.extending import overload

from zo_triton.cpu.compiling import device, kernel, routine
from zo_triton.cpu.orthogonal import first_column, inverted, orthogonal_key, rows_of
from zo_triton.cpu.scalars import log, round_bfloat16, sincos_turns, store
from zo_triton.cpu.vectors import float_from_bits
from zo_triton.directions import PHILOX_MULTIPLIERS, PHILOX_WEYL, Directions
from zo_triton.distributions import DISTRIBUTIONS, check_drawn
from zo_triton.hadamard import SHARED_DIRECTION

_M0, _M1 = np.uint64(PHILOX_MULTIPLIERS[0]), np.uint64(PHILOX_MULTIPLIERS[1])
_W0, _W1 = np.uint32(PHILOX_WEYL[0]), np.uint32(PHILOX_WEYL[1])
_HIGH = np.uint64(32)
_UNIT = np.float32(2.0**-24)
TOGETHER = 256
"""Blocks of signs that go through the generator in one run, if a direction has no more."""

_SQRT3, _SQRT_HALF = np.float32(3.0**0.5), np.float32(0.5**0.5)

DRAWN = ("rademacher", "gaussian", "uniform", "laplace", "hadamard")
"""The distributions that this engine has routines for."""

SIGNS, GAUSSIAN, UNIFORM, LAPLACE = (DISTRIBUTIONS[name].code for name in DRAWN[:4])
SHARED = np.uint32(SHARED_DIRECTION)


def key_of(directions: Directions) -> np.ndarray:
    """What the generator needs of ``directions`` beside the counter: uint32 [4], or [1, more].

    Raises:
        ValueError: This engine has no routine for the distribution.
    """
    if directions.order is not None:
        return orthogonal_key(directions)
    return _key(directions.elementwise, directions.seed, directions.step, directions.rounds)


@lru_cache(maxsize=16)
def _key(elements: str, seed: int, step: int, rounds: int) -> np.ndarray:
    """Remembered, since each operation of a step asks for it; kernels read it alone."""
    check_drawn(elements, DRAWN, "cpu")
    return np.array([seed & 0xFFFFFFFF, seed >> 32, step, rounds], np.uint32)


def code_of(directions: Directions) -> int:
    """The elementwise distribution as an integer; all signs are one, told apart by the key."""
    return SIGNS if directions.signs else DISTRIBUTIONS[directions.elementwise].code


@device
def _rounds(count, c0, c1, c2, c3, k0, k1):
    for i in range(count):
        p0 = _M0 * uint64(c0)
        p1 = _M1 * uint64(c2)
        c0, c1, c2, c3 = (
            uint32(p1 >> _HIGH) ^ c1 ^ uint32(k0 + uint32(i) * _W0),
            uint32(p1),
            uint32(p0 >> _HIGH) ^ c3 ^ uint32(k1 + uint32(i) * _W1),
            uint32(p0),
        )
    return c0, c1, c2, c3


def _counter(source, i):
    """A counter word of the i-th block: source[i] of an array, source[0] + i·source[1] of a pair, or a number."""
    raise NotImplementedError("only inside a kernel")


@overload(_counter, inline="always")
def _counter_of(source, i):
    if isinstance(source, types.Array):
        return lambda source, i: source[i]
    if isinstance(source, types.BaseTuple):
        return lambda source, i: uint32(source[0] + uint32(i) * source[1])
    return lambda source, i: source


@device
def _row_of_numbers(key):
    if key.ndim == 2:
        return key[0]
    return key


@device
def philox_words(out, count, blocks, indices, word, key):
    """Four words of each of ``count`` blocks: out uint32 [4, at least count].

    ``blocks``, ``indices`` (the directions') and ``word`` (the tensor's) are what :func:`_counter` takes.
    """
    o0, o1, o2, o3 = out[0], out[1], out[2], out[3]
    numbers = _row_of_numbers(key)
    step, k0, k1 = numbers[2], numbers[0], numbers[1]
    # The number of rounds is a constant in each loop, so that LLVM unrolls the rounds and vectorises blocks.
    if numbers[3] == 7:
        for i in range(count):
            o0[i], o1[i], o2[i], o3[i] = _rounds(
                7, _counter(blocks, i), _counter(word, i), _counter(indices, i), step, k0, k1
            )
    else:
        for i in range(count):
            o0[i], o1[i], o2[i], o3[i] = _rounds(
                10, _counter(blocks, i), _counter(word, i), _counter(indices, i), step, k0, k1
            )


@routine
def sign_words(out, row_block, word, index, key):
    """Packed signs of the directions from ``index`` on: out uint32 [count, 4·row blocks, words a row].

    Rows begin at ``row_block``. Directions of few blocks share a run of the generator; if each has fewer than there
    are directions in it, it goes block by block and not direction by direction: inner loops must be long.
    """
    if key.ndim == 2:
        _orthogonal_words(out, row_block, word, index, key[0])
        return
    count, rows, width = out.shape
    each, start = rows // 4 * width, uint32(row_block * width)
    together = max(1, min(count, TOGETHER // each))
    words = np.empty((4, together * each), np.uint32)
    counters = together * each if together > 1 else 0
    blocks, indices = np.empty(counters, np.uint32), np.empty(counters, np.uint32)
    for first in range(0, count, together):
        some, this = min(together, count - first), uint32(index + first)
        if together == 1:
            philox_words(words, each, (start, uint32(1)), (this, uint32(0)), uint32(word), key)
        else:
            _count_off(blocks, indices, each, some, start, this)
            philox_words(words, some * each, blocks, indices, uint32(word), key)
        if each < some:
            for block in range(each):
                at, column = uintp(block * some), block % width
                for lane in range(4):
                    target, source = out[first:, block // width * 4 + lane, column], words[lane]
                    for k in range(some):
                        target[k] = source[at + uintp(k)]
        else:
            for k in range(some):
                for row in range(rows):
                    target, source = out[first + k, row], words[row % 4]
                    at = uintp(k * each + row // 4 * width)
                    for column in range(width):
                        target[column] = source[at + uintp(column)]


@device
def _orthogonal_words(out, row_block, word, index, key):
    """:func:`sign_words` of orthogonal directions: the generator runs once for all of them."""
    count, rows, width = out.shape
    each, start = rows // 4 * width, uint32(row_block * width)
    shared = np.empty((4, each), np.uint32)
    philox_words(shared, each, (start, uint32(1)), (SHARED, uint32(0)), uint32(word), key)
    chosen, patterns = np.empty(count, np.uint32), np.empty(count, np.uint32)
    rows_of(chosen, patterns, index, word, key)
    first = uint32(first_column(word, key) + uint32(128) * start)
    for row in range(rows):
        source, at = shared[row % 4], uintp(row // 4 * width)
        line = uint32(first + uint32(32 * row * width))
        if width < count:
            for column in range(width):
                sign, place = source[at + uintp(column)], uint32(line + uint32(32 * column))
                target = out[:, row, column]
                for k in range(count):
                    target[k] = sign ^ patterns[k] ^ inverted(chosen[k], place, key)
        else:
            for k in range(count):
                target, own, pattern = out[k, row], chosen[k], patterns[k]
                for column in range(width):
                    place = uint32(line + uint32(32) * uint32(column))
                    target[column] = source[at + uintp(column)] ^ pattern ^ inverted(own, place, key)


@device
def _count_off(blocks, indices, each, some, first_block, first_index):
    """The counters of ``each`` blocks of ``some`` directions, in the order of :func:`sign_words`."""
    if each < some:
        for block in range(each):
            at = uintp(block * some)
            for k in range(some):
                blocks[at + uintp(k)] = first_block + uint32(block)
                indices[at + uintp(k)] = first_index + uint32(k)
    else:
        for k in range(some):
            at = uintp(k * each)
            for block in range(each):
                blocks[at + uintp(block)] = first_block + uint32(block)
                indices[at + uintp(block)] = first_index + uint32(k)


@routine
def real_rows(out, row_block, word, index, key, code):
    """Four rows of a real-valued matrix: out float32 [4, cols]."""
    if code != GAUSSIAN and code != UNIFORM and code != LAPLACE:
        raise ValueError("unknown code of a real-valued distribution")
    cols = out.shape[1]
    scratch = np.empty((4, cols), np.uint32)
    blocks, indices = (uint32(row_block * cols), uint32(1)), (uint32(index), uint32(0))
    philox_words(scratch, cols, blocks, indices, uint32(word), key)
    if code == GAUSSIAN:
        for pair in range(2):
            for column in range(cols):
                k = int32(scratch[2 * pair, column] >> uint32(8))
                turn = int32(scratch[2 * pair + 1, column] >> uint32(8))
                radius = np.sqrt(float32(-2.0) * log(float32(k + int32(1)) * _UNIT))
                sine, cosine = sincos_turns(turn)
                out[2 * pair, column] = radius * cosine
                out[2 * pair + 1, column] = radius * sine
    else:
        for lane in range(4):
            for column in range(cols):
                k = int32(scratch[lane, column] >> uint32(8))
                odd = k + k + int32(1) - int32(1 << 24)
                m = float32(odd) * _UNIT
                if code == UNIFORM:
                    out[lane, column] = _SQRT3 * m
                else:
                    magnitude = log(float32(int32(1 << 24) - abs(odd)) * _UNIT) * _SQRT_HALF
                    out[lane, column] = magnitude if odd < 0 else -magnitude


@device
def _four_rows(values, packed, row_block, word, index, key, code):
    """Four rows of any distribution: values float32 [4, cols]; packed uint32 [1, 4, words a row], scratch."""
    if code == SIGNS:
        sign_words(packed, row_block, word, index, key)
        for lane in range(4):
            for column in range(values.shape[1]):
                bit = (packed[0, lane, column // 32] >> uint32(column % 32)) & uint32(1)
                values[lane, column] = float32(1.0) if bit else float32(-1.0)
    else:
        real_rows(values, row_block, word, index, key, code)


@kernel
def fill_matrix(out, row, word, index, key, code):
    """A run of rows of the field's matrix, in the dtype of ``out`` (bfloat16 rounds to nearest).

    out: [rows, cols] float32, float64 or uint16; ``row`` is the first row, a multiple of 4.
    """
    rows, cols = out.shape
    width = (cols + 31) // 32
    packed = np.empty((1, 4, width if code == SIGNS else 0), np.uint32)
    values = np.empty((4, cols), np.float32)
    for block_row in range((rows + 3) // 4):
        _four_rows(values, packed, row // 4 + block_row, word, index, key, code)
        for lane in range(min(4, rows - 4 * block_row)):
            target = out[4 * block_row + lane]
            for column in range(cols):
                store(target, column, values[lane, column])


@routine
def draw_turned(out, rows, word, index, key, code, rounded):
    """One direction's matrix [rows, cols], turned over and drawn in one go: for those that fit in a cache.

    out: float32 [cols, at least rows]; ``rounded`` takes the values to bfloat16.
    """
    cols = out.shape[0]
    row_blocks, width = (rows + 3) // 4, (cols + 31) // 32
    if code == SIGNS:
        packed, words = np.empty((1, 4 * row_blocks, width), np.uint32), np.empty(4 * row_blocks, np.uint32)
        sign_words(packed, 0, word, index, key)
        for column in range(cols):
            if column % 32 == 0:
                for row in range(4 * row_blocks):
                    words[row] = packed[0, row, column // 32]
            line, shift = out[column], uint32(column % 32)
            for row in range(rows):
                minus = (~(words[row] >> shift) & uint32(1)) << uint32(31)
                line[row] = float_from_bits(uint32(0x3F800000) | minus)
        return
    # The blocks of a real-valued matrix are numbered on from row to row: they are drawn as one long row.
    values = np.empty((4, row_blocks * cols), np.float32)
    real_rows(values, 0, word, index, key, code)
    for column in range(cols):
        line = out[column]
        for row in range(rows):
            value = values[row % 4, row // 4 * cols + column]
            if rounded:
                value = float_from_bits(round_bfloat16(value) << uint32(16))
            line[row] = value


@kernel
def fill_matrices(out, word, index, key, code, rounded):
    """The matrices of the directions from ``index`` on, by :func:`draw_turned`: out float32 [count, rows, cols]."""
    rows, cols = out.shape[1:]
    turned = np.empty((cols, rows), np.float32)
    for k in range(out.shape[0]):
        draw_turned(turned, rows, word, index + k, key, code, rounded)
        for row in range(rows):
            for column in range(cols):
                out[k, row, column] = turned[column, row]


@kernel
def fill_rows(out, rows, word, index, key, code):
    """Any rows of the field's matrix, in the dtype of ``out``; best in order, as four neighbours are one draw.

    out: [count, cols] float32, float64 or uint16. rows: int64 [count].
    """
    cols = out.shape[1]
    width = (cols + 31) // 32
    packed = np.empty((1, 4, width if code == SIGNS else 0), np.uint32)
    values = np.empty((4, cols), np.float32)
    drawn = -1
    for i in range(rows.size):
        if rows[i] // 4 != drawn:
            drawn = rows[i] // 4
            _four_rows(values, packed, drawn, word, index, key, code)
        source, target = values[rows[i] % 4], out[i]
        for column in range(cols):
            store(target, column, source[column])
